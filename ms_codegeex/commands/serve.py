"""`ms-codegeex serve`: a model over HTTP, in the format of OpenAI's API."""

from __future__ import annotations

import argparse

from ms_codegeex.base.options import add_options, given
from ms_codegeex.commands import serve_aliases
from ms_codegeex.serving.settings import ServeSettings

SUMMARY = "serve a model over HTTP, for editors and OpenAI's clients"
EXAMPLES = """\
  ms-codegeex serve --model codegen-350m-mono-hf
  ms-codegeex serve --model codegeex2-6b --bits 8 --port 8080 --max-concurrency 8
  ms-codegeex serve --model DIR --port 0 --speculate ngram
  ms-codegeex serve --model DIR --adapter sql=runs/sql/adapter tests=runs/tests
  ms-codegeex serve --model DIR --demo  # a web page to try the model
  ms-codegeex serve --model DIR --host 0.0.0.0 --api-key-file keys.txt --requests-per-minute 120 --access-log -"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_options(parser, ServeSettings)
    serve_aliases.configure(parser)


def run(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    serve_aliases.check(arguments)
    settings = given(ServeSettings, arguments)
    from ms_codegeex.serving.server import serve

    serve(settings)
