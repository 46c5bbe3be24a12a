"""DS-1000: data science problems for seven libraries."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark(
    "DS-1000: data science problems for seven libraries",
    keys=("mode",),
    options=("python",),
    places=("cache:huggingface/hub/datasets--xlangai--DS-1000",),
)
