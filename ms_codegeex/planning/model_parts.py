"""The parts of a model with their operators, derived from the family's table of parameters and its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from ms_codegeex.hardware import Device
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.parameters import KEY_VALUE, LAYER_NORM, RMS_NORM, ROW, TABLE, Layer
from ms_codegeex.parallel.sharding import stage_of_block
from ms_codegeex.planning import decoder_costs as costs
from ms_codegeex.planning.cost_model import MatMul, MicroBatch, ModelPart, Vector, shape_of
from ms_codegeex.planning.decoder_costs import TensorSizes

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@lru_cache(maxsize=256)
def model_parts(model: DecoderConfig, shape: MicroBatch) -> tuple[ModelPart, ...]:
    """Every part with its stage: embedding, blocks, blocks of the tail, head; mask and rotary angles on every stage."""
    sizes, last, table = TensorSizes.of(model, shape), shape.stages - 1, model.table
    block, size = tuple(_block(model, shape, sizes)), shape.bytes * sizes.hidden
    collectives = costs.block_collectives(shape, size, side_by_side=len(_norms(table.block)) == 1)
    stages = [stage_of_block(model, shape.stages, i) for i in range(model.num_layers)]
    positions = any(layer.role is TABLE for layer in table.first)
    listed = [costs.embedding(model, shape, sizes, positions)]
    for stage in range(shape.stages):
        listed.append(costs.mask(shape, sizes, stage))
        if model.rotary_dim:
            listed.append(costs.angles(model, shape, stage))
        listed += costs.blocks(block, shape, sizes, stage, stages.count(stage), collectives)
    tail = dict.fromkeys(layer.name.partition(".")[0] for layer in table.last if "." in layer.name)
    for name in tail:  # it keeps its input and its query
        listed.append(ModelPart(name.replace("_", " "), last, 1, block, collectives, 2 * size / shape.tensor))
    before = [_norm(layer, sizes, shape) for layer in _norms(table.last) if "." not in layer.name]
    before += [_lookup(layer, sizes, size) for layer in table.last if layer.role is TABLE]
    listed.append(costs.head(model, shape, sizes, last, tuple(before), table.layer("head").bias))
    return tuple(listed)


def parts_of(config: RunConfig, device: Device) -> tuple[ModelPart, ...]:
    """All parts of the model, stage by stage, as one device of each stage computes them."""
    return model_parts(config.model.sizes, shape_of(config, device))


def _norms(layers: tuple[Layer, ...]) -> list[Layer]:
    return [layer for layer in layers if layer.role in (LAYER_NORM, RMS_NORM)]


def _norm(layer: Layer, sizes: TensorSizes, shape: MicroBatch) -> Vector:
    cost = costs.norm if layer.role is LAYER_NORM else costs.rms_norm
    name = layer.name.replace("feed_forward", "feed-forward").replace("_", " ")
    return cost(name, sizes.stream, shape.bytes, shape)


def _lookup(layer: Layer, sizes: TensorSizes, size: int) -> Vector:
    """Lookup of a whole table in FP32, with its cast; the result is kept."""
    name = layer.name.removesuffix("_embedding").replace("_", "-")
    return Vector(f"{name} lookup", 10 * sizes.hidden, 10 * sizes.hidden, size)


def _linear(
    model: DecoderConfig, shape: MicroBatch, name: str, saved: float = 0.0, last: bool = False
) -> Iterator[MatMul | Vector]:
    """A linear layer's product with what one device has of its weight."""
    layer = model.table.layer(name)
    out, into = layer.shape(model)
    if layer.role is ROW:
        into //= shape.tensor
    else:
        out = costs.kv_width(model, shape) if layer.role is KEY_VALUE else out // shape.tensor
    return costs.linear(name.rpartition(".")[2], shape.rows, into, out, shape, saved, last, layer.bias)


def _block(model: DecoderConfig, shape: MicroBatch, sizes: TensorSizes) -> Iterator[MatMul | Vector]:
    """The operators of a block in order. With a single norm, attention and feed-forward part stand side by side and
    share their input; else each has a norm and a residual addition of its own."""
    norms = _norms(model.table.block)
    side_by_side, again = len(norms) == 1, shape.mask_needs_input
    gathered = shape.bytes * sizes.hidden if shape.sequence else 0  # whole rows, kept along with the shard
    wide = [layer.name for layer in model.table.block if layer.name in ("feed_forward.gate", "feed_forward.up")]
    yield _norm(norms[0], sizes, shape)
    yield from _linear(model, shape, "attention.query", gathered)
    yield from _linear(model, shape, "attention.key")
    yield from _linear(model, shape, "attention.value")
    yield from costs.attention(model, shape, sizes)
    yield from _linear(model, shape, "attention.output", last=side_by_side and not again)
    yield costs.dropout("attention output dropout", sizes.stream, shape.bytes, shape)
    if not side_by_side:
        yield costs.residual(sizes, shape)
        yield _norm(norms[1], sizes, shape)
    for name in wide:
        yield from _linear(model, shape, name, 0.0 if side_by_side or name != wide[0] else gathered)
    yield costs.activation(model.activation, shape, sizes)
    yield from _linear(model, shape, "feed_forward.down", last=not again)
    yield costs.dropout("feed-forward dropout", sizes.stream, shape.bytes, shape)
    if side_by_side:
        yield costs.residual(sizes, shape, last=True)
    yield costs.residual(sizes, shape, last=True)
