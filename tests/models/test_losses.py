import functools

import mindspore as ms
import numpy as np
import pytest
from conftest import engine_mode
from mindspore import Tensor
from networks import Gradients

from ms_codegeex.models.flat import FlatCrossEntropy
from ms_codegeex.models.losses import ChunkedCrossEntropy, CrossEntropy

pytestmark = pytest.mark.usefixtures("pynative_mode_throughout")  # evaluations; a graph of each loss with its gradients
ROWS, HIDDEN, VOCABULARY = 21, 8, 101


@pytest.fixture(scope="module")
def problem():
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(ROWS, HIDDEN)).astype(np.float32) * 3
    table = generator.normal(size=(VOCABULARY, HIDDEN)).astype(np.float32)
    labels = generator.integers(0, VOCABULARY, ROWS).astype(np.int32)
    mask = (generator.random(ROWS) < 0.6).astype(np.float32)
    return hidden, table, labels, mask


def oracle(hidden, table, labels, mask, bias=0.0, z_loss=0.0):
    """Σ mask·(nll + z_loss·(log Z)²) and its gradients with respect to hidden, table, bias in float64."""
    hidden, table = hidden.astype(np.float64), table.astype(np.float64)
    z = hidden @ table.T + bias
    p = np.exp(z - z.max(1, keepdims=True))
    log_z = z.max(1) + np.log(p.sum(1))
    p /= p.sum(1, keepdims=True)
    value = ((z_loss * log_z**2 - np.log(p[np.arange(len(labels)), labels])) * mask).sum()
    d = p * (1 + 2 * z_loss * log_z)[:, None]
    d[np.arange(len(labels)), labels] -= 1
    d *= mask[:, None]
    return value, d @ table, d.T @ hidden, d.sum(0)


LOSSES = {
    "plain": lambda bias=False, z_loss=0.0: CrossEntropy(VOCABULARY, ms.float32, bias, z_loss),
    "flat": lambda bias=False, z_loss=0.0: FlatCrossEntropy(VOCABULARY, ms.float32, bias, z_loss),
    "chunk 8 (ragged)": lambda bias=False, z_loss=0.0: ChunkedCrossEntropy(ROWS, 8, bias, z_loss),
    "one chunk": lambda bias=False, z_loss=0.0: ChunkedCrossEntropy(ROWS, 64, bias, z_loss),
}
# "flat" has its softmax from rounded logarithms, whose error is that of the logits, here up to 35.
TOLERANCE = dict.fromkeys(LOSSES, 2e-5) | {"flat": 5e-5}


@functools.cache
def compiled(name, bias=False, z_loss=0.0):
    """A loss in training with its gradients, compiled once for all data."""
    return Gradients(LOSSES[name](bias, z_loss)).set_train(True)


def trained(cell, inputs):
    """The loss, and 2.5 times its gradients, in graph mode."""
    with engine_mode("graph"):
        value, gradients = cell(*map(Tensor, inputs), Tensor([2.5], ms.float32))
    return value.asnumpy().item(), [gradient.asnumpy() for gradient in gradients]


def evaluated(loss, inputs):
    """The loss of an evaluation."""
    return loss.set_train(False)(*map(Tensor, inputs)).asnumpy().item()


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_float64(problem, name):
    value, to_hidden, to_table, _ = oracle(*problem)
    found, gradients = trained(compiled(name), problem)
    assert found == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(gradients[0], 2.5 * to_hidden, atol=TOLERANCE[name])
    np.testing.assert_allclose(gradients[1], 2.5 * to_table, atol=TOLERANCE[name])


Z_LOSS = 0.03


@pytest.mark.parametrize("shift", [0.0, 500.0])  # Σ exp(z) overflows FP32 from 89 on
@pytest.mark.parametrize("name", LOSSES)
def test_z_loss_and_its_gradients_equal_float64(problem, name, shift):
    bias = (np.random.default_rng(8).normal(size=VOCABULARY) * 2 + shift).astype(np.float32)
    value, *expected = oracle(*problem, bias, Z_LOSS)
    plain = oracle(*problem, bias)
    assert value > plain[0] + 10  # it matters, and so does its gradient
    found, gradients = trained(compiled(name, bias=True, z_loss=Z_LOSS), (*problem, bias))
    assert found == pytest.approx(value, rel=1e-6)
    for gradient, wanted, without in zip((gradients[0], gradients[1], gradients[4]), expected, plain[1:], strict=True):
        assert np.abs(wanted - without).max() > 0.1 and gradient.shape == wanted.shape
        near = 5e-3 if shift else 5e-5  # 500 + x is rounded
        np.testing.assert_allclose(gradient, 2.5 * wanted, rtol=2e-5, atol=near)


@pytest.mark.parametrize("z_loss", [0.0, Z_LOSS])
@pytest.mark.parametrize("bias", [(), (np.random.default_rng(8).normal(size=VOCABULARY).astype(np.float32),)])
@pytest.mark.parametrize("name", LOSSES)
def test_an_evaluation_has_the_same_value_without_z_loss(problem, name, bias, z_loss):
    found = evaluated(LOSSES[name](bool(bias), z_loss), (*problem, *bias))
    assert found == pytest.approx(oracle(*problem, *bias)[0], rel=1e-6)


@pytest.mark.usefixtures("graph_mode")
def test_an_evaluation_in_graph_mode(problem):
    """The mode matters: `training` is a constant of the graph."""
    loss = LOSSES["chunk 8 (ragged)"](z_loss=Z_LOSS)
    assert evaluated(loss, problem) == pytest.approx(oracle(*problem)[0], rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_hopeless_prediction_stays_finite(name):
    hidden = np.full((ROWS, HIDDEN), 30, np.float32)
    table = np.zeros((VOCABULARY, HIDDEN), np.float32)
    table[0] = 1.0  # all probability on token 0, every label is another
    labels, mask = np.ones(ROWS, np.int32), np.ones(ROWS, np.float32)
    value, _ = trained(compiled(name), (hidden, table, labels, mask))
    for found in (value, evaluated(LOSSES[name](), (hidden, table, labels, mask))):
        assert np.isfinite(found) and found > 80 * ROWS


def test_fp16_logits_are_reduced_in_fp32(problem):
    hidden, table, labels, mask = problem
    value = CrossEntropy(VOCABULARY, ms.float16)(Tensor(hidden.astype(np.float16)), *map(Tensor, (table, labels, mask)))
    assert value.dtype == ms.float32
    assert value.asnumpy().item() == pytest.approx(oracle(*problem)[0], rel=2e-3)
