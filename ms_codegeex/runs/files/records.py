"""Read log.jsonl and events.jsonl, to which all attempts of a run append.

The files may be damaged or come from someone else. Lines that a run would not write are skipped, so the returned
records have the keys and types that readers rely on. Imports no engine.
"""

from __future__ import annotations

import math
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.reading import open_regular

LONGEST_LINE = 1 << 20  # bytes
LATEST = 253_402_300_799  # the end of the year 9999, in seconds since 1970


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_number(value: object) -> bool:
    return value is None or (type(value) in (int, float) and math.isfinite(value))  # type: ignore[arg-type]


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LATEST  # type: ignore[operator]


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


def _is(*kinds: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kinds)


_Rules = Mapping[str, Callable[[object], bool]]
# Keys of log lines and events, and checks of their values; `_ABSENT` has the values of keys that older logs lack
_LOG: _Rules = {"step": _is_count}
_NUMBERS = (
    *("loss", "validation_loss", "learning_rate", "gradient_norm", "loss_scale", "tokens", "tokens_per_second", "mfu"),
    *("data_wait_percent", "step_seconds", "eta_seconds", "memory_bytes"),
)
_OPTIONAL_LOG: _Rules = {
    **dict.fromkeys(_NUMBERS, _is_number),
    **dict.fromkeys(("skipped", "compiling"), _is(bool)),
    "attempt": _is_count,
}
_ABSENT = {**dict.fromkeys(_NUMBERS), "skipped": False, "compiling": False}
_EVENT: _Rules = {"event": _is(str), "time": _is_time}
_OPTIONAL_EVENT: _Rules = {
    **dict.fromkeys(("step", "attempt", "left_out", "rank", "without_result"), _is_count),
    **dict.fromkeys(("loss", "gradient_norm"), _is_number),
    **dict.fromkeys(("message", "signal", "reason", "kind", "policy", "steps", "folder"), _is(str, type(None))),
}
_OF_EVENT: Mapping[str, _Rules] = {
    "end": {"reason": _is(str)},
    "fault": {"step": _is_count, "samples": _are_counts, "kind": _is(str), "policy": _is(str)},
    "rewind": {"left_out": _is_count},
}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the valid lines of a log.jsonl, in order of steps. Each line replaces earlier lines of its own or later
    steps, which come from before a restart or a rewind."""
    records: list[dict[str, Any]] = []
    for record in _lines(path):
        if not _obeys(record, _LOG, _OPTIONAL_LOG):
            continue
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append({**_ABSENT, **record})
    return records


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return all events of a run, each with the number of its attempt, from 1."""
    attempt, events = 0, []
    for event in _lines(path):
        if _obeys(event, _EVENT, _OPTIONAL_EVENT) and _obeys(event, _OF_EVENT.get(event["event"], {}), {}):
            attempt += event["event"] == "start"
            events.append({"attempt": attempt, **event})
    return events


def read_steps(path: Path) -> list[int]:
    return [event["step"] for event in _lines(path) if event.get("event") == "step" and _is_count(event.get("step"))]


def _obeys(record: Mapping[str, Any], required: _Rules, optional: _Rules) -> bool:
    needed = all(key in record and holds(record[key]) for key, holds in required.items())
    return needed and all(holds(record[key]) for key, holds in optional.items() if key in record)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        stream = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); restore it, or remove it") from None
    with stream:
        while line := stream.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = stream.readline(LONGEST_LINE)
                continue
            try:
                record = parse_json(line.removeprefix(BOM_UTF8), data=True)
            except MalformedText:
                continue
            if isinstance(record, dict):
                yield record
