"""`python -m ms_codegeex.evaluation.sandbox` prints what this machine lacks for the strict sandbox in one line, with
status 1, or nothing. It needs the standard library alone: preflight.py runs it before anything is installed."""

import sys

from ms_codegeex.base.printing import print_out
from ms_codegeex.extras.evaluation.sandbox import open_sandbox


def main() -> int:
    """Print what is missing; the exit status."""
    if missing := open_sandbox("best-effort").missing:
        print_out("; ".join(f"{name}: {problem}" for name, problem in missing.items()))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
