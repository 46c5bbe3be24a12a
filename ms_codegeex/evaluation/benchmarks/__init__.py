"""The benchmarks: their problems, prompts and rules."""
