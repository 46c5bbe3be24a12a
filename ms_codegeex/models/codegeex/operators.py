"""The real operators of one CodeGeeX training step on one device, with their shapes and the bytes they move.

Vector work is counted in bytes through device memory. Composed of elementary operators, every operator reads and
writes its tensors; with graph-kernel fusion a chain is one kernel, and only what a later kernel or the backward pass
needs is written; a hand-written kernel (norm, dropout, attention) reads its input and writes its result. The elementary
operators are those of `models/layers.py` and `models/losses.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.codegeex.parallel import stage_of_layer
from ms_codegeex.parallel.operators import Exchange, MatMul, Part, Shape, Vector

FP32 = 4


@dataclass(frozen=True)
class Sizes:
    """Elements of the tensors one device holds, and bytes of one of them."""

    hidden: int  # residual stream behind a row-parallel product, [rows, H]
    stream: int  # the same where LayerNorm, dropout and residual see it: cut by rows under sequence parallelism
    heads: int  # query, key, value and context, [rows, H / tensor]
    scores: int  # [sequences, heads / tensor, seq, seq]
    wide: int  # [rows, F / tensor]
    logits: int  # [rows, V / tensor]
    mask: int  # [sequences, 1, seq, seq]
    byte: int  # of an activation
    softmax: int  # of a score inside the softmax

    @staticmethod
    def of(model: CodeGeeXConfig, shape: Shape) -> Sizes:
        """From the model's sizes and the micro-batch."""
        hidden, square = shape.rows * model.hidden_size, shape.sequences * shape.seq_length**2
        return Sizes(
            hidden=hidden,
            stream=hidden // shape.tensor if shape.sequence else hidden,
            heads=hidden // shape.tensor,
            scores=square * model.num_heads // shape.tensor,
            wide=shape.rows * model.intermediate_size // shape.tensor,
            logits=shape.rows * model.vocab_size // (shape.tensor if shape.vocabulary else 1),
            mask=square,
            byte=shape.bytes,
            softmax=FP32 if model.softmax_fp32 else shape.bytes,
        )


def _cast(source: int, target: int) -> int:
    """Bytes per element of a cast; none if there is nothing to cast."""
    return source + target if source != target else 0


def _norm(name: str, elements: int, byte: int, shape: Shape) -> Vector:
    """LayerNorm in FP32. Its backward also adds its gradient to the residual's."""
    cast = _cast(byte, FP32)
    if "norm" in shape.fused:  # one pass each way, one for the gradients of weight and bias
        forward, backward, saved = 2 * byte, 8 * byte, 0
    elif "graph_kernel" in shape.fused:  # mean, variance, rest; centred and normalised are kept for the backward
        forward, backward, saved = 4 * byte + 2 * FP32, 5 * byte + 4 * FP32, 2 * FP32
    else:
        forward, backward, saved = 2 * cast + 12 * FP32, 2 * cast + 21 * FP32 + 3 * byte, 2 * FP32
    # the result is kept for the products that follow
    return Vector(name, forward * elements, backward * elements, (saved + byte) * elements, FP32 * elements)


def _dropout(name: str, elements: int, byte: int, shape: Shape, recompute: str = "full") -> Vector:
    """Dropout whose kept-mask is remembered: one bit an element in a kernel, else as wide as the activation."""
    if not shape.dropout:
        return Vector(name, 0, 0)
    if "dropout" in shape.fused:
        forward, backward, saved = 2 * byte + 1 / 4, 2 * byte + 1 / 8, 1 / 8
    elif "graph_kernel" in shape.fused:
        forward, backward, saved = FP32 + 3 * byte, 3 * byte, byte
    else:  # two rounds of multiply-xorshift in int32, compare, cast, scale, multiply
        forward, backward, saved = 17 * FP32 + 2 + 6 * byte, 3 * byte, byte
    return Vector(name, forward * elements, backward * elements, saved * elements, byte * elements, recompute)


def _add(name: str, elements: int, byte: int, shape: Shape) -> Vector:
    """A residual addition; a chain with the dropout before it costs one more read."""
    return Vector(name, (1 if "graph_kernel" in shape.fused else 3) * byte * elements, 0)


def _linear(name: str, rows: int, into: int, out: int, shape: Shape, saved: float = 0.0, last: bool = False):
    """A product with its weight's casts, and its bias, which graph-kernel fusion puts into the product.

    `last`: nothing of the backward pass needs the result, so recomputation leaves it out.
    """
    byte, outputs = shape.bytes, rows * out
    bias = 0 if "graph_kernel" in shape.fused else 2 * byte * outputs
    cast = _cast(FP32, byte) * into * out
    again = "" if last else "full"
    yield MatMul(name, rows, into, out, weight=True, recompute=again, saved=saved)
    yield Vector(f"{name} cast and bias", cast + bias, cast + byte * outputs, recompute=again)


