"""Implements `--devices N`: one model spread over several processes, each with a share of every layer."""
