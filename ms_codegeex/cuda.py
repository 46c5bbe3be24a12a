"""Public name of `base.cuda`, for `python -m ms_codegeex.cuda my_program` (docs/hardware.md)."""

from ms_codegeex.base.cuda import __path__  # makes `ms_codegeex.cuda.libraries` importable too
from ms_codegeex.base.cuda.__main__ import main

__all__ = ["__path__", "main"]

if __name__ == "__main__":
    main()
