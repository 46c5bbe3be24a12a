"""Models run by the CPU operators of `ms_codegeex/kernels`, and the memory that is registered with them."""
