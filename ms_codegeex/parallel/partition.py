"""Partitions a built network over a mesh: strategies of its operators, stages, recomputation, gradient buckets.

Which layers a network has, and their roles, its family's table says; the cells around them are those that
`models/causal.py` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from mindspore import nn

from ms_codegeex.models.causal import CausalLoss
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.parallel.sharding import layouts_of, stage_of_block
from ms_codegeex.parallel.strategies import Strategies

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


def partition(network: CausalLoss, config: RunConfig) -> None:
    """Set strategies, stages, recomputation, fusion groups and optimizer-shard exclusions on a built `Loss`."""
    sizes, model = config.model.sizes, network.model
    tail = _tail(model, sizes)
    tail_blocks = [cell for cell in tail if hasattr(cell, "attention")]
    _shard(network, sizes, [*model.blocks, *tail_blocks], Strategies.of(config))
    _recompute(model.blocks, tail_blocks, config.training.recompute, config.mesh.tensor)
    if config.mesh.pipeline > 1:
        _place(network, sizes, tail, config.mesh.pipeline)
    _fuse(network, tail, config.parallel.fusion.allreduce_groups)
    sharded = {layout.name for layout in layouts_of(config) if layout.optimizer_sharded}
    for parameter in network.trainable_params():
        parameter.parallel_optimizer = parameter.name in sharded


def _tail(model: nn.Cell, sizes: DecoderConfig) -> list[nn.Cell]:
    """The cells after the blocks, without the head."""
    names = dict.fromkeys(layer.name.partition(".")[0] for layer in sizes.table.last)
    return [getattr(model, name) for name in names if name != "head"]


def _shard(network: CausalLoss, sizes: DecoderConfig, blocks: Sequence[nn.Cell], strategies: Strategies) -> None:
    """Strategies of all operators: those of the table's layers by role, then those of the cells around them."""
    model = network.model
    for layer in sizes.table.layers(0):
        strategies.layer(layer.role, attrgetter(layer.name)(model))
    for block in model.blocks:
        for layer in sizes.table.block:
            strategies.layer(layer.role, attrgetter(layer.name)(block))
    strategies.sample_keys(model.hash_samples)
    strategies.causal_mask(model.mask)
    if hasattr(model, "rotary"):
        strategies.rotary_table(model.rotary)
    strategies.input_embedding(model.embedding)
    for block in blocks:
        strategies.attention(block.attention.core, model.mask.reset)
        strategies.activation(block.feed_forward.activation)
        strategies.residuals(block)
    strategies.loss(network.loss)
    strategies.sums(network.sums)


def _recompute(blocks: Sequence[nn.Cell], tail_blocks: Sequence[nn.Cell], what: str, tensor: int) -> None:
    """Forget a block's activations, or its attention scores, until the backward pass.

    A block keeps its input, split over the tensor-parallel devices and gathered again; the input of a block in the tail
    stays whole (CodeGeeX release). A fused attention keeps no scores.
    """
    if what == "full":
        for block in blocks:
            block.recompute(recompute_slice_activation=tensor > 1)
        for block in tail_blocks:
            block.recompute()
    if what == "selective":
        for block in (*blocks, *tail_blocks):
            if not hasattr(block.attention.core, "kernel"):
                block.attention.core.recompute()


def _place(network: CausalLoss, sizes: DecoderConfig, tail: Sequence[nn.Cell], stages: int) -> None:
    """Stages. Masks and angles have none: every stage forms them from the ids, which is cheaper than sending them."""
    model = network.model
    model.embedding.pipeline_stage = 0
    for i, block in enumerate(model.blocks):
        block.pipeline_stage = stage_of_block(sizes, stages, i)
    for cell in (*tail, model.head, network.loss, network.sums):
        cell.pipeline_stage = stages - 1


def _fuse(network: CausalLoss, tail: Sequence[nn.Cell], groups: int) -> None:
    """Buckets of gradient (and sharded weight) communication by block number. The tables are in the first, the tail is
    in the last (CodeGeeX release)."""
    blocks = network.model.blocks
    network.set_comm_fusion(min(groups, 1))  # 0: every parameter alone
    if not groups:
        return
    for i, block in enumerate(blocks):
        block.set_comm_fusion(i * groups // len(blocks) + 1)
    for cell in tail:
        cell.set_comm_fusion(groups)
