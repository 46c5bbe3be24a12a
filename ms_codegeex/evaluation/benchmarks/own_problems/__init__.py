"""Problems in languages of your own: HumanEval-X's format, with a description of each language."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "problems in HumanEval-X's format, in languages that you describe (docs/own-problems.md)",
    keys=("tag",),
    options=("timeout",),
    references_first=True,
)
