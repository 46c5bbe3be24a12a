"""Options shared by several commands: the prompt, and how tokens are chosen."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import OptionGroup, given, option, refuse
from ms_codegeex.base.reading import given_text
from ms_codegeex.generation.sampling import SamplingSettings, request_fields

TOO_LONG = {  # advice for a request that exceeds the context, by its field
    "prompt": "shorten it, or give --cut-prompt to drop its start",
    "messages": "begin a new conversation",
}


@dataclass(frozen=True)
class PromptOptions:
    """How `generate` and `complete` treat the prompt."""

    language: str | None = option("put this language's tag in front of the text", "NAME")
    cut_prompt: bool = option("drop the start of a text that is too long instead of refusing it", default=False)
    special_tokens: bool = option("names of special tokens in the text are those tokens (default: text)", default=False)
    stop_at: Literal["block"] | None = option(
        "end with the block that the prompt began: before a line in the first column (Python), after its "
        "closing brace (languages with braces; see --language)"
    )
    json: bool = option("one JSON object instead of streamed text", default=False)


@dataclass(frozen=True)
class GreedyOption:
    """The option `--greedy`, which has no field in `SamplingSettings`."""

    greedy: bool = option("always the likeliest token; the same as --temperature 0", default=False)


def options(*others: str) -> tuple[OptionGroup, type]:
    names = {"max_new_tokens", "seed", "stop", *(each.name for each in request_fields()), *others}
    return OptionGroup(SamplingSettings, names), GreedyOption


def prepare_device(name: str | None) -> None:
    """Prepare this process for a kind of device. Call this before the engine is imported."""
    if name == "gpu":
        from ms_codegeex.base.cuda.libraries import prepare

        prepare()


def settings(arguments: argparse.Namespace, **others: Any) -> SamplingSettings:
    """Return the settings from parsed `options`, with `others` added. Raises `UserError` for a number out of range."""
    if arguments.greedy:
        if arguments.temperature:
            refuse(arguments, SamplingSettings, "not with --greedy, which is temperature 0", ["temperature"])
        others["temperature"] = 0.0
    return given(SamplingSettings, arguments, **others)


def read_key(path: Path | None) -> str | None:
    """Return the API key stored in the file `path`, or None for no path. Raises `UserError` if the file has no key."""
    if path is None:
        return None
    key = given_text(str(path), "--api-key-file").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"--api-key-file: {path} holds no key; expected one word")
    return key
