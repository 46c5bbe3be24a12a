"""Prompts, and what becomes of an answer before it is run (facts C1)."""

from __future__ import annotations

import re

from ms_codegeex.evaluation.sampling import stops

STARTS = ("BEGIN SOLUTION\n<code>", "# SOLUTION START")
ENDS = ("</code>", "# SOLUTION END", "END SOLUTION", "```")
FENCE = re.compile(r"\s*```[^\n]*\n")
FIGURE_CALLS = ("plt.show()", "plt.clf()", "plt.close()", "savefig")


def prompt(text: str, mode: str) -> str:
    """What a model reads: the whole prompt to the last line break, or what stands before the place to insert at.

    A model that only continues text cannot read what follows that place, so it does without it.
    """
    return text if mode == "completion" else text.partition("[insert]")[0].strip() + "\n"


def _ended(text: str) -> bool:
    if text.lstrip()[:3] == "```"[: len(text.lstrip())]:
        fence = FENCE.match(text)
        return bool(fence) and any(end in text[fence.end() :] for end in ENDS)
    return any(end in text for end in ENDS)


def _scan() -> stops.Scanner:
    before, inner = "", stops.words(ENDS).scan()  # the text as long as it may be a code fence; what comes then

    def each(piece: str) -> int | None:
        nonlocal before
        if before is None:
            return inner(piece)
        length, text = len(before), before + piece
        start, fence = text.lstrip()[:3], FENCE.match(text)
        if start == "```"[: len(start)] and not fence:
            before = text
            return None
        before = None
        skipped = fence.end() if fence else 0
        place = inner(text[skipped:])
        return None if place is None else skipped + place - length

    return each


ended = stops.Rule(_ended, _scan)  # whether the answer is over; a code fence it starts with does not end it


def cleaned(text: str, library: str) -> str:
    """The code of an answer: behind a marker of its start or the line of a code fence, before the first marker of its
    end; of Matplotlib without the lines that show, clear, close or save the figure, which the test looks at."""
    for start in STARTS:
        text = text.split(start, 1)[-1]
    if fence := FENCE.match(text):
        text = text[fence.end() :]
    for end in ENDS:
        text = text.split(end, 1)[0]
    if library.lower() == "matplotlib":
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if not any(call in line for call in FIGURE_CALLS))
    return text
