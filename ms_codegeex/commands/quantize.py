"""`ms-codegeex quantize`: round a model's matrices to 8 or 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_result
from ms_codegeex.base.verb_options import CHECKPOINT

SUMMARY = "round a model's matrices to 8 or 4 bits, for generation on CPUs"
EXAMPLES = """\
  ms-codegeex quantize --model codegeex-13b-hf --bits 8 --output codegeex-13b-int8
  ms-codegeex quantize --model runs/tiny --bits 4 --group 32 --output tiny-int4
  ms-codegeex generate --model tiny-int4 --language Python --prompt "import os\""""


@dataclass(frozen=True)
class Arguments:
    """What to quantise, and how."""

    model: Path = option("run, checkpoint, model directory or another layout", "IN", REQUIRED)
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    bits: Literal[8, 4] = option("bits of a number", default=REQUIRED)
    output: Path = option("the quantised model directory", "DIR", REQUIRED)
    group: Literal[32, 64, 128] = option(
        "4 bits: how many numbers of a row share a scale (default: 64); with 8 bits a whole row does", default=64
    )
    replace: bool = option("replace an earlier quantised model at DIR", default=False)
    json: bool = option("print the result as one JSON object on standard output", default=False)


def run(arguments: Arguments) -> None:
    """Quantise the model and print what was written."""
    from ms_codegeex.formats.files import chosen_place
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.generation.quantising import write_quantised

    source = open_source(chosen_place(arguments.model, arguments.checkpoint))
    result = write_quantised(source, arguments.bits, arguments.group, arguments.output, arguments.replace)
    shared = f", a scale for {result['group']} numbers" if result["group"] else ""
    text = (
        f"{result['output']}: {result['bits']} bits{shared}, {result['bytes'] / 1e6:,.1f} MB "
        f"instead of {result['bytes_before'] / 1e6:,.1f} MB, {result['seconds']:.1f} s"
    )
    print_result(result, text, arguments.json)
