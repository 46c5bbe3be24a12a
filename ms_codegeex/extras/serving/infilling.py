"""Completion between a prefix and a suffix: making the prompt and trimming the answer. A model trained for infilling is
prompted with its sentinels (`sentinels.py`). Any other model continues the prefix; where the end of its answer repeats
the start of the suffix, it is trimmed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from ms_codegeex.data.infilling.sentinels import File, joined_files
from ms_codegeex.extras.serving.answering import Filters, TextFilter
from ms_codegeex.extras.serving.model import ServedModel, anchored, step_of
from ms_codegeex.generation.stopping import PartialWord

OPENING, CLOSING = "([{", ")]}"
LINE_END = re.compile("\r\n?")


def overlap(answer: str, suffix: str) -> int:
    """Return the number of characters at the end of `answer` that repeat the start of `suffix`, for the longest valid
    repetition. White space after the repetition belongs to it. So does white space before it if the suffix starts with
    the same kind: any number of blanks within a line, or line breaks with the same indentation. A repetition may start
    inside a word of the answer only if it contains the suffix's whole first word: `return` + `urn x` becomes
    `return x`, but `before` + `rest` is kept. It must not contain a bracket that closes one in the rest of the answer:
    between `f(` and `)`, the answer `g(x)` keeps its bracket."""
    body, text = suffix.lstrip(), answer.rstrip()
    lead = suffix[: len(suffix) - len(body)]
    _, line_break, indent = lead.rpartition("\n")
    repeated = PartialWord(body)
    repeated.feed(text)
    length, closes = repeated.length, _closing(text) if repeated.length else []
    word = re.compile(r"\w*").match(body).end() if not lead else len(body) + 1
    while length:
        start = len(text) - length
        last = text[max(start - 1, 0) : start]
        if not closes[start] and (length >= word or not re.fullmatch(r"\w\w", last + body[0])):
            rest = start
            while lead and rest and text[rest - 1].isspace():
                rest -= 1
            _, own_break, own_indent = text[rest:start].rpartition("\n")
            alike = own_break == line_break and (own_indent == indent if line_break else rest < start)
            if not lead or alike:
                return len(answer) - rest
        length = repeated.shorter[length]
    return len(answer) - len(text) if lead else 0


def _closing(text: str) -> list[bool]:
    def deeper(depth: int, character: str) -> int:
        return max(depth + (character in OPENING) - (character in CLOSING), 0)  # at 0, it closes one in the prefix

    depths = list(accumulate(text, deeper, initial=0))
    lowest = reversed(list(accumulate(reversed(depths), min)))  # minimum of all later depths
    return [least < depth for least, depth in zip(lowest, depths, strict=True)]


class SuffixTrimmer(TextFilter):
    """Trims the `overlap` from an answer that arrives in pieces: text that may belong to the repetition is held back.
    Line endings `\\n`, `\\r\\n` and `\\r` count as equal, but the answer's own are sent unchanged."""

    def __init__(self, suffix: str):
        self._suffix = LINE_END.sub("\n", suffix)
        self._repeated = PartialWord(self._suffix.lstrip())
        self._text, self._said = list[str](), 0  # characters, with line endings as `\n`; number of those sent
        self._ends = dict[int, str]()  # original line endings other than `\n`, by index
        self._carriage = ""  # a final `\r`, held because a `\n` may follow
        self._read = 0  # characters that `_repeated` has read; excludes trailing white space
        self._start = 0  # index from which the text may repeat the suffix

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be sent: a later piece never makes the repetition begin earlier."""
        if self._carriage or "\r" in piece:
            piece = self._unified(piece)
        read, said, solid = self._read, self._said, len(piece.rstrip())
        self._read = len(self._text) + solid if solid else read
        self._text.extend(piece)
        self._repeated.feed("".join(self._text[read : self._read]))
        while self._start < self._read - self._repeated.length:
            self._start += 1
            if not self._text[self._start - 1].isspace():  # such white space may belong to the repetition
                self._said = self._start
        return self._original(said, self._said)

    def rest(self) -> str:
        """Return the text that is still held back at the end, without the repetition."""
        self._text.extend(self._unified("", last=True))
        text, said = "".join(self._text), self._said
        self._said = len(text)
        return self._original(said, len(text) - overlap(text, self._suffix))

    def _unified(self, piece: str, last: bool = False) -> str:
        piece = self._carriage + piece
        self._carriage = "\r" if piece.endswith("\r") and not last else ""
        piece, gone = piece[: len(piece) - len(self._carriage)], 0
        for match in LINE_END.finditer(piece):
            self._ends[len(self._text) + match.start() - gone] = match[0]
            gone += len(match[0]) - 1
        return LINE_END.sub("\n", piece)

    def _original(self, begin: int, end: int) -> str:
        if not self._ends:
            return "".join(self._text[begin:end])
        return "".join(self._ends.get(place, self._text[place]) for place in range(begin, end))


def suffix_ids(model: ServedModel, suffix: str) -> list[int]:
    return model.tokenizer.encode_inside(suffix[: model.max_characters])


def infill_prompt(
    model: ServedModel,
    prefix: str,
    suffix: str,
    room: int,
    remedy: str = "",
    encoded: Sequence[int] | None = None,
    files: Sequence[File] = (),
) -> tuple[list[int], bool, tuple[str, ...]]:
    """Return the prompt's ids (at most `room`), whether anything was truncated, and texts that end the answer. If a
    `remedy` is given, a prompt that is too long raises `PromptTooLong` with it. `encoded` are the suffix's
    `suffix_ids`, for callers whose prompts share them. `files` are other files for the context."""
    maximum, end = model.max_characters, ()  # a limit, because encoding long texts takes seconds
    if model.sentinels is None or not model.sentinels.files:
        prefix, files = joined_files([text for _, text in files], prefix), ()
    begin = prefix[-anchored(len(prefix), maximum) :] if prefix else ""
    if model.sentinels is not None:
        after = suffix_ids(model, suffix) if encoded is None else encoded
        some = [(name[:maximum], text) for name, text in files if len(text) <= maximum]
        ids, cut = model.sentinels.prompt(model.tokenizer, begin, after, room, step_of(room), some)
        cut, end = cut or len(suffix) > maximum or len(some) < len(files), model.sentinels.end
    else:
        whole = model.begun(model.tokenizer.encode_prompt(begin, model.special_tokens))
        ids = model.truncated(whole, max(room, len(model.tokenizer.prefix) + 1))
        cut = len(ids) < len(whole)
    cut = cut or len(prefix) > maximum
    if cut and remedy:
        raise model.too_long("prompt", f"more than {room}", remedy, "prompt and suffix")
    return ids, cut, end


def infill_filter(model: ServedModel, suffix: str, *others: TextFilter) -> TextFilter:
    return Filters(*others, *([] if model.sentinels is not None else [SuffixTrimmer(suffix)]))
