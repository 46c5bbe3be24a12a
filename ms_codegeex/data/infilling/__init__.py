"""Filling in the middle: training samples and prompts."""
