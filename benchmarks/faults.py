"""Kills the processes of a run again and again, and compares its results with those of an undisturbed run.

    python benchmarks/faults.py                          # 30 kills in FP32 and 30 in FP16: half an hour on two cores
    python benchmarks/faults.py --every 60 --minutes 15  # one kill a minute; the run has to finish without help
    python benchmarks/faults.py --stops                  # SIGSTOP in eight phases, two and four workers: ten minutes

Two workers train a very small model with dropout and accumulation. SIGKILL hits a worker after a random step, a worker
during a save, a worker while it starts, or the command itself; only the command is then started again from outside.
Losses, weights and moments must be equal bit for bit, and every announced checkpoint must be there and sound. `--stops`
measures from the SIGSTOP until the attempt has ended with the rank and its phase named, with the default limits.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import ROOT, options, print_header, spread

sys.path.insert(0, str(ROOT / "tests/commands"))
KINDS = ("worker", "worker", "saving", "starting", "command")
PATIENCE = 900.0  # seconds without what is waited for
USEFUL = 0.8  # share of the time with `--every` that goes into steps


def values_of(
    dataset: Path, output: Path, precision: str, steps: int, every: int, micro_batches: int = 8
) -> dict[str, Any]:
    """The run: two workers, eight micro-batches each, so that a step takes longer than a look at it; dropout; all
    checkpoints are kept."""
    from conftest import small_run

    values = small_run(dataset, output)
    values["devices"] = 2
    values["training"].update(
        steps=steps,
        global_batch=2 * micro_batches,
        micro_batch=1,
        dropout=0.1,
        precision=precision,
        loss_scale={"initial": 2.0**16, "window": 50},
    )
    values["training"]["schedule"].update(decay_steps=max(50, steps))
    values["checkpoint"].update(every=every, keep=10**6)
    return values


class Job:
    """A run and the command that drives it. `restarts`: how often the command itself may start it again."""

    def __init__(self, values: dict[str, Any], restarts: int):
        from conftest import write_config

        from ms_codegeex.runs.files.run_directory import RunDirectory

        self.run = RunDirectory(Path(values["output"]))
        config = write_config(self.run.path.with_suffix(".yaml"), values)
        self.words = [sys.executable, "-m", "ms_codegeex.cli", "train", "--config", str(config), "--resume", "auto"]
        self.words += ["--restarts", str(restarts)]
        self.log = self.run.path.with_suffix(".txt")
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=log, env=environment)

    def processes(self) -> list[psutil.Process]:
        """All processes that name the run directory or something in it."""
        from run_processes import processes_of

        return processes_of(self.run.path)

    def workers(self) -> list[psutil.Process]:
        """The worker processes, the scheduler not among them."""
        from run_processes import ranks_of

        return list(ranks_of(self.run.path).values())

    def wait(self, condition: Callable[[], Any], pause: float = 0.02) -> Any:
        """The first true value of the condition; None if the command has ended before."""
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            if self.process.poll() is not None:
                return None
            if time.monotonic() > deadline:
                raise SystemExit(f"nothing happens; see {self.log} and {self.run.logs}")
            time.sleep(pause)
        return value

    def events(self) -> list[dict[str, Any]]:
        from ms_codegeex.runs.files.records import read_events

        return read_events(self.run.events)

    def step(self) -> int:
        """The newest step of the present attempt; 0 before its first."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = self.run.progress.read_text(encoding="utf-8").splitlines()
            return max((event["step"] for line in lines if (event := json.loads(line))["event"] == "step"), default=0)
        return 0

    def finish(self) -> None:
        """Wait for the end, which must be a good one."""
        if self.process.wait(timeout=PATIENCE * 4):
            raise SystemExit(f"the run ended with status {self.process.returncode}; see {self.log}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


def kill_once(job: Job, kind: str, step: int, chance: random.Random) -> bool:
    """Kill once after this step of the run, or as `kind` says. Return whether that ended an attempt: the run may have
    been too quick for it."""
    if kind == "starting":
        job.wait(job.workers)
        time.sleep(chance.uniform(0.0, 5.0))
    elif job.wait(lambda: job.step() >= step) is None:
        return False
    elif kind == "saving":
        before = Counter(event["event"] for event in job.events())["saving"]
        if job.wait(lambda: Counter(e["event"] for e in job.events())["saving"] > before, pause=0.001) is None:
            return False
        time.sleep(chance.uniform(0.0, 0.03))
    else:
        time.sleep(chance.uniform(0.0, 0.05))
    if kind == "command":
        alive = job.process.poll() is None
        job.process.kill()
        job.process.wait()
        deadline = time.monotonic() + PATIENCE
        while job.processes():
            if time.monotonic() > deadline:
                raise SystemExit("workers have outlived their command")
            time.sleep(0.05)
        job.start()
        return alive
    victims, attempt = job.workers(), job.run.attempt
    if not victims:
        return False
    with contextlib.suppress(psutil.Error):
        chance.choice(victims).send_signal(signal.SIGKILL)
    return bool(job.wait(lambda: job.run.attempt > attempt))


def compare(broken: Job, unbroken: Job) -> dict[str, Any]:
    """Compare what the two runs left; ends with an error if anything differs or is lost."""
    from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints, step_name
    from ms_codegeex.runs.files.history import read_history
    from ms_codegeex.runs.files.records import read_log

    losses = [[(line["step"], line["loss"]) for line in read_log(job.run.log)] for job in (broken, unbroken)]
    if losses[0] != losses[1]:
        odd = next((a for a, b in zip(*losses, strict=False) if a != b), "their numbers")
        raise SystemExit(f"the losses differ: {odd}")
    a, b = (Checkpoint(list_checkpoints(job.run.checkpoints)[-1]) for job in (broken, unbroken))
    for name in a.names:
        if not np.array_equal(a.tensor(name), b.tensor(name)):
            raise SystemExit(f"{name} differs")
    announced, newest = set(), 0
    for event in broken.events():
        if event["event"] == "saved":
            newest = event["step"]
            announced.add(newest)
        if event["event"] == "start" and event["step"] < newest:
            raise SystemExit(f"attempt {event['attempt']} began with step {event['step']}, {newest} was announced")
    for step in announced:
        Checkpoint(broken.run.checkpoints / step_name(step)).verify()
    history = read_history(broken.run.path)
    return {
        "steps": len(losses[0]),
        "attempts": len(history.attempts),
        "announced_checkpoints": len(announced),
        "tensors": len(list(a.names)),
        "goodput": history.goodput,
        "goodput_unbroken": read_history(unbroken.run.path).goodput,
        **first_steps(broken.events(), unbroken.events()),
    }


def first_steps(broken: list[dict[str, Any]], unbroken: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds from the start of an attempt to the end of its first step: of the first attempt and of later ones."""
    (cold,) = _seconds(unbroken).values()
    later = [seconds for attempt, seconds in _seconds(broken).items() if attempt > 1]
    return {"first_step_cold": cold, "first_step_later": spread(later) if later else None}


def _seconds(events: list[dict[str, Any]]) -> dict[int, float]:
    """By attempt, from its start to the end of its first step."""
    started = {event["attempt"]: event["time"] for event in events if event["event"] == "start"}
    ended = {event["attempt"]: event["time"] for event in events if event["event"] == "compiled"}
    return {attempt: ended[attempt] - began for attempt, began in started.items() if attempt in ended}


def kills(arguments: argparse.Namespace, precision: str, dataset: Path, scratch: Path) -> dict[str, Any]:
    """Kill `arguments.kills` times, then compare."""
    chance = random.Random(f"{arguments.seed} {precision}")
    steps = arguments.steps or 40 * arguments.kills + 20
    jobs = []
    try:
        for name, restarts in (("unbroken", 0), ("broken", 10**6)):
            values = values_of(
                dataset,
                scratch / f"{precision}_{name}",
                precision,
                steps,
                arguments.save_every,
                arguments.micro_batches,
            )
            jobs.append(Job(values, restarts))
            if name == "unbroken":
                jobs[0].finish()
        broken, done = jobs[1], Counter[str]()
        kinds = [KINDS[number % len(KINDS)] for number in range(arguments.kills)]
        chance.shuffle(kinds)
        places = sorted(chance.sample(range(1, steps - arguments.save_every - 1), arguments.kills))
        for kind, step in zip(kinds, places, strict=True):
            done[kind] += kill_once(broken, kind, step, chance)
        broken.finish()
        return {"precision": precision, "kills": dict(done), **compare(broken, jobs[0])}
    finally:
        for job in jobs:
            job.stop()


def regular(arguments: argparse.Namespace, dataset: Path, scratch: Path) -> dict[str, Any]:
    """Kill a worker every `arguments.every` seconds for `arguments.minutes`; the run continues and ends by itself. A
    short run beforehand shows how many steps take that long."""
    from ms_codegeex.runs.files.history import read_history

    trial = Job(values_of(dataset, scratch / "trial", "fp32", 300, 100, arguments.micro_batches), 0)
    jobs, chance, lost = [trial], random.Random(arguments.seed), []
    try:
        trial.finish()
        seconds = read_history(trial.run.path).step_seconds
        steps = arguments.steps or int(60 * arguments.minutes * USEFUL / seconds)
        every = max(1, round(arguments.save_seconds / seconds))
        values = values_of(dataset, scratch / "regular", "fp32", steps, every, arguments.micro_batches)
        values["checkpoint"]["keep"] = 2
        jobs.append(job := Job(values, 10**6))
        due = time.monotonic()
        end = due + 60 * arguments.minutes
        while (due := due + arguments.every) < end and job.process.poll() is None:
            time.sleep(max(0.0, due - time.monotonic()))
            victims, now, attempt = job.workers(), time.time(), job.run.attempt
            if not victims:
                continue
            with contextlib.suppress(psutil.Error):
                chance.choice(victims).send_signal(signal.SIGKILL)
            if begun := job.wait(lambda a=attempt: compiled_after(job, a)):
                lost.append(begun["time"] - now)
        job.finish()
        history = read_history(job.run.path)
        passed = history.attempts[-1].end - history.attempts[0].begin
        first = compiled_after(job, 0)["time"] - history.attempts[0].begin
        allowed = 1.0 - (first + sum(lost)) / passed
        return {
            "kills": len(lost),
            "attempts": len(history.attempts),
            "end": history.state,
            "steps": history.step,
            "seconds": passed,
            "restart_seconds": spread(lost),
            "goodput": history.goodput,
            "goodput_that_restarts_allow": allowed,
            "ratio": history.goodput / allowed,
        }
    finally:
        for job in jobs:
            job.stop()


def stops(dataset: Path, scratch: Path) -> dict[str, Any]:
    """Stop a rank in each phase, one an attempt, in a run of two workers and one of four."""
    from test_command_train_faults import STOPPED_IN, check_equal, stopped_everywhere, train
    from test_command_train_faults import values_of as stopped_values

    found = {}
    for workers in (2, 4):
        unbroken = train(scratch / f"unbroken_{workers}", stopped_values(dataset, workers))[0]
        run, seconds = stopped_everywhere(dataset, scratch / f"stopped_{workers}", workers, limits="")
        check_equal(run, unbroken)
        named = {phase: round(each, 1) for phase, each in zip(STOPPED_IN, seconds, strict=True)}
        found[f"{workers} workers: seconds until named"] = named
    return found


def compiled_after(job: Job, attempt: int) -> dict[str, Any] | None:
    """The event of the first step after this attempt, or None."""
    return next((e for e in job.events() if e["attempt"] > attempt and e["event"] == "compiled"), None)


def main() -> None:
    parser = options(__doc__, seed=True)
    parser.add_argument("--kills", type=int, default=30, help="in each precision")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "fp16"), default=("fp32", "fp16"))
    parser.add_argument("--steps", type=int, help="of the run (default: 40 for each kill; --every: as many as fit)")
    parser.add_argument("--save-every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--micro-batches", type=int, default=8, help="of a worker in a step; fewer on a busy machine")
    parser.add_argument("--every", type=float, help="seconds between kills of a run that must not be helped")
    parser.add_argument("--minutes", type=float, default=15.0, help="for how long, with --every")
    parser.add_argument("--save-seconds", type=float, default=5.0, help="between two checkpoints, with --every")
    parser.add_argument("--stops", action="store_true", help="stop ranks in each phase instead")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the runs too
    from conftest import write_dataset

    print_header("mindspore")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        dataset = write_dataset(scratch / "dataset")
        if arguments.stops:
            print(json.dumps(stops(dataset, scratch), indent=2))
            return
        if arguments.every:
            print(json.dumps(regular(arguments, dataset, scratch), indent=2))
            return
        for precision in arguments.precision:
            print(json.dumps(kills(arguments, precision, dataset, scratch), indent=2), flush=True)


if __name__ == "__main__":
    main()
