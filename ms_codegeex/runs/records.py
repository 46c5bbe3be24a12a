"""Reads log.jsonl and events.jsonl. All attempts of a run append to both.

Imports no engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict[str, Any]]:
    """The valid lines of a log.jsonl, by step. Each line replaces earlier lines of its step and of later steps, which
    are from before a restart or a rewind."""
    records: list[dict[str, Any]] = []
    for record in _lines(path, "step"):
        while records and records[-1]["step"] >= record["step"]:
            records.pop()
        records.append(record)
    return records


def read_events(path: Path) -> list[dict[str, Any]]:
    """All events of a run, each with the number of its attempt, from 1."""
    attempt, events = 0, []
    for event in _lines(path, "event"):
        attempt += event["event"] == "start"
        events.append({"attempt": attempt, **event})
    return events


def read_steps(path: Path) -> list[int]:
    """The steps in the events for the display."""
    return [event["step"] for event in _lines(path, "event") if event["event"] == "step"]


def _lines(path: Path, key: str) -> list[dict[str, Any]]:
    """The objects with `key` of a file of JSON lines; others, and a line that a kill left incomplete, are skipped."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict) and key in record:
            records.append(record)
    return records
