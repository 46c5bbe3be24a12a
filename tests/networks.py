"""Networks under test: setting their weights, their gradients, their logits at every position."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops


def assign(network, tensors):
    """Sets exactly the network's parameters, by name."""
    parameters = {parameter.name: parameter for parameter in network.get_parameters()}
    assert parameters.keys() == tensors.keys()
    for name, parameter in parameters.items():
        assert parameter.shape == tensors[name].shape, name
        parameter.set_data(Tensor(np.ascontiguousarray(tensors[name], np.float32)))


def every_logit(network, ids):
    """FP32 [batch, n, V] from a `Logits` network, position by position."""
    batch, n = ids.shape
    given = Tensor(np.asarray(ids, np.int32))
    return np.stack([network(given, Tensor(np.full(batch, p, np.int32))).asnumpy() for p in range(n)], 1)


class Gradients(nn.Cell):
    """The output of a cell, and the gradients of Σ output·backward: of its inputs, then of its parameters, if any."""

    def __init__(self, cell):
        super().__init__(auto_prefix=False)
        self.cell, self.weights = cell, ms.ParameterTuple(cell.trainable_params())
        self.gradient = ops.GradOperation(get_all=True, get_by_list=bool(len(self.weights)), sens_param=True)

    def construct(self, *inputs_and_backward):
        output = self.cell(*inputs_and_backward[:-1])  # first, as the train step does: the engine then runs it once
        if len(self.weights):
            return output, self.gradient(self.cell, self.weights)(*inputs_and_backward)
        return output, self.gradient(self.cell)(*inputs_and_backward)


class LossGradients(nn.Cell):
    """The output of a `Loss` network and the gradients of its Σ mask·nll, in the order of its trainable parameters."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network, self.weights = network, ms.ParameterTuple(network.trainable_params())
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)
        self.only_the_loss = Tensor([1.0, 0.0, 0.0], ms.float32)

    def construct(self, inputs, labels, mask, samples):
        output = self.network(inputs, labels, mask, samples)
        return output, self.gradient(self.network, self.weights)(inputs, labels, mask, samples, self.only_the_loss)


def check_gradients(network, batch, loss, expected):
    """A `Loss` network has this sum and these gradients by names, none of which is 0."""
    sums, found = LossGradients(network)(*map(Tensor, batch))
    total, count, _ = sums.asnumpy().tolist()
    assert count == batch[2].sum() and total == pytest.approx(loss, rel=1e-6)
    for parameter, gradient in zip(network.trainable_params(), found, strict=True):
        wanted = expected[parameter.name]
        assert np.abs(wanted).max() > 0
        near = 2e-5 * max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(gradient.asnumpy(), wanted, atol=near, err_msg=parameter.name)


def packed_batch(vocabulary, eos, rows, length, seed=1):
    """inputs, labels, mask, samples with documents of many lengths, two eos in a row, one at the very end."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, vocabulary, (rows, length + 1))
    ids[ids == eos] = eos + 1
    ids[0, [length // 4, length // 4 + 1, length // 2]], ids[-1, length - 1] = eos, eos
    inputs, labels = ids[:, :-1].astype(np.int32), ids[:, 1:].astype(np.int32)
    mask = (generator.random(inputs.shape) < 0.7).astype(np.float32)
    return inputs, labels, mask, np.arange(rows, dtype=np.int32)
