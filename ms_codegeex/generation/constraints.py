"""Constrained decoding: which tokens a schema or grammar allows next. llguidance computes this by walking a trie of all
tokens' bytes with a parser. It takes microseconds and releases the GIL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from ms_codegeex.base.errors import first_line
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.generation.grammars import LIMITS, library, prepared
from ms_codegeex.generation.sampling import SamplingSettings

NEVER = -1e20  # added to the logits of forbidden tokens; outweighs any bias


def restricted(choice: TokenChoice, mask: np.ndarray) -> TokenChoice:
    """Return `choice` restricted to the ids for which `mask`, bool [allowed], is true."""
    ids = np.flatnonzero(mask)
    if len(ids) == 1:
        return replace(choice, given=int(ids[0]), edits=())
    edits = np.ones((len(mask), 3))  # one edit for every id: all masks share a single MindSpore graph
    edits[:, 0], edits[:, 2] = np.arange(len(mask)), np.where(mask, 0.0, NEVER)
    if len(choice.edits):
        own = np.asarray(choice.edits)
        rows = own[:, 0].astype(np.int64)
        edits[rows, 1] = own[:, 1]
        edits[rows, 2] += own[:, 2]
    return replace(choice, edits=edits)


class _Vocabulary:
    """Adapts a tokenizer to the interface that llguidance expects."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, allowed: int):
        self._tokenizer, self.eos_token_id = tokenizer, tokenizer.eos_id
        self.tokens = [tokenizer.token_bytes(number) for number in range(allowed)]
        # tokens without bytes never occur in text
        self.special_token_ids = [i for i, data in enumerate(self.tokens) if not data or i == tokenizer.eos_id]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode_inside(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Grammars:
    """Makes constraints for a model that uses `tokenizer` and whose answers contain only ids below `allowed`."""

    def __init__(self, tokenizer: Tokenizer, allowed: int):
        self._source, self._allowed, self._lock = tokenizer, allowed, Lock()
        self._tokenizer: Any = None

    def constraint(self, settings: SamplingSettings) -> Constraint | None:
        """Return a new constraint for one answer, or None if the settings contain no schema or grammar. Thread-safe.
        The first call reads the tokenizer, which takes about a second. Raises `UserError` as `prepared` does."""
        if not settings.formed:
            return None
        grammar = prepared(settings)
        with self._lock:
            if self._tokenizer is None:
                source = library().TokenizerWrapper(_Vocabulary(self._source, self._allowed))
                # no slices: precomputing them takes seconds and only speeds up masks that are fast anyway
                self._tokenizer = library().LLTokenizer(source, n_vocab=self._allowed, slices=[])
        limits = library().LLParserLimits(**LIMITS)
        matcher = library().LLMatcher(self._tokenizer, grammar, limits=limits, log_level=0)
        return Constraint(matcher, self._allowed, self._source.eos_id)


class Constraint:
    """The parser state of one answer. `error` is empty, or says why no token can follow: a grammar may turn out to be
    too complex in the middle of an answer."""

    def __init__(self, matcher: Any, allowed: int, eos: int):
        self._matcher, self._allowed, self._eos, self._read = matcher, allowed, eos, 0
        self._masks: dict[tuple[int, ...], np.ndarray | None] = {}  # by guess, for the current output
        self.error = ""

    def applied(self, choice: TokenChoice, output: Sequence[int], guess: Sequence[int] = ()) -> TokenChoice:
        """Restrict `choice`, which selects the token after `output` and `guess`, to what the grammar allows. After a
        guess that the grammar forbids, `choice` is returned unchanged: such a guess is never accepted."""
        self._read_new(output)
        key = tuple(guess)
        if key not in self._masks:
            self._masks[key] = self._mask(key)
        mask = self._masks[key]
        return choice if mask is None else restricted(choice, mask)

    def _read_new(self, output: Sequence[int]) -> None:
        new = list(output[self._read :])
        if not new or self.error:
            return
        self._read, self._masks = len(output), {}
        if not self._matcher.consume_tokens(new):
            self._fail()

    def ends(self, output: Sequence[int]) -> bool:
        self._read_new(output)
        return not self.error and self._matcher.is_stopped()

    def _mask(self, guess: tuple[int, ...]) -> np.ndarray | None:
        """Return which tokens may follow, bool [allowed], or None after a wrong guess or an error."""
        if self.error or self._eos in guess:
            return None
        right = self._matcher.try_consume_tokens(list(guess)) if guess else 0
        data = self._matcher.compute_bitmask() if right == len(guess) else None
        if self._matcher.is_error() or (right and not self._matcher.rollback(right)):
            self._fail()
            return None
        if data is None:
            return None
        mask = np.unpackbits(np.frombuffer(data, np.uint8), count=self._allowed, bitorder="little").astype(bool)
        if not mask.any():
            self._fail()
        return mask if mask.any() else None

    def _fail(self) -> None:
        reason = first_line(self._matcher.get_error() or "no token fits")[:200]
        self.error = f"the grammar cannot be followed further ({reason}); simplify it"
