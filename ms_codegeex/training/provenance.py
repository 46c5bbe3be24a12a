"""What a run came from, as its checkpoints record it: data, tokenizer, sentinels, and the model of its adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import Sequences
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.content import content_hashes
from ms_codegeex.formats.adapters import fingerprint
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.tensors import LazyTensor


class Provenance:
    """Computed before training, since a path may hold other data later; by rank 0, whose state alone is saved.

    Attributes:
        infill: the sentinels of the data, or else those of the model that the run starts from.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Sequences | Blend,
        rank: int,
        weights: Mapping[str, LazyTensor],
        infill: Mapping[str, Any] | None,
    ):
        self._config, self._rank = config, rank
        self._datasets = content_hashes(config.data) if rank == 0 else {}
        self._tokenizer = data.info.get("tokenizer")
        self.infill = infill if data.infilling is None else data.infilling.sentinels.to_json()
        # the model that adapters belong to; they are all that is saved
        model = set(config.model.sizes.parameter_shapes())
        base = {name: tensor for name, tensor in weights.items() if name in model}
        self._base = fingerprint(base) if config.lora.rank and rank == 0 else None

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "datasets": self._datasets,
            "base": self._base,
            "rng": {"seed": self._config.seed},
            "config": self._config.to_dict(),
            "tokenizer": self._tokenizer,
            "infill": self.infill,
        }

    def check(self, checkpoint: Checkpoint) -> None:
        """`UserError` if the adapters of a checkpoint belong to another model."""
        if self._rank == 0 and checkpoint.state.get("base") != self._base:
            raise UserError(
                f"{checkpoint.path}: its adapters belong to another model than {self._config.model.weights}; restore "
                "that model, or choose another output"
            )
