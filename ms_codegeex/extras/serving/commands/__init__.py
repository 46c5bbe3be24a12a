"""The verbs of `serving`."""
