"""Which rows of a batch a rank loads, which shard of each tensor it holds, and which of the holders saves it."""

from __future__ import annotations

from ms_codegeex.config import RunConfig
from ms_codegeex.parallel.sharding import ParameterLayout, layouts_of

MOMENTS = ("optimizer.m.", "optimizer.v.")


def loaded_rows(config: RunConfig, rank: int) -> slice:
    """The rows of a global batch that a rank loads: the devices of its stage share them equally."""
    devices = config.mesh.stage_size
    local = config.training.global_batch // devices
    return slice(rank % devices * local, (rank % devices + 1) * local)


class Placement:
    """What one rank holds. A tensor is a weight or one of its moments, which are sharded as the weight is."""

    def __init__(self, config: RunConfig, rank: int):
        self.mesh, self.rank = config.mesh, rank
        self.layouts: dict[str, ParameterLayout] | None = None
        if config.partitioned:
            self.layouts = {layout.name: layout for layout in layouts_of(config)}

    def _layout(self, name: str) -> tuple[str, ParameterLayout]:
        prefix = next((prefix for prefix in MOMENTS if name.startswith(prefix)), "")
        return prefix, self.layouts[name.removeprefix(prefix)]

    def here(self, name: str) -> bool:
        """Whether this rank's stage has the tensor."""
        return self.layouts is None or self._layout(name)[1].stage == self.mesh.coordinates(self.rank)[0]

    def stored_name(self, name: str) -> str:
        """The name in checkpoints; that of the owner for a copy."""
        if self.layouts is None:
            return name
        prefix, layout = self._layout(name)
        return prefix + (layout.copy_of or layout.name)

    def window(self, name: str) -> tuple[slice, ...] | None:
        """The slice of the whole tensor that this rank holds; None: all of it."""
        return None if self.layouts is None else self._layout(name)[1].window(self.mesh, self.rank)

    def shape(self, name: str, local: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the whole tensor."""
        return local if self.layouts is None else self._layout(name)[1].shape

    def writes(self, name: str) -> bool:
        """Whether this rank saves its shard: it is the first of those that hold it."""
        if self.layouts is None:
            return self.rank == 0
        return self._layout(name)[1].saved_by(self.mesh, self.rank)
