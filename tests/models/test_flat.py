"""Cells that broadcast nothing compute what the composed ones do: values and every gradient, on a CPU."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.codegeex2.config import CodeGeeX2Config
from ms_codegeex.models.codegen.config import CodeGenConfig

pytestmark = pytest.mark.usefixtures("graph_mode")

BATCH, LENGTH, EOS = 3, 13, 5
SIZES = {"vocab_size": 40, "hidden_size": 48, "num_layers": 1, "num_heads": 4, "intermediate_size": 40}
SIZES |= {"max_position_embeddings": 16, "eos_token_id": EOS}
CONFIGS = {
    "codegeex": CodeGeeXConfig(**SIZES),
    "codegen": CodeGenConfig(**SIZES, rotary_dim=8),  # scores in FP32
    "codegeex2": CodeGeeX2Config(**SIZES, rotary_dim=8, num_kv_groups=2),
}


class Attended(nn.Cell):
    """Attention with its mask and its angles."""

    def __init__(self, config, build):
        super().__init__()
        self.core, self.mask = build.attention(config, 1), build.mask(config)
        self.rotary = build.rotary_table(config) if config.rotary_dim else None

    def construct(self, q, k, v, ids, samples):
        mask, positions = self.mask(ids)
        if self.rotary is None:
            return self.core(q, k, v, mask, samples)
        cos, sin = self.rotary(positions)
        return self.core(q, k, v, mask, samples, cos, sin)


class Gradients(nn.Cell):
    """The value of a cell and its gradients with respect to inputs and parameters."""

    def __init__(self, cell):
        super().__init__(auto_prefix=False)
        self.cell, self.weights = cell, ms.ParameterTuple(cell.trainable_params())
        self.gradient = ops.GradOperation(get_all=True, get_by_list=bool(len(self.weights)), sens_param=True)

    def construct(self, *inputs):
        if len(self.weights):
            return self.cell(*inputs[:-1]), self.gradient(self.cell, self.weights)(*inputs)
        return self.cell(*inputs[:-1]), self.gradient(self.cell)(*inputs)


def flat(tree):
    return [leaf for part in tree for leaf in flat(part)] if isinstance(tree, tuple) else [tree]


def agree(cells, inputs, dtype):
    """Value and floating-point gradients of the second cell are those of the first."""
    given = [Tensor(x) if x.dtype == np.int32 else Tensor(x).astype(dtype) for x in inputs]
    composed, ours = (
        [x.asnumpy() for x in flat(Gradients(cell.set_train())(*given)) if x.dtype != ms.int32] for cell in cells
    )
    assert len(composed) == len(ours) > 2
    for wanted, found in zip(composed, ours, strict=True):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape and wanted.any()
        tolerance = 1e-6 if dtype == ms.float32 else 4e-3
        np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max(), rtol=0)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "family,dtype,dropout,reset",
    [
        ("codegeex", ms.float32, 0.0, False),
        ("codegeex2", ms.float32, 0.3, True),
        ("codegeex2", ms.float16, 0.0, True),
        ("codegen", ms.float16, 0.0, True),
        ("codegeex", ms.float16, 0.3, True),
    ],
)
def test_attention(family, dtype, dropout, reset):
    config, rows = CONFIGS[family], BATCH * LENGTH
    build = {"seq_length": LENGTH, "dtype": dtype, "dropout": dropout, "reset_at_eos": reset}
    cells = [Attended(config, Build(**build, flat=flat)) for flat in (False, True)]
    q, k, v, back = (normal(rows, n, seed=n + i) for i, n in enumerate([48, *2 * [config.kv_size], 48]))
    ids = np.random.default_rng(1).choice([1, 2, EOS], (BATCH, LENGTH)).astype(np.int32)
    agree(cells, (q, k, v, ids, np.arange(BATCH, dtype=np.int32), back), dtype)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_rms_norm(dtype):
    cells = [Build(seq_length=LENGTH, dtype=dtype, flat=flat).norm(CONFIGS["codegeex2"]) for flat in (False, True)]
    for cell in cells:
        cell.weight.set_data(Tensor(normal(48, seed=3)))
    agree(cells, (normal(7, 48), normal(7, 48, seed=1)), dtype)


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_linear_layer_and_activation(dtype):
    cells = []
    for flat in (False, True):
        build = Build(seq_length=LENGTH, dtype=dtype, flat=flat)
        up = build.linear(CONFIGS["codegeex"], "feed_forward.up")
        up.weight.set_data(Tensor(normal(40, 48)))
        up.bias.set_data(Tensor(normal(40)))
        cells.append(nn.SequentialCell(up, nn.Cell() if False else Applied(build.activation(CONFIGS["codegeex"]))))
    agree(cells, (normal(7, 48), normal(7, 40)), dtype)


class Applied(nn.Cell):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, x):
        return self.function(x)
