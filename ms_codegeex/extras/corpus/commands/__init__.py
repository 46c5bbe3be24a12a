"""Verbs of the extra `corpus`."""
