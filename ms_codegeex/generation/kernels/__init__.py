"""Runs models with the CPU operators of `ms_codegeex/kernels`, and manages the memory registered with them."""
