"""Evaluate the perplexity of a corpus, of one model or of two that are compared: measure it and write a report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.local_model import LocalModel
from ms_codegeex.evaluation.output_directory import RecordedSettings, sole_writer, versions
from ms_codegeex.evaluation.perplexity.corpus import measure
from ms_codegeex.evaluation.perplexity.difference import STEP, LogitsModel, compare
from ms_codegeex.evaluation.reports import page


def evaluate_corpus(
    model: LocalModel,
    data: Path,
    output: Path,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    against: LocalModel | None = None,
    more: Callable[[], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure a corpus, write `evaluation.json`, `report.json` and `report.html`, and return the report.

    With `against`, another model with the same tokenizer, the report says how much `model` differs from it. The result
    of `more()` is added to a report that is complete without it.
    """
    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    if against is not None and stride is not None:
        raise UserError("--stride: not with --against, whose windows do not overlap; leave it out")
    with sole_writer(output):
        models = _Models(model, against)
        result = _evaluate_corpus(models, data, output, (window, stride, max_tokens))
        if more is not None:
            result |= more()
            page.write(output, result)
        return result


class _Models:
    """The models of an evaluation, opened one after the other; `identities` of those that were."""

    def __init__(self, model: LocalModel, against: LocalModel | None):
        self.model, self.against = model, against
        self.identities: dict[str, dict[str, Any]] = {}

    def open_model(self) -> LogitsModel:
        """The one to evaluate."""
        return self._open("model", self.model)

    def open_other(self) -> LogitsModel:
        """The one to compare it with."""
        assert self.against is not None
        return self._open("against", self.against)

    def _open(self, name: str, model: LocalModel) -> LogitsModel:
        generator, self.identities[name] = model.open()
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
