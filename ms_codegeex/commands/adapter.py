"""`ms-codegeex adapter`: list adapters, merge them into their model, or remove them from it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_error, print_result
from ms_codegeex.base.verb_options import CHECKPOINT, NON_FINITE, Actions, JsonOption

SUMMARY = "list adapters (LoRA), merge them into their model, or remove them from it"
EXAMPLES = """  ms-codegeex adapter list runs/finetune_lora/adapter runs/other/adapter
  ms-codegeex adapter merge --model models/codegen --adapter runs/finetune_lora --output models/merged
  ms-codegeex adapter unmerge --model models/merged --adapter runs/finetune_lora/adapter --output models/again"""


@dataclass(frozen=True)
class AdaptersOptions:
    """The adapters to list."""

    directories: tuple[Path, ...] = option("adapters, or a folder with some", "DIR", REQUIRED, positional=True)


@dataclass(frozen=True)
class MergeOptions:
    """A model, its adapters, and the model directory to write."""

    model: Path = option("model the adapters are for", "DIR", REQUIRED)
    checkpoint: str | None = CHECKPOINT.field(None, kw_only=True)
    adapter: Path = option("run, checkpoint, or directory in PEFT's layout", "DIR", REQUIRED)
    output: Path = option("model directory to write", "DIR", REQUIRED)
    dtype: Literal["fp32", "fp16", "bf16"] | None = option("of the tensors (default: the model's)")
    replace: bool = option("replace the output of an earlier conversion", default=False)
    non_finite: bool = NON_FINITE.field(False)


@dataclass(frozen=True)
class UnmergeOptions(MergeOptions):
    """Like `MergeOptions`, but `model` is the merged model."""

    model: Path = option("merged model", "DIR", REQUIRED)


OPTIONS = Actions(
    {
        "list": (
            "show rank, alpha, targets and model of adapters in PEFT's layout, or of all adapters in a folder",
            [AdaptersOptions, JsonOption],
        ),
        "merge": ("write the model directory of a model with its adapters added", [MergeOptions, JsonOption]),
        "unmerge": ("write the model directory of a merged model without its adapters", [UnmergeOptions, JsonOption]),
    }
)


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action and print its result. Return the exit status."""
    if arguments.action == "list":
        return _list(arguments.directories, arguments.json)
    from dataclasses import replace

    from ms_codegeex.data.description import ModelDescription
    from ms_codegeex.formats.adapters import merged
    from ms_codegeex.formats.convert import convert
    from ms_codegeex.formats.files import chosen_place
    from ms_codegeex.formats.peft import adapters_inputs, description_of, open_adapters
    from ms_codegeex.formats.sources import model_name, open_source
    from ms_codegeex.formats.tensors import SHORT_NAMES

    model, adds = open_source(chosen_place(arguments.model, arguments.checkpoint)), arguments.action == "merge"
    adapters = open_adapters(arguments.adapter, model, check_fingerprint=adds)
    adapters = replace(adapters, alpha=adapters.alpha if adds else -adapters.alpha)
    more = replace(adapters_inputs(arguments.adapter), role="adapter")
    known = description_of(arguments.adapter) if adds else ModelDescription()
    known = replace(known, adapter=more.name if adds else None, base=model_name(model.path))
    edited = replace(
        model,
        inputs=(*model.inputs, more),
        tensors=merged(model.tensors, adapters, str(arguments.adapter)),
        description=known.over(model.description),
    )
    dtypes = {tensor.dtype for tensor in model.tensors.values()}
    widest = next((short for short, name in SHORT_NAMES.items() if name in dtypes), "fp32")
    how = {"dtype": arguments.dtype or widest, "replace": arguments.replace, "progress": not arguments.json}
    how |= {"non_finite": arguments.non_finite}
    how["origin"] = {"command": f"adapter {arguments.action}"}
    report = convert(edited, "hf", arguments.output, **how)
    what = f"{'with' if adds else 'without'} {len(adapters.layers)} adapters of {arguments.adapter}"
    result = {"adapter": str(arguments.adapter), "layers": len(adapters.layers), **report}
    print_result(result, f"{report['output']}: {arguments.model} {what}", arguments.json)
    return 0


def _list(directories: list[Path], as_json: bool) -> int:
    from ms_codegeex.formats.peft import CONFIG, summary

    rows, refused = [], 0
    for directory in directories:
        inside = [directory] if (directory / CONFIG).is_file() else sorted(directory.glob(f"**/{CONFIG}"))
        if not inside:
            raise UserError(f"{directory}: holds no adapters in PEFT's layout ({CONFIG}); give a run's adapter folder")
        for path in inside:
            try:
                rows.append(summary(path if path.is_dir() else path.parent))
                reasons = rows[-1]["refused"]
            except UserError as error:
                reasons = [error]
            for reason in reasons:
                print_error(f"adapter list: {reason}")
                refused = 1
    text = "{path}: rank {rank}, alpha {alpha:g}, {parameters:,} parameters, {size:.1f} MB, for {model}, on {on}"
    lines = (text.format(**row, size=row["bytes"] / 1e6, on=", ".join(row["modules"])) for row in rows)
    print_result({"adapters": rows}, "\n".join(lines), as_json)
    return refused
