"""MultiPL-E: HumanEval and MBPP translated to other languages by compilers (Cassano et al., IEEE TSE 2023)."""

from ms_codegeex.evaluation.benchmarks.multipl_e.task import MultiPlE, build

__all__ = ["MultiPlE", "build"]
