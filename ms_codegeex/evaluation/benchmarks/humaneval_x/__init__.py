"""HumanEval-X: 164 problems in Python, C++, Java, JavaScript, Go and Rust (CodeGeeX, KDD 2023, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ms_codegeex.evaluation.benchmarks.humaneval_x import task

__all__ = ["build"]


def build(
    data: Path,
    languages: Sequence[str] | None = None,
    source_language: str | None = None,
    tag: bool = False,
    timeout: float | None = None,
    rules: str | None = None,
    cache: Path | None = None,
) -> task.HumanEvalX:
    """The task.

    Args:
        data: a directory with the published files, in it or up to two levels below, or one of the files.
        languages: of python, cpp, java, js, go, rust; None: those that have a file.
        source_language: translate from it; the problems are those of the other languages.
        tag: put CodeGeeX's tag line before the prompt; without it the prompt is stripped, as CodeGeeX2's was.
        timeout: seconds of a run; None: the published 5, or more after `calibrate`.
        rules: where an answer ends, "codegeex" or "codegeex2"; None: the former with the tag, the latter without.
        cache: where prepared tool chains are kept; None: the user's cache directory.
    """
    return task.build(data, languages, source_language, tag, timeout, rules, cache)
