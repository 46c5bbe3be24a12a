"""The sentinels of a model that was trained for infilling: the fact `infill` of its description.

    {"infill": {"prefix": 50257, "suffix": 50258, "middle": 50259,
                "order": ["prefix", "suffix", "middle"], "end": ["<|endoftext|>"]}}

A sentinel is an id, or the text of a special token. `order` is that of the parts; each sentinel precedes its text, and
the answer follows the last part: the middle's sentinel, or the prefix, which the middle then continues without a break
("Efficient Training of Language Models to Fill in the Middle", 2022, its second form of SPM). `end` is optional: texts
that end an answer besides the model's end token. `frame` and `files` are optional, and their texts may hold names of
special tokens: those before and after the parts; and for models that were shown other files, those before these, for
each of them, with {name} and {text}, and before the parts, in place of the frame's first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer.base import INFILLING_PARTS, Tokenizer

PARTS = INFILLING_PARTS
ORDERS = {"psm": PARTS, "spm": ("suffix", "prefix", "middle")}
_TEXTS = {"end": None, "frame": 2, "files": 3}  # lists of texts, and their lengths
JOINED = ("suffix", "middle", "prefix")  # the middle continues the prefix


_FIELD = re.compile(r"(\{name\}|\{text\})")
UNNAMED = "tmp"  # another file without a name, as in llama.cpp
File = tuple[str, str]  # name, text


def joined_files(texts: Sequence[str], prefix: str) -> str:
    return "".join(f"{text.rstrip()}\n\n" for text in texts if text.strip()) + prefix


@dataclass(frozen=True)
class Sentinels:
    """How a model that was trained for infilling is prompted. A sentinel is an id or a special token's text."""

    prefix: str | int
    suffix: str | int
    middle: str | int
    order: tuple[str, ...] = PARTS
    end: tuple[str, ...] = ()
    frame: tuple[str, ...] = ("", "")
    files: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(mark for mark in (self.prefix, self.suffix, self.middle) if isinstance(mark, int))

    def to_json(self) -> dict[str, Any]:
        known = {name: list(getattr(self, name)) for name in _TEXTS if any(getattr(self, name))}
        return {**{part: getattr(self, part) for part in PARTS}, "order": list(self.order), **known}

    def prompt(
        self,
        tokenizer: Tokenizer,
        prefix: str,
        suffix: str | Sequence[int],
        room: int,
        step: int = 1,
        files: Sequence[File] = (),
    ) -> tuple[list[int], bool]:
        """Ids of the prompt, at most `room`, and whether it was truncated: the prefix loses its start and the suffix
        its end, the longer one first, in steps of `step`, at most an eighth of `room`, while the prefix grows. The
        user's text is taken literally: a sentinel in it is plain text. The suffix may be encoded already. Other `files`
        come first, as many of the last ones as fit besides; only for models that were shown some."""
        marks, first = {}, len(tokenizer.prefix)
        for part in PARTS:
            mark = getattr(self, part)
            marks[part] = [mark] if isinstance(mark, int) else tokenizer.encode_prompt(mark)[first:]
        begin, end = map(tokenizer.encode_marks, self.frame)
        after = tokenizer.encode_inside(suffix) if isinstance(suffix, str) else list(suffix)
        texts = {"prefix": tokenizer.encode(prefix), "suffix": after, "middle": []}
        room -= first + len(begin) + len(end) + sum(map(len, marks.values()))
        if room < 1:
            raise UserError("prompt: the model's context holds no more than the sentinels; ask for a shorter answer")
        shorter = min(len(texts["prefix"]), len(texts["suffix"]), room // 2)
        length = len(texts["prefix"]) + len(texts["suffix"])
        if length > room:
            before = max(room - len(texts["suffix"]), shorter, 1)
            if (over := len(texts["prefix"]) - before) > 0:
                texts["prefix"] = texts["prefix"][-(-over // step) * step :]
            else:
                before = -(-len(texts["prefix"]) // step) * step
            texts["suffix"] = texts["suffix"][: max(0, room - before)]
        files = [(name, text) for name, text in files if text.strip()]
        shown, count = self._shown(tokenizer, files, room - length + len(begin)) if files else ([], 0)
        ids = (token for part in self.order for token in (*marks[part], *texts[part]))
        return [*tokenizer.prefix, *(shown or begin), *ids, *end], length > room or count < len(files)

    def _shown(self, tokenizer: Tokenizer, files: Sequence[File], room: int) -> tuple[list[int], int]:
        first, each, this = self.files
        head, last, shown = tokenizer.encode_marks(first), tokenizer.encode_marks(this), list[list[int]]()
        room -= len(head) + len(last)
        for name, text in reversed(files):
            values = {"{name}": tokenizer.literal(name or UNNAMED), "{text}": tokenizer.literal(text.rstrip())}
            ids = tokenizer.encode_marks("".join(values.get(part, part) for part in _FIELD.split(each)))
            if (room := room - len(ids)) < 0:
                break
            shown.insert(0, ids)
        return [number for part in (head, *shown, last) for number in part] if shown else [], len(shown)

    def check(self, tokenizer: Tokenizer, rows: int, where: str) -> None:
        """`UserError` if a sentinel that is an id also means something else, or the model's table has no row for it."""
        for part in PARTS:
            if isinstance(number := getattr(self, part), int):
                check_id(number, tokenizer, f"{where}: {part}")
                if number >= rows:
                    small = f"{part} is {number}, but the model's table has {rows} rows"
                    raise UserError(f"{where}: {small}; give the ids that the model was trained with")


def check_id(number: int, tokenizer: Tokenizer, where: str) -> None:
    """`UserError` if a sentinel's id is one that the tokenizer uses for something else."""
    if tokenizer.is_unused(number):
        return
    text = ascii(tokenizer.token_bytes(number).decode("utf-8", "replace")) if number >= 0 else "nothing"
    meaning = "its end token" if number == tokenizer.eos_id else f"the text {text}"
    used = f"the {tokenizer.name} tokenizer uses for {meaning}"
    remedy = f"choose an id that it does not use, such as {', '.join(map(str, tokenizer.sentinels))}"
    raise UserError(f"{where} is {number}, which {used}; {remedy}")


def sentinels(value: Any) -> Sentinels:
    """The sentinels of a JSON value; a malformed one is a `UserError`."""
    if not isinstance(value, dict) or not {*PARTS} <= value.keys() <= {*PARTS, "order", *_TEXTS}:
        raise UserError(
            f"expected an object with {', '.join(PARTS)}, and order, end, frame and files if they are needed"
        )
    marks = [value[part] for part in PARTS]
    order = value.get("order", [*PARTS])
    if not all((isinstance(mark, str) and mark) or (type(mark) is int and mark >= 0) for mark in marks):
        raise UserError(f"{', '.join(PARTS)} are not texts or ids; give the model's sentinels")
    if len({*marks}) < len(marks):
        raise UserError(f"{', '.join(PARTS)} are not three different sentinels; give the model's")
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(PARTS) or order[-1] == "suffix":
        remedy = "give prefix, suffix and middle in the model's order, suffix not last"
        raise UserError(f"order is {order}; {remedy}")
    further = {name: value[name] for name in _TEXTS if name in value}
    for name, texts in further.items():
        size = _TEXTS[name]
        strings = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        if not strings or ("" in texts if size is None else len(texts) != size):
            raise UserError(f"{name} is {texts}, expected {size or 'some'} of them; give a list of texts")
    if "files" in further and not all(field in further["files"][1] for field in ("{name}", "{text}")):
        raise UserError(f"files is {further['files']}; write {{name}} and {{text}} in the second text")
    return Sentinels(*marks, order=tuple(order), **{name: tuple(texts) for name, texts in further.items()})
