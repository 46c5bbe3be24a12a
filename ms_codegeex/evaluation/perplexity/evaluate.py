"""Evaluate the perplexity of a corpus, of one model or of two that are compared: measure it and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.output_directory import RecordedSettings, sole_writer, versions
from ms_codegeex.evaluation.perplexity.corpus import measure
from ms_codegeex.evaluation.perplexity.difference import STEP, compare
from ms_codegeex.evaluation.reports import page
from ms_codegeex.evaluation.sampling.samplers import model_identity


def evaluate_corpus(
    model: Path,
    data: Path,
    output: Path,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    against: Path | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure a corpus, write `evaluation.json`, `report.json` and `report.html`, and return the report.

    With `against`, another model of the same tokenizer, the report says how much `model` differs from it.
    """
    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    if against is not None and stride is not None:
        raise UserError("--stride: not with --against, whose windows do not overlap; leave it out")
    with sole_writer(output):
        return _evaluate_corpus(model, data, output, (window, stride, max_tokens), against, threads)


def _evaluate_corpus(
    path: Path, data: Path, output: Path, how: tuple[int | None, ...], against: Path | None, threads: int | None
) -> dict[str, Any]:
    from ms_codegeex.generation.engine import Generator  # importing the engine takes seconds

    paths: dict[Path, Path] = {}  # of what was opened

    def opened(given: Path) -> Generator:
        generator = Generator(given, threads=threads)
        paths[given] = generator.path
        return generator

    settings, more = RecordedSettings(output), dict[str, Any]()
    settings.settle("task", {"name": "perplexity"})
    if against is None:
        found = measure(opened(path), [data], *how, progress=True)
    else:
        compared = compare(opened, against, path, data, output, how[0], how[2])
        found = compared.second
        more = {"difference": compared.row(), "difference_within": {"step": STEP, "shares": compared.within}}
        settings.write("against", model_identity(paths[against]))
    for section, values in (
        ("data", {"path": str(data)}),
        ("model", model_identity(paths[path])),
        ("recipe", {"window": found.window, "stride": found.stride, "max_tokens": how[2]}),
        ("versions", versions()),
    ):
        settings.write(section, values)
    result = {
        "format": "ms-codegeex evaluation report",
        "version": 1,
        "task": "perplexity",
        "output": str(output),
        "perplexity": found.row(),
        **more,
        "settings": {key: value for key, value in settings.values.items() if key != "format"},
    }
    page.write(output, result)
    return result