def _attention(model: CodeGeeXConfig, shape: Shape, sizes: Sizes) -> tuple[MatMul | Vector, ...]:
    """Between the projections: scores, softmax, dropout, context."""
    heads, seq, head = model.num_heads // shape.tensor, shape.seq_length, model.hidden_size // model.num_heads
    batch, byte, wide = shape.sequences * heads, shape.bytes, sizes.softmax
    fused, gk = "attention" in shape.fused, "graph_kernel" in shape.fused
    layout = 0 if fused else (8 if gk else 12) * byte * sizes.heads
    kept = 4 * byte * sizes.heads  # query, key, value, context
    if fused:  # softmax statistics and the dropout's bits; scores never leave the chip
        bits = sizes.scores / 8 if shape.dropout else 0
        saved = bits + 8 * shape.rows * heads
        return (
            Vector("split and merge heads", layout, layout, kept),
            MatMul("scores", seq, head, seq, batch, replays=1, stored_output=False),
            Vector("softmax", 2 * bits, bits, saved),
            MatMul("context", seq, seq, head, batch, stored_output=False),
        )
    up, probability = _cast(byte, wide), (byte if wide != byte else 0)
    if gk:
        forward, backward = byte + wide + probability + FP32 / heads, 2 * byte + wide
    else:
        forward = 2 * up + 4 * wide + 2 * FP32 / heads
        backward = 2 * up + 3 * wide
    saved = wide + probability
    return (
        Vector("split and merge heads", layout, layout, kept),
        MatMul("scores", seq, head, seq, batch, recompute="selective"),
        Vector(
            "softmax",
            forward * sizes.scores,
            backward * sizes.scores,
            saved * sizes.scores,
            2 * wide * sizes.scores,
            "selective",
        ),
        _dropped_scores(sizes.scores, byte, shape),
        MatMul("context", seq, seq, head, batch),
    )


def _dropped_scores(scores: int, byte: int, shape: Shape) -> Vector:
    """Dropout of the attention weights; its result is kept for the product with the values."""
    dropout = _dropout("attention dropout", scores, byte, shape, "selective")
    result = byte * scores if shape.dropout else 0
    return Vector(
        dropout.name, dropout.forward, dropout.backward, dropout.saved + result, dropout.transient, "selective"
    )


