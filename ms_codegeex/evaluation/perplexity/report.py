"""Perplexities in reports: of a corpus, with a report of its own, and of a benchmark's prompts, beside its scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.perplexity import prompts as perplexity
from ms_codegeex.evaluation.perplexity.prompts import Score
from ms_codegeex.evaluation.record import Record, versions
from ms_codegeex.evaluation.reports import page as report_page
from ms_codegeex.evaluation.rows import sole_writer
from ms_codegeex.evaluation.run import judgement_from, sample_from
from ms_codegeex.evaluation.task import Task
from ms_codegeex.files import atomic_file, read_json, sha256, write_json

FILE = "perplexity.json"


def evaluate_corpus(
    model: Path,
    data: Path,
    output: Path,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """Measure a corpus and write `evaluation.json`, `report.json` and `report.html`; the report."""
    from ms_codegeex.generation.engine import Generator  # the engine, which takes seconds to import

    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    with sole_writer(output):
        return _evaluate_corpus(Generator(model), data, output, window, stride, max_tokens)


def _evaluate_corpus(
    generator: Any, data: Path, output: Path, window: int | None, stride: int | None, max_tokens: int | None
) -> dict[str, Any]:
    from ms_codegeex.evaluation.perplexity.corpus import measure
    from ms_codegeex.evaluation.sampling.samplers import model_identity

    record = Record(output)
    record.settle("task", {"name": "perplexity"})
    found = measure(generator, [data], window, stride, max_tokens, progress=True)
    settings = {"window": found.window, "stride": found.stride, "max_tokens": max_tokens}
    for section, values in (
        ("data", {"path": str(data)}),
        ("model", model_identity(generator.path)),
        ("recipe", settings),
        ("versions", versions()),
    ):
        record.write(section, values)
    result = {
        "format": "ms-codegeex evaluation report",
        "version": 1,
        "task": "perplexity",
        "output": str(output),
        "perplexity": found.row(),
        "settings": {key: value for key, value in record.values.items() if key != "format"},
    }
    write_report(output, result)
    return result


def write_report(output: Path, result: Mapping[str, Any]) -> None:
    """`report.json` and `report.html`."""
    write_json(output / "report.json", result)
    with atomic_file(output / "report.html") as temporary:
        temporary.write_text(report_page.render(result), encoding="utf-8")


def measure_prompts(task: Task, generator: Any, samples: Sequence[Mapping], output: Path, progress: bool) -> None:
    """Prompt perplexity of every problem that has samples, to `perplexity.json`; not again for the same samples."""
    if recorded(output):
        return
    scores = perplexity.prompt_perplexities(generator, task, map(sample_from, samples), progress)
    rows = {name: dataclasses.asdict(score) for name, score in scores.items()}
    write_json(output / FILE, {"samples": sha256(output / "samples.jsonl"), "scores": rows})


def recorded(output: Path) -> dict[str, Score]:
    """What was measured on the samples that are there."""
    if not (output / FILE).exists():
        return {}
    found = read_json(output / FILE)
    try:
        if found["samples"] != sha256(output / "samples.jsonl"):
            return {}
        return {name: Score(**score) for name, score in found["scores"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{output / FILE}: damaged; remove it, it is measured again") from None


def beside(scores: Mapping[str, Score], results: Sequence[Mapping]) -> dict[str, Any]:
    """Solved against unsolved problems, as in the CodeGen paper."""
    return perplexity.split(scores, perplexity.solved(map(judgement_from, results)))
