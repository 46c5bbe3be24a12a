"""Seconds until a run whose worker was killed trains again, next to a cold start, with and without the compile cache.

    python benchmarks/restart.py                # 5 rounds: about 5 minutes on two cores
    python benchmarks/restart.py --rounds 1

Two workers train a very small model, so nearly all of the time goes into starting. A round has two runs with
`--restarts`, one without the compile cache and one with an empty cache, in alternating order. In each, one worker gets
SIGKILL after a checkpoint. Cold: from the command to the end of the first step. Restart: from the kill to the end of
the next attempt's first step.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, print_command, spread, versions
from faults import Job, compiled_after, values_of

sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
STEP = 8  # the worker is killed after it; a checkpoint is saved every fifth
AIM = 0.6  # of a cold start
PARTS = {  # of a restart: names, and the events at which they end
    "the others end": "end",
    "checkpoint chosen, files opened": "start",
    "ranks meet, graphs built and compiled": "graphs",
    "first step": "compiled",
}


def parts_of(events: list[dict[str, Any]], killed: float) -> dict[str, float]:
    """Seconds of each part of the restart after `killed`; without the compile cache, two parts are measured as one."""
    parts, before = {}, killed
    for name, event in PARTS.items():
        found = next((e["time"] for e in events if e["event"] == event and e["time"] > before), None)
        if found is not None:
            parts[name], before = found - before, found
    return parts


def measure(dataset: Path, output: Path, cached: bool) -> tuple[float, float, dict[str, float]]:
    """Seconds of a cold start and of a restart, and of the parts of the restart."""
    values = values_of(dataset, output, "fp32", 10**6, 5)
    values["checkpoint"]["keep"], values["compile_cache"] = 2, cached
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
        graphs = [event["cached"] for event in job.events() if event["event"] == "graphs"]
        if graphs != ([False, True] if cached else []):
            raise SystemExit(f"the cache was not used as expected: {graphs}")
        return first["time"] - began, second["time"] - killed, parts_of(job.events(), killed)
    finally:
        job.stop()


def main() -> None:
    """Alternate runs with and without the cache."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    from conftest import write_dataset

    print_command()
    print(versions("mindspore"), flush=True)
    found: dict[bool, list[tuple[float, float, dict[str, float]]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        dataset = write_dataset(scratch / "dataset")
        for number in range(rounds):
            for cached in (False, True) if number % 2 else (True, False):
                found[cached].append(measure(dataset, scratch / f"run_{number}_{cached}", cached))
    cold = [each[0] for each in found[False]]
    print(f"\ncold start                  {spread(cold)} s")
    print(f"cold start, fills the cache {spread([each[0] for each in found[True]])} s")
    for cached, words in ((False, "without the cache"), (True, "with the cache")):
        seconds = [each[1] for each in found[cached]]
        ratio = spread([a / b for a, b in zip(seconds, cold, strict=True)])
        aim = f", aim {AIM} at most" if cached else ""
        print(f"restart {words:<19} {spread(seconds)} s, of a cold start: {ratio}{aim}")
        for name in PARTS:
            if values := [each[2][name] for each in found[cached] if name in each[2]]:
                print(f"  {name:<38} {spread(values)} s")


if __name__ == "__main__":
    main()
