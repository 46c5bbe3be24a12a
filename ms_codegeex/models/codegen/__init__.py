"""CodeGen (ICLR 2023)."""
