"""`ms-codegeex serve`: a model over HTTP, in the format of OpenAI's API."""

from __future__ import annotations

import argparse
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.commands import decoding, serve_aliases

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
    parser.add_argument(
        "--model",
        "--model-path",
        type=Path,
        required=True,
        metavar="DIR",
        help="model directory (quantised or not), run directory or checkpoint",
    )
    parser.add_argument("--name", default="", help="the model's name in the API (default: that of its directory)")
    parser.add_argument("--host", "--listen", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, default=8000, metavar="N", help="port to listen at; 0: any free one (default: 8000)"
    )
    parser.add_argument("--demo", action="store_true", help="a web page at / to try the model in a browser")
    parser.add_argument(
        "--example-path", type=Path, metavar="FILE", help="examples of the demo: JSON lines with code and language"
    )
    parser.add_argument(
        "--bits", "--quantize", type=int, choices=(8, 4), help="round the model's matrices while it is loaded"
    )
    parser.add_argument("--fast", action="store_true", help="round activations too (quantised models on a CPU)")
    parser.add_argument(
        "--cache-bits",
        type=int,
        choices=(32, 16),
        default=32,
        help="bits of a number in the KV cache: FP32 or FP16 (default: 32)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of the operators (default: one per core)")
    decoding.configure_cpu_level(parser)
    decoding.configure_device(parser, "--n-gpus")
    parser.add_argument("--speculate", metavar="ngram|DIR", help="guess tokens; the text stays the same")
    parser.add_argument(
        "--adapter",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=DIR",
        help="LoRA adapters on the model, which requests choose by `model`: runs, or directories in PEFT's layout",
    )
    parser.add_argument(
        "--max-concurrency",
        type=int,
        metavar="N",
        help="answers computed at once (default: as many as half of the free memory holds, up to 16)",
    )
    parser.add_argument(
        "--max-queue", type=int, default=64, metavar="N", help="answers that wait; more get 429 (default: 64)"
    )
    parser.add_argument(
        "--max-connections",
        type=int,
        default=1024,
        metavar="N",
        help="clients that may be connected; idle connections are closed for new ones (default: 1024)",
    )
    parser.add_argument(
        "--deadline", type=float, default=600.0, metavar="S", help="maximum seconds of a request (default: 600)"
    )
    parser.add_argument(
        "--hang",
        type=float,
        default=300.0,
        metavar="S",
        help="restart an engine after this many silent seconds (default: 300)",
    )
    parser.add_argument(
        "--max-body", type=int, default=4 << 20, metavar="BYTES", help="longest body; others get 413 (default: 4 MiB)"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds after SIGTERM for answers in progress (default: 30)",
    )
    _configure_guards(parser)
    serve_aliases.configure(parser)


def _configure_guards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="a key, or its SHA-256, in each line (docs/serve.md); read again on SIGHUP",
    )
    parser.add_argument(
        "--requests-per-minute", type=int, metavar="N", help="limit of each key; more get 429 (default: no limit)"
    )
    parser.add_argument(
        "--cors",
        nargs="+",
        default=(),
        metavar="ORIGIN",
        help="origins of web pages that may send requests (default: none)",
    )
    parser.add_argument(
        "--access-log", metavar="FILE|-", help="a line of JSON for each request; -: on standard output (default: none)"
    )
    parser.add_argument("--log-prompts", action="store_true", help="the access log also has the text of prompts")


def _named_adapter(text: str) -> tuple[str, Path]:
    name, _, directory = text.partition("=")
    if not name or not directory:
        raise UserError(f"--adapter: {text} is not NAME=DIR; give a name and a directory, for example sql=runs/sql")
    return name, Path(directory)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    serve_aliases.check(arguments)
    from dataclasses import fields

    from ms_codegeex.serving.settings import ServeSettings

    given = {field.name: getattr(arguments, field.name) for field in fields(ServeSettings) if field.name in arguments}
    given |= {"cors": tuple(arguments.cors), "adapter": tuple(map(_named_adapter, arguments.adapter))}
    settings = ServeSettings(**given)
    from ms_codegeex.serving.server import serve

    serve(settings)
    return 0
