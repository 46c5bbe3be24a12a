"""What the plans of all decoder networks share: layouts of linear layers, stages, recomputation, gradient buckets.

A family's plan (`ms_codegeex/models/<family>/parallel.py`) says which of its cells are cut which way; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ms_codegeex.mesh import Mesh
from ms_codegeex.parallel.sharding import ParameterLayout
from ms_codegeex.parallel.strategies import Cuts

if TYPE_CHECKING:
    from mindspore import nn

    from ms_codegeex.config import ParallelConfig, RunConfig


@dataclass(frozen=True)
class Placing:
    """Makes the layouts of one stage's cells. Optimizer sharding takes the matrices of blocks alone: tables, norms and
    biases stay whole (CodeGeeX release)."""

    mesh: Mesh
    stage: int = 0

    @property
    def _cut(self) -> int | None:
        return 0 if self.mesh.tensor > 1 else None

    def column(self, name: str, out: int, into: int, bias: bool = True, cut: bool = True) -> list[ParameterLayout]:
        """A linear layer cut by its outputs; not at all if `cut` is false.

        Then optimizer sharding leaves it whole, too: for a weight that all of `tensor` hold, MindSpore 2.9 gathers over
        neighbouring ranks what it has cut over replicas, and trains wrong (an executed rehearsal shows it).
        """
        axis, whole = self._cut if cut else None, not cut and self.mesh.tensor > 1
        shard = self.mesh.optimizer_shard > 1 and not whole
        weight = ParameterLayout(f"{name}.weight", (out, into), self.stage, axis, shard)
        return [weight, ParameterLayout(f"{name}.bias", (out,), self.stage, axis)] if bias else [weight]

    def row(self, name: str, out: int, into: int, bias: bool = True) -> list[ParameterLayout]:
        """A linear layer cut by its inputs; its bias is whole."""
        axis, shard = 1 if self.mesh.tensor > 1 else None, self.mesh.optimizer_shard > 1
        weight = ParameterLayout(f"{name}.weight", (out, into), self.stage, axis, shard)
        return [weight, ParameterLayout(f"{name}.bias", (out,), self.stage)] if bias else [weight]

    def norm(self, name: str, width: int, bias: bool = True) -> list[ParameterLayout]:
        """A normalisation, whole everywhere."""
        parts = ("weight", "bias") if bias else ("weight",)
        return [ParameterLayout(f"{name}.{part}", (width,), self.stage) for part in parts]

    def vocabulary(self, name: str, shape: tuple[int, ...], cut: bool) -> ParameterLayout:
        """A table, or a bias, with a row for each token."""
        return ParameterLayout(name, shape, self.stage, self._cut if cut else None)


def stage_of_layer(layers: int, stages: int, layer: int) -> int:
    """Stage of layer number `layer` of `layers`."""
    return layer * stages // layers


def cuts_of(mesh: Mesh, parallel: ParallelConfig) -> Cuts:
    """In how many parts a stage cuts what."""
    vocabulary = mesh.tensor if parallel.vocabulary else 1
    return Cuts(mesh.data, mesh.tensor, vocabulary, mesh.data * (mesh.tensor if parallel.sequence else 1))


def finish(
    network: nn.Cell,
    run: RunConfig,
    layouts: Iterable[ParameterLayout],
    stage_of: Callable[[int], int],
    tail: Sequence[nn.Cell],
) -> None:
    """Recomputation, stages, gradient buckets and optimizer-shard exclusions of a network whose operators are cut.

    `stage_of(i)` is the stage of block i, `tail` the cells behind the blocks but the loss: the last stage has those.
    """
    model, mesh = network.model, run.mesh
    attention = [block.attention.core for block in (*model.blocks, *tail) if hasattr(block, "attention")]
    _recompute(model, attention, run.training.recompute, mesh.tensor)
    if mesh.pipeline > 1:
        _place(network, stage_of, tail, mesh.pipeline - 1)
    _fuse(network, tail, run.parallel.fusion.allreduce_groups)
    sharded = {layout.name for layout in layouts if layout.optimizer_sharded}
    for parameter in network.trainable_params():
        parameter.parallel_optimizer = parameter.name in sharded


def _recompute(model: nn.Cell, attention: Sequence[nn.Cell], what: str, tensor: int) -> None:
    """Forget a block's activations, or its attention scores, until the backward pass.

    What a block keeps, its input, is cut over the tensor-parallel devices and gathered again. A fused attention keeps
    no scores.
    """
    if what == "full":
        for block in model.blocks:
            block.recompute(recompute_slice_activation=tensor > 1)
    if what == "selective":
        for core in attention:
            if not hasattr(core, "kernel"):
                core.recompute()


def _place(network: nn.Cell, stage_of: Callable[[int], int], tail: Sequence[nn.Cell], last: int) -> None:
    """Stages. Masks and angles have none: every stage forms them from the ids, which is cheaper than sending them."""
    model = network.model
    model.embedding.pipeline_stage = 0
    for i, block in enumerate(model.blocks):
        block.pipeline_stage = stage_of(i)
    for cell in (*tail, model.head, network.loss, network.sums):
        cell.pipeline_stage = last


def _fuse(network: nn.Cell, tail: Sequence[nn.Cell], groups: int) -> None:
    """Buckets of gradient (and sharded weight) communication by block number, the tables in the first; what lies behind
    the blocks goes with the last one (CodeGeeX release)."""
    blocks = network.model.blocks
    network.set_comm_fusion(min(groups, 1))  # 0: every parameter alone
    if not groups:
        return
    for i, block in enumerate(blocks):
        block.set_comm_fusion(i * groups // len(blocks) + 1)
    for cell in tail:
        cell.set_comm_fusion(groups)
