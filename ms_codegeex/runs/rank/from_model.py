"""The program of one rank of a run that starts from a model: `__main__.py`, plus the readers of all model formats."""

from __future__ import annotations

import sys
from typing import Any

from ms_codegeex.runs.rank.__main__ import Weights, main


def weights_of_model(*of_the_run: Any) -> Weights:
    from ms_codegeex.runs.rank.weights import start_of

    return start_of(*of_the_run)


if __name__ == "__main__":
    sys.exit(main(weights_of_model))
