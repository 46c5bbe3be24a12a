"""HumanEval: Python functions from their docstrings (Chen et al., 2021)."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "HumanEval: Python functions from their docstrings",
    keys=("cut", "strip"),
    options=("timeout", "python", "prompt_perplexity"),
)
