"""`logs/error.json`: the one-line error that a worker leaves for its launcher, and its effect on checkpoints."""

from __future__ import annotations

import contextlib

from ms_codegeex.base.errors import Corrupted, NotFinite, Rewind, RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint_folder import doubt, doubt_after
from ms_codegeex.runs.records import read_events
from ms_codegeex.runs.run_directory import RunDirectory

KINDS: dict[type[UserError | RunFailure], str | None] = {  # and the key of the step that belongs to the error
    NotFinite: "not_finite",
    Corrupted: "corrupted_after",
    Rewind: None,
    RunFailure: None,
    UserError: None,
}
SAVES = ("saving", "saved", "save failed")  # events of rank 0
ON_ALL_RANKS = (NotFinite, Corrupted, Rewind)  # all ranks end with it, after the same step


def leave_error(run: RunDirectory, error: UserError | RunFailure, since: int) -> None:
    """Leave a worker's error; `since` is the step that its job started from."""
    kind = next(kind for kind in KINDS if isinstance(error, kind))
    step = {KINDS[kind]: error.step} if isinstance(error, NotFinite | Corrupted) else {}
    with contextlib.suppress(UserError):  # a full disk, which the launcher reports
        write_json(run.error, {"message": str(error), "kind": kind.__name__, "since": since, **step})


def left_error(run: RunDirectory) -> UserError | RunFailure:
    """The error that a worker has left."""
    error = read_json(run.error)
    kind, key = next((kind, key) for kind, key in KINDS.items() if kind.__name__ == error["kind"])
    return kind(error["message"], error[key]) if key else kind(error["message"])


def save_under_way(run: RunDirectory) -> bool:
    """Whether rank 0 still saves although a worker has left an error. The others wait for that if all ranks end with
    this error; otherwise rank 0 may wait for them."""
    if not isinstance(left_error(run), ON_ALL_RANKS):
        return False
    kinds = [event["event"] for event in read_events(run.events)]
    return next((kind == "saving" for kind in reversed(kinds) if kind in (*SAVES, "start")), False)


def mark_doubtful_checkpoints(run: RunDirectory) -> None:
    """If the last job ended because a step was not finite or copies differed, mark the checkpoints concerned as
    doubtful."""
    with contextlib.suppress(UserError):  # there is no error
        error = read_json(run.error)
        if error.get("noted"):  # both the end of that job and the start of the next one call this
            return
        if error.get("not_finite") is not None:
            doubt(run.checkpoints, error["since"], error["not_finite"])
        if error.get("corrupted_after") is not None:
            doubt_after(run.checkpoints, error["corrupted_after"])
        write_json(run.error, {**error, "noted": True})
