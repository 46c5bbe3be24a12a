"""Lines of events.jsonl: what happened to a run and when."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.appending import AppendedFile
from ms_codegeex.runs.run_directory import RunDirectory, finite


def event_line(event: str, content: Mapping[str, Any]) -> str:
    """The event now; its time is in seconds since 1970."""
    return json.dumps({"event": event, "time": time.time(), **finite(content)})


def add_event(run: RunDirectory, event: str, **content: Any) -> None:
    """Append an event. `OSError` if it cannot be written."""
    events = AppendedFile(run.events)
    try:
        if failed := events.write(event_line(event, content)):
            raise failed
    finally:
        events.close()
