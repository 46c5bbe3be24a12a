"""The verbs of `evaluation`."""
