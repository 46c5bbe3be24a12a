"""What it takes a rank's host to compile its graphs: MindSpore partitions each block once, and repeats it in each
micro-batch of a graph.

The figures are fitted to first contact (MindSpore 2.9's Ascend plugin on an x86 core, without CANN's kernels). How far
they are from it is in `benchmarks/RESULTS.md`. A server's cores may be slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import GIB

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

SECONDS, BYTES = 5.0, 0.9e9  # of a run
# Of each block once, and in each micro-batch of each graph: without a pipeline, and with one.
FLAT = (1.0, 0.065e9), (0.20, 2e6)
PIPELINE = (1.8, 0.12e9), (0.28, 5.5e6)
SHARED_BYTES = 0.34e9  # of these, of libraries that all ranks of a server share
LONGEST = 600.0  # seconds; a search finds no plan that takes longer
LARGEST = 160 * GIB  # host memory of a server


@dataclass(frozen=True)
class Compilation:
    """Estimated seconds and bytes of host memory of one rank, and bytes of all ranks of a server."""

    seconds: float
    rank_bytes: float
    server_bytes: float

    @property
    def bounded(self) -> bool:
        return self.seconds <= LONGEST and self.server_bytes <= LARGEST

    @property
    def text(self) -> str:
        host = f"{self.rank_bytes / GIB:.1f} GiB of host memory a rank, {self.server_bytes / GIB:.0f} a server"
        return f"compilation: about {self.seconds / 60:.1f} minutes at every start, {host}"


def compilation(config: RunConfig, micro_batches: int | None = None) -> Compilation:
    """The estimate for a run, with as many `micro_batches` in its graph (None: its own)."""
    mesh = config.mesh
    number = config.graph_micro_batches if micro_batches is None else micro_batches
    evaluated = config.evaluated_of(number) if mesh.pipeline > 1 else 1
    blocks = max(mesh.layers_per_stage(config.model.sizes.attention_layers))
    once, again = PIPELINE if mesh.pipeline > 1 else FLAT
    seconds = SECONDS + blocks * (once[0] + again[0] * (number + evaluated))
    rank_bytes = BYTES + blocks * (once[1] + again[1] * (number + evaluated))
    ranks = min(config.devices, config.parallel.server_devices)
    server_bytes = SHARED_BYTES + ranks * (rank_bytes - SHARED_BYTES)
    return Compilation(seconds, rank_bytes, server_bytes)


def bounded_graph(config: RunConfig) -> int | None:
    """The most micro-batches of a graph whose compilation is bounded; None if even the fewest take too much."""
    possible = (x for x in range(config.accumulation, 0, -1) if config.fills_graph(x))
    return next((x for x in possible if compilation(config, x).bounded), None)
