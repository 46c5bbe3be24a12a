"""What a rank is given to train: the run's data, what it starts from, and the rank's place among the others."""

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
    """What the run trains on, and what it is validated on. `hashes`: of each dataset, for the checkpoints."""

    training: Sequences | Blend
    validation: Sequences
    hashes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunStart:
    """What the run starts from: `weights` by our names (the others are random); `description` of the model that they
    are from, over which comes what the data teach; `transition` from the learning rate of the length that the run had;
    `left_out`, the first samples of the batches that it does not train on."""

    weights: Mapping[str, LazyTensor] = field(default_factory=dict)
    description: ModelDescription = field(default_factory=ModelDescription)
    transition: Transition | None = None
    left_out: Collection[int] = ()


@dataclass(frozen=True)
class RankPlace:
    """Number `rank` of the job. `tied_group`: the communication group of the tied word embedding, if the rank belongs
    to one; `matmul_peak`: FLOP/s of its device, the reference for MFU, 0 if unknown; `library`: of the operators that
    are compiled for its CPU, if the run uses them."""

    rank: int = 0
    tied_group: str | None = None
    matmul_peak: float = 0.0
    library: Path | None = None
