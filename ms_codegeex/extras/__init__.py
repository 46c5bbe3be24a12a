"""The wing: what only some users need; README.md here has the list."""
