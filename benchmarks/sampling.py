"""Samples/s as `evaluate` draws them, against an earlier checkout of this project, alternating in one run.

    python benchmarks/sampling.py --model DIR --before CHECKOUT             # 64 samples here, 4 there, 5 rounds
    python benchmarks/sampling.py --model DIR --before CHECKOUT --slots 8 --new 256

All samples are of one prompt of HumanEval's kind with CodeGeeX's settings (temperature 0.8, top-p 0.95). A model with
random weights is best: no text ends early. Both sides run with this Python, each in a separate process.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import ROOT, Worker, be_worker, options, print_header, quotients, spread, timed, verdict

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
    """Draw as many samples as each request says, as `evaluate` does; answer with the seconds."""

    def start() -> Callable[[int], float]:
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

        def answer(count: int) -> float:
            with ThreadPoolExecutor(at_once) as pool:
                return timed(lambda: list(pool.map(draw, range(count))))

        return answer

    be_worker(start)


def started(checkout: Path, model: Path, new: int, slots: int | None) -> Worker:
    """A checkout in a separate process."""
    words = [__file__, "--serve", "--model", str(model.absolute()), "--new", str(new)]
    return Worker(*words, *(["--slots", str(slots)] if slots else []), PYTHONPATH=str(checkout))


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="the earlier checkout")
    parser.add_argument("--samples", type=int, nargs=2, default=(64, 4), help="per round: here, before (default 64 4)")
    parser.add_argument("--new", type=int, default=128, help="tokens of a sample (default 128)")
    parser.add_argument("--slots", type=int)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.model, arguments.new, arguments.slots)
    print_header("mindspore")
    sides = [started(ROOT, arguments.model, arguments.new, arguments.slots)]
    if arguments.before:
        sides.append(started(arguments.before.absolute(), arguments.model, arguments.new, None))
    rates: list[list[float]] = [[] for _ in sides]
    try:
        for _ in range(arguments.rounds + 1):  # the first one compiles
            for side, samples, found in zip(sides, arguments.samples, rates, strict=False):
                found.append(samples / side.ask(samples))
    finally:
        for side in sides:
            side.end()
    rates = [found[1:] for found in rates]
    for name, found in zip(("here", "before"), rates, strict=False):
        print(f"  {name}: {spread(found)} samples/s")
    if arguments.before:
        ratios = quotients(*rates)
        print(f"  here over before: {spread(ratios)}, {verdict(statistics.median(ratios), AIM, least=True)}")


if __name__ == "__main__":
    main()
