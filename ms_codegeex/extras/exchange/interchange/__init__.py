"""Datasets of other programs, read and written."""
