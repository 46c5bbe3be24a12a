"""Batches of packed sequences from an indexed dataset: what each device reads at each step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_codegeex.data.indexed import IndexedDataset
from ms_codegeex.data.order import sample_indices
from ms_codegeex.errors import UserError
from ms_codegeex.files import read_json


@dataclass(frozen=True)
class Batch:
    """Sequences of one device: inputs and labels int32 [batch, seq], loss_mask FP32 [batch, seq], samples int32
    [batch]."""

    inputs: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    samples: np.ndarray

    def rows(self, start: int, stop: int) -> Batch:
        """The sequences start..stop-1."""
        return Batch(*(getattr(self, name)[start:stop] for name in ("inputs", "labels", "loss_mask", "samples")))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """In the order the networks take them."""
        return self.inputs, self.labels, self.loss_mask, self.samples


class PackedSequences:
    """A split of a dataset directory cut into sequences of `seq_length` + 1 tokens that share their border token.

    No padding; documents are separated by eos. The loss counts a position iff its input is not eos: what follows an eos
    belongs to another document (CodeGeeX release).
    """

    def __init__(self, directory: Path, split: str, seq_length: int, seed: int):
        self.directory, self.seq_length, self.seed = Path(directory), seq_length, seed
        self.info = read_json(self.directory / "dataset.json")
        if not isinstance(self.info, dict) or not all(type(self.info.get(k)) is int for k in ("vocab_size", "eos_id")):
            raise UserError(
                f"{self.directory}/dataset.json: vocab_size and eos_id are missing; prepare the dataset again"
            )
        self.tokens = IndexedDataset(self.directory / split).tokens
        self.eos = self.info["eos_id"]
        self.size = (len(self.tokens) - 1) // seq_length
        if self.size < 1:
            raise UserError(
                f"{self.directory}/{split}.bin: {len(self.tokens)} tokens are less than one sequence of "
                f"{seq_length} (data.seq_length); give more text or a shorter sequence"
            )

    def _read(self, indices: np.ndarray, numbers: np.ndarray) -> Batch:
        starts = indices * self.seq_length
        rows = np.stack([self.tokens[s : s + self.seq_length + 1] for s in starts]).astype(np.int32)
        inputs, labels = rows[:, :-1], rows[:, 1:]
        return Batch(
            np.ascontiguousarray(inputs),
            np.ascontiguousarray(labels),
            (inputs != self.eos).astype(np.float32),
            (numbers % 2**31).astype(np.int32),
        )

    def training_batch(self, first: int, count: int) -> Batch:
        """Samples with the global numbers first..first+count-1, in the seed's order; epochs follow each other."""
        numbers = np.arange(first, first + count, dtype=np.int64)
        return self._read(sample_indices(numbers, self.size, self.seed), numbers)

    def evaluation_batch(self, rank: int, ranks: int, samples: int) -> Batch:
        """This rank's share of `samples` evenly spaced sequences; shares are padded with masked sequences to equal
        size."""
        samples = min(samples, self.size)
        share = -(-samples // ranks)
        numbers = np.arange(rank * share, (rank + 1) * share)
        batch = self._read(np.minimum(numbers, samples - 1) * self.size // samples, numbers)
        batch.loss_mask[numbers >= samples] = 0.0
        return batch

    def check_model(self, vocab_size: int, eos_token_id: int) -> None:
        """`UserError` if the corpus holds ids beyond the model's table or ends its documents with another token."""
        if self.info["vocab_size"] > vocab_size:
            raise UserError(
                f"model.vocab_size: {vocab_size} rows, but {self.directory} was tokenised with "
                f"{self.info['vocab_size']} ids; enlarge the table or prepare the corpus with another tokenizer"
            )
        if self.eos != eos_token_id:
            raise UserError(
                f"model.eos_token_id: {eos_token_id}, but the documents of {self.directory} end with {self.eos}; "
                "set it to the dataset's"
            )


def shuffle_context(batch: Batch, eos: int, seed: int) -> Batch:
    """The same labels behind inputs whose tokens are permuted inside each document; eos tokens stay where they are.

    A model that uses more than token frequencies gets worse on it.
    """
    inputs = batch.inputs.copy()
    for row, sample in zip(inputs, batch.samples, strict=True):
        generator = np.random.default_rng([seed, int(sample)])
        borders = [-1, *np.flatnonzero(row == eos), len(row)]
        for start, stop in itertools.pairwise(borders):
            row[start + 1 : stop] = generator.permutation(row[start + 1 : stop])
    return Batch(inputs, batch.labels, batch.loss_mask, batch.samples)


def unigram_entropy(sequences: PackedSequences) -> float:
    """Entropy in nats of the tokens that the loss counts, over the whole split: the loss of a table of frequencies."""
    tokens = np.asarray(sequences.tokens)
    counts = np.bincount(tokens[1:][tokens[:-1] != sequences.eos])
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())
