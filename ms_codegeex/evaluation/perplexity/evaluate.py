"""Evaluate the perplexity of a corpus, of one model or of two that are compared: measure it and write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.output_directory import RecordedSettings, sole_writer, versions
from ms_codegeex.evaluation.perplexity.corpus import measure
from ms_codegeex.evaluation.perplexity.difference import STEP, LogitsModel, compare
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
    fast: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure a corpus, write `evaluation.json`, `report.json` and `report.html`, and return the report.

    With `against`, another model of the same tokenizer, the report says how much `model` differs from it. `fast` as in
    `SlotEngine`, for `model` only.
    """
    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    if against is not None and stride is not None:
        raise UserError("--stride: not with --against, whose windows do not overlap; leave it out")
    with sole_writer(output):
        models = _Models(model, against, fast, threads)
        return _evaluate_corpus(models, data, output, (window, stride, max_tokens))


class _Models:
    """The models of an evaluation, opened one after the other; `identities` of those that were."""

    def __init__(self, model: Path, against: Path | None, fast: bool, threads: int | None):
        self.model, self.against, self.fast, self.threads = model, against, fast, threads
        self.identities: dict[str, dict[str, Any]] = {}

    def open_model(self) -> LogitsModel:
        """The one to evaluate."""
        return self._open("model", self.model, self.fast)

    def open_other(self) -> LogitsModel:
        """The one to compare it with."""
        assert self.against is not None
        return self._open("against", self.against, False)

    def _open(self, name: str, path: Path, fast: bool) -> LogitsModel:
        from ms_codegeex.generation.engine import Generator  # importing the engine takes seconds

        generator = Generator(path, threads=self.threads, fast=fast)
        self.identities[name] = model_identity(generator.path, fast)
        return generator


def _evaluate_corpus(models: _Models, data: Path, output: Path, how: tuple[int | None, ...]) -> dict[str, Any]:
    settings, more = RecordedSettings(output), dict[str, Any]()
    settings.settle("task", {"name": "perplexity"})
    if models.against is None:
        found = measure(models.open_model(), [data], *how, progress=True)
    else:
        compared = compare(models.open_other, models.open_model, data, output, how[0], how[2])
        found = compared.second
        more = {"difference": compared.row(), "difference_within": {"step": STEP, "shares": compared.within}}
    for section, values in (
        ("data", {"path": str(data)}),
        *models.identities.items(),
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
