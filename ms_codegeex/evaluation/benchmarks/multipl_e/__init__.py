"""MultiPL-E: HumanEval and MBPP translated to other languages by compilers (Cassano et al., IEEE TSE 2023)."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "MultiPL-E: HumanEval and MBPP translated to other languages",
    keys=("languages",),
    options=("timeout",),
    places=("cache:huggingface/hub/datasets--nuprl--MultiPL-E",),
)
