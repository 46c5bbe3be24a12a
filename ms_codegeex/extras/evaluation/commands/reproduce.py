"""`ms-codegeex reproduce PAPER`: a paper's tables for any model, beside the published rows."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, OptionGroup, declared, given, option
from ms_codegeex.base.printing import print_error, print_result
from ms_codegeex.extras.evaluation.benchmarks.registry import find_data
from ms_codegeex.extras.evaluation.commands.evaluate_options import JudgingOptions, ServerOptions, SourceOptions
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.reproduction.papers import PaperName, paper

if TYPE_CHECKING:
    from ms_codegeex.extras.evaluation.reproduction.papers import Paper, PaperPart
    from ms_codegeex.extras.evaluation.reproduction.results import CheckpointCurve, Figure, PartResult

SUMMARY = "evaluate a model as a paper did, and show its tables with the model's row: codegeex, codegen, codegeex2"
EXAMPLES = """  ms-codegeex reproduce codegeex --model model --humaneval-x humaneval-x --output paper --quick
  ms-codegeex reproduce codegeex --url http://localhost:8000/v1 --humaneval-x humaneval-x --output paper
  ms-codegeex reproduce codegen --model model --humaneval he.jsonl.gz --mtpb mtpb.jsonl --output paper --dry-run
  ms-codegeex reproduce codegeex2 --model model --humaneval-x hx2 --output paper --only greedy
  ms-codegeex reproduce codegeex --model run --run run --humaneval-x humaneval-x --output paper --only generation
  ms-codegeex reproduce codegen --model large --humaneval he.jsonl.gz --output large-paper --beside small-paper"""


@dataclass(frozen=True)
class ReproduceOptions:
    """Which paper, and on which files. The model and how programs are judged are options of `evaluate`."""

    paper: PaperName = option("the paper", None, REQUIRED, positional=True)
    output: Path = option("index.html, figures.csv, tables.tex, and a directory for each evaluation", "DIR", REQUIRED)
    humaneval_x: Path | None = option("HumanEval-X: a directory with a file for each language", "DIR")
    humaneval: Path | None = option("HumanEval's file", "FILE")
    mtpb: Path | None = option("MTPB's file", "FILE")
    ds1000: Path | None = option("DS-1000's file", "FILE")
    quick: bool = option("2 samples of the first 8 problems of each language: does everything work?", default=False)
    beside: tuple[Path, ...] = option("earlier --output of other models, in the curves of pass rate by size", "DIR", ())
    of_run: Path | None = option(
        "a run directory of `train`: also loss and pass rate of each of its checkpoints", "DIR", flag="run"
    )
    parameters: float | None = option("how many --url's model has, for these curves", "N", gt=0)
    only: tuple[str, ...] = option("these evaluations of the paper (--dry-run lists them)", "PART", ())
    dry_run: bool = option("print the commands, and run nothing", default=False)
    json: bool = option("print reproduction.json on standard output, with --dry-run the commands", default=False)


PASSED_ON = {  # options of `evaluate`, which has them declared
    SourceOptions: ("model", "checkpoint", "url"),
    LocalModel: ("adapter", "threads", "exact", "fast", "cpu_level", "slots"),
    ServerOptions: ("url_model", "chat", "chat_template", "api_key_file", "concurrency"),
    JudgingOptions: ("sandbox", "workers"),
}

OF_CHECKPOINTS = {
    LocalModel: ("threads", "exact", "fast", "cpu_level", "slots"),
    JudgingOptions: ("sandbox", "workers"),
}


OPTIONS = (ReproduceOptions, *(OptionGroup(kind, names, over=True) for kind, names in PASSED_ON.items()))


def run(arguments: argparse.Namespace) -> int:
    """Run the evaluations that are not finished, then write the page. 1 if one of them failed."""
    options = given(ReproduceOptions, arguments)
    if arguments.checkpoint is not None and arguments.model:
        from ms_codegeex.formats.files import chosen_place

        arguments.model, arguments.checkpoint = chosen_place(arguments.model, arguments.checkpoint), None
    chosen = paper(options.paper)
    parts = chosen.chosen(options.only)
    options = _with_found(options, parts)
    lacking = {part.name: reason for part in parts if (reason := _lacking(options, part))}
    commands: dict[str, list[str]] = {}
    for part in (part for part in parts if part.name not in lacking):
        where = getattr(options, part.data), options.output / part.name
        commands[part.name] = [*part.words(*where, options.quick, bool(arguments.model)), *passed_on(arguments)]
    checkpoints = _checkpoints(options, chosen, arguments)
    if options.dry_run:
        whole = {name: ["ms-codegeex", *words] for name, words in commands.items()}
        of_run = [["ms-codegeex", *words] for words in checkpoints.values()]
        lines = [shlex.join(words) for words in of_run]
        for part in parts:
            known = part.name in whole
            lines.append(shlex.join(whole[part.name]) if known else f"{part.name}: not run: {lacking[part.name]}")
        planned = {"checkpoints": of_run, "commands": whole, "not_run": lacking}
        print_result(planned, "\n".join(lines), options.json)
        return 0
    if not arguments.model and not arguments.url:
        raise UserError("--model: missing; give --model DIR, or --url of a server")
    if not commands:
        raise UserError(f"nothing can run: {next(iter(lacking.values()))}")
    if arguments.model:
        LocalModel(arguments.model, arguments.adapter).resolved()  # a wrong one is refused here, not by each evaluation
    from ms_codegeex.extras.evaluation.reproduction import evaluations
    from ms_codegeex.extras.evaluation.reproduction.results import PartResult

    options.output.mkdir(parents=True, exist_ok=True)
    others = [evaluations.earlier_figures(path, chosen.name) for path in options.beside]
    done = []
    for number, part in enumerate(parts, 1):
        print_error(f"{number} of {len(parts)}: {part.title}")
        reason = lacking.get(part.name) or ""
        known = (None, reason) if reason else evaluations.evaluated(options.output / part.name, commands[part.name])
        done.append(PartResult(part, *known))
    curve = _curve(options, chosen, checkpoints) if checkpoints else None
    written = _results(options, arguments, chosen, done, others, curve)
    lines = [f"{each.part.title}: {_line(each)}" for each in done]
    failed = any(each.report is None and each.part.name not in lacking for each in done)
    if curve:
        measured = sum(row.rate is not None for row in curve.rows)
        lines.append(f"checkpoints of the run: {measured} of {len(curve.rows)} measured")
        failed |= measured < len(curve.rows)
    print_result(written, "\n".join([*lines, f"page: {options.output / 'index.html'}"]), options.json)
    return int(failed)


def _first(options: ReproduceOptions, chosen: Paper) -> PaperPart | None:
    """What checkpoints are measured with: the paper's first evaluation whose files are there."""
    return next((part for part in chosen.parts if not _lacking(options, part)), None)


