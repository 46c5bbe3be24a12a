"""`ms-codegeex rehearse`: compile a plan for a simulated cluster and execute a small one on this machine's CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_error, print_json, print_out, print_result

if TYPE_CHECKING:
    from ms_codegeex.base.mesh import Mesh
    from ms_codegeex.config import RunConfig
    from ms_codegeex.extras.cluster.rehearsal.compile import CompileReport
    from ms_codegeex.extras.cluster.rehearsal.execute import ExecutionReport

EXTRA = "cluster"
SUMMARY = "compile and execute a parallel plan without its devices; exit status 1 if it would not train correctly"
EXAMPLES = """  ms-codegeex rehearse --config codegeex_base_8
  ms-codegeex rehearse --config codegeex_13b --execute
  ms-codegeex rehearse --config codegeex_13b --compile --ranks 0,1535
  ms-codegeex rehearse --config codegeex_13b_pipeline --execute --mesh data=1,tensor=2,pipeline=2 --json
  ms-codegeex rehearse --config codegeex_tiny_release --devices 2 --execute --steps 8
  ms-codegeex rehearse --config codegeex_13b --first-contact model.num_layers=4
  ms-codegeex rehearse --config codegeex_base_8 --first-contact --taken 8 parallel.hardware=Ascend910B2"""

KEYS = ("verdict", "ranks", "steps", "loss_relative_error", "parameter_relative_error", "replicas_equal")
MEASURED = ("compile_seconds", "peak_memory_bytes")  # by a compilation that no execution follows


@dataclass(frozen=True)
class Arguments:
    """What is rehearsed, and what is written about it."""

    config: Path = option("YAML file of the run, or a shipped name", "FILE", REQUIRED)
    overrides: tuple[str, ...] = option("overrides, such as parallel.tensor=2", "key=value", (), positional=True)
    devices: int | None = option("devices of the run (default: the configuration's)", "N")
    compile: bool = option(
        "only compile the full-size graphs for distinct ranks of the simulated cluster, and check them", default=False
    )
    execute: bool = option(
        "only train a small model on CPU processes, and compare it with one device (default: both)", default=False
    )
    target: Literal["gpu", "ascend"] | None = option(
        "MindSpore backend to compile for (default: gpu); --execute always uses gpu"
    )
    first_contact: bool = option(
        "only start the run's own workers on MindSpore's Ascend plugin, with a chip that computes nothing: compile, "
        "step and save; exit status 1 if a rank would not start or train",
        default=False,
    )
    taken: float | None = option(
        "with --first-contact: GiB of each device that another process has taken (default: 0)", "GIB"
    )
    streams: bool = option(
        "with --target ascend: also run its back end on one graph, until it has assigned streams, and check them",
        default=False,
    )
    ranks: str | None = option("ranks to compile (default: distinct)", "distinct|all|R,R,…")
    mesh: str | None = option(
        "mesh to execute, of data, tensor, pipeline, optimizer_shard (default: every axis above 1 becomes 2)",
        "AXIS=SIZE,…",
    )
    steps: int | None = option("steps to execute (default: 5, in FP16 10)", "K")
    json: bool = option("print one JSON object on standard output", default=False)


def run(arguments: Arguments) -> int:
    """Compile, execute and print the verdict."""
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.extras.cluster.rehearsal.coverage import memory_warning
    from ms_codegeex.extras.cluster.rehearsal.execute import check_executable, check_memory
    from ms_codegeex.extras.cluster.rehearsal.shrink import on_devices, parse_mesh, shrunk, small_mesh

    if arguments.first_contact:
        return _first_contact(arguments)
    both = arguments.compile == arguments.execute
    compiles, executes = both or arguments.compile, both or arguments.execute
    _check_phase(arguments, compiles, executes)
    config = load_config(arguments.config, _overrides(arguments))
    if executes:
        check_executable(config, arguments.steps)
    config = on_devices(config)
    mesh = None if arguments.mesh is None else parse_mesh(arguments.mesh)
    ranks = _ranks(arguments.ranks, config.mesh.world)
    if executes:
        check_memory(shrunk(config, mesh or small_mesh(config.mesh)).mesh)  # before minutes of compilation
    warning = memory_warning(config)  # before minutes of work; a compilation fails for it as well
    if warning:
        print_error(f"ms-codegeex rehearse: warning: {warning}")
    compiled = _compile(config, ranks, arguments) if compiles else None
    execution = _execute(config, mesh, arguments.steps, arguments.json) if executes else None
    passed = (compiled is None or compiled.ok) and (execution is None or execution.passed)
    if arguments.json:
        result = _as_json(compiled, execution, passed)
        print_json({**result, "warnings": [warning] if warning else []})
    return 0 if passed else 1


def _first_contact(arguments: Arguments) -> int:
    from ms_codegeex.base.hardware import GIB, RESERVE
    from ms_codegeex.config.chosen_hardware import hardware_of
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.extras.cluster.rehearsal.compile import distinct_ranks
    from ms_codegeex.extras.cluster.rehearsal.first_contact import first_contact, text, to_json

    for flag in ("compile", "execute", "target", "streams", "mesh", "steps"):
        if getattr(arguments, flag) not in (None, False):
            raise UserError(f"--{flag}: belongs to another rehearsal than --first-contact; leave one of the two out")
    config = load_config(arguments.config, _overrides(arguments))
    ranks = _ranks(arguments.ranks, config.devices)
    taken, memory = int((arguments.taken or 0) * GIB), hardware_of(config).memory
    if not 0 <= taken < memory - RESERVE:
        wrong = f"{arguments.taken:g} GiB leave too little of {memory / GIB:g}"
        raise UserError(f"--taken: {wrong}; give less, or leave it out")
    started = distinct_ranks(config.mesh) if ranks is None else ranks
    with _progress(arguments.json, "starting the workers", "ranks") as bar:
        progress = partial(bar, "ranks that have met the plugin")
        contacts = first_contact(config, started, progress, taken)
    passed = all(contact.problem is None for contact in contacts)
    result = {"verdict": "pass" if passed else "fail", "first_contact": to_json(contacts)}
    print_result(result, text(config, contacts), arguments.json)
    return 0 if passed else 1


def _overrides(arguments: Arguments) -> list[str]:
    devices = arguments.devices
    return [*arguments.overrides, *([] if devices is None else [f"devices={devices}", "parallel.data=null"])]


def _check_phase(arguments: Arguments, compiles: bool, executes: bool) -> None:
    """Raise a `UserError` for an option of the phase that was not requested."""
    wrong_phase = "is for {}, but only {} was requested; leave one of the two out"
    for_compile = wrong_phase.format("--compile", "--execute")
    for_execute = wrong_phase.format("--execute", "--compile")
    no_ascend = "the streams of Ascend's back end need a compilation with --target ascend; give both"
    rules = (  # an option, whether it may be given, and the message otherwise
        ("streams", compiles and arguments.target == "ascend", no_ascend),
        ("ranks", compiles, for_compile),
        ("target", compiles, for_compile),
        ("mesh", executes, for_execute),
        ("steps", executes, for_execute),
        ("taken", False, "belongs to --first-contact; give it, or leave this out"),
    )
    for flag, allowed, message in rules:
        value = getattr(arguments, flag)
        if value is not None and value is not False and not allowed:
            raise UserError(f"--{flag}: {message}")


def _ranks(text: str | None, world: int) -> list[int] | None:
    if text in (None, "distinct"):
        return None
    if text == "all":
        return list(range(world))
    words = text.split(",")
    if not all(word.isdecimal() and len(word) < 10 and int(word) < world for word in words):
        raise UserError(f"--ranks: found '{text[:60]}', expected distinct, all, or numbers from 0 to {world - 1}")
    return sorted({int(word) for word in words})


@contextmanager
def _progress(quiet: bool, what: str, unit: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """How far it is, on standard error; silent for `--json`. `what`: the work before anything is reported."""
    from ms_codegeex.base.progress import Progress

    with Progress(None, what, unit=unit, shown=not quiet, leave=False) as bar:

        def show(what: str, number: int, count: int) -> None:
            bar.describe(what, count)
            bar.update(number - bar.n)

        yield show


def _compile(config: RunConfig, ranks: list[int] | None, arguments: Arguments) -> CompileReport:
    from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks

    with _progress(arguments.json, "compiling at full size", "graphs") as bar:
        progress, target = partial(bar, "compiling at full size"), arguments.target or "gpu"
        report = compile_ranks(config, ranks, progress, target=target, backend=arguments.streams)
    if not arguments.json:
        print_out(report.text() + "\n")
    return report


def _execute(config: RunConfig, mesh: Mesh | None, steps: int | None, quiet: bool) -> ExecutionReport:
    from ms_codegeex.extras.cluster.rehearsal.execute import execute, report

    with _progress(quiet, "starting and compiling") as bar:
        execution = execute(config, mesh, steps, bar)
    if not quiet:
        print_out(report(execution))
    return execution


def _as_json(compiled: CompileReport | None, execution: ExecutionReport | None, passed: bool) -> dict[str, Any]:
    measured = compiled.to_json() if compiled else {}
    figures = execution.to_json() if execution else dict.fromkeys(KEYS) | {key: measured[key] for key in MEASURED}
    return {**figures, "verdict": "pass" if passed else "fail", "compile": measured or None}
