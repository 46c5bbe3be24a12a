"""Counts the answers of two models to HumanEval-X that are valid programs: the effect of quantising on syntax.

An answer is valid unless its verdict is `compile error`. In Python and JavaScript that is a syntax error; in the other
languages it may be a type error too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ms_codegeex.evaluation.local_model import LocalModel
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.evaluation.sampling.samplers import EngineSampler
from ms_codegeex.evaluation.session import Options, evaluate
from ms_codegeex.evaluation.task import Task

INVALID = "compile error"


def compare_validity(task: Task, recipe: Recipe, options: Options, models: Mapping[str, LocalModel]) -> dict[str, Any]:
    """For each language and each of `models`: the numbers of judged, valid and passed answers; and the languages that
    were left out, with the reasons.

    Each model has a separate evaluation in a directory below `options.output`; an interrupted run continues it. One
    model is in memory at a time.
    """
    languages: dict[str, dict[str, dict[str, int]]] = {}
    left_out: dict[str, str] = {}
    for name, model in models.items():
        gc.collect()  # release the previous model
        report = evaluate(
            task,
            recipe,
            replace(
                options,
                output=options.output / f"humaneval-x-{name}",
                sampler=partial(EngineSampler, model, recipe),
                model=model.identity,
            ),
        )
        for language, verdicts in report["verdicts"].get("strict", {}).items():
            answers = sum(verdicts.values())
            counts = {
                "answers": answers,
                "valid": answers - verdicts.get(INVALID, 0),
                "passed": verdicts.get("passed", 0),
            }
            languages.setdefault(language, {})[name] = counts
        left_out |= report["missing"] | report["skipped"]
    return {"languages": languages, "left_out": left_out}


def lines(validity: Mapping[str, Any]) -> Iterator[str]:
    """The figures in a few lines for the user."""
    for language, models in validity["languages"].items():
        each = ", ".join(f"{name} {counts['valid']} of {counts['answers']}" for name, counts in models.items())
        yield f"HumanEval-X, {language}, valid answers: {each}"
    for name, reason in validity["left_out"].items():
        yield f"HumanEval-X, {name}: not judged; {reason}"
