"""Operators that decoder networks have in common, with their shapes and the bytes they move on one device. Vector work
is counted in bytes through device memory. Composed of elementary operators, every operator reads and writes its
tensors; with graph-kernel fusion a chain is one kernel, and only what a later kernel or the backward pass needs is
written; a hand-written kernel (norm, dropout, attention) reads its input and writes its result. The elementary
operators are those of `models/layers.py` and `models/losses.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.planning.cost_model import MatMul, MicroBatch, ModelPart, TensorCollective, Vector, runs_again
from ms_codegeex.planning.operators import attention_products

FP32 = 4
# Per attention weight, what the operators of `DropoutBits` read and write, each on its own: product, comparison, cast,
# and the sum of the bits of a byte.
MASK_BYTES = FP32 + (FP32 + 1) + (1 + 2) + (2 + 2) + 3 * 2
# Tensors that an activation moves forward and backward, and tensors kept: of elementary operators, as graph kernels.
ACTIVATIONS = {
    "fast_gelu": ((7, 14, 3), (5, 2, 3)),
    "gelu": ((2, 3, 2), (2, 2, 2)),
    "swiglu": ((8, 17, 5), (8, 8, 5)),
}
# Of these, what the operators move that selective recomputation repeats, and what it need not keep.
ACTIVATIONS_AGAIN = {"fast_gelu": (4, 1), "gelu": (0, 0), "swiglu": (5, 2)}


@dataclass(frozen=True)
class TensorSizes:
    """Elements of the tensors one device holds, and bytes of one of them."""

    hidden: int  # residual stream after a row-parallel product, [rows, H]
    stream: int  # the same for norm, dropout and residual: rows are split under sequence parallelism
    heads: int  # queries and context, [rows, H / tensor]
    kv: int  # keys, or values, [rows, groups·d / shards]
    scores: int  # [sequences, heads / tensor, seq, seq]
    wide: int  # [rows, F / tensor]
    logits: int  # [rows, V / tensor]
    mask: int  # [sequences, 1, seq, seq], or [sequences, seq, documents]
    byte: int  # an activation
    softmax: int  # a score inside the softmax

    @staticmethod
    def of(model: DecoderConfig, shape: MicroBatch) -> TensorSizes:
        hidden, square = shape.rows * model.hidden_size, shape.sequences * shape.seq_length**2
        return TensorSizes(
            hidden=hidden,
            stream=hidden // shape.tensor if shape.sequence else hidden,
            heads=hidden // shape.tensor,
            kv=shape.rows * kv_width(model, shape),
            scores=square * model.num_heads // shape.tensor,
            wide=shape.rows * model.intermediate_size // shape.tensor,
            logits=shape.rows * model.vocab_size // (shape.tensor if shape.vocabulary else 1),
            mask=shape.rows * (shape.documents or shape.seq_length),
            byte=shape.bytes,
            softmax=FP32 if model.softmax_fp32 else shape.bytes,
        )


def kv_width(model: DecoderConfig, shape: MicroBatch) -> int:
    return model.kv_size // shape.tensor if model.num_kv_groups % shape.tensor == 0 else model.kv_size


def _cast(source: int, target: int) -> int:
    """Bytes per element of a cast; none if there is nothing to cast."""
    return source + target if source != target else 0


def norm(name: str, elements: int, shape: MicroBatch, centred: bool) -> tuple[Vector, ...]:
    """LayerNorm (`centred`) or RMSNorm in FP32. Its backward also adds its gradient to the residual's. The cast before
    it and the one after it are separate kernels; backward, the matmul before it casts where chains are fused. The
    result is kept for the products that follow; a fused kernel's input too, or it is cast again."""
    byte, cast = shape.bytes, _cast(shape.bytes, FP32)
    if "norm" in shape.fused:
        forward, backward, kept = cast + 2 * FP32, 3 * FP32, 0
    elif shape.graph_kernel:
        forward, backward = (7, 11) if centred else (4, 7)
        forward, backward, kept = FP32 * forward + byte, FP32 * backward, 2 * FP32
    else:
        forward, backward = (12, 21) if centred else (7, 15)
        forward, backward, kept = cast + FP32 * forward, FP32 * backward, 2 * FP32
    backward += (FP32 - byte) + FP32 + 2 * byte if shape.graph_kernel else 2 * cast + 3 * byte
    kernel = Vector(name, forward * elements, backward * elements, (kept + byte) * elements, FP32 * elements)
    if not cast:
        return (kernel,)
    input_kept = FP32 * elements if "norm" in shape.fused else 0
    return Vector(f"{name} input", cast * elements, 0, input_kept, recompute="selective"), kernel


