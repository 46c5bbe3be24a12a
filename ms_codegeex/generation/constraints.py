"""Answers that follow a schema or grammar: which tokens it allows next. llguidance walks the tree of all tokens' bytes
with a parser, in microseconds and without the interpreter's lock."""

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

NEVER = -1e20  # added to a logit; more than any bias


def restricted(choice: TokenChoice, mask: np.ndarray) -> TokenChoice:
    """The same choice among the ids for which `mask`, bool [allowed], is true."""
    ids = np.flatnonzero(mask)
    if len(ids) == 1:
        return replace(choice, given=int(ids[0]), edits=())
    edits = np.ones((len(mask), 3))  # all ids, so that such choices need one more graph and no more
    edits[:, 0], edits[:, 2] = np.arange(len(mask)), np.where(mask, 0.0, NEVER)
    if len(choice.edits):
        own = np.asarray(choice.edits)
        rows = own[:, 0].astype(np.int64)
        edits[rows, 1] = own[:, 1]
        edits[rows, 2] += own[:, 2]
    return replace(choice, edits=edits)


class _Vocabulary:
    """A tokenizer as the library reads it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, allowed: int):
        self._tokenizer, self.eos_token_id = tokenizer, tokenizer.eos_id
        self.tokens = [tokenizer.token_bytes(number) for number in range(allowed)]
        # those without bytes are in no text
        self.special_token_ids = [i for i, data in enumerate(self.tokens) if not data or i == tokenizer.eos_id]

    def __call__(self, text: str | bytes) -> list[int]:
        return self._tokenizer.encode_inside(text if isinstance(text, str) else text.decode("utf-8", "replace"))


class Grammars:
    """The constraints of answers by a model with this tokenizer, whose ids are below `allowed`."""

    def __init__(self, tokenizer: Tokenizer, allowed: int):
        self._source, self._allowed, self._lock = tokenizer, allowed, Lock()
        self._tokenizer: Any = None

    def constraint(self, settings: SamplingSettings) -> Constraint | None:
        """That of an answer with these settings; None if it may be anything. Any thread may call this. The first call
        reads the tokenizer, in about a second. `UserError` as for `prepared`."""
        if not settings.formed:
            return None
        grammar = prepared(settings)
        with self._lock:
            if self._tokenizer is None:
                source = library().TokenizerWrapper(_Vocabulary(self._source, self._allowed))
                # without slices: they make masks faster that are fast already, and take seconds
                self._tokenizer = library().LLTokenizer(source, n_vocab=self._allowed, slices=[])
        limits = library().LLParserLimits(**LIMITS)
        matcher = library().LLMatcher(self._tokenizer, grammar, limits=limits, log_level=0)
        return Constraint(matcher, self._allowed, self._source.eos_id)


class Constraint:
    """The grammar of one answer, and how much of the answer it has read. `error` says why nothing can follow: a
    grammar may turn out to be too complex in the middle of an answer."""

    def __init__(self, matcher: Any, allowed: int, eos: int):
        self._matcher, self._allowed, self._eos, self._read = matcher, allowed, eos, 0
        self._masks: dict[tuple[int, ...], np.ndarray | None] = {}  # by the guess after what was read
        self.error = ""

    def applied(self, choice: TokenChoice, output: Sequence[int], guess: Sequence[int] = ()) -> TokenChoice:
        """The choice of the token after `output` and `guess`, among those that the grammar allows. A guess that the
        grammar does not allow is not accepted, and what would follow it does not matter."""
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
        """bool [allowed]: which tokens may follow; None after a wrong guess or an error."""
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
