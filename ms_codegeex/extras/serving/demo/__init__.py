"""The web demo of `serve --demo`: a page, its assets and its examples."""
