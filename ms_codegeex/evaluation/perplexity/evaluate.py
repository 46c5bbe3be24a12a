"""Evaluate the perplexity of a corpus, of one model or of two that are compared: measure it and write a report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.corpus.tally import print_tally
from ms_codegeex.evaluation.local_model import LocalModel
from ms_codegeex.evaluation.output_directory import RecordedSettings, sole_writer
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
) -> dict[str, Any]:
    """Measure a corpus, write `evaluation.json`, `report.json` and `report.html`, and return the report. With
    `against`, another model with the same tokenizer, it says how much `model` differs from that."""
    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    if against is not None and stride is not None:
        raise UserError("--stride: not with --against, whose windows do not overlap; leave it out")
    identities: dict[str, dict[str, Any]] = {}

    def opened(name: str, which: LocalModel) -> LogitsModel:
        generator, identities[name] = which.open()
        return generator

    with sole_writer(output):
        settings, difference = RecordedSettings(output), {}
        settings.settle("task", {"name": "perplexity"})
        if against is None:
            perplexity = measure(opened("model", model), [data], window, stride, max_tokens, progress=True)
        else:
            first, second = partial(opened, "against", against), partial(opened, "model", model)
            compared = compare(first, second, data, output, window, max_tokens)
            perplexity, shares = compared.second, {"step": STEP, "shares": compared.within}
            difference = {"difference": compared.row(), "difference_within": shares}
        print_tally(perplexity.tally)
        how = {"window": perplexity.window, "stride": perplexity.stride, "max_tokens": max_tokens}
        sections = {"data": {"path": str(data)}, **identities, "recipe": how}
        figures = {"perplexity": perplexity.row(), **difference, "tally": perplexity.tally}
        return page.write_measures(settings, sections, figures)
