"""`ms-codegeex rehearse`: compile a plan for a simulated cluster and execute a small one on this machine's CPU."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.printing import print_error, print_json, print_out

if TYPE_CHECKING:
    from ms_codegeex.base.mesh import Mesh
    from ms_codegeex.config import RunConfig
    from ms_codegeex.rehearsal.compile import CompileReport
    from ms_codegeex.rehearsal.execute import ExecutionReport
    from ms_codegeex.rehearsal.graph_kernel import GraphKernelReport
    from ms_codegeex.rehearsal.timeline.timeline import Timeline

SUMMARY = "compile and execute a parallel plan without its devices; exit status 1 if it would not train correctly"
EXAMPLES = """  ms-codegeex rehearse --config codegeex_base_8
  ms-codegeex rehearse --config codegeex_13b --execute
  ms-codegeex rehearse --config codegeex_13b --compile --ranks 0,1535
  ms-codegeex rehearse --config codegeex_13b_pipeline --compile --timeline --plot step.png --trace step.json
  ms-codegeex rehearse --config codegeex_13b_pipeline --execute --mesh data=1,tensor=2,pipeline=2 --json
  ms-codegeex rehearse --config codegeex_tiny --devices 2 --execute --steps 8"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="YAML file of the run, or a shipped name"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides, such as parallel.tensor=2")
    parser.add_argument("--devices", type=int, metavar="N", help="devices of the run (default: the configuration's)")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="only compile the full-size graphs for distinct ranks of the simulated cluster, and check them",
    )
    parser.add_argument(
        "--execute",
        action="store_true",
        help="only train a small model on CPU processes, and compare it with one device (default: both)",
    )
    parser.add_argument(
        "--target",
        choices=("gpu", "ascend"),
        help="MindSpore backend to compile for (default: gpu); --execute always uses gpu",
    )
    parser.add_argument(
        "--streams",
        action="store_true",
        help="with --target ascend: also run its back end on one graph, until it has assigned streams, and check them",
    )
    parser.add_argument("--ranks", metavar="distinct|all|R,R,…", help="ranks to compile (default: distinct)")
    parser.add_argument(
        "--mesh",
        metavar="AXIS=SIZE,…",
        help="mesh to execute, of data, tensor, pipeline, optimizer_shard (default: every axis above 1 becomes 2)",
    )
    parser.add_argument("--steps", type=int, metavar="K", help="steps to execute (default: 5, in FP16 10)")
    parser.add_argument(
        "--timeline",
        action="store_true",
        help="with the compilation: simulate the step that was compiled, every operator with its time on the device",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write the timeline as a picture")
    parser.add_argument("--trace", type=Path, metavar="FILE.json", help="write the timeline for Chrome's trace viewer")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")


def run(arguments: argparse.Namespace) -> int:
    """Compile, execute and print the verdict."""
    both = arguments.compile == arguments.execute
    _check_phase(arguments, both)
    config = _configuration(arguments, executes=both or arguments.execute)
    mesh, ranks = (
        _mesh(arguments.mesh),
        _ranks("distinct" if arguments.ranks is None else arguments.ranks, config.mesh.world),
    )
    if both or arguments.execute:
        _check_executable(config, mesh)
    warning = _memory_warning(config)
    compiled = _compile(config, ranks, arguments) if both or arguments.compile else None
    timeline = _simulate_step(config, compiled, arguments) if compiled and arguments.timeline else None
    kernels = _graph_kernels(arguments.json) if compiled else None
    execution = _execute(config, mesh, arguments.steps, arguments.json) if both or arguments.execute else None
    passed = (compiled is None or compiled.ok) and (execution is None or execution.passed)
    if arguments.json:
        print_json(
            {**_as_json(compiled, kernels, execution, timeline, passed), "warnings": [warning] if warning else []}
        )
    return 0 if passed else 1


def _check_phase(arguments: argparse.Namespace, both: bool) -> None:
    """Raise a `UserError` for an option of the phase that was not requested."""
    from ms_codegeex.base.errors import UserError

    compiles, executes = both or arguments.compile, both or arguments.execute
    wrong_phase = "is for {}, but only {} was requested; leave one of the two out"
    for_compile, for_execute = (
        wrong_phase.format("--compile", "--execute"),
        wrong_phase.format("--execute", "--compile"),
    )
    no_timeline = "writes the timeline, which was not requested; give --timeline as well"
    no_ascend = "the streams of Ascend's back end need a compilation with --target ascend; give both"
    rules = (  # an option, whether it may be given, and what to say otherwise
        ("plot", arguments.timeline, no_timeline),
        ("trace", arguments.timeline, no_timeline),
        ("timeline", compiles, for_compile),
        ("streams", compiles and arguments.target == "ascend", no_ascend),
        ("ranks", compiles, for_compile),
        ("target", compiles, for_compile),
        ("mesh", executes, for_execute),
        ("steps", executes, for_execute),
    )
    for flag, allowed, message in rules:
        given = getattr(arguments, flag)
        if given is not None and given is not False and not allowed:
            raise UserError(f"--{flag}: {message}")
    for flag in ("plot", "trace"):
        path = getattr(arguments, flag)
        if path is not None and not path.parent.is_dir():
            raise UserError(f"--{flag}: {path.parent} is not a folder; make it first")


def _configuration(arguments: argparse.Namespace, executes: bool) -> RunConfig:
    """The run as the engine would partition it over devices; a CPU run is rehearsed as if it ran on Ascend."""
    from ms_codegeex.base.errors import UserError
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.config.rules import check_run_config

    overrides = list(arguments.overrides)
    if arguments.devices is not None:
        overrides += [f"devices={arguments.devices}", "parallel.data=null"]
    config = load_config(arguments.config, overrides)
    if arguments.steps is not None and arguments.steps < 4:
        raise UserError(f"--steps: {arguments.steps} steps are too few to show an error that builds up; give 4 or more")
    if config.devices == 1 and executes:
        raise UserError(
            "devices: 1 device has nothing to share; give --devices N or a parallel.* key above 1, or --compile alone"
        )
    if config.device == "cpu":
        # choices made for a CPU do not apply to the device that stands in for it
        fusion = replace(config.parallel.fusion, dropout=None, attention=None, graph_kernel=None)
        config = replace(
            config,
            device="ascend",
            training=replace(config.training, loss_chunk=0),
            parallel=replace(config.parallel, fusion=fusion),
        )
        check_run_config(config)
    return config


def _mesh(text: str | None) -> Mesh | None:
    from ms_codegeex.rehearsal.shrink import parse_mesh

    return None if text is None else parse_mesh(text)


def _memory_warning(config: RunConfig) -> str | None:
    """Warn that the plan does not fit in memory, before minutes of work; a compilation fails for it as well."""
    from ms_codegeex.rehearsal.coverage import memory_warning

    warning = memory_warning(config)
    if warning:
        print_error(f"ms-codegeex rehearse: warning: {warning}")
    return warning


def _check_executable(config: RunConfig, mesh: Mesh | None) -> None:
    """Raise what an execution would refuse, before minutes of compilation."""
    from ms_codegeex.rehearsal.execute import check_memory
    from ms_codegeex.rehearsal.shrink import shrunk, small_mesh

    check_memory(shrunk(config, mesh or small_mesh(config.mesh)).mesh)


def _ranks(text: str, world: int) -> list[int] | None:
    """The ranks to compile; None: the distinct ones."""
    from ms_codegeex.base.errors import UserError

    if text == "distinct":
        return None
    if text == "all":
        return list(range(world))
    words = text.split(",")
    if not all(word.isdecimal() and int(word) < world for word in words):
        raise UserError(f"--ranks: found '{text}', expected distinct, all, or numbers from 0 to {world - 1}")
    return sorted({int(word) for word in words})


class _Bar:
    """A progress bar on standard error that appears after the first step; silent for `--json`."""

    def __init__(self, quiet: bool):
        self.quiet, self.bar = quiet, None

    def __call__(self, what: str, number: int, count: int) -> None:
        from tqdm import tqdm

        if self.bar is None:
            self.bar = tqdm(total=count, disable=self.quiet, file=sys.stderr, unit="graph", leave=False)
        self.bar.set_description(what)
        self.bar.update(number - self.bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _compile(config: RunConfig, ranks: list[int] | None, arguments: argparse.Namespace) -> CompileReport:
    from ms_codegeex.rehearsal.compile import compile_ranks

    with _Bar(arguments.json) as bar:
        report = compile_ranks(
            config,
            ranks,
            lambda done, count: bar("compiling at full size", done, count),
            timeline=arguments.timeline,
            target=arguments.target or "gpu",
            backend=arguments.streams,
        )
    if not arguments.json:
        print_out(report.text() + "\n")
    return report


def _simulate_step(config: RunConfig, compiled: CompileReport, arguments: argparse.Namespace) -> Timeline:
    """Simulate the compiled step; print it and write its files."""
    from ms_codegeex.base.files import atomic_file, write_json
    from ms_codegeex.rehearsal.timeline.picture import plot
    from ms_codegeex.rehearsal.timeline.report import text, trace
    from ms_codegeex.rehearsal.timeline.timeline import make_timeline

    timeline = make_timeline(compiled.config, config, compiled.programs)
    if not arguments.json:
        print_out(text(timeline) + "\n")
    if arguments.trace:
        write_json(arguments.trace, trace(timeline))
    if arguments.plot:
        with atomic_file(arguments.plot) as path:
            plot(timeline, path)
    return timeline


def _graph_kernels(quiet: bool) -> GraphKernelReport | None:
    """Graph-kernel fusion of one block on this CPU, the only back end that can be tried without a device."""
    from ms_codegeex.rehearsal.graph_kernel import graph_kernel_report, missing_programs

    if missing := missing_programs():
        print_error(f"graph-kernel fusion of one block was not tried: {', '.join(missing)} not on PATH")
        return None
    report = graph_kernel_report()
    if not quiet:
        print_out(
            f"graph-kernel fusion of one block, compiled for this CPU: {report.kernels_before} kernels -> "
            f"{report.kernels_after}, {report.fused_kernels} of them fused; results move by "
            f"{report.largest_difference:.0e}\n"
        )
    return report


def _execute(config: RunConfig, mesh: Mesh | None, steps: int | None, quiet: bool) -> ExecutionReport:
    from ms_codegeex.rehearsal.execute import execute, report

    with _Bar(quiet) as bar:
        execution = execute(config, mesh, steps, bar)
    if not quiet:
        print_out(report(execution))
    return execution


def _as_json(
    compiled: CompileReport | None,
    kernels: GraphKernelReport | None,
    execution: ExecutionReport | None,
    timeline: Timeline | None,
    passed: bool,
) -> dict[str, Any]:
    """The execution's figures at the top, null where nothing was executed; the compilation's below `compile`, graph
    kernels below `graph_kernels`, the timeline below `timeline`."""
    from ms_codegeex.rehearsal.execute import KEYS
    from ms_codegeex.rehearsal.timeline.report import to_json

    figures = execution.to_json() if execution else dict.fromkeys(KEYS)
    if compiled and not execution:
        found = compiled.to_json()
        figures.update({key: found[key] for key in ("compile_seconds", "peak_memory_bytes")})
    return {
        **figures,
        "verdict": "pass" if passed else "fail",
        "compile": compiled.to_json() if compiled else None,
        "timeline": to_json(timeline) if timeline else None,
        "graph_kernels": {"before": kernels.kernels_before, "after": kernels.kernels_after} if kernels else None,
    }
