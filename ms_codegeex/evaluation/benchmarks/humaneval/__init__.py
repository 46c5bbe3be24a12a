"""HumanEval: Python functions from their docstrings (Chen et al., 2021)."""
