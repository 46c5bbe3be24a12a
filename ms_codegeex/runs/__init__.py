"""Starts, watches and records a run: processes, rendezvous, job files, rank tables, the run directory."""
