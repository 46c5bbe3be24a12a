"""The web demo of `serve --demo`: its page, assets and examples."""
