"""`python -m ms_codegeex.cuda MODULE ARGUMENTS…`: run a module as `python -m` does, with the CUDA libraries loaded."""

from __future__ import annotations

import runpy
import sys

from ms_codegeex.base.cuda.libraries import prepare
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.printing import print_error


def main() -> None:
    """Load the libraries and run the module. Exits with status 2 if they cannot be loaded."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m ms_codegeex.cuda MODULE [ARGUMENTS …]")
    try:
        prepare()
    except (UserError, RunFailure) as error:
        print_error(str(error))
        sys.exit(2)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
