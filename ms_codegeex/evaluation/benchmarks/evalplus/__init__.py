"""EvalPlus: HumanEval+ and MBPP+, the same problems with many more tests (Liu et al., NeurIPS 2023)."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "HumanEval+ and MBPP+: the problems of both with many more tests",
    options=("timeout", "python"),
    places=("cache:evalplus", "cache:huggingface/hub/datasets--evalplus--mbppplus"),
)
