"""The real operators of one CodeGeeX2 training step on one device, with their shapes and the bytes they move."""

from __future__ import annotations

from ms_codegeex.models.codegeex2.config import CodeGeeX2Config
from ms_codegeex.parallel.sharding import stage_of_block
from ms_codegeex.planning import decoder_costs as o
from ms_codegeex.planning.cost_model import MatMul, Part, Shape, Vector


def _block(model: CodeGeeX2Config, shape: Shape, sizes: o.Sizes) -> tuple[MatMul | Vector, ...]:
    h, f, t, byte, rows = model.hidden_size, model.intermediate_size, shape.tensor, shape.bytes, shape.rows
    gathered = byte * sizes.hidden if shape.sequence else 0  # the whole rows, kept beside the shard
    swiglu = (3, 5, 3) if "graph_kernel" in shape.fused else (8, 17, 5)
    kv = o.kv_width(model, shape)
    return (
        o.rms_norm("attention norm", sizes.stream, byte, shape),
        *o.linear("query", rows, h, h // t, shape, gathered),
        *o.linear("key", rows, h, kv, shape),
        *o.linear("value", rows, h, kv, shape),
        *o.attention(model, shape, sizes, rotary=True),
        *o.linear("output", rows, h // t, h, shape, bias=False),
        o.dropout("attention output dropout", sizes.stream, byte, shape),
        o.residual(sizes, shape),
        o.rms_norm("feed-forward norm", sizes.stream, byte, shape),
        *o.linear("gate", rows, h, f // t, shape, gathered, bias=False),
        *o.linear("up", rows, h, f // t, shape, bias=False),
        o.activation("swiglu", swiglu, sizes),
        *o.linear("down", rows, f // t, h, shape, last=not shape.mask_needs_input, bias=False),
        o.dropout("feed-forward dropout", sizes.stream, byte, shape),
        o.residual(sizes, shape, last=True),
    )


def parts(model: CodeGeeX2Config, shape: Shape) -> list[Part]:
    """Every part of the model with its stage: embedding, blocks, head; mask and angles on every stage."""
    sizes, last = o.Sizes.of(model, shape, model.softmax_fp32), shape.stages - 1
    block, exchanges = _block(model, shape, sizes), o.block_exchanges(shape, shape.bytes * sizes.hidden)
    layers = [stage_of_block(model, shape.stages, i) for i in range(model.num_layers)]
    listed = [o.embedding(model, shape, sizes)]
    for stage in range(shape.stages):
        listed += [o.mask(shape, sizes, stage), o.angles(model, shape, stage)]
        listed += o.blocks(block, shape, sizes, stage, layers.count(stage), exchanges)
    norm = o.rms_norm("final norm", sizes.stream, shape.bytes, shape)
    listed.append(o.head(model, shape, sizes, last, (norm,)))
    return listed