def dropout(name: str, elements: int, byte: int, shape: MicroBatch, recompute: str = "full") -> Vector:
    """A kernel stores its mask, one bit per element. Composed dropout recomputes its mask in the backward pass, unless
    recomputation has already done so: one product and one comparison of int32, cast and scale."""
    if not shape.dropout:
        return Vector(name, 0, 0)
    if "dropout" in shape.fused:
        forward, backward, saved = 2 * byte + 1 / 4, 2 * byte + 1 / 8, 1 / 8
    elif shape.graph_kernel:
        forward, backward, saved = 2 * byte, 2 * byte, byte * shape.kept_masks
    else:
        mask = 2 * FP32 + 2 + 3 * byte
        again = 0 if runs_again(shape.recompute, recompute) else mask
        forward, backward, saved = mask + 3 * byte, again + 3 * byte, byte * shape.kept_masks
    return Vector(name, forward * elements, backward * elements, saved * elements, byte * elements, recompute)


def residual(sizes: TensorSizes, shape: MicroBatch, last: bool = False) -> Vector:
    """A residual addition; a chain with the dropout before it costs one more read. The result of
    the `last` one of a block is the next block's input."""
    size = sizes.byte * sizes.stream
    forward = (1 if shape.graph_kernel else 3) * size
    if last:
        return Vector("residual", forward, 0, size, recompute="")
    return Vector("residual", forward, 0, size, 2 * size)


def linear(
    name: str,
    rows: int,
    into: int,
    out: int,
    shape: MicroBatch,
    saved: float = 0.0,
    last: bool = False,
    bias: bool = True,
) -> Iterator[MatMul | Vector]:
    """A product with its weight's casts, and its bias, which graph-kernel fusion puts into the product, as the cast of
    the weight's gradient. A weight that replicas share is cast once a step, before it is gathered. `last`: nothing of
    the backward pass needs the result, so recomputation leaves it out."""
    byte, outputs, weight = shape.bytes, rows * out, into * out
    cast, shared, again = _cast(FP32, byte), shape.shards > 1, "" if last else "full"
    narrowed = cast * weight / (shape.shards * shape.micro_batches if shared else 1)
    cheap = "selective" if shape.kept_masks else again  # on Ascend
    widened = (FP32 - byte if shape.graph_kernel else cast) * weight
    added = 2 * byte * outputs if bias and not shape.graph_kernel else 0
    yield MatMul(name, rows, into, out, weight=True, recompute=again, saved=saved)
    yield Vector(f"{name} casts", narrowed, widened, recompute="" if shared else cheap)
    if bias:
        yield Vector(f"{name} bias", added, byte * outputs, recompute=again)


def activation(name: str, shape: MicroBatch, sizes: TensorSizes) -> Iterator[Vector]:
    """Element-wise work of [rows, F / tensor]; on Ascend, selective recomputation repeats a part of it."""
    size = sizes.byte * sizes.wide
    name = "gelu" if shape.flat and name == "fast_gelu" else name  # one kernel too
    forward, backward, saved = ACTIVATIONS[name][shape.graph_kernel]
    if shape.graph_kernel and shape.recompute == "full":  # without results to keep, the product before it takes it in
        forward /= 2
    repeated, dropped = ACTIVATIONS_AGAIN[name] if shape.kept_masks else (0, 0)
    repeated = 0 if shape.graph_kernel else repeated  # the backward pass' kernel takes it in
    yield Vector(name, (forward - repeated) * size, backward * size, (saved - dropped) * size, 2 * size)
    if dropped:
        yield Vector(f"{name}, inside", repeated * size, 0.0, dropped * size, recompute="selective")


