"""Text from a model: a prompt goes in, tokens come out one by one.

The prompt takes one pass and each new token another; keys and values of earlier positions are cached (`cache.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.recorded import checkpoint_tokenizer, family_tokenizer
from ms_codegeex.errors import PromptTooLong, UserError
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.generation.cache import CachedLogits
from ms_codegeex.generation.sampling import SamplingSettings, sample
from ms_codegeex.models.causal import Build


def _tokenizer(source: Source) -> Tokenizer:
    """The tokenizer that the model was trained with; a `UserError` if nothing says which."""
    if source.kind == "huggingface":
        return load_tokenizer(source.path)
    if source.kind == "checkpoint":
        return checkpoint_tokenizer(source.path, Checkpoint(source.path).state, source.family.name)
    remedy = "convert it to a model directory, put its tokenizer there and generate from that"
    return family_tokenizer(source.path, source.family.name, remedy)


class Generator:
    """A model that continues prompts, loaded from a model directory, a run directory or a checkpoint."""

    def __init__(self, path: Path, seq_length: int | None = None):
        ms.set_context(mode=ms.GRAPH_MODE)
        source = open_source(Path(path))
        self.path = source.path
        self.config = source.family.config.build_config(None, source.fields)
        self.tokenizer = _tokenizer(source)
        self.seq_length = seq_length or self.config.max_position_embeddings
        modules = source.family.model
        with ms.nn.utils.no_init_parameters():  # every weight is loaded below
            network = modules.Logits(self.config, Build(seq_length=self.seq_length, reset_at_eos=False))
        network.set_train(False)
        for parameter in network.get_parameters():
            parameter.set_data(Tensor(source.tensors[parameter.name].float32()))
        self.network = CachedLogits(network, self.seq_length, self.config.eos_token_id)

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
        return self.network(ids)

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """FP32 [len(ids) - 1]: the natural logarithm of the probability of each of `ids` but the first, given those
        before it. Embedding rows without a token take part in the softmax, as in training. `UserError` as for
        `logits`."""
        self._check(ids)
        return self.network.log_probabilities(ids)

    def _check(self, ids: Sequence[int]) -> None:
        if not 0 < len(ids) <= self.seq_length:
            raise UserError(f"prompt: {len(ids)} tokens, the model takes 1 to {self.seq_length}")
        if wrong := [i for i in ids if not 0 <= i < self.tokenizer.vocab_size]:
            raise UserError(f"prompt: token id {wrong[0]} has no token; ids are 0 to {self.tokenizer.vocab_size - 1}")

    def tokens(self, ids: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """New ids until eos (not yielded), `max_new_tokens` or the end of the model's context."""
        ids, generator = list(ids), np.random.default_rng(settings.seed)
        for _ in range(min(settings.max_new_tokens, self.seq_length - len(ids))):
            token = sample(self.logits(ids), settings, self.tokenizer.vocab_size, generator)
            if token == self.tokenizer.eos_id:
                return
            ids.append(token)
            yield token

    def stream(self, ids: Sequence[int], settings: SamplingSettings) -> Iterator[str]:
        """The continuation of a prompt's ids as text, in pieces of whole characters."""
        return self.tokenizer.continuation(ids, self.tokens(ids, settings))

    def generate(self, prompt: str, settings: SamplingSettings) -> str:
        """The whole continuation, without the prompt."""
        return "".join(self.stream(self.encode(prompt), settings))
