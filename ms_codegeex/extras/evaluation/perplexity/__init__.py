"""Perplexity of corpora and of benchmark prompts."""
