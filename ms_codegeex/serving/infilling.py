"""Completion between a prefix and a suffix: the prompt, and trimming of the answer.

A model that was trained for infilling is prompted with its sentinels (`sentinels.py`). Any other model continues the
prefix, and the end of its answer that repeats the start of the suffix is trimmed.
"""

from __future__ import annotations

import re
from functools import reduce
from itertools import accumulate

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.serving.answering import Filters, TextFilter
from ms_codegeex.serving.model import ServedModel, anchored, step_of

OPENING, CLOSING = "([{", ")]}"


def overlap(answer: str, suffix: str) -> int:
    """Number of characters at the end of `answer` that repeat the start of `suffix`.

    The longest repetition counts. White space after it belongs to it. White space before it does too, if the suffix
    starts with white space of the same kind: any number of blanks in a line, or line breaks with the same indentation.
    A repetition does not start inside a word of the answer, and holds no bracket that closes one in the rest of the
    answer: in `f(` + `g(x)` + `)`, the answer keeps its bracket.
    """
    body = suffix.lstrip()
    lead = suffix[: len(suffix) - len(body)]
    text = answer.rstrip()
    for length in range(min(len(text), len(body)), 0, -1):
        if text.endswith(body[:length]):
            before = text[: len(text) - length]
            rest = before.rstrip()
            if _alike(before[len(rest) :], lead) and _whole_words(before, body) and _own(before, body[:length]):
                return len(answer) - len(rest if lead else before)
    return len(answer) - len(text) if lead else 0


def _alike(space: str, lead: str) -> bool:
    """Whether white space in the answer corresponds to that at the start of the suffix."""
    if not lead:
        return True
    if ("\n" in space) != ("\n" in lead):
        return False
    return space.rpartition("\n")[2] == lead.rpartition("\n")[2] if "\n" in lead else bool(space)


def _whole_words(before: str, body: str) -> bool:
    return not before or re.fullmatch(r"\w\w", before[-1] + body[0]) is None


def _own(before: str, repeated: str) -> bool:
    """Whether no bracket of `repeated` closes one that `before` opens."""

    def deeper(depth: int, character: str) -> int:
        return max(depth + (character in OPENING) - (character in CLOSING), 0)  # at 0, it closes one of the prefix

    opened = reduce(deeper, before, 0)
    return all(depth >= opened for depth in accumulate(repeated, deeper, initial=opened))  # ends at the first


class Trimming(TextFilter):
    """`overlap` for an answer in pieces: text that may belong to the repetition is held back."""

    def __init__(self, suffix: str):
        self._suffix, self._body = suffix, suffix.lstrip()
        self._text, self._said = "", 0
        self._start = 0  # where the text, without the white space at its end, may begin to repeat `_body`

    def feed(self, piece: str) -> str:
        """The text that can be sent after the next piece. No later piece lets the repetition begin earlier."""
        self._text += piece
        text = self._text.rstrip()
        while not self._body.startswith(text[self._start :]):
            self._start += 1
        start, self._said = self._said, max(self._said, len(text[: self._start].rstrip()))
        return self._text[start : self._said]

    def rest(self) -> str:
        """The text that is still held back at the end, without the repetition."""
        start, self._said = self._said, len(self._text)
        return self._text[start : len(self._text) - overlap(self._text, self._suffix)]


def infill_prompt(
    model: ServedModel, prefix: str, suffix: str, room: int, remedy: str = ""
) -> tuple[list[int], bool, tuple[str, ...]]:
    """Ids of the prompt, at most `room`, whether they had to be truncated, and texts that end the answer. With a
    `remedy`, a prompt that is too long is a `PromptTooLong`, which names it."""
    maximum, end = model.max_characters, ()  # encoding more would take seconds
    begin = prefix[-anchored(len(prefix), maximum) :] if prefix else ""
    if model.sentinels is not None:
        ids, cut = model.sentinels.prompt(model.tokenizer, begin, suffix[:maximum], room, step_of(room))
        cut, end = cut or len(suffix) > maximum, model.sentinels.end
    else:
        whole = model.begun(model.tokenizer.encode_prompt(begin))
        ids = model.truncated(whole, max(room, len(model.tokenizer.prefix) + 1))
        cut = len(ids) < len(whole)
    cut = cut or len(prefix) > maximum
    if cut and remedy:
        context = f"the model's context, {model.context} tokens, with the suffix"
        raise PromptTooLong(f"prompt: it is longer than {context}; {remedy}")
    return ids, cut, end


def infill_filter(model: ServedModel, suffix: str, *others: TextFilter) -> TextFilter:
    """The filter of an answer: `others`, then for a model without sentinels trimming."""
    return Filters(*others, *([] if model.sentinels is not None else [Trimming(suffix)]))
