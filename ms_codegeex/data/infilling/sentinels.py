"""The sentinels of a model that was trained for infilling: the fact `infill` of its description.

    {"infill": {"prefix": 50257, "suffix": 50258, "middle": 50259,
                "order": ["prefix", "suffix", "middle"], "end": ["<|endoftext|>"]}}

A sentinel is an id, or the text of a special token. `order` is that of the parts; each sentinel precedes its text, and
the answer follows the last part: the middle's sentinel, or the prefix, which the middle then continues without a break
("Efficient Training of Language Models to Fill in the Middle", 2022, its second form of SPM). `end` is optional: texts
that end an answer besides the model's end token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer.base import Tokenizer

PARTS = ("prefix", "suffix", "middle")
ORDERS = {"psm": PARTS, "spm": ("suffix", "prefix", "middle")}
JOINED = ("suffix", "middle", "prefix")  # the middle continues the prefix


def joined_files(texts: Sequence[str], prefix: str) -> str:
    """The prefix after the texts of other files."""
    return "".join(f"{text.rstrip()}\n\n" for text in texts if text.strip()) + prefix


@dataclass(frozen=True)
class Sentinels:
    """How a model that was trained for infilling is prompted. A sentinel is an id or a special token's text."""

    prefix: str | int
    suffix: str | int
    middle: str | int
    order: tuple[str, ...] = PARTS
    end: tuple[str, ...] = ()

    @property
    def ids(self) -> frozenset[int]:
        """The sentinels that are ids."""
        return frozenset(mark for mark in (self.prefix, self.suffix, self.middle) if isinstance(mark, int))

    def to_json(self) -> dict[str, Any]:
        """The JSON value, which `sentinels` reads."""
        ends = {"end": list(self.end)} if self.end else {}
        return {**{part: getattr(self, part) for part in PARTS}, "order": list(self.order), **ends}

    def prompt(
        self, tokenizer: Tokenizer, prefix: str, suffix: str | Sequence[int], room: int, step: int = 1
    ) -> tuple[list[int], bool]:
        """Ids of the prompt, at most `room`, and whether it was truncated: the prefix loses its start and the suffix
        its end, the longer one first, in steps of `step`, at most an eighth of `room`, while the prefix grows. The
        user's text is taken literally: a sentinel in it is plain text. The suffix may be encoded already."""
        marks, first = {}, len(tokenizer.prefix)
        for part in PARTS:
            mark = getattr(self, part)
            marks[part] = [mark] if isinstance(mark, int) else tokenizer.encode_prompt(mark)[first:]
        after = tokenizer.encode_inside(suffix) if isinstance(suffix, str) else list(suffix)
        texts = {"prefix": tokenizer.encode(prefix), "suffix": after, "middle": []}
        room -= first + sum(map(len, marks.values()))
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
        ids = (token for part in self.order for token in (*marks[part], *texts[part]))
        return [*tokenizer.prefix, *ids], length > room

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
    if not isinstance(value, dict) or not {*PARTS} <= value.keys() <= {*PARTS, "order", "end"}:
        raise UserError(f"expected an object with {', '.join(PARTS)}, and order and end if they are needed")
    marks = [value[part] for part in PARTS]
    order, end = value.get("order", [*PARTS]), value.get("end", [])
    if not all((isinstance(mark, str) and mark) or (type(mark) is int and mark >= 0) for mark in marks):
        raise UserError(f"{', '.join(PARTS)} are not texts or ids; give the model's sentinels")
    if len({*marks}) < len(marks):
        raise UserError(f"{', '.join(PARTS)} are not three different sentinels; give the model's")
    if not isinstance(order, list) or sorted(map(str, order)) != sorted(PARTS) or order[-1] == "suffix":
        remedy = "give prefix, suffix and middle in the model's order, suffix not last"
        raise UserError(f"order is {order}; {remedy}")
    if not isinstance(end, list) or not all(isinstance(text, str) and text for text in end):
        raise UserError(f"end is {end}; give a list of texts")
    return Sentinels(*marks, order=tuple(order), end=tuple(end))
