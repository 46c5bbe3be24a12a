"""The files of a run: their names, writers and readers."""
