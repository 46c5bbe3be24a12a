"""The verbs of `cluster`."""
