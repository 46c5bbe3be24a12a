"""Configurations of a run on 16 devices, for tests of what starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.run import RunConfig


def values(output: Path | str = "runs/a", devices: int = 16, device: str = "ascend", **parallel: Any) -> dict[str, Any]:
    """The 13B, with tensor parallelism 8 and these keys of `parallel`."""
    return {
        "output": str(output),
        "device": device,
        "devices": devices,
        "model": {"preset": "13b"},
        "training": {"steps": 1, "global_batch": 1024, "micro_batch": 8},
        "parallel": {"tensor": 8, **parallel},
    }


def config(*arguments: Any, **keywords: Any) -> RunConfig:
    """The configuration of these values."""
    return build_run_config(values(*arguments, **keywords))
