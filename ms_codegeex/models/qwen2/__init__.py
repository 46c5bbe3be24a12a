"""Qwen2, whose models for code are Qwen2.5-Coder."""
