"""The parts of a model and their operators, derived from the family's table of parameters and its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from ms_codegeex.base.hardware import Chip
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.parameters import KEY_VALUE, LAYER_NORM, ROW, TABLE, Layer, norms_of
from ms_codegeex.planning import adapter_costs as adapters
from ms_codegeex.planning import decoder_costs as costs
from ms_codegeex.planning.cost_model import MatMul, MicroBatch, ModelPart, Vector, shape_of
from ms_codegeex.planning.decoder_costs import TensorSizes

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@lru_cache(maxsize=256)
def model_parts(model: DecoderConfig, shape: MicroBatch) -> tuple[ModelPart, ...]:
    """Return every part with its stage: embedding, blocks, tail, head; mask and rotary angles on each virtual stage."""
    sizes, last, table = TensorSizes.of(model, shape), shape.stages - 1, model.table
    size = shape.bytes * sizes.hidden
    positions = any(layer.role is TABLE for layer in table.first)
    listed = [costs.embedding(model, shape, sizes, positions)]
    for number, blocks in enumerate(shape.blocks):
        virtual, stage = divmod(number, shape.stages)
        first = len(listed)
        listed += costs.before_blocks(model, shape, sizes, stage)
        settings = Counter(blocks)
        for setting, count in settings.items():
            own = replace(shape, recompute=setting)
            block = _operators(model, own)
            listed += costs.blocks(block, own, sizes, stage, count, _collectives(model, own, size))
        if list(settings) == ["full", "selective"]:
            listed.append(costs.border(shape, sizes, stage))
        if virtual:
            listed[first:] = [replace(part, virtual_stage=virtual) for part in listed[first:]]
        if number == 0 and shape.adapted and blocks:
            listed = _with_first_block(listed, model, replace(shape, recompute=blocks[0]), size)
    first = len(listed)
    tail = dict.fromkeys(layer.name.partition(".")[0] for layer in table.last if "." in layer.name)
    finals = [layer for layer in norms_of(table.last) if "." not in layer.name]
    before = [operator for layer in finals for operator in _norm(layer, sizes, shape)]
    before += [_lookup(layer, sizes, size) for layer in table.last if layer.role is TABLE]
    if tail:  # which needs them until its backward pass is over
        listed.append(ModelPart("final norm", last, 1, tuple(before)))
        before = []
    for name, setting in zip(tail, shape.tail, strict=True):  # it keeps its input and its query
        own = replace(shape, recompute=setting)
        operators = _operators(model, own, asked=any(layer.role is TABLE for layer in table.last))
        kept = 2 * size / shape.tensor + (size if shape.saved_all_reduces else 0)
        collectives = _collectives(model, own, size)
        listed.append(ModelPart(name.replace("_", " "), last, 1, operators, collectives, kept, setting))
    listed.append(costs.head(model, shape, sizes, last, tuple(before), table.layer("head").bias))
    last_of_stage = len(shape.blocks) // shape.stages - 1
    if last_of_stage:
        listed[first:] = [replace(part, virtual_stage=last_of_stage) for part in listed[first:]]
    return tuple(listed)


def _collectives(model: DecoderConfig, shape: MicroBatch, size: int, first: bool = False) -> tuple:
    side_by_side = len(norms_of(model.table.block)) == 1
    planned = costs.block_collectives(shape, size, side_by_side)
    rows = [layer.name for layer in model.table.block if layer.role is ROW]
    return adapters.collectives(planned, shape, adapters.Gradients.of(shape, first, side_by_side), rows)


def _with_first_block(listed: list[ModelPart], model: DecoderConfig, shape: MicroBatch, size: int) -> list[ModelPart]:
    """Return the parts with the first block as a part of its own, since nothing before it is trained."""
    number = next(i for i, part in enumerate(listed) if part.name == "block")
    others = listed[number]
    operators = _operators(model, shape, first=True)
    first = replace(others, count=1, operators=operators, collectives=_collectives(model, shape, size, first=True))
    return [*listed[:number], first, replace(others, count=others.count - 1), *listed[number + 1 :]]


def parts_of(config: RunConfig, chip: Chip) -> tuple[ModelPart, ...]:
    return model_parts(config.model.sizes, shape_of(config, chip))


def _norm(layer: Layer, sizes: TensorSizes, shape: MicroBatch) -> tuple[Vector, ...]:
    name = layer.name.replace("feed_forward", "feed-forward").replace("_", " ")
    return costs.norm(name, sizes.stream, shape, centred=layer.role is LAYER_NORM)


def _lookup(layer: Layer, sizes: TensorSizes, size: int) -> Vector:
    """Return the lookup of a whole table in FP32, with its cast. The result is kept."""
    name = layer.name.removesuffix("_embedding").replace("_", "-")
    return Vector(f"{name} lookup", 10 * sizes.hidden, 10 * sizes.hidden, size)


def _linear(
    model: DecoderConfig,
    shape: MicroBatch,
    gradients: adapters.Gradients,
    name: str,
    saved: float = 0.0,
    last: bool = False,
) -> Iterator[MatMul | Vector]:
    layer = model.table.layer(name)
    out, into = layer.shape(model)
    if layer.role is ROW:
        into //= shape.tensor
    else:
        out = costs.kv_width(model, shape) if layer.role is KEY_VALUE else out // shape.tensor
    for operator in costs.linear(name.rpartition(".")[2], shape.rows, into, out, shape, saved, last, layer.bias):
        if isinstance(operator, MatMul):
            yield from adapters.linear(operator, name, shape, gradients, model.table)
        else:
            yield operator


def _operators(
    model: DecoderConfig, shape: MicroBatch, first: bool = False, asked: bool = False
) -> tuple[MatMul | Vector, ...]:
    return _cached_operators(model, replace(shape, replicas=1, blocks=(), tail=(), stages=1), first, asked)


@lru_cache(maxsize=2048)
def _cached_operators(model: DecoderConfig, shape: MicroBatch, first: bool, asked: bool) -> tuple[MatMul | Vector, ...]:
    return tuple(_block(model, shape, TensorSizes.of(model, shape), first, asked))


def _block(
    model: DecoderConfig, shape: MicroBatch, sizes: TensorSizes, first: bool = False, asked: bool = False
) -> Iterator[MatMul | Vector]:
    norms = norms_of(model.table.block)
    side_by_side, again = len(norms) == 1, shape.mask_needs_input
    grads = adapters.Gradients.of(shape, first, side_by_side)
    if asked and shape.adapted:
        grads = replace(grads, query=False)
    gathered = shape.bytes * sizes.hidden if shape.sequence else 0  # whole rows, kept along with the shard
    wide = [layer.name for layer in model.table.block if layer.name in ("feed_forward.gate", "feed_forward.up")]
    yield from _norm(norms[0], sizes, shape)
    yield from _linear(model, shape, grads, "attention.query", gathered)
    yield from _linear(model, shape, grads, "attention.key")
    yield from _linear(model, shape, grads, "attention.value")
    yield from adapters.attention(costs.attention(model, shape, sizes), grads)
    yield from _linear(
        model, shape, grads, "attention.output", last=(side_by_side or shape.saved_all_reduces) and not again
    )
    yield costs.dropout("attention output dropout", sizes.stream, shape.bytes, shape)
    if not side_by_side:
        yield costs.residual(sizes, shape)
        yield from _norm(norms[1], sizes, shape)
    for name in wide:
        yield from _linear(model, shape, grads, name, 0.0 if side_by_side or name != wide[0] else gathered)
    yield from costs.activation(model.activation, shape, sizes)
    yield from _linear(model, shape, grads, "feed_forward.down", last=not again)
    yield costs.dropout("feed-forward dropout", sizes.stream, shape.bytes, shape)
    if side_by_side:
        yield costs.residual(sizes, shape, last=True)
    yield costs.residual(sizes, shape, last=True)
