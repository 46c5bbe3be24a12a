"""Opens the model that is served, and its adapters.

A model directory may state in `serving.json` how its model was tuned:

    {"chat": "codegeex2"}                             a format of `data.conversations`, or
    {"chat": {"user": "U: {content}\\n", "assistant": "A: {content}\\n", "system": "{content}\\n", "stop": ["U:"]}}
    {"infill": {"prefix": "<PRE>", "suffix": "<SUF>", "middle": "<MID>"}}             see `data.infilling.sentinels`

Without it, a model only continues text. An adapter may have its own such file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.quarantine import has_file, read_json_inside
from ms_codegeex.data.conversations import TEMPLATES, ChatTemplate
from ms_codegeex.data.infilling.sentinels import DESCRIPTION, sentinels
from ms_codegeex.generation.loading import LoadedModel, adapter_infill, load_model, verify_stored
from ms_codegeex.serving.model import ServedModel
from ms_codegeex.serving.settings import ServeSettings


def open_models(settings: ServeSettings) -> list[ServedModel]:
    """The model to serve, then what it is with each of its adapters."""
    verify_stored((settings.model, *(path for _, path in settings.adapter)), settings.public_key)
    model = open_model(settings.model, settings.name, settings.bits)
    if model.name in (name for name, _ in settings.adapter):
        raise UserError(f"--adapter: {model.name} is the model's own name; choose another, or give --name")
    return [model, *(with_adapter(model, name, path) for name, path in settings.adapter)]


def open_model(path: Path, name: str = "", bits: int | None = None) -> ServedModel:
    """The model at `path`, by the name of its directory unless another is given. `UserError` if it cannot be opened."""
    return described_model(load_model(path, bits), path, name)


def described_model(model: LoadedModel, path: Path, name: str = "") -> ServedModel:
    """The same for a model that was opened from `path`."""
    return ServedModel(
        name or Path(path).resolve().name,
        model.family.name,
        model.tokenizer,
        model.config.max_position_embeddings,
        min(model.tokenizer.vocab_size, model.config.vocab_size),
        _chat(_described(Path(path)).get("chat"), Path(path) / DESCRIPTION),
        model.sentinels,
    )


def with_adapter(model: ServedModel, name: str, path: Path) -> ServedModel:
    """The model with an adapter, which may state how it was tuned."""
    where, infill = path / DESCRIPTION, adapter_infill(path)
    chat = _chat(_described(path).get("chat"), where)
    return replace(
        model,
        name=name,
        parent=model.name,
        chat=chat or model.chat,
        sentinels=model.sentinels if infill is None else sentinels(infill, str(where if where.is_file() else path)),
    )


def _described(directory: Path) -> Mapping[str, Any]:
    content = read_json_inside(directory, DESCRIPTION) if has_file(directory, DESCRIPTION) else {}
    if not isinstance(content, dict) or set(content) - {"chat", "infill"}:
        raise UserError(f"{directory / DESCRIPTION}: expected a JSON object with chat and infill, or one of them")
    return content


def _chat(value: Any, where: Path) -> ChatTemplate | None:
    if value is None:
        return None
    if isinstance(value, str) and value in TEMPLATES:
        return TEMPLATES[value]
    stop = value.get("stop", []) if isinstance(value, dict) else None
    texts = {key: text for key, text in value.items() if key != "stop"} if isinstance(value, dict) else {}
    if (
        not {"user", "assistant"} <= set(texts) <= {"user", "assistant", "system"}
        or not all(isinstance(text, str) and "{content}" in text for text in texts.values())
        or not isinstance(stop, list)
        or not all(isinstance(text, str) and text for text in stop)
    ):
        texts_needed = "user, assistant and system with {content} in each, and a list stop"
        raise UserError(f"{where}: chat: expected one of {', '.join(TEMPLATES)}, or {texts_needed}")
    return ChatTemplate(**texts, stop=tuple(stop))
