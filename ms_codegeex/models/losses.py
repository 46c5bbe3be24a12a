"""Cross entropy over a vocabulary table: Σ mask·nll, with the logits formed from the hidden states. Two forms of one
formula. `CrossEntropy` is composed of elementary operators that can be sharded over the vocabulary.
`ChunkedCrossEntropy` never holds more than `chunk` rows of logits and computes its gradients in the forward pass: with
52,224 columns the logits dominate time and memory on a CPU."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops


class CrossEntropy(nn.Cell):
    """Σ mask·(log Z - z[label]) with log Z = logsumexp(z) and z = h Wᵀ (+ b if `bias`), multiplied in `dtype` and
    reduced in FP32. In training `z_loss`·(log Z)² is added to each term; `set_train(False)` before compilation leaves
    it out."""

    computed_in_dtype = ("cast_table", "matmul", "up")

    def __init__(self, vocab_size: int, dtype: ms.Type, bias: bool = False, z_loss: float = 0.0):
        super().__init__()
        self.vocab_size, self.dtype, self.has_bias, self.z_loss = vocab_size, dtype, bias, z_loss
        self.add_max, self.square, self.scale = ops.Add(), ops.Square(), ops.Mul()
        self.drop_axis, self.subtract_penalty = ops.ReduceSum(), ops.Sub()
        self.cast_table, self.matmul, self.up = ops.Cast(), ops.MatMul(transpose_b=True), ops.Cast()
        self.add_bias = ops.Add()
        self.max, self.subtract, self.exp = ops.ReduceMax(keep_dims=True), ops.Sub(), ops.Exp()
        self.sum_exp, self.log, self.subtract_log = ops.ReduceSum(keep_dims=True), ops.Log(), ops.Sub()
        self.one_hot, self.pick, self.sum_picked = ops.OneHot(), ops.Mul(), ops.ReduceSum()
        self.weight, self.sum, self.negate = ops.Mul(), ops.ReduceSum(keep_dims=True), ops.Neg()
        self.on, self.off = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)

    def construct(
        self, hidden: Tensor, table: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """hidden [rows, H], table FP32 [V, H], labels int32 [rows], mask FP32 [rows], bias FP32 [V] -> FP32 [1]"""
        logits = self.up(self.matmul(hidden, self.cast_table(table, self.dtype)), ms.float32)
        if self.has_bias:
            logits = self.add_bias(logits, bias)
        largest = ops.stop_gradient(self.max(logits, -1))
        shifted = self.subtract(logits, largest)
        log_sum = self.log(self.sum_exp(self.exp(shifted), -1))
        target = self.one_hot(labels, self.vocab_size, self.on, self.off)
        term = self.sum_picked(self.pick(self.subtract_log(shifted, log_sum), target), -1)
        if self.z_loss and self.training:
            square = self.square(self.add_max(log_sum, largest))
            term = self.subtract_penalty(term, self.drop_axis(self.scale(square, self.z_loss), -1))
        return self.negate(self.sum(self.weight(term, mask)))


class _ChunkedSum(nn.Cell):
    """The sum, z-loss included, and its gradients with respect to hidden, table and bias, chunk by chunk (FP32). With p
    = softmax(z), the gradient of a row with respect to z is p·(1 + 2·`z_loss`·log Z) - onehot(label). Without a bias, a
    single number takes its place: MindSpore expects a gradient for every input. While table and bias are `frozen`,
    their gradients are not computed."""

    def __init__(self, rows: int, chunk: int, bias: bool, z_loss: float):
        super().__init__()
        self.frozen, self.z_loss, self.max = False, z_loss, ops.ReduceMax(keep_dims=True)
        self.bounds, self.has_bias = tuple((i, min(i + chunk, rows)) for i in range(0, rows, chunk)), bias
        self.matmul, self.softmax, self.add_bias = ops.MatMul(transpose_b=True), ops.Softmax(-1), ops.BiasAdd()
        self.to_hidden, self.to_table = ops.MatMul(), ops.MatMul(transpose_a=True)
        self.gather, self.pick, self.scatter = ops.Gather(), ops.GatherD(), ops.TensorScatterSub()
        self.scatter_bias = ops.TensorScatterSub()
        self.sum, self.zeros, self.widen = ops.ReduceSum(), ops.ZerosLike(), ops.Cast()

    def _wide(self, table: Tensor, hidden: Tensor) -> Tensor:
        """The table in FP32, which waits for the hidden states: a frozen one may be held in fewer bits."""
        return table if table.dtype == ms.float32 else self.widen(ops.depend(table, hidden), ms.float32)

    def _logits(self, hidden: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        logits = self.matmul(hidden, table)
        return self.add_bias(logits, bias) if self.has_bias else logits

    def _nll(self, probability: Tensor, label: Tensor) -> Tensor:
        # the smallest normal number keeps the logarithm finite where a probability underflows
        return -ops.log(ops.maximum(self.pick(probability, 1, ops.expand_dims(label, 1)), 1.2e-38))

    def value(self, hidden: Tensor, table: Tensor, labels: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """Σ mask·nll alone, without z-loss"""
        total, table = Tensor([0.0], ms.float32), self._wide(table, hidden)
        for start, stop in self.bounds:
            probability = self.softmax(self._logits(ops.depend(hidden[start:stop], total), table, bias))
            total = total + self.sum(self._nll(probability, labels[start:stop]) * ops.expand_dims(mask[start:stop], 1))
        return total

    def construct(
        self, hidden: Tensor, table: Tensor, labels: Tensor, mask: Tensor, bias: Tensor
    ) -> tuple[Tensor, ...]:
        """-> Σ mask·(nll + z-loss), d/d hidden [rows, H], d/d table [V, H], d/d bias [V]"""
        total, to_hidden, to_table, to_bias = Tensor([0.0], ms.float32), (), self.zeros(bias), self.zeros(bias)
        if not self.frozen:
            to_table = self.zeros(table)
        table = self._wide(table, hidden)
        for start, stop in self.bounds:
            # The dependency makes the chunks wait for each other: run at once, they would hold all logits after all.
            h = ops.depend(hidden[start:stop], (total, to_hidden, to_table))
            label, weight = labels[start:stop], ops.expand_dims(mask[start:stop], 1)
            logits = self._logits(h, table, bias)
            probability = self.softmax(logits)
            # the mask weighs the narrow factors: a broadcast product of [chunk, V] costs the CPU kernel gigabytes
            loss, mean, share = self._nll(probability, label), self.to_hidden(probability, table), weight
            if self.z_loss:
                # the largest probability is at least 1 / V, so its logarithm is safe
                log_z = self.max(logits, -1) - ops.log(self.max(probability, -1))
                factor = 1.0 + 2.0 * self.z_loss * log_z
                loss, mean, share = loss + self.z_loss * log_z * log_z, mean * factor, weight * factor
            total = total + self.sum(loss * weight)
            to_hidden += ((mean - self.gather(table, label, 0)) * weight,)
            if not self.frozen:
                to_table = to_table + self.to_table(probability, h * share)
                if self.has_bias:
                    to_bias = to_bias + ops.reshape(self.to_table(probability, share), (-1,))
        if self.frozen:
            return total, ops.concat(to_hidden, 0), to_table, to_bias
        # the one-hot part of the gradients
        to_table = self.scatter(to_table, ops.expand_dims(labels, 1), hidden * ops.expand_dims(mask, 1))
        if self.has_bias:
            to_bias = self.scatter_bias(to_bias, ops.expand_dims(labels, 1), mask)
        return total, ops.concat(to_hidden, 0), to_table, to_bias

    def bprop(
        self,
        hidden: Tensor,
        table: Tensor,
        labels: Tensor,
        mask: Tensor,
        bias: Tensor,
        out: tuple[Tensor, ...],
        dout: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """The gradients were computed in the forward pass; the chain rule scales them."""
        scale = dout[0]
        if self.frozen:
            return out[1] * scale, self.zeros(table), self.zeros(labels), self.zeros(mask), self.zeros(bias)
        return out[1] * scale, out[2] * scale, self.zeros(labels), self.zeros(mask), out[3] * scale


class ChunkedCrossEntropy(nn.Cell):
    """`CrossEntropy` in FP32 with at most `chunk` rows of logits alive. It can be differentiated once: its gradients
    count as constants. `set_train(False)` before compilation leaves out the gradients and the z-loss, `freeze` the
    gradients of table and bias."""

    def __init__(self, rows: int, chunk: int, bias: bool = False, z_loss: float = 0.0):
        super().__init__()
        self.chunked, self.none = _ChunkedSum(rows, chunk, bias, z_loss), Tensor([0.0], ms.float32)

    def freeze(self) -> None:
        self.chunked.frozen = True

    def construct(
        self, hidden: Tensor, table: Tensor, labels: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """as `CrossEntropy.construct`"""
        bias = self.none if bias is None else bias
        if self.training:
            return self.chunked(hidden, table, labels, mask, bias)[0]
        return self.chunked.value(hidden, table, labels, mask, bias)


class Sums(nn.Cell):
    """A loss sum and the sum of its mask as one tensor, whose third element is free for the training step. They are
    concatenated, not added up from multiples: a loss that is not a number must not spoil the count."""

    def __init__(self):
        super().__init__()
        self.count, self.join, self.nothing = ops.ReduceSum(keep_dims=True), ops.Concat(0), Tensor([0.0], ms.float32)

    def construct(self, loss: Tensor, mask: Tensor) -> Tensor:
        """FP32 [1], FP32 [rows] -> FP32 [3]: loss, Σ mask, 0"""
        return self.join((loss, self.count(mask), self.nothing))
