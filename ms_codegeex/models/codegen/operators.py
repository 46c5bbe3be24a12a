"""The real operators of one CodeGen training step on one device, with their shapes and the bytes they move."""

from __future__ import annotations

from ms_codegeex.models.codegen.config import CodeGenConfig
from ms_codegeex.parallel.sharding import stage_of_block
from ms_codegeex.planning import decoder_costs as o
from ms_codegeex.planning.cost_model import MatMul, Part, Shape, Vector


def _block(model: CodeGenConfig, shape: Shape, sizes: o.Sizes) -> tuple[MatMul | Vector, ...]:
    h, t, byte, rows = model.hidden_size, shape.tensor, shape.bytes, shape.rows
    gathered = byte * sizes.hidden if shape.sequence else 0  # the whole rows, kept beside the shard
    again = shape.mask_needs_input  # else nothing of the backward pass needs the two results
    return (
        o.norm("norm", sizes.stream, byte, shape),
        *o.linear("query", rows, h, h // t, shape, gathered, bias=False),
        *o.linear("key", rows, h, h // t, shape, bias=False),
        *o.linear("value", rows, h, h // t, shape, bias=False),
        *o.attention(model, shape, sizes, rotary=True, scores_fp32=model.scores_fp32),
        *o.linear("output", rows, h // t, h, shape, last=not again, bias=False),
        o.dropout("attention output dropout", sizes.stream, byte, shape),
        *o.linear("up", rows, h, model.intermediate_size // t, shape),
        o.activation("gelu", (2, 3, 2), sizes),
        *o.linear("down", rows, model.intermediate_size // t, h, shape, last=not again),
        o.dropout("feed-forward dropout", sizes.stream, byte, shape),
        o.residual(sizes, shape, last=True),
        o.residual(sizes, shape, last=True),
    )


def parts(model: CodeGenConfig, shape: Shape) -> list[Part]:
    """Every part of the model with its stage: embedding, blocks, head; mask and angles on every stage."""
    sizes, last = o.Sizes.of(model, shape), shape.stages - 1
    block = _block(model, shape, sizes)
    exchanges = o.block_exchanges(shape, shape.bytes * sizes.hidden, side_by_side=True)
    layers = [stage_of_block(model, shape.stages, i) for i in range(model.num_layers)]
    listed = [o.embedding(model, shape, sizes)]
    for stage in range(shape.stages):
        listed += [o.mask(shape, sizes, stage), o.angles(model, shape, stage)]
        listed += o.blocks(block, shape, sizes, stage, layers.count(stage), exchanges)
    norm = o.norm("final norm", sizes.stream, shape.bytes, shape)
    listed.append(o.head(model, shape, sizes, last, (norm,), bias=True))
    return listed
