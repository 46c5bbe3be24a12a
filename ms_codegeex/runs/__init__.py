"""A run, from a checked configuration to its summary; its rooms are `files`, `servers` and `rank`."""
