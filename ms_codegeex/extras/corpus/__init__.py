"""Preparation of a dataset directory from source files, archives and tables."""
