"""The engine's cells built from MindSpore's own operators, for devices and machines without the compiled ones. Products
and norms are the model's own cells. A pass has either several sequences with one row each, or one sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.generation.choice import COLUMNS
from ms_codegeex.generation.device_shares import DeviceExchange, Share
from ms_codegeex.generation.loading import MAX_PASS_ROWS, Adapter, of_matrix
from ms_codegeex.generation.matrices import LoraTerm, Weights
from ms_codegeex.generation.rows import SlotSizes
from ms_codegeex.models.layers import MASKED_SCORE, AttentionCore, Linear, RotaryTable

MAX_HALF = 65504.0  # the largest finite FP16 number


class Identity(nn.Cell):
    """Returns its first input."""

    def construct(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        return x


class WordOfRows(nn.Cell):
    """Looks up the ids of a pass in an embedding table."""

    def __init__(self, table: nn.Cell):
        super().__init__()
        self.table = table

    def construct(self, rows: Tensor) -> Tensor:
        """int32 [3, s, c] -> FP32 [s, c, H]"""
        return self.table(rows[0])


class SharedRows(nn.Cell):
    """An embedding table of which this process holds only the rows of `part`. `total` adds up the processes' results,
    which are zero for rows that they do not hold."""

    def __init__(self, table: nn.Cell, part: slice, total: nn.Cell):
        super().__init__()
        self.table, self.total = table, total
        self.begin, self.end = Tensor(part.start, ms.int32), Tensor(part.stop, ms.int32)

    def construct(self, indices: Tensor) -> Tensor:
        """int32 [...] -> FP32 [..., H]"""
        here = ops.logical_and(indices >= self.begin, indices < self.end)
        x = self.table(ops.select(here, indices - self.begin, ops.zeros_like(indices)))
        return self.total(x * ops.expand_dims(ops.cast(here, ms.float32), -1))


class RowMask(nn.Cell):
    """Replaces a model's mask: passes on the slot and position of each row. Positions for the embedding and rotary
    tables are clipped, because those of padding rows lie outside."""

    def __init__(self, capacity: int):
        super().__init__()
        self.last, self.within = Tensor(capacity - 1, ms.int32), ops.Minimum()

    def construct(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [3, s, c] -> slots and positions int32 [2, s, c], positions int32 [s, c]"""
        return rows[1:], self.within(rows[2], self.last)


def named_cells(model: nn.Cell, *kinds: type[nn.Cell]) -> list[tuple[nn.Cell, str, nn.Cell]]:
    return [
        (parent, name, cell)
        for _, parent in model.cells_and_names()
        for name, cell in parent.name_cells().items()
        if isinstance(cell, kinds)
    ]


