"""How near a description is to another: BLEU-4 and chrF by the package `sacrebleu`."""

from __future__ import annotations

from functools import cache
from typing import Any

from ms_codegeex.base.errors import UserError


def similarity(text: str, reference: str) -> dict[str, float]:
    """BLEU and chrF of a sentence, each from 0 to 1. BLEU: up to 4 words, with one added to the counts of two and more
    words (Lin and Och 2004), in lower case, as usual for summaries of code (CodeXGLUE 2021, whose words these are:
    mteval-13a's). chrF: up to 6 characters, beta 2 (Popović 2015)."""
    # as a corpus of one sentence: BLEU's `sentence_score` recommends to leave out the orders without a match
    bleu, chrf = (metric.corpus_score([text], [[reference]]).score / 100 for metric in metrics())
    return {"BLEU-4": bleu, "chrF": chrf}


@cache
def metrics() -> tuple[Any, Any]:
    """The package's two metrics; `UserError` if it is not installed."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ModuleNotFoundError as error:
        remedy = "which compares summaries; install ms-codegeex[evaluation]"
        raise UserError(f"{error.name} is not installed, {remedy}") from None
    return BLEU(lowercase=True, smooth_method="add-k", smooth_value=1), CHRF()
