"""Perplexity of prompts and of corpora."""
