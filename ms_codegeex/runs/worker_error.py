"""`logs/error.json`: the one-line error that a worker leaves for its launcher, and what it says of checkpoints."""

from __future__ import annotations

import contextlib

from ms_codegeex.errors import NotFinite, RunFailure, UserError
from ms_codegeex.files import read_json, write_json
from ms_codegeex.formats.checkpoint_folder import doubt
from ms_codegeex.runs.run_directory import RunDirectory


def leave_error(run: RunDirectory, error: UserError | RunFailure, since: int) -> None:
    """Leave a worker's error; `since` is the step that its job started from."""
    step = error.step if isinstance(error, NotFinite) else None
    with contextlib.suppress(UserError):  # a full disk, which the launcher reports
        content = {"message": str(error), "user": isinstance(error, UserError), "not_finite": step, "since": since}
        write_json(run.error, content)


def left_error(run: RunDirectory) -> UserError | RunFailure:
    """The error that a worker has left."""
    error = read_json(run.error)
    return (UserError if error["user"] else RunFailure)(error["message"])


def mark_doubtful_checkpoints(run: RunDirectory) -> None:
    """If the last job ended because a step was not finite, mark the checkpoints that this makes doubtful."""
    with contextlib.suppress(UserError):  # there is no error
        error = read_json(run.error)
        if error.get("not_finite") is not None and not error.get("noted"):
            doubt(run.checkpoints, error["since"], error["not_finite"])
            # once: both the end of that job and the start of the next one call this
            write_json(run.error, {**error, "noted": True})
