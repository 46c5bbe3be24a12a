"""A training run, from a checked configuration to its summary. Subpackages: `files`, `servers` and `rank`."""
