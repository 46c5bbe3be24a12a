"""Convert DS-1000's results (original format) to plain data, in a process that ends before any answer is in the
sandbox.

    python open_results.py COUNT

Unpickling a result may run whatever the program has put in it. Here it can learn nothing, and change nothing but its
own result, which `compare.py` reads from `opened` as data.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback

import plain


def main(count: int) -> None:
    """Convert each result; one that cannot be opened is missing."""
    if os.path.lexists("opened"):
        os.rename("opened", "opened by the program")
    os.mkdir("opened")
    sys.path.append(os.getcwd())  # a result's class may be defined by the program
    for case in range(1, count + 1):
        try:
            with open(f"result/result_{case}.pkl", "rb") as file:
                value = pickle.load(file)
            with open(f"opened/{case}", "wb") as file:
                plain.Pickler(file, 4).dump(value)
        except Exception:
            traceback.print_exc(limit=-3)


if __name__ == "__main__":
    main(int(sys.argv[1]))
