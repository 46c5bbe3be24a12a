"""Our benchmarks and our sandbox in other programs' evaluations: lm-evaluation-harness, Inspect (docs/harnesses.md)."""
