"""Our benchmarks and our sandbox in the evaluations of lm-evaluation-harness and Inspect (docs/evaluation.md)."""
