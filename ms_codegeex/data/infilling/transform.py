"""Texts rearranged for training to fill in the middle, a pure function of seed and sample (Bavarian et al., 2022).

A text is split at two random characters into prefix, middle and suffix. Each part is tokenised alone, as in the prompts
of the trained model, and the middle moves to the end:

    psm   <prefix> prefix <suffix> suffix <middle> middle <end>
    spm   <suffix> suffix <prefix> prefix <middle> middle <end>

Of the files of a repository, the last one in a text is split, and the others stay before it.

The text keeps its number of tokens, so that every sample stays where it is in the dataset. Sentinels and split words
need a few tokens; to make room, the suffix loses its end or the prefix its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.infilling.rearranging import RearrangedText
from ms_codegeex.data.infilling.sentinels import ORDERS, PARTS, Sentinels, check_id, sentinels
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder, text_decoder

if TYPE_CHECKING:
    from ms_codegeex.config.sections import InfillConfig

KEY = "data.infill"
ENOUGH = 2  # a part must have this many times the tokens that it loses


class Infilling:
    """Rearranges texts with the tokenizer that made their ids; `seed` seeds the choices. `marks` are the ids of
    the sentinels of prefix, suffix and middle. `UserError` if they do not fit the tokenizer."""

    def __init__(self, config: InfillConfig, tokenizer: Tokenizer, seed: int) -> None:
        marks = tuple(config.sentinels) if config.sentinels is not None else tokenizer.sentinels
        if len({*marks}) != len(PARTS) or len(marks) != len(PARTS):
            raise UserError(f"{KEY}.sentinels: {list(marks)}; give three different ids, for prefix, suffix and middle")
        for part, number in zip(PARTS, marks, strict=True):
            check_id(number, tokenizer, f"{KEY}.sentinels: {part}")
        self.rate, self.level, self.seed = config.rate or 0.0, config.level, seed
        self.marks = dict(zip(PARTS, marks, strict=True))
        self._asked = sentinels(tokenizer.infilling) if tokenizer.infilling and marks == tokenizer.sentinels else None
        self.modes = ("psm", "spm") if config.mode == "both" else (config.mode,)
        self._eos, self._prefix = tokenizer.eos_id, np.array(tokenizer.prefix, np.int64)
        self._file_marks = np.array(tokenizer.file_marks or (), np.int64)
        self._encoder, self._decode = CorpusEncoder(tokenizer), text_decoder(tokenizer)

    @property
    def sentinels(self) -> Sentinels:
        """How to prompt a model trained with this. One trained in both orders is asked with the suffix first, or as the
        released models with the same marks."""
        orders = [ORDERS[mode] for mode in self.modes]
        if self._asked is None:
            return Sentinels(**self.marks, order=orders[-1])
        order = self._asked.order if self._asked.order in orders else orders[0]
        return replace(self._asked, **self.marks, order=order, frame=("", ""))

    def rearrange(
        self, ids: np.ndarray, key: tuple[int, ...], *, ended: bool = True, prompt: int = 0
    ) -> RearrangedText | None:
        """A text with the same number of tokens and its middle at its end, or None if it stays unchanged. `ids`, int
        `[n]`, lack the end token; unless it follows (`ended`), it takes the last position. `key` identifies the text;
        it and the seed decide all choices. The first `prompt` tokens stay in the prefix; the loss leaves them out."""
        generator = np.random.default_rng([self.seed, *key])
        if generator.random() >= self.rate:
            return None
        mode = self.modes[int(generator.integers(len(self.modes)))]
        cuts = generator.random(2)
        head = len(self._prefix) if np.array_equal(ids[: len(self._prefix)], self._prefix) else 0
        head = min(head, prompt)
        shown, text = self._last_file(ids[prompt:])
        parts = self._parts(text, cuts, inside=prompt > head or len(shown) > 0)
        if parts is None:
            return None
        texts = {"prefix": np.concatenate([ids[head:prompt], parts[0]]), "middle": parts[1], "suffix": parts[2]}
        end = [] if ended else [self._eos]
        needed = head + len(shown) + len(PARTS) + sum(map(len, texts.values())) + len(end) - len(ids)
        if not self._shorten(texts, needed):
            return None
        remaining = max(0, len(texts["prefix"]) - len(parts[0]))  # what is left of the prompt
        pieces, flags = [ids[:head], shown], [np.zeros(head, bool), np.ones(len(shown), bool)]
        for part in ORDERS[mode]:
            pieces += [np.array([self.marks[part]]), texts[part]]
            flags += [np.array([False]), np.arange(len(texts[part])) >= (remaining if part == "prefix" else 0)]
        pieces, flags = [*pieces, np.array(end)], [*flags, np.ones(len(end), bool)]
        return RearrangedText(np.concatenate(pieces).astype(np.int64), np.concatenate(flags))

    def check_rows(self, rows: int) -> None:
        """`UserError` if a model's table has no row for a sentinel."""
        maximum = max(self.marks.values())
        if maximum >= rows:
            ids = ", ".join(map(str, self.marks.values()))
            remedy = f"set it to {maximum + 1} or more (with model.grow=[vocabulary] if the run starts from a model)"
            lacking = "none is left for the sentinels of infilling"
            raise UserError(f"model.vocab_size: {rows} rows, {lacking}, ids {ids}; {remedy}")

    def check(self, ids: np.ndarray, where: str) -> None:
        """`UserError` if a sentinel occurs in a dataset's text."""
        for part, number in self.marks.items():
            if (ids == number).any():
                remedy = f"choose other ids with {KEY}.sentinels, or prepare it again with --replace"
                raise UserError(f"{where}: holds id {number}, which marks the {part} for infilling; {remedy}")

    def _last_file(self, ids: np.ndarray) -> tuple[np.ndarray, bytes]:
        last = np.flatnonzero(np.isin(ids, self._file_marks))[-1:]
        if not last.size:
            return ids[:0], self._decode(ids.tolist())
        path, line_end, text = self._decode(ids[last[0] + 1 :].tolist()).partition(b"\n")
        if not line_end:
            return ids, b""
        return np.concatenate([ids[: last[0] + 1], self._encoder.encode_inside(path + line_end)]), text

    def _parts(self, data: bytes, cuts: np.ndarray, inside: bool) -> tuple[np.ndarray, ...] | None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        if "\ufffd" in text:
            return None
        first, second = sorted((cuts * (len(text) + 1)).astype(int).tolist())
        prefix, middle, suffix = (part.encode() for part in (text[:first], text[first:second], text[second:]))
        begin = self._encoder.encode_inside(prefix) if inside else self._encoder.encode(prefix)
        return begin, self._encoder.encode_inside(middle), self._encoder.encode_inside(suffix)

    @staticmethod
    def _shorten(texts: dict[str, np.ndarray], needed: int) -> bool:
        suffix, prefix = len(texts["suffix"]), len(texts["prefix"])
        if not 0 <= ENOUGH * needed <= suffix + prefix:
            return False
        first = 0 if suffix < ENOUGH * needed <= prefix else min(suffix, needed)
        texts["suffix"] = texts["suffix"][: suffix - first]
        texts["prefix"] = texts["prefix"][needed - first :]
        return True


def chosen(config: InfillConfig | None, info: Mapping[str, Any], where: str) -> InfillConfig | None:
    """The settings for a dataset: the run's, or what its dataset.json records; None if nothing is rearranged."""
    if config is not None and config.rate is not None:
        return config if config.rate else None
    recorded = info.get("infill")
    if config is None or recorded is None:
        return None
    # late: the workers of `prepare` need no configuration of runs
    from ms_codegeex.config.sections import InfillConfig
    from ms_codegeex.config.validation import validated

    if not isinstance(recorded, dict):
        raise UserError(f"{where}: infill is {recorded!r}, expected an object; prepare it again with --replace")
    settings: InfillConfig = validated(InfillConfig, recorded, f"{where}: infill.")
    return settings if settings.rate else None


def infill_record(config: InfillConfig | None, tokenizer: Tokenizer) -> dict[str, Any]:
    """The entry for infilling in dataset.json, with the ids of the sentinels; `UserError` if they do not fit."""
    if config is None:
        return {}
    marks = list(Infilling(config, tokenizer, 0).marks.values())
    return {"infill": {"rate": config.rate, "mode": config.mode, "level": config.level, "sentinels": marks}}
