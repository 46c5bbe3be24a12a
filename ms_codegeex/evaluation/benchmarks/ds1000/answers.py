"""DS-1000's prompts, and the clean-up of answers."""

from __future__ import annotations

import re

from ms_codegeex.evaluation import stop_rules
from ms_codegeex.evaluation.replies import python
from ms_codegeex.generation import stopping

STARTS = ("BEGIN SOLUTION\n<code>", "# SOLUTION START")
ENDS = ("</code>", "# SOLUTION END", "END SOLUTION", "```")
FENCE = re.compile(r"\s*```[^\n]*\n")
GIVEN = re.compile(r"<code>\n(.*?)(?:</code>|\Z)", re.DOTALL)
# a function at the end of the given code, of which there are only comments
OPEN = re.compile(r"^def (?P<name>\w+)\((?P<arguments>[^()]*)\):[ \t]*\n(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))*\Z", re.M)
FIGURE_CALLS = ("plt.show()", "plt.clf()", "plt.close()", "savefig")


def prompt(text: str, mode: str) -> str:
    """What the model reads: the full prompt, including its last line break, or the text before the insertion point.

    A model that only continues text cannot use the text after that point.
    """
    return text if mode == "completion" else text.partition("[insert]")[0].strip() + "\n"


def from_code(code: str, text: str) -> str:
    """What a chat model's code adds to the code that it was given: `text` is the prompt. A function that the prompt
    leaves open gets a body."""
    section = text.rpartition("\nA:\n")[2]
    given = "\n".join(GIVEN.findall(section)) or section
    code = python.beyond(code, given)
    if opened := OPEN.search(given):
        arguments = [each.partition("=")[0].partition(":")[0].strip() for each in opened["arguments"].split(",")]
        return python.nested(code, opened["name"], f"{opened['name']}({', '.join(arguments)})")
    return code


def _scan() -> stopping.Scanner:
    before = ""  # the text while it may still be a code fence
    inner = stop_rules.words(ENDS).scan()  # scans the rest

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
        end = inner(text[skipped:])
        return None if end is None else skipped + end - length

    return each


ended = stopping.scanned(_scan)  # the answer has ended; a code fence at its start does not count


def cleaned(text: str, library: str) -> str:
    """The code of an answer: after a start marker or the line of a code fence, before the first end marker. For
    Matplotlib, lines that show, clear, close or save the figure are removed, because the test inspects it."""
    for start in STARTS:
        text = text.split(start, 1)[-1]
    if fence := FENCE.match(text):
        text = text[fence.end() :]
    text = stop_rules.cut(text, ENDS)
    if library.lower() == "matplotlib":
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if not any(call in line for call in FIGURE_CALLS))
    return text