def _checkpoints(options: ReproduceOptions, chosen: Paper, arguments: argparse.Namespace) -> dict[int, list[str]]:
    """Step -> the words of `evaluate` for each checkpoint of `--run`."""
    if options.of_run is None or (part := _first(options, chosen)) is None:
        return {}
    from ms_codegeex.extras.evaluation.reproduction import evaluations
    from ms_codegeex.extras.evaluation.reproduction.papers import CHECKPOINT_SAMPLES

    quick, data = options.quick, getattr(options, part.data)
    few = [] if quick else ["--n", str(min(part.settings(quick).n, CHECKPOINT_SAMPLES))]
    how = passed_on(arguments, OF_CHECKPOINTS)
    return {
        step: [*part.words(data, _of_checkpoint(options, path), quick, local=False), *few, "--model", str(path), *how]
        for step, path in evaluations.checkpoints_of(options.of_run).items()
    }


def _of_checkpoint(options: ReproduceOptions, path: Path) -> Path:
    """Where the evaluation of a checkpoint goes."""
    return options.output / "checkpoints" / path.name


def _curve(options: ReproduceOptions, chosen: Paper, commands: dict[int, list[str]]) -> CheckpointCurve:
    """Evaluate the checkpoints of the run that are not finished."""
    from ms_codegeex.extras.evaluation.reproduction import evaluations
    from ms_codegeex.extras.evaluation.reproduction.results import CheckpointCurve, checkpoint_row

    part = _first(options, chosen)
    assert part is not None and options.of_run is not None
    losses, found = evaluations.losses_of(options.of_run), evaluations.checkpoints_of(options.of_run)
    rows = []
    for number, (step, words) in enumerate(commands.items(), 1):
        print_error(f"checkpoint {number} of {len(commands)}: step {step}")
        report, reason = evaluations.evaluated(_of_checkpoint(options, found[step]), words)
        rows.append(checkpoint_row(step, found[step].name, losses, report, reason))
    return CheckpointCurve(str(options.of_run), part, rows, losses)


