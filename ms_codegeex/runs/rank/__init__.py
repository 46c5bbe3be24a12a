"""The program of one rank of a run."""
