"""Text to SQL: questions about databases, judged by the rows that the queries return."""

from ms_codegeex.evaluation.benchmarks.registry import Benchmark

BENCHMARK = Benchmark("questions about databases, answered in SQL", options=("timeout", "python"))
