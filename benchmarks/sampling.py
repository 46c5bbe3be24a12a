"""Samples/s as `evaluate` draws them, against an earlier checkout of this project, alternating in one run.

    python benchmarks/sampling.py --model DIR --before CHECKOUT             # 64 samples here, 4 there, 5 rounds
    python benchmarks/sampling.py --model DIR --before CHECKOUT --slots 8 --new 256

All samples are of one prompt of HumanEval's kind with CodeGeeX's settings (temperature 0.8, top-p 0.95). A model with
random weights is best: no text ends early. Both sides run with this Python, each in a separate process.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import ROOT, print_command, spread, versions

AIM = 20.0
PROMPT = '''# language: Python
from typing import List


def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """ Check if in given list of numbers, are any two numbers closer to each other than
    given threshold.
    >>> has_close_elements([1.0, 2.0, 3.0], 0.5)
    False
    >>> has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3)
    True
    """
'''


def serve(model: Path, new: int, slots: int | None) -> None:
    """Draw as many samples as each line of standard input says, as `evaluate` does; answer with the seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.sampling import SamplingSettings

    if "slots" in inspect.signature(Generator).parameters:
        generator = Generator(model, slots=slots)
        at_once = generator.slots + 1  # as `evaluate` does
    else:
        generator, at_once = Generator(model), 1
    ids = generator.encode(PROMPT)

    def draw(seed: int) -> str:
        return "".join(generator.stream(ids, SamplingSettings(new, seed=seed)))

    for line in sys.stdin:
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(draw, range(int(line))))
        print(time.perf_counter() - begin, file=answers, flush=True)


class Worker:
    """A checkout in a separate process."""

    def __init__(self, checkout: Path, model: Path, new: int, slots: int | None):
        words = ["--serve", "--model", str(model.absolute()), "--new", str(new)]
        words += ["--slots", str(slots)] if slots else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, "PYTHONPATH": str(checkout), "GLOG_v": "3"}
        self.process = subprocess.Popen([sys.executable, __file__, *words], env=environment, **pipes)

    def rate(self, samples: int) -> float:
        """Samples/s"""
        print(samples, file=self.process.stdin, flush=True)
        return samples / float(self.process.stdout.readline())

    def end(self) -> None:
        """Let the process go."""
        self.process.stdin.close()
        self.process.wait(60)


def main() -> None:
    """Measure, or serve as one side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="the earlier checkout")
    parser.add_argument("--samples", type=int, nargs=2, default=(64, 4), help="per round: here, before (default 64 4)")
    parser.add_argument("--new", type=int, default=128, help="tokens of a sample (default 128)")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.model, arguments.new, arguments.slots)
    print_command()
    print(versions("mindspore"))
    sides = [Worker(ROOT, arguments.model, arguments.new, arguments.slots)]
    if arguments.before:
        sides.append(Worker(arguments.before.absolute(), arguments.model, arguments.new, None))
    rates: list[list[float]] = [[] for _ in sides]
    try:
        for _ in range(arguments.rounds + 1):  # the first one compiles
            for side, samples, found in zip(sides, arguments.samples, rates, strict=False):
                found.append(side.rate(samples))
    finally:
        for side in sides:
            side.end()
    rates = [found[1:] for found in rates]
    for name, found in zip(("here", "before"), rates, strict=False):
        print(f"  {name}: {spread(found)} samples/s")
    if arguments.before:
        ratios = [here / before for here, before in zip(*rates, strict=True)]
        met = "met" if sorted(ratios)[len(ratios) // 2] >= AIM else "not met"
        print(f"  here over before: {spread(ratios)}, aim {AIM:g} {met}")


if __name__ == "__main__":
    main()
