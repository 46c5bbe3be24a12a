"""Options that choose the model: a server's, or one in this process."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import add_options, given, option
from ms_codegeex.base.reading import given_text
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.generation.levels import cpu_level

if TYPE_CHECKING:
    from ms_codegeex.terminal.asking import Model


@dataclass(frozen=True)
class ModelOptions:
    """Which model; a server's has a key and a name."""

    url: str = option("a server with OpenAI's API", "URL", "http://127.0.0.1:8000", either="model")
    model: Path | None = option("instead of a server: a model directory, run or checkpoint", "DIR", either="model")
    api_key_file: Path | None = option("file that holds the server's key", "FILE")
    name: str | None = option("the server's model, or an adapter (default: the model)", "NAME")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_options(parser, ModelOptions)
    add_options(parser.add_argument_group("with --model"), EngineOptions, ("threads", "cpu_level"))


def opened(arguments: argparse.Namespace, slots: int = 1) -> Model:
    """The requested model; `slots` answers are computed at once in this process."""
    options, engine = given(ModelOptions, arguments), given(EngineOptions, arguments)
    if options.model is None:
        if engine != EngineOptions():
            flag = "--cpu-level" if engine.threads is None else "--threads"
            raise UserError(f"{flag}: is for a model in this process; give --model DIR, or leave it out")
        from ms_codegeex.terminal.server import RemoteModel

        return RemoteModel(options.url, read_key(options.api_key_file), options.name)
    if options.api_key_file or options.name:
        flag = "--api-key-file" if options.api_key_file else "--name"
        raise UserError(f"{flag}: is for a server; leave it out with --model")
    from ms_codegeex.terminal.local import TerminalModel

    return TerminalModel(options.model, slots, engine.threads, cpu_level(engine.cpu_level))


def read_key(path: Path | None) -> str | None:
    """The key in a file; None without one. `UserError` if the file holds none."""
    if path is None:
        return None
    key = given_text(str(path), "--api-key-file").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"--api-key-file: {path} holds no key; expected one word")
    return key
