"""What one rank of a run does."""
