"""Text from a model: a prompt goes in, tokens come out one by one.

A prompt takes a pass for each chunk and each new token another; keys and values are cached (`slots.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np

from ms_codegeex.errors import PromptTooLong, UserError
from ms_codegeex.generation.beams import next_tokens
from ms_codegeex.generation.choice import Chosen, token_choice
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.slots import SlotEngine
from ms_codegeex.generation.stopping import Ending, Rule, until
from ms_codegeex.host import available_cores


class Generator:
    """A model that continues prompts, loaded from a model directory (quantised or not), a run directory or a
    checkpoint.

    `threads` (default: all cores) run the compiled operators; with 0, MindSpore's own operators do the work. `fast` and
    `cache_bits` as in `SlotEngine`.
    """

    def __init__(
        self,
        path: Path,
        seq_length: int | None = None,
        threads: int | None = None,
        *,
        fast: bool = False,
        cache_bits: int = 32,
    ):
        ms.set_context(mode=ms.GRAPH_MODE)
        model = load_model(Path(path))
        self.path, self.config, self.tokenizer = model.path, model.config, model.tokenizer
        self.seq_length = seq_length or self.config.max_position_embeddings
        self.engine = SlotEngine(
            model.family.model,
            self.config,
            model.weights,
            self.seq_length,
            allowed=self.tokenizer.vocab_size,
            threads=available_cores() if threads is None else threads,
            fast=fast,
            cache_bits=cache_bits,
        )

    def encode(self, prompt: str, truncate_for: int | None = None) -> list[int]:
        """Ids of a prompt. One that leaves no room for an answer raises `PromptTooLong`.

        With `truncate_for`, the length of an answer in tokens, a prompt that leaves less room loses its start.
        """
        if not prompt:
            raise UserError("prompt: empty; give some text, for example '# language: Python'")
        ids = self.tokenizer.encode_prompt(prompt)
        if truncate_for is not None:
            ids = self.tokenizer.truncate_prompt(ids, self.seq_length - truncate_for)
        if len(ids) >= self.seq_length:
            raise PromptTooLong(
                f"prompt: {len(ids)} tokens, the model's context is {self.seq_length}; shorten the prompt"
            )
        return ids

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """FP32 [vocab_size]: scores of the token that follows `ids`. `UserError` for an id without a token."""
        self._check(ids)
        return self.engine.logits(0, ids)

    def all_logits(self, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids), vocab_size]: scores of the token that follows each of `ids`. `UserError` as for `logits`."""
        self._check(ids)
        return self.engine.all_logits(0, ids)

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids) - 1]: the natural logarithm of the probability of each of `ids` but the first, given those
        before it. Embedding rows without a token take part in the softmax, as in training. `UserError` as for
        `logits`."""
        self._check(ids)
        return self.engine.log_probabilities(0, ids)

    def _check(self, ids: Sequence[int]) -> None:
        if not 0 < len(ids) <= self.seq_length:
            raise UserError(f"prompt: {len(ids)} tokens, the model takes 1 to {self.seq_length}")
        if wrong := [i for i in ids if not 0 <= i < self.tokenizer.vocab_size]:
            raise UserError(f"prompt: token id {wrong[0]} has no token; ids are 0 to {self.tokenizer.vocab_size - 1}")

    def chosen(self, ids: Sequence[int], settings: SamplingSettings) -> Iterator[Chosen]:
        """New tokens until eos (not yielded), `max_new_tokens` or the end of the model's context. `UserError` for a
        bias of an id without a token."""
        if wrong := [number for number in settings.logit_bias if number >= self.tokenizer.vocab_size]:
            raise UserError(f"logit_bias: id {wrong[0]} has no token; ids are 0 to {self.tokenizer.vocab_size - 1}")
        return self._chosen(list(ids), settings)

    def _chosen(self, prompt: list[int], settings: SamplingSettings) -> Iterator[Chosen]:
        output: list[int] = []
        for _ in range(min(settings.max_new_tokens, self.seq_length - len(prompt))):
            choice = token_choice(settings, prompt, output)
            chosen = self.engine.next({0: prompt + output}, {0: choice})[0]
            if chosen.token == self.tokenizer.eos_id:
                return
            output.append(chosen.token)
            yield chosen

    def tokens(self, ids: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """The ids of `chosen`."""
        return (chosen.token for chosen in self.chosen(ids, settings))

    def likeliest(self, sequences: Sequence[Sequence[int]], count: int) -> list[Sequence[tuple[int, float]]]:
        """The `count` likeliest tokens after each sequence, with their log-probabilities."""
        return next_tokens(self.engine, range(self.engine.slots), sequences, count)

    def stream(self, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None = None) -> Iterator[str]:
        """The continuation of a prompt's ids as text, in pieces of whole characters, up to a stop text or to where
        `rule` ends it."""
        pieces = self.tokenizer.continuation(ids, self.tokens(ids, settings))
        return until(pieces, Ending(settings.stop, rule))

    def generate(self, prompt: str, settings: SamplingSettings) -> str:
        """The whole continuation, without the prompt."""
        return "".join(self.stream(self.encode(prompt), settings))
