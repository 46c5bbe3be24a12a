"""EvalPlus: HumanEval+ and MBPP+, the same problems with many more tests (Liu et al., NeurIPS 2023)."""

from ms_codegeex.evaluation.benchmarks.evalplus.task import EvalPlus, build

__all__ = ["EvalPlus", "build"]