def attention(model: DecoderConfig, shape: MicroBatch, sizes: TensorSizes) -> tuple[MatMul | Vector, ...]:
    """Between the projections: positions, shared heads, scores, softmax, dropout, context."""
    heads, seq, head = model.num_heads // shape.tensor, shape.seq_length, model.head_dim
    batch, byte, wide = shape.sequences * heads, shape.bytes, sizes.softmax
    fused, gk, drops = "attention" in shape.fused, shape.graph_kernel, shape.attention_dropout
    score = FP32 if model.scores_fp32 and not fused else byte  # queries and keys, where they meet
    before = (_rotation(sizes, score, gk),) if model.rotary_dim else ()
    by_group = model.num_kv_groups % shape.tensor == 0  # a fused kernel repeats heads itself if both are split
    repeated = model.num_kv_groups < model.num_heads and not shape.flat and not (fused and by_group)
    memory = sizes.heads if repeated else sizes.kv
    if repeated:
        moved = (score + byte) * (sizes.kv + (sizes.heads if by_group else sizes.hidden))
        before += (Vector("repeat keys and values", moved, moved),)
    moved = 2 * byte * (sizes.heads + sizes.kv)  # queries, keys, values, context: read and written
    layout, scaled = 2 * moved, 0 if fused else moved  # queries and keys are scaled, backward by their product
    kept = (score + byte) * (sizes.heads + memory)  # query and context, key and value
    if fused:  # softmax statistics and the dropout's bits; scores never leave the chip
        bits = sizes.scores / 8 if drops else 0
        hashed = bits if gk else MASK_BYTES * sizes.scores if drops else 0
        saved = bits + 8 * shape.rows * heads
        scores, context = attention_products(seq, seq, head, batch, causal=True)
        return (
            *before,
            Vector("split and merge heads", *(0 if shape.documents else layout,) * 2, kept),
            scores,
            Vector("softmax", hashed + bits, bits, saved),
            context,
        )
    # where heads are split, a network without micro-batches, whose blocks are inlined, does not keep the result; nor
    # does a cell with its own gradient
    again = shape.flat or (shape.tensor > 1 and shape.micro_batches == 1)
    up, probability = _cast(score, wide), (byte if wide != byte else 0)
    if shape.flat:  # with a mask as large as the scores; of the weights and their gradient the backward pass is made
        widened = _cast(byte, score)
        moved = (5 * score + widened, 3 * score + 2 * widened, byte, 2 * score + (byte if widened else 0))
    elif gk:  # softmax; its cast, or dropout, is one more kernel
        forward = score + wide + FP32 / heads + (_cast(wide, byte) if not drops else 0)
        moved = (forward, byte + 2 * wide + _cast(wide, score), wide + probability, 2 * wide)
    else:
        forward = up + _cast(byte, wide) + 4 * wide + 2 * FP32 / heads
        moved = (forward, up + _cast(byte, wide) + 3 * wide, wide + probability, 2 * wide)
    moved = (size * sizes.scores for size in moved)
    return (
        *before,
        Vector("split and merge heads", layout + scaled, layout + (0 if gk else scaled), kept),
        MatMul("scores", seq, head, seq, batch, recompute="selective", fp32=score == FP32),
        Vector("softmax", *moved, "selective"),
        _dropped_scores(sizes, shape),
        MatMul("context", seq, seq, head, batch, recompute="selective" if again else "full"),
    )


def _rotation(sizes: TensorSizes, score: int, graph_kernel: bool) -> Vector:
    """Rotary positions of queries and keys: cast, pairs swapped, two products, sum, cast, in FP32; the same
    backward. The swap is a separate kernel."""
    byte = sizes.byte
    per_element = 2 * byte + 2 * FP32 + score if graph_kernel else _cast(byte, FP32) + 11 * FP32 + _cast(FP32, score)
    moved = per_element * (sizes.heads + sizes.kv)
    return Vector("rotary positions", moved, moved, transient=2 * FP32 * sizes.heads)


def _dropped_scores(sizes: TensorSizes, shape: MicroBatch) -> Vector:
    byte, scores = shape.bytes, sizes.scores
    # a mask that is kept has the place of the softmax's cast, which is counted and then is not needed
    shape = replace(shape, dropout=shape.attention_dropout, kept_masks=False)
    dropped = dropout("attention dropout", scores, byte, shape, "selective")
    if not shape.dropout:
        return replace(dropped, recompute="selective")
    forward, backward = dropped.forward, dropped.backward
    if shape.graph_kernel and "dropout" not in shape.fused:
        again = runs_again(shape.recompute, "selective")
        forward, backward = (sizes.softmax + byte) * scores, 3 * byte * scores if again else 0.0
    saved = dropped.saved + byte * scores
    return Vector(dropped.name, forward, backward, saved, dropped.transient, "selective")


