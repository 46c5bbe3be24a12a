"""`ms-codegeex serve`: a model over HTTP, in the format of OpenAI's API."""

from __future__ import annotations

import argparse

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import add_options, given
from ms_codegeex.serving.settings import ServeSettings

SUMMARY = "serve a model over HTTP, for editors and OpenAI's clients"
EXAMPLES = """\
  ms-codegeex serve --model codegen-350m-mono-hf
  ms-codegeex serve --model codegeex2-6b --bits 8 --port 8080 --max-concurrency 8
  ms-codegeex serve --model DIR --port 0 --speculate ngram
  ms-codegeex serve --model DIR --adapter sql=runs/sql/adapter tests=runs/tests
  ms-codegeex serve --model DIR --demo  # a web page to try the model
  ms-codegeex serve --model DIR --host 0.0.0.0 --api-key-file keys.txt --requests-per-minute 120 --access-log -"""

# Flags of CodeGeeX2's demo and API server. Those with an equivalent are aliases of it in `ServeSettings`; `--cpu` is
# the default. Each of these is refused with one line that names what to write instead.
_KEYS = "write a key into a file and give --api-key-file FILE"
_OPERATORS = "leave it out: the engine has its own compiled operators; --bits 8 or 4 rounds the weights"

REPLACED = {  # flag -> whether a value follows, what replaces it
    "--share": (False, "nothing leaves this machine; --host 0.0.0.0 --api-key-file FILE lets others reach it"),
    "--auth": (False, _KEYS),
    "--username": (True, _KEYS),
    "--password": (True, _KEYS),
    "--fastllm": (False, _OPERATORS),
    "--chatglm-cpp": (False, _OPERATORS),
    "--half": (False, "leave it out: 16-bit weights stay 16-bit; --cache-bits 16 halves the KV cache"),
    "--gpu": (True, "give --device gpu; CUDA_VISIBLE_DEVICES chooses GPUs; --devices N shares the model among N"),
    "--workers": (True, "one process answers many requests at once; --max-concurrency N sets how many"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb; --help does not list those of CodeGeeX2 that have no equivalent."""
    add_options(parser, ServeSettings)
    parser.add_argument("--cpu", action="store_true", help=argparse.SUPPRESS)
    for flag, (valued, _) in REPLACED.items():
        parser.add_argument(flag, action="store" if valued else "store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    for flag, (_, remedy) in REPLACED.items():
        if getattr(arguments, flag[2:].replace("-", "_")) not in (None, False):
            raise UserError(f"{flag} is a flag of CodeGeeX2's demo: {remedy}")
    settings = given(ServeSettings, arguments)
    from ms_codegeex.serving.server import serve

    serve(settings)
