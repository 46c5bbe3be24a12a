"""EvalPlus: HumanEval+ and MBPP+, the same problems with many more tests (Liu et al., NeurIPS 2023)."""
