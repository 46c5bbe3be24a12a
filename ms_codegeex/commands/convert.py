"""`ms-codegeex convert`: a model from one layout to another."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError

SUMMARY = "Convert a run, checkpoint, model directory or Megatron .pt file to another layout."
EXAMPLES = """\
  ms-codegeex convert --model runs/tiny --to hf --output tiny-hf --verify
  ms-codegeex convert --model runs/tiny --to megatron --dtype fp16 --output codegeex.pt
  ms-codegeex convert --model codegeex_13b.pt --to hf --output codegeex-13b-hf"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="IN",
        help="run, checkpoint or model directory, or Megatron .pt file (recognised by its content)",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=("hf", "megatron"),
        help="hf: a model directory with safetensors; megatron: one nested PyTorch .pt file",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help="directory (hf) or file (megatron; in a directory it gets the family's name)",
    )
    parser.add_argument("--dtype", choices=("fp32", "fp16"), help="cast every tensor (default: as in IN)")
    parser.add_argument("--verify", action="store_true", help="read the result back and compare every byte")
    parser.add_argument("--replace", action="store_true", help="replace a converted model that is already at OUT")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a size that a .pt file does not record, e.g. num_heads=40",
    )
    parser.add_argument("--json", action="store_true", help="print what was done as one JSON object")


def _known(settings: list[str]) -> dict[str, Any]:
    known = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            known[key] = json.loads(value)
        except json.JSONDecodeError:
            raise UserError(f"--set {setting}: expected KEY=NUMBER, for example num_heads=40") from None
    return known


def run(arguments: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from ms_codegeex.formats.convert import convert

    result = convert(
        arguments.model,
        arguments.to,
        arguments.output,
        dtype=arguments.dtype,
        verify=arguments.verify,
        replace=arguments.replace,
        known=_known(arguments.set),
    )
    if arguments.json:
        print(json.dumps(result))
    else:
        verified = ", read back and equal byte for byte" if result["verified"] else ""
        print(
            f"{result['output']}: {result['tensors']} tensors, {result['parameters']:,} parameters, "
            f"{result['bytes']:,} bytes of {'/'.join(result['dtypes'])}{verified}"
        )
    return 0


def script(to: str, description: str, argv: Sequence[str] | None = None) -> int:
    """The body of a script in `converters/`: one direction, with the option names of the original tools."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load-ckpt-path", type=Path, required=True, metavar="IN")
    parser.add_argument("--save-ckpt-path", type=Path, required=True, metavar="OUT")
    parser.add_argument("--dtype", choices=("fp32", "fp16"))
    parser.add_argument("--verify", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        return run(
            argparse.Namespace(
                model=arguments.load_ckpt_path,
                to=to,
                output=arguments.save_ckpt_path,
                dtype=arguments.dtype,
                verify=arguments.verify,
                replace=False,
                set=[],
                json=False,
            )
        )
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
