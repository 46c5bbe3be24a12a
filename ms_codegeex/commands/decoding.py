"""Options that several verbs share: which model answers, what it continues, and how tokens are chosen."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import add_options, given, option
from ms_codegeex.base.reading import given_text
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.generation.sampling import SamplingSettings, request_fields
from ms_codegeex.kernels.levels import cpu_level

if TYPE_CHECKING:
    from ms_codegeex.terminal.asking import Model

TERMINAL = ("threads", "exact", "cpu_level")  # how a model in this process of `complete` and `chat` runs


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


@dataclass(frozen=True)
class ModelOptions:
    """Which model; a server's has a key and a name."""

    url: str = option("a server with OpenAI's API", "URL", "http://127.0.0.1:8000", either="model")
    model: Path | None = option("instead of a server: a model directory, run or checkpoint", "DIR", either="model")
    api_key_file: Path | None = option("file that holds the server's key", "FILE")
    name: str | None = option("the server's model, or an adapter (default: the model)", "NAME")


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


def settings(arguments: argparse.Namespace, **others: Any) -> SamplingSettings:
    """The settings from the options of `configure`, and others. `UserError` for a number out of range."""
    if arguments.greedy:
        others["temperature"] = 0.0
    return given(SamplingSettings, arguments, **others)


def configure_model(parser: argparse.ArgumentParser) -> None:
    """A server's model, or one in this process."""
    add_options(parser, ModelOptions)
    add_options(parser.add_argument_group("with --model"), EngineOptions, TERMINAL)


def open_model(arguments: argparse.Namespace, slots: int = 1) -> Model:
    """The requested model; `slots` answers are computed at once in this process."""
    options, engine = given(ModelOptions, arguments), given(EngineOptions, arguments)
    if options.model is None:
        if engine != EngineOptions():
            given_one = next(each for each in TERMINAL if getattr(engine, each) != getattr(EngineOptions(), each))
            raise UserError(
                f"--{given_one.replace('_', '-')}: is for a model in this process; give --model DIR, or leave it out"
            )
        from ms_codegeex.terminal.server import RemoteModel

        return RemoteModel(options.url, read_key(options.api_key_file), options.name)
    if options.api_key_file or options.name:
        flag = "--api-key-file" if options.api_key_file else "--name"
        raise UserError(f"{flag}: is for a server; leave it out with --model")
    from ms_codegeex.terminal.local import TerminalModel

    return TerminalModel(options.model, slots, engine.threads, cpu_level(engine.cpu_level), engine.exact)


def read_key(path: Path | None) -> str | None:
    """The key in a file; None without one. `UserError` if the file holds none."""
    if path is None:
        return None
    key = given_text(str(path), "--api-key-file").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"--api-key-file: {path} holds no key; expected one word")
    return key
