"""Partition a built network over a mesh: strategies of its operators, stages, recomputation, gradient buckets.

The family's table lists a network's layers and their roles; `models/causal.py` names the cells around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING

from mindspore import nn
from mindspore.ops import Primitive

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.models.causal import CausalLoss
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.layers import Linear
from ms_codegeex.models.parameters import norms_of
from ms_codegeex.parallel.sharding import borders_of_recomputation, layouts_of, recompute_of_blocks
from ms_codegeex.parallel.strategies import Strategies

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


def partition(network: CausalLoss, config: RunConfig) -> None:
    """Set strategies, stages, recomputation, fusion groups and optimizer-shard exclusions on a built `Loss`."""
    sizes, model = config.model.sizes, network.model
    tail = _tail(model, sizes)
    _shard(network, sizes, [*model.blocks, *_blocks_of(tail)], Strategies.of(config))
    recompute(network, config)
    if config.mesh.pipeline > 1:
        _place(network, sizes, tail, config.mesh)
    _fuse(network, tail, config.parallel.fusion.allreduce_groups)
    sharded = {layout.name for layout in layouts_of(config) if layout.optimizer_sharded}
    for parameter in network.get_parameters():  # MindSpore shards frozen parameters, too
        parameter.parallel_optimizer = parameter.name in sharded


def _tail(model: nn.Cell, sizes: DecoderConfig) -> list[nn.Cell]:
    names = dict.fromkeys(layer.name.partition(".")[0] for layer in sizes.table.last)
    return [getattr(model, name) for name in names if name != "head"]


def _shard(network: CausalLoss, sizes: DecoderConfig, blocks: Sequence[nn.Cell], strategies: Strategies) -> None:
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
        for cell in (block.attention, block.feed_forward):
            if cell.narrow is not None:
                strategies.narrow(cell.narrow, 1, strategies.data)
    strategies.loss(network.loss)
    strategies.sums(network.sums)


def _blocks_of(tail: Sequence[nn.Cell]) -> list[nn.Cell]:
    return [cell for cell in tail if hasattr(cell, "attention")]


def recompute(network: CausalLoss, config: RunConfig) -> None:
    """Drop each block's activations until the backward pass, or only those that are large and quick to recompute, as
    `recompute_of_blocks` says. A block keeps its input, split over the tensor-parallel devices and gathered again; the
    input of a block in the tail is not split (CodeGeeX release). A fused attention keeps no scores. A block that saves
    its all-reduce results does not split its input either: with both switches MindSpore creates a cyclic graph."""
    blocks, sizes, again = network.model.blocks, config.model.sizes, config.parallel.overlap.recompute_collectives
    listed = [*blocks, *_blocks_of(_tail(network.model, sizes))]
    borders = borders_of_recomputation(config)
    for i, (block, what) in enumerate(zip(listed, recompute_of_blocks(config), strict=True)):
        if what == "full" and i < len(blocks):
            sliced = config.mesh.tensor > 1 and again
            block.recompute(recompute_slice_activation=sliced, mp_comm_recompute=again)
        elif what == "full":
            block.recompute(mp_comm_recompute=again)
        elif what == "selective":
            _recompute_cheap(block, sizes, config, follows=i in borders)


def _recompute_cheap(block: nn.Cell, sizes: DecoderConfig, config: RunConfig, follows: bool) -> None:
    """Recompute what is large and quick to compute: scores with softmax, casts to FP32 before a norm's kernel; on
    Ascend also what an activation keeps in addition to its inputs, and casts of weights that are held whole. `follows`:
    the preceding block is recomputed, too. To recompute the cast of its result, MindSpore would repeat its last
    product, so this cast is kept."""
    if not hasattr(block.attention.core, "kernel"):
        block.attention.core.recompute()
    for layer in norms_of(sizes.table.block)[int(follows) :]:
        norm = attrgetter(layer.name)(block)
        if hasattr(norm, "kernel") and config.training.precision != "fp32":
            norm.up.recompute()
    if config.device != "ascend":
        return
    for name in ("scale", "sigmoid", "silu"):
        if isinstance(operator := getattr(block.feed_forward.activation, name, None), Primitive):
            operator.recompute()
    for _, cell in block.cells_and_names():
        if isinstance(cell, Linear) and config.mesh.optimizer_shard == 1 and config.training.precision != "fp32":
            cell.cast_weight.recompute()


def _place(network: CausalLoss, sizes: DecoderConfig, tail: Sequence[nn.Cell], mesh: Mesh) -> None:
    model = network.model
    model.embedding.pipeline_stage = 0
    for i, block in enumerate(model.blocks):
        block.pipeline_stage = mesh.stage_of(i, sizes.attention_layers)
    for cell in (*tail, model.head, network.loss, network.sums):
        cell.pipeline_stage = mesh.pipeline - 1


def _fuse(network: CausalLoss, tail: Sequence[nn.Cell], groups: int) -> None:
    blocks = network.model.blocks
    _bucket(network, min(groups, 1))  # 0 would reduce every parameter alone
    if not groups:
        return
    for i, block in enumerate(blocks):
        _bucket(block, i * groups // len(blocks) + 1)
    for cell in (*tail, *filter(None, [network.model.head])):
        _bucket(cell, groups)


def _bucket(cell: nn.Cell, number: int) -> None:
    for parameter in cell.get_parameters():
        parameter.comm_fusion = number