def _block(model: CodeGeeXConfig, shape: Shape, sizes: Sizes) -> tuple[MatMul | Vector, ...]:
    h, t, byte, rows = model.hidden_size, shape.tensor, shape.bytes, shape.rows
    gk = "graph_kernel" in shape.fused
    gathered = byte * sizes.hidden if shape.sequence else 0  # the whole rows, kept beside the shard
    gelu = Vector(
        "fast_gelu",
        (2 if gk else 7) * byte * sizes.wide,
        (3 if gk else 14) * byte * sizes.wide,
        (2 if gk else 3) * byte * sizes.wide,
        2 * byte * sizes.wide,
    )
    return (
        _norm("attention norm", sizes.stream, byte, shape),
        *_linear("query", rows, h, h // t, shape, gathered),
        *_linear("key", rows, h, h // t, shape),
        *_linear("value", rows, h, h // t, shape),
        *_attention(model, shape, sizes),
        *_linear("output", rows, h // t, h, shape),
        _dropout("attention output dropout", sizes.stream, byte, shape),
        Vector(
            "residual", _add("", sizes.stream, byte, shape).forward, 0, byte * sizes.stream, 2 * byte * sizes.stream
        ),
        _norm("feed-forward norm", sizes.stream, byte, shape),
        *_linear("up", rows, h, model.intermediate_size // t, shape, gathered),
        gelu,
        *_linear("down", rows, model.intermediate_size // t, h, shape, last=not shape.dropout),
        _dropout("feed-forward dropout", sizes.stream, byte, shape),
        Vector("residual", _add("", sizes.stream, byte, shape).forward, 0, byte * sizes.stream, recompute=""),
    )


def _block_exchanges(shape: Shape, size: int) -> tuple[Exchange, ...]:
    """Two sums forward; with sequence parallelism a gather and a scattered sum in place of each.

    The engine's backward pass mirrors every forward collective and adds no other: gradients stay partial sums until
    they reach one. Recomputation repeats what stands before the last result that the backward pass needs: with dropout,
    whose mask comes with its result, that includes the product in front of it and its sum.
    """
    if shape.tensor == 1:
        return ()
    dtype, sums = shape.precision, 2 if shape.dropout else 1
    if shape.sequence:
        forward, backward = [("AllGather", 2), ("ReduceScatter", 2)], [("ReduceScatter", 2), ("AllGather", 2)]
        again = [("AllGather", 2), ("ReduceScatter", sums)]
    else:
        forward, backward, again = [("AllReduce", 2)], [("AllReduce", 2)], [("AllReduce", sums)]
    phases = {"forward": forward, "backward": backward, "recompute": again if shape.recompute == "full" else []}
    return tuple(
        Exchange(op, size, phase, dtype) for phase, ops in phases.items() for op, count in ops for _ in range(count)
    )


def _embedding(shape: Shape, sizes: Sizes, model: CodeGeeXConfig) -> Part:
    """Lookup of words and positions in FP32, dropout, cast; the mask, which lives as long as the micro-batch."""
    cast = _cast(FP32, shape.bytes)
    table = model.vocab_size // (shape.tensor if shape.vocabulary else 1) + model.max_position_embeddings
    lookup = Vector(
        "lookup",
        (7 * FP32 + cast) * sizes.hidden,
        (6 * FP32 + cast) * sizes.hidden + FP32 * table * model.hidden_size,
        transient=FP32 * sizes.hidden,
    )
    exchanges: list[Exchange] = []
    if shape.tensor > 1 and shape.vocabulary:
        exchanges += [Exchange("AllReduce", FP32 * sizes.hidden, phase, "fp32") for phase in ("forward", "backward")]
    dropout = _dropout("embedding dropout", sizes.hidden, FP32, shape)
    return Part("embedding", 0, 1, (lookup, dropout), tuple(exchanges), recomputed=False)


def _mask(shape: Shape, sizes: Sizes, stage: int) -> Part:
    passes = 2 if "graph_kernel" in shape.fused else 13  # compare, cast, multiply, subtract, scale, count
    mask = Vector("mask", passes * FP32 * sizes.mask, 0, FP32 * sizes.mask)
    return Part("mask", stage, 1, (mask,), recomputed=False)


def _head(model: CodeGeeXConfig, shape: Shape, sizes: Sizes, stage: int) -> Part:
    """Final norm, top-query lookup, logits and cross entropy in FP32 over the vocabulary shard."""
    byte, logits, split = shape.bytes, sizes.logits, shape.tensor > 1 and shape.vocabulary
    columns = model.vocab_size // (shape.tensor if shape.vocabulary else 1)
    if "graph_kernel" in shape.fused:  # maximum, sum of exponentials, then gradient; shifted and exponential are kept
        forward, backward, saved = 2 * byte + 3 * FP32, 3 * FP32 + byte, 2 * FP32
    else:
        forward, backward, saved = _cast(byte, FP32) + 13 * FP32, _cast(byte, FP32) + 11 * FP32, 4 * FP32
    loss = Vector("cross entropy", forward * logits, backward * logits, saved * logits, 2 * FP32 * logits)
    lookup = Vector("top-query lookup", 10 * sizes.hidden, 10 * sizes.hidden, byte * sizes.hidden)
    operators = (
        _norm("final norm", sizes.stream, byte, shape),
        lookup,
        *_linear("logits", shape.rows, model.hidden_size, columns, shape, byte * sizes.hidden),
        loss,
    )
    exchanges: list[Exchange] = []
    if split:  # maximum, sum of exponentials, picked logit: one number a row each
        exchanges += [Exchange("AllReduce", FP32 * shape.rows, "forward", "fp32")] * 3
        exchanges += [Exchange("AllReduce", FP32 * shape.rows, "backward", "fp32")] * 2  # none of the maximum
    if shape.sequence:
        exchanges.append(Exchange("AllGather", byte * sizes.hidden, "forward", shape.precision))
        exchanges.append(Exchange("ReduceScatter", byte * sizes.hidden, "backward", shape.precision))
    return Part("head", stage, 1, operators, tuple(exchanges), recomputed=False)


def parts(model: CodeGeeXConfig, shape: Shape) -> list[Part]:
    """Every part of the model with its stage: embedding, blocks, top query layer, head; the mask on every stage."""
    sizes, last = Sizes.of(model, shape), shape.stages - 1
    block = _block(model, shape, sizes)
    kept = shape.bytes * sizes.hidden / shape.tensor  # recomputation keeps a slice of the input on each device
    listed = [_embedding(shape, sizes, model)]
    layers = [stage_of_layer(model, shape.stages, i) for i in range(model.num_layers)]
    exchanged = shape.bytes * sizes.hidden
    sliced = shape.recompute == "full" and shape.tensor > 1 and not shape.sequence
    for stage in range(shape.stages):
        listed.append(_mask(shape, sizes, stage))
        if stage in layers:
            count = layers.count(stage)
            listed.append(Part("block", stage, count, block, _block_exchanges(shape, exchanged), kept))
            if sliced:  # the first block's input comes from outside the recomputed ones and stays whole
                gather = Exchange("AllGather", exchanged, "recompute", shape.precision)
                listed.append(Part("block inputs", stage, count - 1, (), (gather,)))
    listed.append(Part("top query layer", last, 1, block, _block_exchanges(shape, exchanged), 2 * kept))
    listed.append(_head(model, shape, sizes, last))
    return listed
