"""The files of a run: their names, what is written to them, and who reads them again."""
