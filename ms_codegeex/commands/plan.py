"""`ms-codegeex plan`: what a run would cost, computed from its configuration."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error, print_json, print_out, print_progress

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.config.stages import StagedRun
    from ms_codegeex.planning.planner import Plan
    from ms_codegeex.planning.search import SearchResult

SUMMARY = (
    "estimate memory, FLOPs, communication and time of a run from its configuration; exit status 1 if it does not fit"
)
EXAMPLES = """\
  ms-codegeex plan --config codegeex_13b
  ms-codegeex plan --config codegeex_13b --tokens 850e9 --plot memory.png
  ms-codegeex plan --config codegeex_13b_64 --devices 128 training.micro_batch=16
  ms-codegeex plan --config codegeex_13b --search --json
  ms-codegeex plan --config codegeex_13b --search --overlap --write faster.yaml
  ms-codegeex plan --config codegeex2_6b --inference --context 8192 --streams 16 --measure"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="YAML file of the run, or a shipped name"
    )
    parser.add_argument("--devices", type=int, metavar="N", help="total number of devices (default: the YAML's)")
    parser.add_argument("--device", metavar="NAME", help="ascend910, ascend910b or a100 (default: parallel.hardware)")
    parser.add_argument(
        "--tokens",
        type=float,
        metavar="T",
        help="tokens to train on, padding included (default: those of the run's steps)",
    )
    parser.add_argument("--search", action="store_true", help="rank every plan for these devices and show the best")
    parser.add_argument(
        "--overlap",
        action="store_true",
        help="--search: rank by the step with the overlap of compiled graphs, estimated; try buckets, parts of "
        "micro-batches and virtual stages too",
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="--search: write the best plan as a YAML file whose base is --config"
    )
    parser.add_argument(
        "--inference",
        action="store_true",
        help="instead, memory and highest speed of generation: in the published scheme (16, 8, 4 bits; a scale for "
        "each row) and in ours (FP32, FP16, int8 with a scale for each row, int4 with one for each --group)",
    )
    parser.add_argument("--context", type=int, metavar="N", help="--inference: sequence length in tokens")
    parser.add_argument("--streams", type=int, metavar="N", help="--inference: sequences at once (default: 8)")
    parser.add_argument(
        "--group", type=int, choices=(32, 64, 128), help="--inference: int4 numbers that share a scale (default: 64)"
    )
    parser.add_argument(
        "--measure", action="store_true", help="--inference: also this CPU; measures how fast it reads memory (seconds)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a chart of each stage's memory as PNG")
    parser.add_argument("--sources", action="store_true", help="print the sources of the device's figures")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, such as parallel.tensor=4")


def run(arguments: argparse.Namespace) -> int:
    """Compute the costs and print them."""
    from ms_codegeex.config.loading import load_stages
    from ms_codegeex.planning.planner import make_plan, problems

    staged = load_stages(arguments.config, _overrides(arguments))
    if staged is not None and len(staged.chosen) > 1:
        return _stages(staged, arguments)
    config, given = _configuration(arguments)
    if arguments.inference:
        return _inference(config, arguments)
    if arguments.context is not None:
        raise UserError("--context: belongs to --inference; add it, or set data.seq_length=N for training")
    for name in ("streams", "group", "measure"):
        if getattr(arguments, name):
            raise UserError(f"--{name}: belongs to --inference; add it")
    if arguments.write and not arguments.search:
        raise UserError("--write: writes what --search finds; add it")
    if arguments.overlap and not arguments.search:
        raise UserError("--overlap: ranks what --search finds; add it (a plan shows both figures)")
    plan, found = make_plan(config), None
    if arguments.search:
        found = _search(plan, given, arguments.overlap)
        plan = found.ranked[0] if found.ranked else plan
        if arguments.write and found.ranked:
            _write(plan, arguments)
    if arguments.plot:
        _plot(plan, arguments.plot)
    if arguments.json:
        print_json(_as_json(plan, arguments.tokens, found))
    else:
        print_out(_as_text(plan, arguments.tokens, found, arguments.sources))
    for line in problems(plan):
        print_error(f"ms-codegeex plan: {line}")
    return 0 if plan.fits else 1


def _stages(staged: StagedRun, arguments: argparse.Namespace) -> int:
    """The plan of every stage; exit status 1 if one of them does not fit."""
    from ms_codegeex.planning.planner import make_plan, problems

    for name in ("search", "overlap", "inference", "plot", "tokens", "context", "write"):
        if getattr(arguments, name):
            raise UserError(f"--{name}: is for one run; choose a stage with stage=NAME, of {', '.join(staged.chosen)}")
    plans = {stage.name: make_plan(stage.config) for stage in staged.stages}
    if arguments.json:
        print_json({"stages": {name: _as_json(plan, None, None) for name, plan in plans.items()}})
    else:
        blocks = (f"stage {name}\n\n{_as_text(plan, None, None, arguments.sources)}" for name, plan in plans.items())
        print_out("\n\n\n".join(blocks))
    for name, plan in plans.items():
        for line in problems(plan):
            print_error(f"ms-codegeex plan: stages.{name}: {line}")
    return 0 if all(plan.fits for plan in plans.values()) else 1


