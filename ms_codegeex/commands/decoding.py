"""Options that several verbs share: how tokens are chosen, what is continued, and where an answer ends."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Literal

from ms_codegeex.base.options import add_options, given, option
from ms_codegeex.generation.sampling import SamplingSettings, request_fields


@dataclass(frozen=True)
class PromptOptions:
    """What `generate` and `complete` do with the text to continue."""

    language: str | None = option("put this language's tag in front of the text", "NAME")
    cut_prompt: bool = option("drop the start of a text that is too long instead of refusing it", default=False)
    stop_at: Literal["block"] | None = option(
        "end with the block that the prompt began: before a line in the first column (Python), after its "
        "closing brace (languages with braces; see --language)"
    )
    json: bool = option("one JSON object instead of streamed text", default=False)


def configure(parser: argparse.ArgumentParser, *others: str) -> None:
    """Length, seed, stop texts, what requests have too, and other fields of `SamplingSettings`."""
    names = {"max_new_tokens", "seed", "stop", *(each.name for each in request_fields()), *others}
    add_options(parser, SamplingSettings, names)
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token; the same as --temperature 0")


def prepare_device(name: str | None) -> None:
    """Make this process ready for a kind of device. Call it before the engine is imported."""
    if name == "gpu":
        from ms_codegeex.cuda.libraries import prepare

        prepare()


def choose_device(name: str) -> None:
    """Let every model that this process opens later compute on a kind of device."""
    prepare_device(name)
    from ms_codegeex.generation.targets import use_device

    use_device(name)


def settings(arguments: argparse.Namespace, **others: Any) -> SamplingSettings:
    """The settings from the options of `configure`, and others. `UserError` for a number out of range."""
    if arguments.greedy:
        others["temperature"] = 0.0
    return given(SamplingSettings, arguments, **others)
