"""The verbs of `terminal`."""
