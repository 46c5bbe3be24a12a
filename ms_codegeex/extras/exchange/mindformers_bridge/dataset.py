"""A prepared dataset directory as a `mindspore.dataset`, in the order `ms-codegeex train` reads it.

mindformers' own reader of this file format, BlendedMegatronDatasetDataLoader, does not run on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore.dataset import GeneratorDataset

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.batches import PackedSequences, Sequences
from ms_codegeex.data.datasets.opening import open_sequences

COLUMNS = ["input_ids", "samples"]
DEFAULT_SEED = 1234  # as in `ms-codegeex train`; mindformers' Trainer sets MindSpore's from the YAML's `seed`


def current_seed() -> int:
    seed = ms.get_seed()
    return DEFAULT_SEED if seed is None else int(seed)


@dataclass
class _Samples:
    """The sequences of a run by number i: ids int32 [seq_length + 1] and i itself, which seeds the dropout masks."""

    data: Sequences
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        batch = self.data.training_batch(int(number), 1)
        return np.append(batch.inputs[0], batch.labels[0, -1]), batch.samples[0]


def packed_sequences(
    dataset_dir: str | None = None,
    seq_length: int | None = None,
    split: str = "train",
    num_samples: int | None = None,
    column_names: list[str] | None = None,
    num_shards: int | None = None,
    shard_id: int | None = None,
    **trainers: Any,
) -> GeneratorDataset:
    """mindformers' data loader `PackedSequences` over a directory made by `ms-codegeex prepare`.

    Args:
        dataset_dir: the directory.
        seq_length: tokens that a sequence predicts; rows have one more.
        split: `train` or `validation`.
        num_samples: sequences per epoch, by default each one once; more repeat the data in another order.
        column_names: `input_columns` of the YAML's `train_dataset`, the names of the columns.
        num_shards: devices that share the data; together, the batches of a step are one batch of a single device.
        shard_id: number of this device.
        trainers: what mindformers passes to every loader (batch size, workers); batching comes after this loader.
    """
    where = "train_dataset.data_loader"
    if not isinstance(dataset_dir, str) or not (Path(dataset_dir) / "dataset.json").is_file():
        made = "make one with `ms-codegeex prepare --input PATH --output DIR`"
        raise UserError(f"{where}.dataset_dir: {dataset_dir} is not a dataset directory (no dataset.json); {made}")
    if type(seq_length) is not int or seq_length < 1:
        raise UserError(f"{where}.seq_length: found {seq_length!r}; give the model's seq_length")
    if num_samples is not None and (type(num_samples) is not int or num_samples < 1):
        raise UserError(f"{where}.num_samples: found {num_samples!r}; give the sequences per epoch, or leave it out")
    if column_names != COLUMNS:
        raise UserError(f"train_dataset.input_columns: found {column_names}; set it to {COLUMNS}")
    data = open_sequences(Path(dataset_dir), split, seq_length, current_seed())
    if not isinstance(data, PackedSequences):
        holds = f"{dataset_dir} holds fine-tuning examples, whose masks this loader does not pass on"
        raise UserError(f"{where}.dataset_dir: {holds}; train on them with `ms-codegeex train`")
    source = _Samples(data, num_samples or data.size)
    shards = {"num_shards": num_shards, "shard_id": shard_id} if num_shards and num_shards > 1 else {}
    alone = {"shuffle": False, "num_parallel_workers": 1, "python_multiprocessing": False}
    return GeneratorDataset(source, COLUMNS, **alone, **shards)
