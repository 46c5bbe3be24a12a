"""`ms-codegeex quantize`: round a model's matrices to 8 or 4 bits."""

from __future__ import annotations

import argparse
from pathlib import Path

from ms_codegeex.base.printing import print_result

SUMMARY = "round a model's matrices to 8 or 4 bits, for generation on CPUs"
EXAMPLES = """\
  ms-codegeex quantize --model codegeex-13b-hf --bits 8 --output codegeex-13b-int8
  ms-codegeex quantize --model runs/tiny --bits 4 --group 32 --output tiny-int4
  ms-codegeex generate --model tiny-int4 --language Python --prompt "import os\""""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--model", type=Path, required=True, metavar="IN", help="run, checkpoint, model directory or another layout"
    )
    parser.add_argument("--bits", type=int, required=True, choices=(8, 4), help="bits of a number")
    parser.add_argument(
        "--group",
        type=int,
        default=64,
        choices=(32, 64, 128),
        help="4 bits: how many numbers of a row share a scale (default: 64); with 8 bits a whole row does",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the quantised model directory")
    parser.add_argument("--replace", action="store_true", help="replace an earlier quantised model at DIR")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on standard output")


def run(arguments: argparse.Namespace) -> None:
    """Quantise the model and print what was written."""
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.generation.quantised import write_quantised

    source = open_source(arguments.model)
    result = write_quantised(source, arguments.bits, arguments.group, arguments.output, arguments.replace)
    shared = f", a scale for {result['group']} numbers" if result["group"] else ""
    text = (
        f"{result['output']}: {result['bits']} bits{shared}, {result['bytes'] / 1e6:,.1f} MB "
        f"instead of {result['bytes_before'] / 1e6:,.1f} MB, {result['seconds']:.1f} s"
    )
    print_result(result, text, arguments.json)
