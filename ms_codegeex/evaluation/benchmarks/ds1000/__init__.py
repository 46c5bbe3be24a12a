"""DS-1000: data science problems for seven libraries."""

from ms_codegeex.evaluation.benchmarks.ds1000.task import build

__all__ = ["build"]
