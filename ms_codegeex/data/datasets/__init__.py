"""A dataset directory, and the order in which training reads it."""
