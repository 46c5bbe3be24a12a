"""Utilities for all packages: errors, files, bounded parsing, output, processes, this machine, accelerators."""
