"""Formats log-probabilities as in OpenAI's completions and chats."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from ms_codegeex.data.tokenizer.base import Continuation, Tokenizer
from ms_codegeex.extras.serving.answering import Piece
from ms_codegeex.generation.sampling import ChosenToken

MINIMUM = -9999.0  # JSON has no infinity


def token_bytes(tokenizer: Tokenizer, number: int, maximum: int | None = None) -> bytes:
    """Return a token's bytes, or those of its first `maximum` characters if it starts with as many complete ones."""
    data = tokenizer.token_bytes(number)
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(data)  # drops an incomplete character at the end
        if maximum is not None and len(text) >= maximum:
            return text[:maximum].encode()
    return data


def token_text(tokenizer: Tokenizer, number: int, maximum: int | None = None) -> str:
    """Return a token as text of at most `maximum` characters. As in OpenAI's API, other bytes become `bytes:\\xe4`."""
    data = token_bytes(tokenizer, number, maximum)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class SentToken(NamedTuple):
    """A token, its position in the answer's text, and how many of its characters were sent (None: all)."""

    chosen: ChosenToken
    place: int
    maximum: int | None = None


class SentTokens:
    """Tracks which tokens belong to the text sent so far. Tokens of a stop text or of trimmed text never do."""

    def __init__(self) -> None:
        self._sent = 0
        self._held: list[tuple[ChosenToken, tuple[int, int]]] = []

    def feed(self, piece: Piece) -> list[SentToken]:
        """Return the tokens whose text this piece completes. A stop text may truncate an answer's last token. Tokens of
        an incomplete last character, which is not sent, are returned with all their bytes."""
        self._sent += len(piece.text)
        self._held += zip(piece.tokens, piece.offsets, strict=True)
        if piece.complete:
            return [SentToken(chosen, begin) for chosen, (begin, _) in self._held]
        ready = list[SentToken]()
        for chosen, (begin, end) in self._held:
            if begin >= self._sent or (end > self._sent and piece.finish is None):
                break  # the rest of its text may follow
            ready.append(SentToken(chosen, begin, self._sent - begin if end > self._sent else None))
        del self._held[: len(ready)]
        return ready


Entry = tuple[str, float | None, dict[str, float] | None, int]  # token, log-probability, likeliest, place in the text


class Report:
    """Reports the tokens whose text has been sent, each with its `best` likeliest alternatives, in the format of
    completions. `start` is the number of characters before the answer, those of an echoed prompt."""

    def __init__(self, tokenizer: Tokenizer, best: int, start: int = 0):
        self._tokenizer, self._best, self._start, self._tokens = tokenizer, best, start, SentTokens()

    def feed(self, piece: Piece, before: Sequence[Entry] = ()) -> dict[str, Any]:
        """Return the report on the tokens whose text this piece completes, preceded by the entries `before`."""
        sent = self._tokens.feed(piece)
        entries = [*before, *(self._entry(each.chosen, self._start + each.place, each.maximum) for each in sent)]
        tokens, scores, likeliest, places = ([entry[column] for entry in entries] for column in range(4))
        top = likeliest if self._best else None
        return {"tokens": tokens, "token_logprobs": scores, "top_logprobs": top, "text_offset": places}

    def prompt(self, ids: Sequence[int], scored: Sequence[ChosenToken]) -> list[Entry]:
        """Return the entries of an echoed prompt. `scored` are all its ids except the first."""
        text = Continuation(self._tokenizer)
        lengths = accumulate(len(text.feed(number)) for number in ids[:-1])
        first: Entry = (token_text(self._tokenizer, ids[0]), None, None, 0)
        return [first, *(self._entry(*each) for each in zip(scored, lengths, strict=False))]

    def _entry(self, chosen: ChosenToken, place: int, maximum: int | None = None) -> Entry:
        likeliest: dict[str, float] = {}
        for number, score in chosen.best:  # likeliest first: only it is kept of tokens with the same text
            likeliest.setdefault(token_text(self._tokenizer, number), max(score, MINIMUM))
        return token_text(self._tokenizer, chosen.token, maximum), max(chosen.score, MINIMUM), likeliest, place


def chat_log_probabilities(tokenizer: Tokenizer, tokens: Sequence[SentToken]) -> dict[str, Any]:
    """Return the tokens' log-probabilities in the format of OpenAI's chats."""

    def entry(number: int, score: float, maximum: int | None = None) -> dict[str, Any]:
        data = token_bytes(tokenizer, number, maximum)
        return {"token": token_text(tokenizer, number, maximum), "logprob": max(score, MINIMUM), "bytes": list(data)}

    return {
        "content": [
            {**entry(chosen.token, chosen.score, maximum), "top_logprobs": [entry(*pair) for pair in chosen.best]}
            for chosen, _, maximum in tokens
        ],
        "refusal": None,
    }
