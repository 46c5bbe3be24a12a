"""The inputs of a rank's training: the run's data, its starting point, and the rank's place among the others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ms_codegeex.config.schedule import Transition
from ms_codegeex.data.datasets.batches import Sequences
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.formats.tensors import LazyTensor


@dataclass(frozen=True)
class RunData:
    """The training and validation data. `hashes`: a hash of each dataset, for checkpoints."""

    training: Sequences | Blend
    validation: Sequences
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunStart:
    """The starting point of a run. `weights`: by our names; missing ones are random. `description`: that of their
    model; what the data teach is added to it. `transition`: from the learning rate of the run's former length.
    `left_out`: the first sample of each batch that is skipped."""

    weights: Mapping[str, LazyTensor] = field(default_factory=dict)
    description: ModelDescription = field(default_factory=ModelDescription)
    transition: Transition | None = None
    left_out: Collection[int] = ()


@dataclass(frozen=True)
class RankPlace:
    """The place of rank `rank` in the job. `tied_group`: the communication group of the tied word embedding, if the
    rank belongs to one. `matmul_peak`: FLOP/s of its device for the MFU, 0 if unknown. `library`: the operators
    compiled for its CPU, if the run uses them."""

    rank: int = 0
    tied_group: str | None = None
    matmul_peak: float = 0.0
    library: Path | None = None
