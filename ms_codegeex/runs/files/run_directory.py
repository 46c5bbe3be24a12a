"""Names of the files in a run directory; no other module knows them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.appending import AppendedFile
from ms_codegeex.base.nested import finite
from ms_codegeex.runs.files.records import read_events


@dataclass(frozen=True)
class RunDirectory:
    """The files of the run in `path`."""

    path: Path

    config = property(lambda self: self.path / "config.yaml", doc="the resolved configuration")
    environment = property(lambda self: self.path / "environment.json", doc="versions and machine")
    log = property(lambda self: self.path / "log.jsonl", doc="one JSON object per logged step")
    events = property(lambda self: self.path / "events.jsonl", doc="what happened and when, append-only")
    plot = property(lambda self: self.path / "loss.png", doc="loss curves")
    tensorboard = property(lambda self: self.path / "tensorboard", doc="TensorBoard events")
    profile = property(lambda self: self.path / "profile", doc="what MindSpore Profiler has written, by rank")
    checkpoints = property(lambda self: self.path / "checkpoints", doc="step-* directories")
    summary = property(lambda self: self.path / "summary.json", doc="the figures at the end")
    before = property(lambda self: self.path / "before.json", doc="losses of the model that the run started from")
    peak = property(lambda self: self.path / "matmul_peak.json", doc="the reference for MFU that the run has measured")
    huggingface = property(lambda self: self.path / "huggingface", doc="the exported model directory")
    adapter = property(lambda self: self.path / "adapter", doc="exported adapters, for PEFT")
    servers = property(lambda self: self.path / ".servers", doc="where the servers of one job find each other")
    logs = property(lambda self: self.path / "logs", doc="what the worker processes of the last attempt print")
    progress = property(lambda self: self.path / "logs" / "progress.jsonl", doc="events of rank 0 for the display")
    result = property(lambda self: self.path / "logs" / "result.json", doc="rank 0's final figures")
    error = property(lambda self: self.path / "logs" / "error.json", doc="a worker's one-line error")
    beats = property(lambda self: self.path / "logs" / "beats", doc="what each rank is doing, in a file of its own")
    replicas = property(lambda self: self.path / "logs" / "replicas", doc="hashes of what each rank holds")
    stop_request = property(lambda self: self.path / "logs" / "stop.json", doc="the signal that a launcher got")
    next_save = property(lambda self: self.path / "logs" / "next_save.json", doc="the step to save after, by the clock")
    last_step = property(lambda self: self.path / "logs" / "last_step.json", doc="the step to stop after")

    def pytorch(self, family: str) -> Path:
        return self.path / f"{family}.pt"

    @property
    def attempt(self) -> int:
        events = read_events(self.events)
        return events[-1]["attempt"] if events else 0

    def kept_logs(self, attempt: int) -> Path:
        return self.logs / f"attempt-{attempt:04d}"

    def add_event(self, event: str, **content: Any) -> None:
        """Append an event to events.jsonl. `OSError` if it cannot be written."""
        events = AppendedFile(self.events)
        try:
            if failed := events.write(event_line(event, content)):
                raise failed
        finally:
            events.close()


def event_line(event: str, content: Mapping[str, Any]) -> str:
    """Return a line of events.jsonl for an event that happens now; its time is in seconds since 1970."""
    return json.dumps({"event": event, "time": time.time(), **finite(content)})
