"""MTPB, the Multi-Turn Programming Benchmark of the CodeGen paper (ICLR 2023)."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "MTPB: programs in several turns, CodeGen's benchmark", keys=("turns",), options=("python", "prompt_perplexity")
)
