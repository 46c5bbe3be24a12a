"""The files of a run directory: the one place that knows their names."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ms_codegeex.config import RunConfig, build_run_config
from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_file, write_json

REPORTED_PACKAGES = ("mindspore", "numpy", "safetensors", "tokenizers", "datasketch", "pydantic", "matplotlib")


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run below `path`."""

    path: Path

    config = property(lambda self: self.path / "config.yaml", doc="the resolved configuration")
    environment = property(lambda self: self.path / "environment.json", doc="versions and machine")
    log = property(lambda self: self.path / "log.jsonl", doc="one JSON object per logged step")
    events = property(lambda self: self.path / "events.jsonl", doc="the starts of the run, append-only")
    plot = property(lambda self: self.path / "loss.png", doc="loss curves")
    tensorboard = property(lambda self: self.path / "tensorboard", doc="TensorBoard events")
    checkpoints = property(lambda self: self.path / "checkpoints", doc="step-* directories")
    summary = property(lambda self: self.path / "summary.json", doc="the figures at the end")
    huggingface = property(lambda self: self.path / "huggingface", doc="the exported model directory")
    logs = property(lambda self: self.path / "logs", doc="what the worker processes print")
    progress = property(lambda self: self.path / "logs" / "progress.jsonl", doc="events of rank 0 for the display")
    result = property(lambda self: self.path / "logs" / "result.json", doc="rank 0's final figures")
    error = property(lambda self: self.path / "logs" / "error.json", doc="a worker's one-line error")

    def pytorch(self, family: str) -> Path:
        """The exported nested PyTorch file."""
        return self.path / f"{family}.pt"

    def write_config(self, config: RunConfig) -> None:
        """Write the resolved configuration with every default filled in; `train --config` reads it."""
        with atomic_file(self.config) as temporary:
            temporary.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")

    def read_config(self) -> RunConfig:
        """The configuration that this run was started with."""
        try:
            return build_run_config(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UserError(f"{self.path}: not a run directory (no config.yaml)") from None

    def add_event(self, event: str, **content: Any) -> None:
        """Append an event with the current time in seconds since 1970. `OSError` if it cannot be written."""
        line = json.dumps({"event": event, "time": time.time(), **content}) + "\n"
        with self.events.open("a", encoding="utf-8") as stream:
            stream.write(line)

    def write_environment(self) -> None:
        """Write the versions of Python and packages, and the machine."""
        write_json(
            self.environment,
            {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "machine": platform.machine(),
                "cpu_count": os.cpu_count(),
                "packages": dict(_versions()),
            },
        )


def _versions() -> Iterator[tuple[str, str]]:
    for name in ("ms-codegeex", *REPORTED_PACKAGES):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
