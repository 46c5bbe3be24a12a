"""MTPB, the Multi-Turn Programming Benchmark of the CodeGen paper (ICLR 2023)."""

from ms_codegeex.evaluation.benchmarks.mtpb.task import build

__all__ = ["build"]
