"""Evaluate the perplexity of a corpus: measure it and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.output_directory import RecordedSettings, sole_writer, versions
from ms_codegeex.evaluation.perplexity.corpus import measure
from ms_codegeex.evaluation.reports import page
from ms_codegeex.evaluation.sampling.samplers import model_identity


def evaluate_corpus(
    model: Path,
    data: Path,
    output: Path,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """Measure a corpus, write `evaluation.json`, `report.json` and `report.html`, and return the report."""
    from ms_codegeex.generation.engine import Generator  # importing the engine takes seconds

    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    with sole_writer(output):
        return _evaluate_corpus(Generator(model), data, output, window, stride, max_tokens)


def _evaluate_corpus(
    generator: Any, data: Path, output: Path, window: int | None, stride: int | None, max_tokens: int | None
) -> dict[str, Any]:
    settings = RecordedSettings(output)
    settings.settle("task", {"name": "perplexity"})
    found = measure(generator, [data], window, stride, max_tokens, progress=True)
    for section, values in (
        ("data", {"path": str(data)}),
        ("model", model_identity(generator.path)),
        ("recipe", {"window": found.window, "stride": found.stride, "max_tokens": max_tokens}),
        ("versions", versions()),
    ):
        settings.write(section, values)
    result = {
        "format": "ms-codegeex evaluation report",
        "version": 1,
        "task": "perplexity",
        "output": str(output),
        "perplexity": found.row(),
        "settings": {key: value for key, value in settings.values.items() if key != "format"},
    }
    page.write(output, result)
    return result
