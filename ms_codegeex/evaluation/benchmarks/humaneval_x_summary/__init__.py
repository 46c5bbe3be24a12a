"""HumanEval-X the other way round: the description of a function from its code."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "HumanEval-X: descriptions of the solutions, compared with the published ones by BLEU and chrF",
    keys=("languages", "tag", "form"),
)