def block_collectives(shape: MicroBatch, size: int, side_by_side: bool = False) -> tuple[TensorCollective, ...]:
    """Two sums forward; with sequence parallelism a gather and a scattered sum in place of each. MindSpore's backward
    pass mirrors every forward collective and adds no other: gradients stay partial sums until they reach one.
    Recomputation repeats what stands before the last result that the backward pass needs: with a dropout kernel, whose
    mask comes with its result, that includes the product before it and its sum. Where attention and feed-forward part
    stand `side_by_side`, they share one input, and without dropout one gradient."""
    if shape.tensor == 1:
        return ()
    gathers = 1 if side_by_side else 2
    gradients = 1 if side_by_side and not shape.dropout else 2
    sums_again = 2 if shape.mask_needs_input else 0 if side_by_side or shape.saved_all_reduces else 1
    if shape.sequence:
        forward = [("AllGather", gathers), ("ReduceScatter", 2)]
        backward = [("ReduceScatter", gathers), ("AllGather", gradients)]
        again = [("AllGather", gathers), ("ReduceScatter", sums_again)]
    else:
        forward, backward, again = [("AllReduce", 2)], [("AllReduce", gradients)], [("AllReduce", sums_again)]
    phases = {"forward": forward, "backward": backward, "recompute": again if shape.recompute == "full" else []}
    return tuple(
        TensorCollective(op, size, phase, shape.precision)
        for phase, ops in phases.items()
        for op, count in ops
        for _ in range(count)
    )


def embedding(model: DecoderConfig, shape: MicroBatch, sizes: TensorSizes, positions: bool = False) -> ModelPart:
    """Lookup of words, and of learned positions if there are some, in FP32; dropout, cast."""
    cast = _cast(FP32, shape.bytes)
    table = model.vocab_size // (shape.tensor if shape.vocabulary else 1)
    passes = (7, 6) if positions else (2, 3)
    if positions:
        table += model.max_position_embeddings
    lookup = Vector(
        "lookup",
        (passes[0] * FP32 + cast) * sizes.hidden,
        (passes[1] * FP32 + cast) * sizes.hidden + FP32 * table * model.hidden_size,
        transient=FP32 * sizes.hidden,
    )
    collectives: tuple[TensorCollective, ...] = ()
    if shape.tensor > 1 and shape.vocabulary:
        collectives = _lookup_collectives(shape, sizes, shape.replicas == 1 and not (positions or shape.dropout))
    dropped = dropout("embedding dropout", sizes.hidden, FP32, shape, "")
    if shape.adapted:  # frozen
        lookup, dropped = (replace(operator, backward=0.0, transient=0.0) for operator in (lookup, dropped))
        collectives = tuple(x for x in collectives if x.phase == "forward")
    return ModelPart("embedding", 0, 1, (lookup, dropped), collectives)


def _lookup_collectives(shape: MicroBatch, sizes: TensorSizes, cast_at_once: bool) -> tuple[TensorCollective, ...]:
    """A looked-up row is summed in FP32, and so is its gradient. Where the cast to the compute dtype follows at once,
    with one replica, MindSpore sums the gradient before it casts back, or scatters the sum where rows are split. Under
    adapters there is no gradient, and it scatters the sum, casts, and gathers."""
    whole, narrow = FP32 * sizes.hidden, shape.bytes * sizes.hidden
    ops, backward = ("AllReduce", "AllReduce"), (whole, "backward", "fp32")
    if cast_at_once and shape.sequence:
        ops = ("ReduceScatter", "AllGather")
    elif cast_at_once and shape.adapted and shape.bytes < FP32:
        ops, backward = ("ReduceScatter", "AllGather"), (narrow, "forward", shape.precision)
    elif cast_at_once:
        backward = (narrow, "backward", shape.precision)
    return TensorCollective(ops[0], whole, "forward", "fp32"), TensorCollective(ops[1], *backward)


def before_blocks(model: DecoderConfig, shape: MicroBatch, sizes: TensorSizes, stage: int) -> list[ModelPart]:
    """What a stage computes first and keeps as long as the micro-batch: the mask, and cos and sin of every token.
    Document ends are a few integers; none of their intermediates are kept."""
    passes = 2 if shape.graph_kernel else 13  # compare, cast, multiply, subtract, scale, count
    kept = 0 if shape.documents else FP32 * sizes.mask
    if shape.flat:  # repeated for each head
        kept = (FP32 if model.scores_fp32 else shape.bytes) * sizes.scores
    made = [Vector("mask", passes * FP32 * sizes.mask + kept * shape.flat, 0, kept)]
    if model.rotary_dim:
        elements = sizes.heads if shape.flat else shape.rows * model.head_dim
        made.append(Vector("angles", 4 * FP32 * elements, 0, 2 * FP32 * elements))
    return [ModelPart(vector.name, stage, 1, (vector,)) for vector in made]


