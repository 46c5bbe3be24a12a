"""The benchmarks: their problems, prompts, clean-up and judges."""
