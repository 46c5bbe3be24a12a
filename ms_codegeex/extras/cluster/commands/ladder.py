"""`ms-codegeex ladder`: train small models and forecast the loss of a larger one."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.options import option
from ms_codegeex.base.printing import print_error, print_result

if TYPE_CHECKING:
    from ms_codegeex.extras.cluster.ladder.settings import Rung

SUMMARY = "train small models of several sizes, fit their losses and forecast the loss of a larger one"
EXAMPLES = """  ms-codegeex ladder --config my_ladder.yaml
  ms-codegeex ladder --config my_ladder.yaml --dry-run
  ms-codegeex ladder --config my_ladder.yaml "vary={key: data.reset_at_eos, values: [true, false]}" seeds=[1,2]
  ms-codegeex ladder run=codegen_tiny "sizes=[{hidden_size: 64}, {hidden_size: 96}]" tokens=[200000,400000]"""


@dataclass(frozen=True)
class Arguments:
    """The ladder, and what is printed."""

    config: Path | None = option("YAML file of the ladder (docs/plan.md)", "FILE")
    overrides: tuple[str, ...] = option(
        "overrides of its keys, such as tokens=[100000,200000]", "key=value", (), positional=True
    )
    dry_run: bool = option("list the runs and their compute, and train nothing", default=False)
    json: bool = option("print ladder.json on standard output at the end, with --dry-run the runs", default=False)


def run(arguments: Arguments) -> None:
    """Train the missing runs, then fit and draw."""
    from ms_codegeex.base.files import write_json
    from ms_codegeex.extras.cluster.ladder.report import named, write_report
    from ms_codegeex.extras.cluster.ladder.results import analyse, result_of
    from ms_codegeex.extras.cluster.ladder.settings import load_ladder

    if table := os.environ.get("RANK_TABLE_FILE"):
        print_error(f"RANK_TABLE_FILE={table} of the environment is not used: each run is on this server")
    settings, rungs = load_ladder(arguments.config, arguments.overrides)
    if arguments.dry_run:
        runs = [result_of(rung, None) for rung in rungs]
        lines = [
            f"{x.parameters:>12,} parameters {x.tokens:>14,} tokens {x.flops:.1e} FLOPs  {x.directory}" for x in runs
        ]
        listed = [{key: value for key, value in asdict(x).items() if key != "loss"} for x in runs]
        print_result({"runs": listed}, "\n".join(lines), arguments.json)
        return
    results = []
    for number, rung in enumerate(rungs, 1):
        summary = _summary(rung)
        if summary is None:
            print_error(f"run {number} of {len(rungs)}: {rung.directory.name}")
            summary = _train(rung)
        results.append(result_of(rung, summary or None))
    analysis, directory = analyse(settings, results), Path(settings.output)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "ladder.json", analysis)
    write_report(directory, analysis)
    lines = [f"{named(analysis, law['value'])}: {_sentence(law)}" for law in analysis["laws"]]
    lines += [f"tables {directory / 'ladder.html'}", f"drawing {directory / 'ladder.png'}"]
    print_result(analysis, "\n".join(lines), arguments.json)


def _sentence(law: dict[str, Any]) -> str:
    if law["law"] is None:
        return f"no law was fitted: {law['reason']}"
    if law["undetermined"]:
        return f"the runs do not determine {' and '.join(law['undetermined'])} of the law, so there is no forecast"
    x = law["forecasts"][0]
    loss = f"{x['loss']:.3f} nats per token ({x['low']:.3f} to {x['high']:.3f})"
    return f"at {x['times']:.0f} x the compute of the largest run {loss}, with {x['parameters']:.3g} parameters"


def _summary(rung: Rung) -> dict[str, Any] | None:
    """The figures of a run that is done; {} if it diverged; None if it is still to be trained."""
    from ms_codegeex.base.reading import read_json
    from ms_codegeex.runs.run_directory import RunDirectory

    directory = RunDirectory(rung.directory)
    if directory.summary.is_file():
        return read_json(directory.summary)
    if directory.error.is_file() and read_json(directory.error).get("not_finite") is not None:
        return {}
    return None


def _train(rung: Rung) -> dict[str, Any]:
    """Train one run; {} if it diverges."""
    from ms_codegeex.runs.node import resolve_node
    from ms_codegeex.runs.training_job import train

    node = resolve_node(rung.config)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            train(rung.config, node)
    except RunFailure as failure:
        if _summary(rung) != {}:
            raise
        print_error(f"it diverged and is left out of the fit: {failure}")
    return _summary(rung) or {}
