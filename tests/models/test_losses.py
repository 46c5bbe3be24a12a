import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ms_codegeex.models.losses import ChunkedCrossEntropy, CrossEntropy

ROWS, HIDDEN, VOCABULARY = 37, 8, 101


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


class Gradients(nn.Cell):
    def __init__(self, loss):
        super().__init__()
        self.loss, self.gradient = loss, ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, *inputs):
        return self.gradient(self.loss)(*inputs)


LOSSES = {
    "plain": lambda bias=False, z_loss=0.0: CrossEntropy(VOCABULARY, ms.float32, bias, z_loss),
    "chunk 8 (ragged)": lambda bias=False, z_loss=0.0: ChunkedCrossEntropy(ROWS, 8, bias, z_loss),
    "one chunk": lambda bias=False, z_loss=0.0: ChunkedCrossEntropy(ROWS, 64, bias, z_loss),
}


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_float64(problem, name):
    loss, tensors = LOSSES[name](), [Tensor(x) for x in problem]
    value, to_hidden, to_table, _ = oracle(*problem)
    loss.set_train(True)
    assert loss(*tensors).asnumpy().item() == pytest.approx(value, rel=1e-6)
    gradients = Gradients(loss)
    gradients.set_train(True)
    result = gradients(*tensors, Tensor([2.5], ms.float32))
    np.testing.assert_allclose(result[0].asnumpy(), 2.5 * to_hidden, atol=2e-5)
    np.testing.assert_allclose(result[1].asnumpy(), 2.5 * to_table, atol=2e-5)


@pytest.mark.parametrize(
    "name", [name if "ragged" in name else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES]
)
def test_value_and_gradients_with_a_bias_equal_float64(problem, name):
    bias = (np.random.default_rng(8).normal(size=VOCABULARY) * 2).astype(np.float32)
    loss, tensors = LOSSES[name](bias=True), [Tensor(x) for x in (*problem, bias)]
    value, *expected = oracle(*problem, bias)
    assert abs(value - oracle(*problem)[0]) > 1  # the bias matters
    loss.set_train(False)
    assert loss(*tensors).asnumpy().item() == pytest.approx(value, rel=1e-6)
    loss.set_train(True)
    assert loss(*tensors).asnumpy().item() == pytest.approx(value, rel=1e-6)
    gradients = Gradients(loss)
    gradients.set_train(True)
    result = gradients(*tensors, Tensor([2.5], ms.float32))
    for found, wanted in zip((result[0], result[1], result[4]), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.asnumpy(), 2.5 * wanted, atol=2e-5)


Z_LOSS = 0.03


@pytest.mark.parametrize("shift", [0.0, 500.0])  # Σ exp(z) overflows FP32 from 89 on
@pytest.mark.parametrize("name", LOSSES)
def test_z_loss_and_its_gradients_equal_float64(problem, name, shift):
    bias = (np.random.default_rng(8).normal(size=VOCABULARY) * 2 + shift).astype(np.float32)
    loss, tensors = LOSSES[name](bias=True, z_loss=Z_LOSS), [Tensor(x) for x in (*problem, bias)]
    value, *expected = oracle(*problem, bias, Z_LOSS)
    plain = oracle(*problem, bias)
    assert value > plain[0] + 10  # it matters, and so does its gradient
    loss.set_train(True)
    assert loss(*tensors).asnumpy().item() == pytest.approx(value, rel=1e-6)
    gradients = Gradients(loss)
    gradients.set_train(True)
    result = gradients(*tensors, Tensor([2.5], ms.float32))
    for found, wanted, without in zip((result[0], result[1], result[4]), expected, plain[1:], strict=True):
        assert np.abs(wanted - without).max() > 0.1
        np.testing.assert_allclose(
            found.asnumpy(), 2.5 * wanted, rtol=2e-5, atol=5e-3 if shift else 5e-5
        )  # 500 + x is rounded


@pytest.mark.parametrize("name", LOSSES)
def test_z_loss_is_not_in_the_loss_of_an_evaluation(problem, name):
    loss = LOSSES[name](z_loss=Z_LOSS)
    loss.set_train(False)
    assert loss(*map(Tensor, problem)).asnumpy().item() == pytest.approx(oracle(*problem)[0], rel=1e-6)


def test_chunked_without_training_has_the_same_value(problem):
    loss = ChunkedCrossEntropy(ROWS, 8)
    loss.set_train(False)
    assert loss(*(Tensor(x) for x in problem)).asnumpy().item() == pytest.approx(oracle(*problem)[0], rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_hopeless_prediction_stays_finite(name):
    hidden = np.full((ROWS, HIDDEN), 30, np.float32)
    table = np.zeros((VOCABULARY, HIDDEN), np.float32)
    table[0] = 1.0  # all probability on token 0, every label is another
    labels, mask = np.ones(ROWS, np.int32), np.ones(ROWS, np.float32)
    value = LOSSES[name]()(*(Tensor(x) for x in (hidden, table, labels, mask))).asnumpy().item()
    assert np.isfinite(value) and value > 80 * ROWS


def test_fp16_logits_are_reduced_in_fp32(problem):
    hidden, table, labels, mask = problem
    value = CrossEntropy(VOCABULARY, ms.float16)(Tensor(hidden.astype(np.float16)), *map(Tensor, (table, labels, mask)))
    assert value.dtype == ms.float32
    assert value.asnumpy().item() == pytest.approx(oracle(*problem)[0], rel=2e-3)
