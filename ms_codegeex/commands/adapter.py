"""`ms-codegeex adapter`: list adapters, merge them into their model, remove them again."""

from __future__ import annotations

import argparse
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error, print_result

SUMMARY = "list adapters (LoRA), merge them into their model, or remove them from it"
EXAMPLES = """  ms-codegeex adapter list runs/finetune_lora/adapter runs/other/adapter
  ms-codegeex adapter merge --model models/codegen --adapter runs/finetune_lora --output models/merged
  ms-codegeex adapter unmerge --model models/merged --adapter runs/finetune_lora/adapter --output models/again"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of this verb."""
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    listing = "show rank, alpha, targets and model of adapters in PEFT's layout, or of all adapters in a folder"
    action = actions.add_parser("list", help=listing)
    action.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="adapters, or a folder with some")
    action.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    for name, summary, model in (
        ("merge", "write the model directory of a model with its adapters added", "model the adapters are for"),
        ("unmerge", "write the model directory of a merged model without its adapters", "merged model"),
    ):
        action = actions.add_parser(name, help=summary)
        needed = {"required": True, "type": Path, "metavar": "DIR"}
        action.add_argument("--model", help=model, **needed)
        action.add_argument("--adapter", help="run, checkpoint, or directory in PEFT's layout", **needed)
        action.add_argument("--output", help="model directory to write", **needed)
        action.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="of the tensors (default: the model's)")
        action.add_argument("--replace", action="store_true", help="replace the output of an earlier conversion")
        action.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action and print its result; returns the exit status."""
    if arguments.action == "list":
        return _list(arguments.directories, arguments.json)
    from dataclasses import replace

    from ms_codegeex.formats.adapters import merged
    from ms_codegeex.formats.convert import convert
    from ms_codegeex.formats.peft import adapters_inputs, open_adapters
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.formats.tensors import SHORT_NAMES

    model, adds = open_source(arguments.model), arguments.action == "merge"
    adapters = open_adapters(arguments.adapter, model, check_fingerprint=adds)
    adapters = replace(adapters, alpha=adapters.alpha if adds else -adapters.alpha)
    more = replace(adapters_inputs(arguments.adapter), role="adapter")
    edited = replace(
        model, inputs=(*model.inputs, more), tensors=merged(model.tensors, adapters, str(arguments.adapter))
    )
    dtypes = {tensor.dtype for tensor in model.tensors.values()}
    widest = next((short for short, name in SHORT_NAMES.items() if name in dtypes), "fp32")
    how = {"dtype": arguments.dtype or widest, "replace": arguments.replace, "progress": not arguments.json}
    how["origin"] = {"command": f"adapter {arguments.action}"}
    report = convert(edited, "hf", arguments.output, **how)
    what = f"{'with' if adds else 'without'} {len(adapters.layers)} adapters of {arguments.adapter}"
    result = {"adapter": str(arguments.adapter), "layers": len(adapters.layers), **report}
    print_result(result, f"{report['output']}: {arguments.model} {what}", arguments.json)
    return 0


def _list(directories: list[Path], as_json: bool) -> int:
    """Print what is in the directories; 1 if there are adapters among them that are not read here."""
    from ms_codegeex.formats.peft import CONFIG, summary

    rows, refused = [], 0
    for directory in directories:
        inside = [directory] if (directory / CONFIG).is_file() else sorted(directory.glob(f"**/{CONFIG}"))
        if not inside:
            raise UserError(f"{directory}: holds no adapters in PEFT's layout ({CONFIG}); give a run's adapter folder")
        for path in inside:
            try:
                rows.append(summary(path if path.is_dir() else path.parent))
            except UserError as error:
                print_error(f"adapter list: {error}")
                refused = 1
    text = "{path}: rank {rank}, alpha {alpha:g}, {parameters:,} parameters, {size:.1f} MB, for {model}, on {on}"
    lines = (text.format(**row, size=row["bytes"] / 1e6, on=", ".join(row["modules"])) for row in rows)
    print_result({"adapters": rows}, "\n".join(lines), as_json)
    return refused
