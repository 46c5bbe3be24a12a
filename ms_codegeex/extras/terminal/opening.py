"""Options that choose the model which `complete` and `chat` ask, and the function that opens it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.options import OptionGroup, given, option, refuse
from ms_codegeex.base.verb_options import CHECKPOINT
from ms_codegeex.generation.engine_options import EngineOptions
from ms_codegeex.generation.text_options import read_key
from ms_codegeex.kernels.levels import cpu_level

if TYPE_CHECKING:
    from ms_codegeex.extras.terminal.local import TerminalModel
    from ms_codegeex.extras.terminal.server import RemoteModel

    Model = RemoteModel | TerminalModel

LOCAL = ("threads", "exact", "cpu_level")  # options of a model in this process


@dataclass(frozen=True)
class ModelOptions:
    """Which model to ask. `api_key_file` and `name` are for a server."""

    url: str = option("a server with OpenAI's API", "URL", "http://127.0.0.1:8000", either="model")
    model: Path | None = option("instead of a server: a model directory, run or checkpoint", "DIR", either="model")
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    api_key_file: Path | None = option("file that holds the server's key", "FILE")
    name: str | None = option("the server's model, or an adapter (default: the model)", "NAME")


MODEL = (ModelOptions, OptionGroup(EngineOptions, LOCAL, title="with --model"))


def open_model(arguments: argparse.Namespace, slots: int = 1, special_tokens: bool = False) -> Model:
    """Open the requested model. `slots` and `special_tokens` are for one in this process, as in `TerminalModel`."""
    options, engine = given(ModelOptions, arguments), given(EngineOptions, arguments)
    if options.model is None:
        refuse(arguments, EngineOptions, "is for a model in this process (--model DIR)", LOCAL)
        refuse(arguments, ModelOptions, "is for a run given as --model", ("checkpoint",))
        from ms_codegeex.extras.terminal.server import RemoteModel

        return RemoteModel(options.url, read_key(options.api_key_file), options.name)
    refuse(arguments, ModelOptions, "is for a server, not for --model", ("api_key_file", "name"))
    from ms_codegeex.extras.terminal.local import TerminalModel
    from ms_codegeex.generation.loading import at_checkpoint

    place, level = at_checkpoint(options.model, options.checkpoint), cpu_level(engine.cpu_level)
    how = {"threads": engine.threads, "cpu_level": level, "exact": engine.exact}
    return TerminalModel(place, slots, special_tokens, **how)
