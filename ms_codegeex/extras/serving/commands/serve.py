"""`ms-codegeex serve`: a model over HTTP, in the format of OpenAI's API."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import declared, given, option
from ms_codegeex.extras.serving.settings import ServeSettings

EXTRA = "serving"
SUMMARY = "serve a model over HTTP, for editors and OpenAI's clients"
EXAMPLES = """\
  ms-codegeex serve --model codegen-350m-mono-hf
  ms-codegeex serve --model codegeex2-6b --bits 8 --port 8080 --max-concurrency 8
  ms-codegeex serve --model DIR --port 0 --speculate ngram
  ms-codegeex serve --model DIR --adapter sql=runs/sql/adapter tests=runs/tests
  ms-codegeex serve --model DIR --demo  # a web page to try the model
  ms-codegeex serve --model DIR --host 0.0.0.0 --api-key-file keys.txt --requests-per-minute 120 --access-log -"""

# Flags of CodeGeeX2's demo and API server. Flags with an equivalent are aliases in `ServeSettings`, and `--cpu` is the
# default here. The flags below are refused with a line that says what to use instead.
_KEYS = "write a key into a file and give --api-key-file FILE"
_OPERATORS = "leave it out: the engine has its own compiled operators; --bits 8 or 4 rounds the weights"
REPLACED = {
    "--share": "nothing leaves this machine; --host 0.0.0.0 --api-key-file FILE lets others reach it",
    "--auth": _KEYS,
    "--username": _KEYS,
    "--password": _KEYS,
    "--fastllm": _OPERATORS,
    "--chatglm-cpp": _OPERATORS,
    "--half": "leave it out: 16-bit weights stay 16-bit; --cache-bits 16 halves the KV cache",
    "--gpu": "give --device gpu; CUDA_VISIBLE_DEVICES chooses GPUs; --devices N shares the model among N",
    "--workers": "one process answers many requests at once; --max-concurrency N sets how many",
}


@dataclass(frozen=True)
class DemoFlags:
    """Flags of CodeGeeX2's demo and API server that are refused or have no effect; --help does not list them."""

    cpu: bool = option(argparse.SUPPRESS, default=False)
    share: bool = option(argparse.SUPPRESS, default=False)
    auth: bool = option(argparse.SUPPRESS, default=False)
    username: str | None = option(argparse.SUPPRESS)
    password: str | None = option(argparse.SUPPRESS)
    fastllm: bool = option(argparse.SUPPRESS, default=False)
    chatglm_cpp: bool = option(argparse.SUPPRESS, default=False)
    half: bool = option(argparse.SUPPRESS, default=False)
    gpu: str | None = option(argparse.SUPPRESS)
    workers: str | None = option(argparse.SUPPRESS)


OPTIONS = (ServeSettings, DemoFlags)


def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    for flag in declared(DemoFlags):
        if flag.name != "cpu" and getattr(arguments, flag.name) not in (None, False):
            raise UserError(f"{flag.flag} is a flag of CodeGeeX2's demo: {REPLACED[flag.flag]}")
    settings = given(ServeSettings, arguments)
    if settings.checkpoint is not None:
        from ms_codegeex.generation.loading import at_checkpoint

        name = settings.name or settings.model.resolve().name
        settings = replace(settings, model=at_checkpoint(settings.model, settings.checkpoint), name=name)
    from ms_codegeex.extras.serving.engine_program import forked, verify_models
    from ms_codegeex.extras.serving.model import open_models

    try:
        model, models = open_models(settings)
    except UserError:
        verify_models(settings)  # if a file was changed, that is the better explanation
        raise
    with forked(settings, model) as begun:
        from ms_codegeex.extras.serving.server import serve  # imported while the engine loads the model

        serve(settings, models, begun)