def _inference(config: RunConfig, arguments: argparse.Namespace) -> int:
    from ms_codegeex.planning import inference, inference_report

    streams, group = 8 if arguments.streams is None else arguments.streams, arguments.group or inference.GROUP
    if streams < 1:
        raise UserError(f"--streams: {streams} is out of range; give 1 or more")
    memories = [inference.inference_memory(config, bits, arguments.context) for bits in inference.BITS]
    forms = [inference.decoding(config, form, arguments.context) for form in inference.our_forms(group)]
    devices = inference.devices(cpu=arguments.measure)
    if arguments.json:
        memory = {"inference": [inference.to_dict(memory) for memory in memories]}
        print_json(memory | inference.speeds_to_dict(config, forms, devices, streams))
        return 0
    blocks = [inference_report.published_table(config, memories), inference_report.forms_table(forms, streams)]
    blocks.append(inference_report.speed_table(config, forms, devices, streams))
    print_out("\n\n".join(block for block in [*blocks, inference_report.published_speeds(config)] if block))
    return 0


def _configuration(arguments: argparse.Namespace) -> tuple[RunConfig, bool]:
    """The configuration, and whether its mesh is the YAML's.

    A search chooses the mesh itself, so the YAML's need not suit `--devices`; a placeholder then takes its place.
    """
    from ms_codegeex.config.loading import load_config

    overrides = _overrides(arguments)
    if arguments.tokens is not None and not 0 < arguments.tokens < float("inf"):
        raise UserError(f"--tokens: {arguments.tokens} is not a number of tokens; give one above 0, e.g. 850e9")
    try:
        return load_config(arguments.config, overrides), True
    except UserError:
        if not (arguments.search and arguments.devices and arguments.devices > 0):
            raise
        free = [f"parallel.{axis}=1" for axis in ("tensor", "pipeline", "virtual_stages", "optimizer_shard")]
        free += [f"{key}=null" for key in ("parallel.stage_layers", "parallel.micro_batches", "training.micro_batch")]
        free += ["parallel.sequence=false", "devices=1"]
        return replace(load_config(arguments.config, [*overrides, *free]), devices=arguments.devices), False


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """All overrides of the command line."""
    overrides = list(arguments.overrides)
    if arguments.devices is not None:
        overrides += [f"devices={arguments.devices}", "parallel.data=null"]
    if arguments.device is not None:
        overrides.append(f"parallel.hardware={arguments.device}")
    return overrides


def _search(plan: Plan, given: bool, overlap: bool) -> SearchResult:
    from ms_codegeex.planning.search import search

    def show(tried: int) -> None:
        print_progress(f"{tried:,} plans tried")

    result = search(plan.config, show, given=given, overlap=overlap)
    print_progress("")
    return result


def _write(plan: Plan, arguments: argparse.Namespace) -> None:
    """The best plan as a file: the given configuration is its base, under the overrides of the command line."""
    from ms_codegeex.base.files import atomic_file
    from ms_codegeex.base.shipped import find_config
    from ms_codegeex.config.values import parse_overrides
    from ms_codegeex.planning.search import yaml_of

    target, base = arguments.write, arguments.config
    if plan.config.stage:
        raise UserError("--write: --config has stages; give the file of the stage as --config")
    if not target.parent.is_dir():
        raise UserError(f"--write: {target.parent} is not a folder; create it, or choose another file")
    if base.suffix or base.exists():
        base = os.path.relpath(find_config(base), target.parent)
    with atomic_file(target) as temporary:
        temporary.write_text(yaml_of(plan, str(base), parse_overrides(arguments.overrides)), encoding="utf-8")


def _plot(plan: Plan, path: Path) -> None:
    from ms_codegeex.planning.report import plot_memory

    try:
        plot_memory(plan, path)
    except OSError as error:
        raise UserError(f"--plot: {path} cannot be written ({error.strerror}); choose another file") from None


def _as_json(plan: Plan, tokens: float | None, found: SearchResult | None) -> dict[str, Any]:
    from ms_codegeex.planning.planner import to_dict
    from ms_codegeex.planning.quick_search import quick_search
    from ms_codegeex.planning.search import to_dict as search_to_dict

    if found:
        return {**to_dict(plan, tokens), "search": search_to_dict(found)}
    return {**to_dict(plan, tokens), "quick_search": quick_search(plan).to_dict()}


def _as_text(plan: Plan, tokens: float | None, found: SearchResult | None, sources: bool) -> str:
    from ms_codegeex.planning import report
    from ms_codegeex.planning.quick_search import quick_search

    budget = tokens or plan.config.steps * plan.step_tokens
    blocks = [report.heading(plan), report.memory_table(plan), report.communication_table(plan)]
    blocks += [report.time_table(plan), report.recipe_table(plan), report.budget(plan, budget)]
    blocks.append(report.improvement_table(plan))
    if found:
        blocks.insert(0, report.search_table(found))
    else:
        blocks.insert(1, quick_search(plan).text())
    if sources:
        blocks.append(report.sources(plan.chip))
    return "\n\n".join(block for block in [*blocks, report.calibration(plan)] if block)
