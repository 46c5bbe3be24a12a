"""Seconds until a run whose worker was killed trains again, next to a cold start.

    python benchmarks/restart.py                # 5 rounds: about 2 minutes on two cores
    python benchmarks/restart.py --rounds 1

Two workers train a very small model with `--restarts`, so nearly all of the time goes into starting. One of them gets
SIGKILL after a checkpoint. Cold: from the command to the end of the first step. Restart: from the kill to the end of
the next attempt's first step.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from common import options, print_header, spread
from faults import Job, compiled_after, values_of

STEP = 8  # the worker is killed after it; a checkpoint is saved every fifth
PARTS = {  # of a restart: names, and the events at which they end
    "the others end": "end",
    "checkpoint chosen, files opened": "start",
    "ranks meet, graphs built and compiled, first step": "compiled",
}


def parts_of(events: list[dict[str, Any]], killed: float) -> dict[str, float]:
    """Seconds of each part of the restart after `killed`."""
    parts, before = {}, killed
    for name, event in PARTS.items():
        found = next((e["time"] for e in events if e["event"] == event and e["time"] > before), None)
        if found is not None:
            parts[name], before = found - before, found
    return parts


def measure(dataset: Path, output: Path) -> tuple[float, float, dict[str, float]]:
    """Seconds of a cold start and of a restart, and of the parts of the restart."""
    values = values_of(dataset, output, "fp32", 10**6, 5)
    values["checkpoint"]["keep"] = 2
    began = time.time()
    job = Job(values, 1)
    try:
        first = job.wait(lambda: compiled_after(job, 0))
        if first is None or job.wait(lambda: job.step() >= STEP) is None:
            raise SystemExit(f"the run ended too early; see {job.log}")
        killed = time.time()
        job.workers()[-1].kill()
        second = job.wait(lambda: compiled_after(job, 1))
        if second is None:
            raise SystemExit(f"the run did not start again; see {job.log}")
        return first["time"] - began, second["time"] - killed, parts_of(job.events(), killed)
    finally:
        job.stop()


def main() -> None:
    parser = options(__doc__, rounds=5)
    rounds = parser.parse_args().rounds
    from conftest import write_dataset

    print_header("mindspore")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        dataset = write_dataset(scratch / "dataset")
        found = [measure(dataset, scratch / f"run_{number}") for number in range(rounds)]
    print(f"\ncold start {spread([cold for cold, *_ in found])} s")
    ratio = spread([restart / cold for cold, restart, _ in found])
    print(f"restart    {spread([restart for _, restart, _ in found])} s, of a cold start: {ratio}")
    for name in PARTS:
        print(f"  {name:<50} {spread([parts[name] for *_, parts in found if name in parts])} s")


if __name__ == "__main__":
    main()
