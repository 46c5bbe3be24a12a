"""Products with frozen 16-bit weights: their gradient, and that no FP32 copy outlives its product."""

import json
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from ms_codegeex.models.layers import Embedding, Linear
from ms_codegeex.models.losses import ChunkedCrossEntropy

LAYERS, SIZE = 32, 2048


class Chain(nn.Cell):
    """Frozen layers, and one weight before them that is trained."""

    def __init__(self, layers, size, squash):
        super().__init__()
        self.squash = squash
        self.start = ms.Parameter(Tensor(np.ones(size, np.float32)), name="start")
        self.layers = nn.CellList([Linear(size, size, 0.1, ms.float32) for _ in range(layers)])
        for layer in self.layers:
            layer.hold(ms.float16)
            layer.bias.requires_grad = False

    def construct(self, x):
        x = x * self.start
        for layer in self.layers:
            x = ms.ops.tanh(layer(x)) if self.squash else layer(x)
        return x.sum()


def peak_of_a_step():
    """Bytes that this process grows by, at most, while it compiles and runs a step."""

    def status(key):
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
        return int(lines[key].split()[0]) * 1024

    ms.set_context(mode=ms.GRAPH_MODE)
    chain, x = Chain(LAYERS, SIZE, True), Tensor(np.ones((4, SIZE), np.float32))
    for layer in chain.layers:
        layer.weight.set_data(Tensor(np.full((SIZE, SIZE), 1e-4, np.float16)))
    gradient = ms.ops.GradOperation(get_by_list=True)(chain, ms.ParameterTuple([chain.start]))
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # forget the peak
    before = status("VmRSS")
    gradient(x)[0].asnumpy()
    return status("VmHWM") - before


@pytest.mark.slow  # a process with the engine
def test_no_more_than_a_few_wide_copies_exist_at_once():
    """With the copies that the engine otherwise keeps, 78 MB and more."""
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(result.stdout.splitlines()[-1]) < 40e6


@pytest.mark.usefixtures("graph_mode_throughout")
def test_the_gradient_of_the_input_is_that_of_the_rounded_weight():
    generator = np.random.default_rng(3)
    chain, x = Chain(2, 24, False), generator.normal(size=(5, 24)).astype(np.float32)
    rounded = []
    for layer in chain.layers:
        value = generator.normal(size=(24, 24)).astype(np.float16)
        layer.weight.set_data(Tensor(value))
        rounded.append(value.astype(np.float64))
    gradient = ms.ops.GradOperation(get_by_list=True)(chain, ms.ParameterTuple([chain.start]))
    expected = (x * (np.ones((5, 24)) @ rounded[1] @ rounded[0])).sum(0)
    np.testing.assert_allclose(gradient(Tensor(x))[0].asnumpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("graph_mode_throughout")
def test_tables_in_16_bits_give_fp32_rows_and_the_same_loss():
    generator = np.random.default_rng(4)
    table, ids = generator.normal(size=(30, 8)).astype(np.float16), np.array([[3, 0, 29]], np.int32)
    embedding = Embedding(30, 8, 0.1)
    embedding.hold(ms.float16)
    embedding.weight.set_data(Tensor(table))
    rows = embedding(Tensor(ids))
    assert rows.dtype == ms.float32
    np.testing.assert_array_equal(rows.asnumpy(), table[ids].astype(np.float32))
    hidden, labels = generator.normal(size=(6, 8)).astype(np.float32), generator.integers(0, 30, 6).astype(np.int32)
    for training in (True, False):
        loss = ChunkedCrossEntropy(6, 4)
        loss.freeze()
        loss.set_train(training)
        arguments = Tensor(hidden), Tensor(labels), Tensor(np.ones(6, np.float32))
        found = loss(arguments[0], Tensor(table), *arguments[1:]).asnumpy()
        logits = hidden.astype(np.float64) @ table.astype(np.float64).T
        expected = (np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels]).sum()
        np.testing.assert_allclose(found, [expected], rtol=1e-5)


if __name__ == "__main__":
    print(json.dumps(peak_of_a_step()))
