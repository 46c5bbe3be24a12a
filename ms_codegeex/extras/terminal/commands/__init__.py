"""Verbs of the extra `terminal`."""
