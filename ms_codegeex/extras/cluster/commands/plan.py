"""`ms-codegeex plan`: what a run would cost, computed from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_error, print_json, print_out, print_progress, print_result

if TYPE_CHECKING:
    from collections.abc import Collection

    from ms_codegeex.config import RunConfig
    from ms_codegeex.extras.cluster.plans.measured import MeasuredRun
    from ms_codegeex.extras.cluster.plans.planner import Plan
    from ms_codegeex.extras.cluster.plans.search import SearchResult
    from ms_codegeex.planning.hardware_files import HardwareFile

SUMMARY = (
    "estimate memory, FLOPs, communication and time of a run from its configuration; exit status 1 if it does not fit"
)
EXAMPLES = """\
  ms-codegeex plan --config codegeex_13b
  ms-codegeex plan --config codegeex_13b --explain
  ms-codegeex plan --config codegeex_13b --tokens 850e9 --plot memory.png
  ms-codegeex plan --config codegeex_13b_64 --devices 128 training.micro_batch=16
  ms-codegeex plan --config codegeex_13b --search --overlap --write faster.yaml
  ms-codegeex plan --config faster.yaml --devices 1528 --search --write smaller.yaml
  ms-codegeex plan --config codegeex_13b_64 --device ascend910b --measured runs/mine --write-hardware mine.yaml
  ms-codegeex plan --config codegeex2_6b --inference --context 8192 --streams 16"""


@dataclass(frozen=True)
class Arguments:
    """What is planned, and what is shown."""

    config: Path = option("YAML file of the run, or a shipped name", "FILE", REQUIRED)
    devices: int | None = option("total number of devices (default: the YAML's)", "N")
    device: str | None = option(
        "ascend910, ascend910b, ascend910c, a100, h100 or a hardware file (default: parallel.hardware)", "NAME"
    )
    tokens: float | None = option(
        "tokens to train on, padding included (default: those of the run's steps)", "T", gt=0, lt=float("inf")
    )
    search: bool = option("rank every plan for these devices and show the best", default=False)
    overlap: bool = option(
        "--search: rank by the step with the overlap of compiled graphs, estimated; try buckets, parts of "
        "micro-batches and virtual stages too",
        default=False,
    )
    write: Path | None = option("--search: write the best plan as a YAML file whose base is --config", "FILE")
    measured: tuple[Path, ...] = option(
        "directory of a run on such devices (several: repeat it): its steps give the factor between what a plan counts "
        "and a step, instead of published runs",
        "RUN",
        (),
        repeated=True,
    )
    write_hardware: Path | None = option(
        "--measured: write the factor as a hardware file, for --device and parallel.hardware", "FILE.yaml"
    )
    inference: bool = option(
        "instead, memory and highest speed of generation in FP32, FP16, int8 and int4", default=False
    )
    context: int | None = option("--inference: sequence length in tokens (default: the model's)", "N")
    streams: int | None = option("--inference: sequences at once (default: 8)", "N", ge=1)
    plot: Path | None = option("write a chart of each stage's memory as PNG", "FILE")
    explain: bool = option("also the parts of the estimated step, and what its range comes from", default=False)
    sources: bool = option("print the sources of the device's figures", default=False)
    json: bool = option("print one JSON object on standard output", default=False)
    overrides: tuple[str, ...] = option("overrides, such as parallel.tensor=4", "key=value", (), positional=True)


def run(arguments: Arguments) -> int:
    """Compute the costs and print them."""
    from ms_codegeex.config.chosen_hardware import hardware_of
    from ms_codegeex.config.rules import check_mesh
    from ms_codegeex.config.software import software_note
    from ms_codegeex.extras.cluster.plans.planner import make_plan, override, problems
    from ms_codegeex.extras.cluster.plans.report import report
    from ms_codegeex.extras.cluster.plans.search import check_target, config_to_plan, write_plan
    from ms_codegeex.planning import hardware_files

    overrides = _overrides(arguments)
    config, aside = config_to_plan(arguments.config, overrides, arguments.search)
    if arguments.inference:
        return _inference(config, arguments)
    if arguments.context is not None:
        raise UserError("--context: belongs to --inference; add it, or set data.seq_length=N for training")
    if arguments.streams:
        raise UserError("--streams: belongs to --inference; add it")
    if arguments.write and not arguments.search:
        raise UserError("--write: writes what --search finds; add it")
    if arguments.overlap and not arguments.search:
        raise UserError("--overlap: ranks what --search finds; add it (a plan shows both figures)")
    if arguments.write:
        check_target(config, arguments.write)
    runs, found = _measured(config, arguments)
    chip = hardware_files.hardware_of(config)
    chip = found.chip(chip, chip.name) if found else chip
    if aside:
        keys = " ".join(override(*item) for item in aside.items())
        print_error(f"ms-codegeex plan: set aside, because the search chooses them: {keys}")
    plan, result = make_plan(config, chip), None
    if arguments.search:
        result = _search(plan, aside, arguments.overlap)
        if not result.ranked:
            check_mesh(config)  # what was set aside may leave a mesh that no plan can be made of
        plan = result.ranked[0] if result.ranked else plan
        if arguments.write and result.ranked:
            write_plan(plan, arguments.write, arguments.config, arguments.overrides)
    if arguments.plot:
        _plot(plan, arguments.plot)
    if found:
        from ms_codegeex.extras.cluster.plans import measured
    if arguments.json:
        told = {"measured": measured.to_dict(runs, found)} if found else {}
        print_json(_as_json(plan, arguments.tokens, result) | told)
    else:
        told = f"{measured.text(runs, found)}\n\n" if found else ""
        print_out(
            told + report(plan, arguments.tokens, result, arguments.overlap, arguments.explain, arguments.sources)
        )
    for line in problems(plan, arguments.search):
        print_error(f"ms-codegeex plan: {line}")
    if arguments.write and result and not result.ranked:
        print_error("ms-codegeex plan: --write: nothing was written, since no plan fits")
    if note := software_note(hardware_of(plan.config).name):
        if arguments.json:
            print_error(f"ms-codegeex plan: {note}")
        else:
            print_out(f"\n{note}")
    return 0 if plan.fits else 1


def _inference(config: RunConfig, arguments: Arguments) -> int:
    from ms_codegeex.extras.cluster.plans import inference

    for name in ("search", "overlap", "write", "measured", "write_hardware", "tokens", "plot", "explain", "sources"):
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')}: is for plans of training; leave it out, or --inference")
    streams = arguments.streams or 8
    forms = [inference.decoding(config, form, arguments.context) for form in inference.FORMS]
    print_result(inference.to_dict(forms, streams), inference.text(config, forms, streams), arguments.json)
    return 0


def _measured(config: RunConfig, arguments: Arguments) -> tuple[list[MeasuredRun], HardwareFile | None]:
    from ms_codegeex.extras.cluster.plans.measured import measured_hardware, measured_run
    from ms_codegeex.planning.hardware_files import write_hardware_file

    file = arguments.write_hardware
    if not arguments.measured:
        if file:
            raise UserError("--write-hardware: writes what --measured finds; add it")
        return [], None
    if config.parallel.calibration:
        wrong = f"{config.parallel.calibration} has a factor already"
        raise UserError(f"--measured: {wrong}; set parallel.hardware to a chip, or leave --measured out")
    if file and (file.suffix not in (".yaml", ".yml") or not file.absolute().parent.is_dir()):
        raise UserError(f"--write-hardware: {file} is not a name that ends in .yaml, in a folder; choose another")
    runs = [measured_run(path) for path in arguments.measured]
    found = measured_hardware(runs, config)
    if file:
        write_hardware_file(file, found)
    return runs, found


def _overrides(arguments: Arguments) -> list[str]:
    overrides = list(arguments.overrides)
    if arguments.devices is not None:
        overrides += [f"devices={arguments.devices}", "parallel.data=null"]
    if arguments.device is not None:
        overrides.append(f"parallel.hardware={arguments.device}")
    return overrides


def _search(plan: Plan, aside: Collection[str], overlap: bool) -> SearchResult:
    from ms_codegeex.extras.cluster.plans.search import search

    def progress(tried: int) -> None:
        print_progress(f"{tried:,} plans tried")

    result = search(plan.config, progress, aside=aside, overlap=overlap, chip=plan.chip)
    print_progress("")
    return result


def _plot(plan: Plan, path: Path) -> None:
    from ms_codegeex.base.files import atomic_file
    from ms_codegeex.extras.cluster.plans.report import plot_memory

    if not path.parent.is_dir():
        raise UserError(f"--plot: {path} cannot be written (no such folder); choose another file")
    with atomic_file(path) as temporary:
        plot_memory(plan, temporary)


def _as_json(plan: Plan, tokens: float | None, result: SearchResult | None) -> dict[str, Any]:
    from ms_codegeex.extras.cluster.plans.planner import problems, to_dict
    from ms_codegeex.extras.cluster.plans.search import to_dict as search_to_dict

    if result is None:
        return to_dict(plan, tokens)
    return to_dict(plan, tokens) | {"search": search_to_dict(result), "problems": problems(plan, searched=True)}