def head(
    model: DecoderConfig,
    shape: MicroBatch,
    sizes: TensorSizes,
    stage: int,
    before: tuple[MatMul | Vector, ...],
    bias: bool = False,
) -> ModelPart:
    """What stands `before` it, logits and cross entropy in FP32 over the vocabulary shard."""
    byte, logits, split = shape.bytes, sizes.logits, shape.tensor > 1 and shape.vocabulary
    columns = model.vocab_size // (shape.tensor if shape.vocabulary else 1)
    transient = 2 * FP32
    if shape.flat:  # logarithms; backward, a row with one number and the kernel's gradient
        forward, backward, saved, transient = (2 + 2 * bias) * byte, 4 * byte, byte, 2 * byte
    elif shape.graph_kernel:  # the product casts; maximum, shift, exponential, sum, one-hot and picked logit follow
        forward, backward, saved, transient = (FP32 - byte) + 9 * FP32, 5 * FP32 + byte, 2 * FP32, 3 * FP32
    else:
        forward, backward, saved = _cast(byte, FP32) + 13 * FP32, _cast(byte, FP32) + 11 * FP32, 4 * FP32
        forward, backward = forward + 2 * FP32 * bias, backward + FP32 * bias
    moved = (each * logits for each in (forward, backward, saved, transient))
    loss = Vector("cross entropy", *moved)
    product = linear("logits", shape.rows, model.hidden_size, columns, shape, byte * sizes.hidden)
    product = [replace(o, right=not shape.adapted) if isinstance(o, MatMul) else o for o in product]
    collectives: list[TensorCollective] = []
    if split:  # maximum, sum of exponentials, picked logit: one number a row each
        collectives += [TensorCollective("AllReduce", FP32 * shape.rows, "forward", "fp32")] * 3
        collectives += [TensorCollective("AllReduce", FP32 * shape.rows, "backward", "fp32")] * 2  # none of the maximum
    rows = [("AllGather", "forward"), ("ReduceScatter", "backward")] if shape.sequence else []
    if shape.sequence and shape.tail[-1:] == ("full",) and not shape.adapted:
        # the gather belongs to the recomputed block before it; the gradient of a frozen table would not need its result
        rows.append(("AllGather", "recompute"))
    collectives += [TensorCollective(op, byte * sizes.hidden, phase, shape.precision) for op, phase in rows]
    return ModelPart("head", stage, 1, (*before, *product, loss), tuple(collectives))


def border(shape: MicroBatch, sizes: TensorSizes, stage: int) -> ModelPart:
    """The FP32 input of a fused norm that follows a recomputed block: it is kept, where others are cast again."""
    kept = FP32 * sizes.stream if "norm" in shape.fused and shape.bytes < FP32 else 0
    return ModelPart("border of recomputation", stage, 1, (Vector("norm input", 0, 0, kept),))


def blocks(
    block: tuple[MatMul | Vector, ...],
    shape: MicroBatch,
    sizes: TensorSizes,
    stage: int,
    count: int,
    collectives: tuple[TensorCollective, ...],
) -> list[ModelPart]:
    """`count` equal blocks of a stage. Full recomputation keeps a slice of the input on each device and gathers it
    again; the first block's input comes from outside the recomputed ones and stays whole. With all-reduce
    results that are saved, every input stays whole."""
    if not count:
        return []
    size = shape.bytes * sizes.hidden
    kept = 2 * size if shape.saved_all_reduces else size / shape.tensor
    listed = [ModelPart("block", stage, count, block, collectives, kept, shape.recompute)]
    if shape.recompute == "full" and shape.tensor > 1 and not shape.sequence and not shape.saved_all_reduces:
        gather = TensorCollective("AllGather", size, "recompute", shape.precision)
        listed.append(ModelPart("block inputs", stage, count - 1, (), (gather,)))
        listed.append(ModelPart("first input", stage, 1, (), (), size - kept, shape.recompute))
    return listed