def _results(
    options: ReproduceOptions,
    arguments: argparse.Namespace,
    chosen: Paper,
    done: Sequence[PartResult],
    others: Sequence[tuple[int, Sequence[Figure]]],
    curve: CheckpointCurve | None,
) -> dict[str, Any]:
    """The content of `reproduction.json`, after writing it, the page and the tables."""
    from ms_codegeex.extras.evaluation.reproduction import evaluations, page, precisions, results

    known, listed = results.figures(done), results.tables(done, options.quick)
    compared = [] if options.quick else results.differences(chosen, listed)
    speeds = []
    if chosen.precisions and arguments.model and not options.only:
        speeds = precisions.measured(arguments.model, arguments.adapter, options.output)
    parameters = evaluations.parameters_of(arguments.model) if arguments.model else options.parameters
    ours = [(int(parameters), known)] if parameters else []
    curves = results.by_size([*ours, *others], listed)
    model = str(arguments.model or ", ".join(arguments.url))
    written = {
        "paper": chosen.name,
        "model": model,
        "parameters": parameters,
        "quick": options.quick,
        "parts": {
            x.part.name: {"ran": x.report is not None, "reason": x.reason, "left_out": results.left_out(x)}
            for x in done
        },
        "figures": [asdict(figure) for figure in known],
        "tables": listed,
        "differences": compared,
        "curves": curves,
        "precisions": speeds,
        "checkpoints": None if curve is None else curve.content(),
    }
    asked = "" if options.of_run is None or curve else "No evaluation of the paper has its files, so none was measured."
    content = (chosen, model, done, known, listed, compared, curves, speeds, options.quick, curve or asked)
    shown = page.render(page.Reproduction(*content))
    extra = [*results.measures_tables(done), *([results.checkpoints_table(curve)] if curve else [])]
    texts = {
        "index.html": shown,
        "figures.csv": results.as_csv(known),
        "tables.tex": results.as_latex([*listed, *extra]),
        **({"checkpoints.csv": results.checkpoints_csv(curve)} if curve else {}),
    }
    _write(options.output, written, texts)
    return written


def passed_on(arguments: argparse.Namespace, options: Mapping[type, Sequence[str]] = PASSED_ON) -> list[str]:
    """The words of the given options that are `evaluate`'s."""
    words: list[str] = []
    for kind, names in options.items():
        for each in declared(kind, names):
            value = getattr(arguments, each.name)
            if value is True:
                words.append(each.flag)
            elif value not in (None, False):
                words += [each.flag, *map(str, value if isinstance(value, list | tuple) else [value])]
    return words


def _line(result: PartResult) -> str:
    from ms_codegeex.extras.evaluation.reports import scores

    if result.report is None:
        return f"not run: {result.reason}"
    if measured := result.report.get("measures", {}).get("all"):
        return scores.measures_in_words(measured)
    strict = result.report["scores"].get("strict") or next(iter(result.report["scores"].values()), None)
    return scores.in_words(strict["all"]) if strict else "nothing was judged"


def _with_found(options: ReproduceOptions, parts: Sequence[PaperPart]) -> ReproduceOptions:
    """The options with files that other packages have put on this machine."""
    found = {}
    for name in {part.data for part in parts if getattr(options, part.data) is None}:
        with suppress(UserError):
            found[name] = find_data(name.replace("_", "-"))
            print_error(f"--{name.replace('_', '-')}: found {found[name]}")
    return replace(options, **found)


def _lacking(options: ReproduceOptions, part: PaperPart) -> str:
    """Why a part cannot run; empty if it can."""
    flag, path = "--" + part.data.replace("_", "-"), getattr(options, part.data)
    if path is None:
        return f"give {flag} PATH (docs/evaluation.md says where its files come from)"
    return "" if path.exists() else f"{flag}: {path} does not exist"


def _write(directory: Path, written: dict[str, Any], texts: Mapping[str, str]) -> None:
    from ms_codegeex.base.files import atomic_file, write_json

    write_json(directory / "reproduction.json", written)
    for name, content in texts.items():
        with atomic_file(directory / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
