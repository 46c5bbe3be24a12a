"""Benchmarks of code models: samples from a model, verdicts from a sandbox, tables of pass@k."""