class CompositeMask(RowMask):
    """A `RowMask` that also makes the mask of cached positions that each row may attend to."""

    def __init__(self, capacity: int):
        super().__init__(capacity)
        self.columns = Tensor(np.arange(capacity + 1, dtype=np.int32))  # the last column is for padding rows

    def construct(self, rows: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """int32 [3, s, c] -> (slots and positions int32 [2, s, c], additive mask FP32 [s, 1, 1, c, capacity + 1]),
        positions int32 [s, c]"""
        places, positions = super().construct(rows)
        _, s, c = rows.shape
        later = ops.cast(self.columns > ops.expand_dims(rows[2], 2), ms.float32)
        return (places, ops.reshape(later * MASKED_SCORE, (s, 1, 1, c, -1))), positions


class CompositeTurns(nn.Cell):
    """Makes rotation matrices for rotary embeddings. A layer then rotates its keys by one product, and its queries by
    one that also scales them."""

    def __init__(self, table: RotaryTable, scale: float):
        super().__init__()
        size = table.cos.shape[1]
        self.scale, self.cos, self.sin, self.gather = scale, table.cos, table.sin, ops.Gather()
        same, swapped = np.eye(size, dtype=np.float32), np.arange(size)
        swapped[: size - size % 2] = swapped[: size - size % 2].reshape(-1, 2)[:, ::-1].flat
        self.same, self.swapped = Tensor(same), Tensor(same[swapped])

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [s, c] -> FP32 [s*c, d, d] for keys, and the same for queries"""
        rows = ops.reshape(positions, (-1, 1))
        turn = self.same * self.gather(self.cos, rows, 0) + self.swapped * self.gather(self.sin, rows, 0)
        return turn, turn * self.scale


class CompositeAttention(nn.Cell):
    """A model's attention with a cache of slots. Heads that share keys are stacked along the rows of one product. In a
    pass with a row for every slot, the rows are in slot order, because such a pass does not gather slots."""

    def __init__(self, core: AttentionCore, name: str, sizes: SlotSizes):
        super().__init__()
        self.core, self.slots, heads, capacity = core, sizes.slots, core.heads, sizes.capacity
        self.capacity, self.groups, self.size, self.shared = capacity, heads.groups, heads.size, core.shared
        self.half = sizes.cache_bits == 16
        kept = np.float16 if self.half else np.float32
        empty = np.zeros((sizes.slots * heads.groups * (capacity + 1), heads.size), kept)
        self.keys = Parameter(Tensor(empty), name=f"cache.{name}.keys", requires_grad=False)
        self.values = Parameter(Tensor(empty), name=f"cache.{name}.values", requires_grad=False)
        # first row of each group within a slot
        self.first = Tensor(np.arange(heads.groups, dtype=np.int32)[None] * (capacity + 1))
        self.whole = heads.groups * (capacity + 1)
        self.inside = Tensor(np.arange(self.whole, dtype=np.int32))  # row indices within a slot
        self.write_keys, self.write_values, self.gather = ops.ScatterUpdate(), ops.ScatterUpdate(), ops.Gather()
        self.scores, self.context = ops.BatchMatMul(transpose_b=True), ops.BatchMatMul()
        self.turn_query, self.turn_key = ops.BatchMatMul(), ops.BatchMatMul()

    def _cached(self, write, cache, new, places, slots):
        """Write the `new` rows [s*c, groups*d] to the cache. Return it for the pass's sequences, FP32
        [s, groups, capacity + 1, d]."""
        new = ops.reshape(new, (-1, self.size))
        if self.half:
            new = ops.cast(ops.clip(new, -MAX_HALF, MAX_HALF), ms.float16)
        whole = ops.reshape(write(cache, places, new), (self.slots, self.groups, self.capacity + 1, self.size))
        whole = whole if self.slots == slots.shape[0] else self.gather(whole, slots, 0)
        return ops.cast(whole, ms.float32) if self.half else whole

    def read(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of `slot`, int32 [1]; each is [groups * (capacity + 1), d]."""
        here = slot * self.whole + self.inside
        return self.gather(self.keys, here, 0), self.gather(self.values, here, 0)

    def write(self, slot: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Replace the keys and values of `slot`, int32 [1], by arrays as `read` returns them."""
        there = slot * self.whole + self.inside
        return self.write_keys(self.keys, there, keys), self.write_values(self.values, there, values)

    def construct(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: tuple[Tensor, Tensor],
        sample_keys: Tensor,
        turn_keys: Tensor | None = None,
        turn_queries: Tensor | None = None,
    ) -> Tensor:
        """query [s*c, heads*d], key and value [s*c, groups*d], mask from `CompositeMask`, turns from `CompositeTurns`
        -> [s*c, heads*d]"""
        (slots, positions), bias = mask[0], mask[1]
        s, c = slots.shape
        if turn_keys is None:
            query = query * self.core.scale**2
        else:
            query = self.turn_query(ops.reshape(query, (s * c, -1, self.size)), turn_queries)
            key = self.turn_key(ops.reshape(key, (s * c, -1, self.size)), turn_keys)
        places = ops.reshape(ops.reshape(slots * self.whole + positions, (-1, 1)) + self.first, (-1,))
        slot = slots[:, 0]
        keys = self._cached(self.write_keys, self.keys, key, places, slot)
        values = self._cached(self.write_values, self.values, value, places, slot)
        if c > 1:
            query = ops.transpose(ops.reshape(query, (s, c, -1, self.size)), (0, 2, 1, 3))
        q = ops.reshape(query, (s, self.groups, self.shared * c, self.size))
        scores = ops.reshape(self.scores(q, keys), (s, self.groups, self.shared, c, -1)) + bias
        weights = ops.reshape(self.core.softmax(scores), (s, self.groups, self.shared * c, -1))
        context = self.context(weights, values)
        if c > 1:
            context = ops.reshape(context, (s, self.groups * self.shared, c, self.size))
            context = ops.transpose(context, (0, 2, 1, 3))
        return ops.reshape(context, (s * c, -1))


class CompositeCopy(nn.Cell):
    """Copies one slot's cache to another slot, in all layers."""

    def __init__(self, attentions: list[CompositeAttention]):
        super().__init__(auto_prefix=False)
        self.attentions = nn.CellList(attentions, auto_prefix=False)

    def construct(self, source: Tensor, target: Tensor) -> Tensor:
        """int32 [1] each -> target"""
        for attention in self.attentions:
            attention.write(target, *attention.read(source))
        return target


class CompositeRead(nn.Cell):
    """Reads the cache of one slot in one layer."""

    def __init__(self, attention: CompositeAttention):
        super().__init__(auto_prefix=False)
        self.attention = attention

    def construct(self, slot: Tensor) -> tuple[Tensor, Tensor]:
        return self.attention.read(slot)


class CompositeWrite(nn.Cell):
    """Overwrites the cache of one slot in one layer."""

    def __init__(self, attention: CompositeAttention):
        super().__init__(auto_prefix=False)
        self.attention = attention

    def construct(self, slot: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """int32 [1], and the output of `CompositeRead` -> slot"""
        self.attention.write(slot, keys, values)
        return slot


class CompositeLinear(nn.Cell):
    """A linear layer plus what each row's LoRA adapter adds. The factors of all adapters are concatenated; each row's
    products with other adapters' are masked out. `chosen` int32 [`MAX_PASS_ROWS`] holds the rows' adapter numbers."""

    def __init__(self, base: Linear, factors: Sequence[LoraTerm | None], chosen: Parameter):
        super().__init__(auto_prefix=False)
        self.base, self.chosen, name = base, chosen, base.weight.name
        own = [(number, each) for number, each in enumerate(factors, 1) if each is not None]
        owner = np.concatenate([np.full(len(each.a), number, np.int32) for number, each in own])
        self.owner = Tensor(owner[None])
        a, b = np.concatenate([each.a for _, each in own]), np.concatenate([each.b for _, each in own], 1)
        self.a = Parameter(Tensor(a), name=f"adapters.{name}.a", requires_grad=False)
        self.b = Parameter(Tensor(b), name=f"adapters.{name}.b", requires_grad=False)
        self.down, self.up = ops.MatMul(transpose_b=True), ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor, sample_keys: Tensor | None = None) -> Tensor:
        """FP32 [m, k] -> [m, n]"""
        low = self.down(x, self.a)
        own = ops.equal(ops.expand_dims(self.chosen[: x.shape[0]], 1), self.owner)
        return self.base(x) + self.up(ops.select(own, low, ops.zeros_like(low)), self.b)


class CompositeHead(nn.Cell):
    """Computes logits from hidden states with a vocabulary `table` and an optional `bias`."""

    def __init__(self, table: Parameter, bias: Parameter | None):
        super().__init__(auto_prefix=False)
        self.table, self.bias, self.matmul = table, bias, ops.MatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        """FP32 [n, H] -> [n, V]"""
        logits = self.matmul(x, self.table)
        return logits if self.bias is None else logits + self.bias


class AddRanks(nn.Cell):
    """Adds the sum of all devices' results to a residual. Each sum waits for the residual, because all devices must
    reduce in the same order even where two sums are independent."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.after, self.sum = ops.Depend(), ops.AllReduce()

    def construct(self, residual: Tensor, part: Tensor) -> Tensor:
        """[m, H] each -> [m, H]"""
        return residual + self.sum(self.after(part, residual))


class GatheredHead(nn.Cell):
    """Gathers the logits of all devices and concatenates them."""

    def __init__(self, head: nn.Cell, share: Share):
        super().__init__(auto_prefix=False)
        self.head, self.gather = head, ops.AllGather()
        self.ranks, self.vocabulary = share.ranks, share.config.vocab_size
        part = share.part("vocab_size")
        self.missing = share.vocabulary - (part.stop - part.start)  # padding: all devices must send equally many

    def construct(self, x: Tensor) -> Tensor:
        """FP32 [n, H] -> [n, V]"""
        logits = self.head(x)
        if self.missing:
            logits = ops.concat((logits, ops.zeros((logits.shape[0], self.missing), ms.float32)), 1)
        n, each = logits.shape
        whole = ops.transpose(ops.reshape(self.gather(logits), (self.ranks, n, each)), (1, 0, 2))
        return ops.reshape(whole, (n, self.ranks * each))[:, : self.vocabulary]


class CompositeChoice(nn.Cell):
    """Chooses the next token for each row of logits. Without `draws`, all rows must be greedy or given, which avoids a
    sort; without `edits`, edits are ignored."""

    def __init__(self, draws: bool, edits: bool = True):
        super().__init__()
        self.draws, self.edits = draws, edits
        self.sort, self.top = ops.Sort(axis=-1, descending=True), ops.TopK(sorted=True)
        self.largest, self.least, self.log_softmax = ops.ReduceMax(True), ops.ReduceMin(True), ops.LogSoftmax()

    def construct(self, logits: Tensor, settings: Tensor, edits: Tensor, places: Tensor) -> Tensor:
        """Logits FP32 [n, V] and the tensors of `choice.pack`, FP32 [n, columns], FP32 [n, a, 3] and int32 [1 + k] ->
        FP32 [n, 1 + k, 2]: ids with log-probabilities of the chosen token, then of the k likeliest. The
        log-probabilities are NaN if a logit of the row is not finite."""
        ids = ops.cast(ops.arange(logits.shape[1], dtype=ms.int32), ms.float32)
        temperature, given, allowed = settings[:, :1], settings[:, -2:-1], settings[:, -1:]
        nothing = ops.full_like(logits, -1e30)
        scores = ops.select(ids < allowed, self._edited(logits, edits) if self.edits else logits, nothing)
        # the first maximum; not by `Argmax`, which uses one thread per row on a GPU (MindSpore 2.9)
        best = ops.logical_and(scores == self.largest(scores, 1), ids < allowed)
        last = allowed - 1  # for rows without a maximum, such as NaN
        tokens = self.least(ops.select(best, ids + ops.zeros_like(logits), last + ops.zeros_like(logits)), 1)
        if self.draws:
            tokens = ops.select(temperature > 0, self._drawn(scores, settings, ids), tokens)
        tokens = ops.select(given >= 0, given, tokens)
        if places.shape[0] > 1:
            _, best = self.top(ops.select(ids < allowed, logits, nothing), places.shape[0] - 1)
            tokens = ops.concat((tokens, ops.cast(best, ms.float32)), 1)
        scores = self.log_softmax(logits)
        finite = ops.all(ops.isfinite(logits), 1, True)  # softmax alone would not reveal minus infinity
        scores = ops.select(finite, scores, ops.full_like(scores, math.nan))
        return ops.stack((tokens, ops.gather_elements(scores, 1, ops.cast(tokens, ms.int32))), -1)

    def _edited(self, logits: Tensor, edits: Tensor) -> Tensor:
        """Return the edited logits [n, V]. Padding edits (negative ids) go to an extra column, which is cut off."""
        wide = ops.concat((logits, ops.zeros_like(logits[:, :1])), 1)
        places, factor, term = edits[:, :, 0], edits[:, :, 1], edits[:, :, 2]
        places = ops.cast(ops.select(places < 0, ops.full_like(places, logits.shape[1]), places), ms.int32)
        x = ops.gather_elements(wide, 1, places)
        x = ops.select(x > 0, x / factor, x * factor) + term
        return ops.tensor_scatter_elements(wide, places, x, 1)[:, :-1]

    def _drawn(self, scores: Tensor, settings: Tensor, ids: Tensor) -> Tensor:
        """Draw a token per row with temperature, top-k, top-p and min-p. Return the ids, FP32 [n, 1]."""
        temperature, top_k, top_p, min_p, uniform, _, allowed = (settings[:, i : i + 1] for i in range(len(COLUMNS)))
        weights = ops.softmax(scores / ops.maximum(temperature, ops.full_like(temperature, 1e-6)), -1)
        ordered, order = self.sort(weights)
        # keep the k heaviest weights, with ties of the k-th; of these, the fewest whose share reaches p
        last = ops.cast(ops.clip(ops.select(top_k > 0, top_k, allowed), 1, scores.shape[1]) - 1, ms.int32)
        minimum = ops.gather_elements(ordered, 1, last)
        ordered = ops.select(ordered >= minimum, ordered, ops.zeros_like(ordered))
        before = ops.cumsum(ordered, 1) - ordered
        kept = ops.logical_or(before < top_p * ops.sum(ordered, 1, True), top_p >= 1)
        kept = ops.logical_and(kept, ordered >= min_p * ordered[:, :1])
        ordered = ops.select(kept, ordered, ops.zeros_like(ordered))
        weights = ops.tensor_scatter_elements(ops.zeros_like(weights), order, ordered, 1)
        sums = ops.cumsum(weights, 1)
        passed = ops.sum(ops.cast(sums <= uniform * sums[:, -1:], ms.float32), 1, True)
        heaviest = self.largest(ops.select(weights > 0, ids + ops.zeros_like(weights), ops.zeros_like(weights)), 1)
        return ops.minimum(passed, heaviest)  # if `uniform` rounds to 1, draw the last remaining id


class CompositeCells:
    """Puts these cells into a family's network `model` and loads its parameters. `head` computes its logits. Linear
    layers that `adapters` change become `CompositeLinear` cells."""

    def __init__(
        self,
        model: nn.Cell,
        weights: Weights,
        sizes: SlotSizes,
        meeting: DeviceExchange | None = None,
        adapters: Sequence[Adapter] = (),
    ):
        for parameter in model.get_parameters():
            matrix = len(parameter.shape) == 2
            data = weights.matrix(parameter.name).float32() if matrix else weights.vector(parameter.name)
            parameter.set_data(Tensor(data), slice_shape=meeting is not None)
        output, word = model.head, model.embedding.word
        self.head = CompositeHead(
            word.weight if output is None else output.weight, None if output is None else output.bias
        )
        model.embedding.word = WordOfRows(word if meeting is None else self._share(model, meeting.share))
        names = {id(cell): name for name, cell in model.cells_and_names()}
        attentions = []
        for parent, name, core in named_cells(model, AttentionCore):
            attentions.append(CompositeAttention(core, names[id(core)], sizes))
            setattr(parent, name, attentions[-1])
        self._copy, self._attentions = CompositeCopy(attentions), attentions
        self._layers = [(CompositeRead(each), CompositeWrite(each)) for each in attentions]
        self._chosen = None
        if adapters:
            self._adapt(model, adapters)
        model.mask, model.hash_samples = CompositeMask(sizes.capacity), Identity()
        if isinstance(getattr(model, "rotary", None), RotaryTable):
            model.rotary = CompositeTurns(model.rotary, attentions[0].core.scale ** 2)

    def _adapt(self, model: nn.Cell, adapters: Sequence[Adapter]) -> None:
        self._chosen = Parameter(Tensor(np.zeros(MAX_PASS_ROWS, np.int32)), name="adapters.chosen", requires_grad=False)
        for parent, name, cell in named_cells(model, Linear):
            factors = of_matrix(adapters, cell.weight.name)
            if factors is not None:
                setattr(parent, name, CompositeLinear(cell, factors, self._chosen))

    def use_adapters(self, numbers: np.ndarray) -> None:
        """Set the numbers of the adapters for the next pass's rows, int32 [m]."""
        if self._chosen is not None:
            self._chosen.set_data(Tensor(np.pad(numbers, (0, MAX_PASS_ROWS - len(numbers)))))

    def _share(self, model: nn.Cell, share: Share) -> SharedRows:
        for _, block in model.cells_and_names():
            if hasattr(block, "add_feed_forward"):
                block.add_attention = block.add_feed_forward = AddRanks()
        for _, _, core in named_cells(model, AttentionCore):
            core.take(share.heads)
        self.head = GatheredHead(self.head, share)
        return SharedRows(model.embedding.word, share.part("vocab_size"), ops.AllReduce())

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy all keys and values of a slot to another. `length` is ignored, so that one graph serves all lengths."""
        self._copy(Tensor([source], ms.int32), Tensor([target], ms.int32))

    def cache_bytes(self, length: int) -> int:
        return length * sum(2 * each.groups * each.size * (2 if each.half else 4) for each in self._attentions)

    def read(self, slot: int, length: int) -> list[np.ndarray]:
        """Return a slot's first `length` keys and values: two arrays [groups, length, d] for each layer."""
        copies = []
        for attention, (read, _) in zip(self._attentions, self._layers, strict=True):
            for whole in read(Tensor([slot], ms.int32)):
                by_group = whole.asnumpy().reshape(attention.groups, -1, attention.size)
                copies.append(by_group[:, :length].copy())
        return copies

    def write(self, slot: int, copies: Sequence[np.ndarray], length: int) -> None:
        """Write the first `length` positions of `copies`, as returned by `read`, to a slot."""
        for number, (attention, (_, write)) in enumerate(zip(self._attentions, self._layers, strict=True)):
            rest = ((0, 0), (0, attention.capacity + 1 - length), (0, 0))
            layer = (np.pad(copy[:, :length], rest) for copy in copies[2 * number : 2 * number + 2])
            write(Tensor([slot], ms.int32), *(Tensor(each.reshape(-1, attention.size)) for each in layer))
