"""What a file of a stranger would do, reported without running any of it."""
