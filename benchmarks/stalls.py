"""How long an answer waits for its next token while another prompt is read, for several settings of `--mixed-rows`.

    python benchmarks/stalls.py --model DIR                     # such as one that `ms-codegeex quantize` made
    python benchmarks/stalls.py --model DIR --rows 4 64 --streams 1 8 --prompt 256

Some answers run; then a prompt comes that shares nothing with them. A step is the median time between two tokens of an
answer before that; a stall is the longest time between two of its tokens until the prompt has its first one. The
settings take turns in each round. The first token of the prompt alone is the limit.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
from common import options, print_header, spread

from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.scheduler import Request, Scheduler

STEPS = 16  # of answers alone


def answered(generator: Generator, rows: int, streams: int, length: int, seed: int) -> tuple[float, float, float]:
    """Seconds of a step, of the longest one while a prompt of `length` tokens is read, and to its first token."""
    draw, scheduler = np.random.default_rng(seed), Scheduler(generator.engine)
    scheduler.mixed_rows = rows
    for slot in range(generator.slots):
        generator.engine.clear(slot)

    def request(size: int) -> Request:
        ids = draw.integers(1, generator.engine.allowed, size).tolist()
        return Request(ids, SamplingSettings(generator.seq_length, temperature=0.0), generator.seq_length)

    for _ in range(streams):
        scheduler.submit(request(16))
    for _ in range(streams):  # the prompts, of which some passes read several
        scheduler.step()
    steps = [_seconds(scheduler) for _ in range(STEPS if streams else 1)]
    new, mixed = request(length), list[float]()
    scheduler.submit(new)
    while len(new.ids) == new.prompt:
        mixed.append(_seconds(scheduler))
    return statistics.median(steps), max(mixed), sum(mixed)


def _seconds(scheduler: Scheduler) -> float:
    begin = time.perf_counter()
    scheduler.step()
    return time.perf_counter() - begin


def main() -> None:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    arguments = parser.parse_args()
    print_header("mindspore")
    generator = Generator(arguments.model, 2 * arguments.prompt, slots=max(arguments.streams) + 1)
    for streams in arguments.streams:
        found, alone = {rows: list[tuple[float, float, float]]() for rows in arguments.rows}, list[float]()
        for number in range(arguments.rounds + 1):
            for rows, results in found.items():
                results.append(answered(generator, rows, streams, arguments.prompt, number))
            alone.append(answered(generator, 1, 0, arguments.prompt, number)[2])
        del alone[0]  # compiled on the way
        print(f"{streams} answers, a prompt of {arguments.prompt} tokens; alone: first token {spread(alone)} s")
        for rows, results in found.items():
            step, stall, first = zip(*results[1:], strict=True)
            ratio = [longest / usual for longest, usual in zip(stall, step, strict=True)]
            print(
                f"  {rows:3} rows: step {spread([1e3 * each for each in step])} ms, stall {spread(ratio)} steps, "
                f"first token {spread(first)} s"
            )


if __name__ == "__main__":
    main()
