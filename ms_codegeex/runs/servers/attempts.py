"""Restart a run's attempts after failures, and record how each ended. Imports no engine."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ms_codegeex.base.errors import Divergence, Rewind, RunFailure, UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import DamagedFile, list_checkpoints
from ms_codegeex.runs.files.records import read_log, read_steps
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import StopExit

MAX_SECONDS = 60.0  # longest pause between two attempts


def with_restarts(run: RunDirectory, restarts: int, rewinds: int, attempt: Callable[[int], None]) -> None:
    """Call `attempt` with 0, 1, … until one does not fail. After a `Rewind`, which excludes a batch, the run starts
    again at once, `rewinds` times from the same checkpoint. After a `DamagedFile`, it starts from the checkpoint
    before. After other failures, there are `restarts` more attempts in all. Failures that would recur (user errors,
    numbers that are not finite) end the run. If an attempt ends at the same step as the previous one without saving, a
    pause follows, which doubles each time."""
    idle, failed, gone_back = 0, 0, 0  # attempts in a row without progress; failures; rewinds to the same checkpoint
    step = _reached(run, _last_step(run))
    for number in itertools.count():
        before, checkpoint = step, _newest(run)
        try:
            return attempt(number)
        except Divergence:
            raise
        except DamagedFile as damage:  # the attempt has already set it aside
            print_error(f"skipped: {damage}")
        except Rewind as back:
            if not rewinds:
                raise
            gone_back = gone_back + 1 if _newest(run) == checkpoint else 1
            if gone_back > rewinds:
                ways = "continue with a higher faults.most, or add faults.policy=skip --allow-change faults.policy"
                raise RunFailure(f"{back}; the run has gone back {rewinds} times in a row; {ways}") from None
            print_error(f"{back}\nthe run goes back to its newest checkpoint")
        except RunFailure as failure:
            failed += 1
            if failed > restarts:
                raise
            step = _reached(run, before)
            idle = idle + 1 if (step, _newest(run)) == (before, checkpoint) else 0
            print_error(f"{failure}\nthe run starts again from its newest checkpoint (restart {failed} of {restarts})")
            time.sleep(min(2.0**idle, MAX_SECONDS) if idle else 0.0)


@contextlib.contextmanager
def recorded_end(run: RunDirectory) -> Iterator[None]:
    """Append the end of the attempt in this block, with its reason, to events.jsonl. A SIGKILL leaves none."""
    content = {"reason": "interrupted"}
    try:
        yield
        content = {"reason": "finished"}
    except (StopExit, RunFailure, UserError) as error:
        match error:
            case StopExit():
                content = {"reason": "stopped", "signal": error.name}
            case Divergence():
                content = {"reason": "not finite", "message": str(error)}
            case Rewind():
                content = {"reason": "rewind"}
            case _:
                content = {"reason": "failed", "message": str(error).splitlines()[0]}
        raise
    finally:
        with contextlib.suppress(OSError):  # a full disk
            run.add_event("end", step=_last_step(run), **content)


def resumed(config: RunConfig, run: RunDirectory) -> RunConfig:
    """Return the configuration of a later attempt, which continues from the run's own checkpoints if there are any."""
    if not list_checkpoints(run.checkpoints):
        return config
    return replace(config, checkpoint=replace(config.checkpoint, resume="auto"))


def _last_step(run: RunDirectory) -> int:
    log = read_log(run.log)
    return log[-1]["step"] if log else 0


def _reached(run: RunDirectory, before: int) -> int:
    if not run.progress.exists():
        return _last_step(run)
    steps = read_steps(run.progress)
    return steps[-1] if steps else before


def _newest(run: RunDirectory) -> Path | None:
    return next(reversed(list_checkpoints(run.checkpoints)), None)
