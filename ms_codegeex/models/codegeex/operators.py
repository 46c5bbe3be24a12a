"""The real operators of one CodeGeeX training step on one device, with their shapes and the bytes they move."""

from __future__ import annotations

from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.parallel.sharding import stage_of_block
from ms_codegeex.planning import decoder_costs as o
from ms_codegeex.planning.cost_model import MatMul, Part, Shape, Vector


def _block(model: CodeGeeXConfig, shape: Shape, sizes: o.Sizes) -> tuple[MatMul | Vector, ...]:
    h, t, byte, rows = model.hidden_size, shape.tensor, shape.bytes, shape.rows
    gathered = byte * sizes.hidden if shape.sequence else 0  # the whole rows, kept beside the shard
    gelu = (2, 3, 2) if "graph_kernel" in shape.fused else (7, 14, 3)
    return (
        o.norm("attention norm", sizes.stream, byte, shape),
        *o.linear("query", rows, h, h // t, shape, gathered),
        *o.linear("key", rows, h, h // t, shape),
        *o.linear("value", rows, h, h // t, shape),
        *o.attention(model, shape, sizes),
        *o.linear("output", rows, h // t, h, shape),
        o.dropout("attention output dropout", sizes.stream, byte, shape),
        o.residual(sizes, shape),
        o.norm("feed-forward norm", sizes.stream, byte, shape),
        *o.linear("up", rows, h, model.intermediate_size // t, shape, gathered),
        o.activation("fast_gelu", gelu, sizes),
        *o.linear("down", rows, model.intermediate_size // t, h, shape, last=not shape.mask_needs_input),
        o.dropout("feed-forward dropout", sizes.stream, byte, shape),
        o.residual(sizes, shape, last=True),
    )


def parts(model: CodeGeeXConfig, shape: Shape) -> list[Part]:
    """Every part of the model with its stage: embedding, blocks, top query layer, head; the mask on every stage."""
    sizes, last = o.Sizes.of(model, shape, model.softmax_fp32), shape.stages - 1
    block, size = _block(model, shape, sizes), shape.bytes * sizes.hidden
    exchanges = o.block_exchanges(shape, size)
    layers = [stage_of_block(model, shape.stages, i) for i in range(model.num_layers)]
    listed = [o.embedding(model, shape, sizes, positions=True)]
    for stage in range(shape.stages):
        listed.append(o.mask(shape, sizes, stage))
        listed += o.blocks(block, shape, sizes, stage, layers.count(stage), exchanges)
    listed.append(Part("top query layer", last, 1, block, exchanges, 2 * size / shape.tensor))
    lookup = Vector("top-query lookup", 10 * sizes.hidden, 10 * sizes.hidden, size)
    norm = o.norm("final norm", sizes.stream, shape.bytes, shape)
    listed.append(o.head(model, shape, sizes, last, (norm, lookup)))
    return listed
