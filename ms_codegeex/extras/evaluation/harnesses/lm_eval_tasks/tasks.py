"""The functions of `ms_codegeex.yaml`, which lm-evaluation-harness calls."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.extras.evaluation.harnesses.judged import JudgedBenchmark, opened


def dataset(**metadata: Any) -> dict[str, Any]:
    """The problems, each with the settings."""
    from datasets import Dataset

    keys = ("benchmark", "data", "languages", "sandbox", "chat")
    settings = json.dumps({key: metadata[key] for key in keys if key in metadata})
    return {"test": Dataset.from_list([{**row, "settings": settings} for row in _opened(settings).rows()])}


def scored(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """1 if the answer passes."""
    answer = results[0] if isinstance(results[0], str) else results[0][0]
    is_chat = bool(parse_json(doc["settings"]).get("chat"))
    return {"pass@1": float(_opened(doc["settings"]).verdict(doc["task_id"], answer, is_chat)[0])}


@cache
def _opened(settings: str) -> JudgedBenchmark:
    return opened(parse_json(settings))
