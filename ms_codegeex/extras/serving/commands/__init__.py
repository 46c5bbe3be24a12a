"""The commands of the extra `serving`."""
