"""The verbs of `corpus`."""
