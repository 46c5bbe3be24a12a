"""Which model `complete` and `chat` ask: the options, and what they open."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import OptionGroup, given, option
from ms_codegeex.base.verb_options import CHECKPOINT
from ms_codegeex.extras.serving.terminal.asking import Model
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.generation.text_options import read_key
from ms_codegeex.kernels.levels import cpu_level

TERMINAL = ("threads", "exact", "cpu_level")  # how a model in this process runs


@dataclass(frozen=True)
class ModelOptions:
    """Which model; a server's has a key and a name."""

    url: str = option("a server with OpenAI's API", "URL", "http://127.0.0.1:8000", either="model")
    model: Path | None = option("instead of a server: a model directory, run or checkpoint", "DIR", either="model")
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    api_key_file: Path | None = option("file that holds the server's key", "FILE")
    name: str | None = option("the server's model, or an adapter (default: the model)", "NAME")


MODEL = (ModelOptions, OptionGroup(EngineOptions, TERMINAL, title="with --model"))


def open_model(arguments: argparse.Namespace, slots: int = 1) -> Model:
    """The requested model; `slots` answers are computed at once in this process."""
    options, engine = given(ModelOptions, arguments), given(EngineOptions, arguments)
    if options.model is None:
        if engine != EngineOptions():
            given_one = next(each for each in TERMINAL if getattr(engine, each) != getattr(EngineOptions(), each))
            raise UserError(
                f"--{given_one.replace('_', '-')}: is for a model in this process; give --model DIR, or leave it out"
            )
        if options.checkpoint is not None:
            raise UserError("--checkpoint: is for a run given as --model; leave it out")
        from ms_codegeex.extras.serving.terminal.server import RemoteModel

        return RemoteModel(options.url, read_key(options.api_key_file), options.name)
    if options.api_key_file or options.name:
        flag = "--api-key-file" if options.api_key_file else "--name"
        raise UserError(f"{flag}: is for a server; leave it out with --model")
    from ms_codegeex.extras.serving.terminal.local import TerminalModel
    from ms_codegeex.formats.files import chosen_place

    place = chosen_place(options.model, options.checkpoint)
    return TerminalModel(place, slots, engine.threads, cpu_level(engine.cpu_level), engine.exact)
