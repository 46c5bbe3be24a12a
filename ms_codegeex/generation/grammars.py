"""Answers in a given form: the tokens that a JSON schema or a grammar allows next.

The library is llguidance, which llama.cpp and vLLM offer too: it walks the tree of all tokens' bytes with a parser, in
microseconds. It is imported when an answer first needs it. Schemas and grammars come from strangers, so that their
size, and the work for each of their tokens, are limited; work on one runs without the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.generation.choice import TokenChoice, restricted
from ms_codegeex.generation.sampling import SamplingSettings

MAX_CHARACTERS = 16384  # of a schema or grammar
# of llguidance: at most about 20 ms for the start, and 4 ms for a token; its states are 1 to 2 kB each
LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 50_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
SPACE = r" ?|\n{1,2}[ \t]{0,20}"  # between the parts of JSON: a model could go on with white space for ever


def _library() -> ModuleType:
    try:
        import llguidance
        import llguidance.gbnf_to_lark
    except ModuleNotFoundError:
        raise UserError(
            "needs the package llguidance, which is not installed where the model runs; run `pip install llguidance`"
        ) from None
    return llguidance


def _prepared(library: ModuleType, settings: SamplingSettings) -> str:
    """What the library takes. `UserError` or `ValueError` if it is too large or malformed."""
    text = settings.json_schema or settings.grammar
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{len(text)} characters; give {MAX_CHARACTERS} at most")
    if settings.grammar:
        return library.LLMatcher.grammar_from_lark(library.gbnf_to_lark.any_to_lark(text))
    parse_json(text)  # its limits of depth and digits
    return library.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": SPACE})


def _compiled(settings: SamplingSettings, tokenizer: Any = None) -> Any:
    """The matcher for a tokenizer, or None if there is none; `UserError` with the field's name for a bad grammar."""
    field = "json_schema" if settings.json_schema else "grammar"
    try:
        library = _library()
        limits, grammar = library.LLParserLimits(**LIMITS), _prepared(library, settings)
        if tokenizer is None:
            wrong, messages = library.LLMatcher.validate_grammar_with_warnings(grammar, limits=limits)
            error, matcher = messages[0] if wrong else "", None
        else:
            matcher = library.LLMatcher(tokenizer, grammar, limits=limits, log_level=0)
            error = matcher.get_error()
    except UserError as wrong:
        raise UserError(f"{field}: {wrong}") from None
    except Exception as wrong:  # the library's converter raises errors of many classes, a RecursionError too
        error = first_line(wrong)
    if error:
        raise UserError(f"{field}: cannot be used ({first_line(error)[:200]}); correct it")
    return matcher


def check(settings: SamplingSettings) -> None:
    """`UserError`, which begins with the setting's name, for a bad grammar or schema, or without the library. To be
    called in a thread: takes up to a second."""
    if settings.formed:
        _compiled(settings)


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
        reads the tokenizer, in about a second. `UserError` as for `check`."""
        if not settings.formed:
            return None
        with self._lock:
            if self._tokenizer is None:
                check(settings)
                library, source = _library(), _Vocabulary(self._source, self._allowed)
                wrapper = library.TokenizerWrapper(source)
                # without slices: they make masks faster that are fast already, and take seconds
                self._tokenizer = library.LLTokenizer(wrapper, n_vocab=self._allowed, slices=[])
        return Constraint(_compiled(settings, self._tokenizer), self._allowed, self._source.eos_id)


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
        """Read the tokens of the answer that are new."""
        new = list(output[self._read :])
        if not new or self.error:
            return
        self._read, self._masks = len(output), {}
        if not self._matcher.consume_tokens(new):
            self._fail()

    def ends(self, output: Sequence[int]) -> bool:
        """Whether nothing but the end can follow the answer."""
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
