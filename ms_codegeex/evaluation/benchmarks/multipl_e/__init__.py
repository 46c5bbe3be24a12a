"""MultiPL-E: HumanEval and MBPP translated to other languages by compilers (Cassano et al., IEEE TSE 2023)."""
