"""Cells that broadcast nothing compute what the composed ones do, on a CPU: values and every gradient. The graph of a
run on a GPU has them (compiled for a CPU; `tests/base/cuda/test_gpu_kernels.py` compiles it for a GPU)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from flat_graphs import slow_operators
from flattened import flatten, most_alive
from mindspore import Tensor, nn
from networks import Gradients, packed_batch

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.execution_program import exported
from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.codegeex2.config import CodeGeeX2Config
from ms_codegeex.models.codegen.config import CodeGenConfig
from ms_codegeex.models.flat import FlatBuild
from ms_codegeex.training.build import build

pytestmark = pytest.mark.usefixtures("graph_mode")

BATCH, LENGTH, EOS = 3, 13, 5
SIZES = {"vocab_size": 40, "hidden_size": 48, "num_layers": 1, "num_heads": 4, "intermediate_size": 40}
SIZES |= {"max_position_embeddings": 16, "eos_token_id": EOS}
MEDIUM = {"num_layers": 3, "hidden_size": 256, "num_heads": 8, "vocab_size": 2048, "eos_token_id": EOS}
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


def flat(tree):
    return [leaf for part in tree for leaf in flat(part)] if isinstance(tree, tuple) else [tree]


def agree(cells, inputs, dtype):
    """Value and floating-point gradients of the second cell are those of the first."""
    given = [x if isinstance(x, Tensor) else Tensor(x) if x.dtype == np.int32 else Tensor(x, dtype) for x in inputs]
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
        pytest.param("codegeex", ms.float32, 0.0, False, marks=pytest.mark.slow),
        ("codegeex2", ms.float32, 0.3, True),
        ("codegen", ms.float16, 0.0, True),
        pytest.param("codegeex2", ms.float16, 0.0, True, marks=pytest.mark.slow),
        pytest.param("codegeex", ms.float16, 0.3, True, marks=pytest.mark.slow),
    ],
)
def test_attention(family, dtype, dropout, reset):
    config, rows = CONFIGS[family], BATCH * LENGTH
    build = {"seq_length": LENGTH, "dtype": dtype, "dropout": dropout, "reset_at_eos": reset}
    cells = [Attended(config, kind(**build)) for kind in (Build, FlatBuild)]
    q, k, v, back = (normal(rows, n, seed=n + i) for i, n in enumerate([48, *2 * [config.kv_size], 48]))
    ids = np.random.default_rng(1).choice([1, 2, EOS], (BATCH, LENGTH)).astype(np.int32)
    agree(cells, (q, k, v, ids, np.arange(BATCH, dtype=np.int32), back), dtype)


@pytest.mark.slow
def test_attention_with_the_dropout_of_the_device():
    """It draws other masks in every call, so the gradient has to be that of the masks of its own forward pass: the
    output is linear in the values."""
    build = FlatBuild(seq_length=LENGTH, dropout=0.3, kernels=("dropout",))
    q, k, v, back = (normal(BATCH * LENGTH, 48, seed=i) for i in range(4))
    ids = np.ones((BATCH, LENGTH), np.int32)
    given = map(Tensor, (q, k, v, ids, np.arange(BATCH, dtype=np.int32), back))
    output, gradients = Gradients(Attended(CONFIGS["codegeex"], build).set_train())(*given)
    assert (gradients[2].asnumpy() * v).sum() == pytest.approx((output.asnumpy() * back).sum(), rel=1e-4)


@pytest.mark.parametrize("dtype", [ms.float32, pytest.param(ms.float16, marks=pytest.mark.slow)])
def test_rms_norm(dtype):
    cells = [kind(seq_length=LENGTH, dtype=dtype).norm(CONFIGS["codegeex2"]) for kind in (Build, FlatBuild)]
    for cell in cells:
        cell.weight.set_data(Tensor(normal(48, seed=3)))
    agree(cells, (normal(7, 48), normal(7, 48, seed=1)), dtype)


@pytest.mark.parametrize("bias,z_loss", [(False, 0.0), pytest.param(True, 0.0, marks=pytest.mark.slow), (True, 0.03)])
def test_loss_with_logarithms_in_fp16(bias, z_loss):
    """`tests/models/test_losses.py` has the FP32 ones. An evaluation of FP16 products is the composed one."""
    cells = [
        kind(seq_length=7, dtype=ms.float16, z_loss=z_loss).loss(CONFIGS["codegen"], bias)
        for kind in (Build, FlatBuild)
    ]
    labels, mask = np.random.default_rng(2).integers(0, 40, 7).astype(np.int32), np.float32([1, 0, 1, 1, 0.5, 1, 1])
    given = [normal(7, 48), Tensor(normal(40, 48)), labels, Tensor(mask), *[Tensor(normal(40))][: int(bias)]]
    agree(cells, [*given, Tensor([1024.0], ms.float32)], ms.float16)
    composed, ours = (cell.set_train(False)(Tensor(given[0], ms.float16), *map(Tensor, given[1:])) for cell in cells)
    assert ours.asnumpy() == pytest.approx(composed.asnumpy(), rel=1e-6)


class BiasAndActivation(nn.Cell):
    def __init__(self, build):
        super().__init__()
        self.up = build.linear(CONFIGS["codegeex"], "feed_forward.up")
        self.up.weight.set_data(Tensor(normal(40, 48)))
        self.up.bias.set_data(Tensor(normal(40)))
        self.activation = build.activation(CONFIGS["codegeex"])

    def construct(self, x):
        return self.activation(self.up(x))


@pytest.mark.parametrize("dtype", [pytest.param(ms.float32, marks=pytest.mark.slow), ms.float16])
def test_linear_layer_and_activation(dtype):
    cells = [BiasAndActivation(kind(seq_length=LENGTH, dtype=dtype)) for kind in (Build, FlatBuild)]
    agree(cells, (normal(7, 48), normal(7, 40)), dtype)


ADAPTED = ("lora.rank=2", "lora.targets=[attention,feed_forward]")


@pytest.mark.parametrize(
    "family,precision,words",
    [
        ("codegeex2", "fp32", ("training.recompute=full",)),
        pytest.param("codegeex2", "fp32", ("training.micro_batch=3", *ADAPTED), marks=pytest.mark.slow),
        pytest.param("codegeex", "fp32", ("training.recompute=full", "training.dropout=0.1"), marks=pytest.mark.slow),
        pytest.param("codegeex", "fp16", ("training.recompute=selective",), marks=pytest.mark.slow),
        pytest.param("codegen", "fp32", ("training.micro_batch=3", "training.z_loss=0.01"), marks=pytest.mark.slow),
        pytest.param("codegen", "fp16", ("training.dropout=0.1", *ADAPTED), marks=pytest.mark.slow),
        pytest.param("codegeex2", "fp16", ("training.recompute=full",), marks=pytest.mark.slow),
    ],
)
def test_two_steps_of_a_run_on_a_gpu(family, precision, words):
    """Two steps compiled and executed on a CPU, with the cells of a run on a GPU and with composed ones."""
    fields = {**SIZES} if family == "codegeex" else {**SIZES, "rotary_dim": 8}
    words = (*(f"model.{key}={value}" for key, value in fields.items()), "training.dropout=0", *words)
    words += (f"model.family={family}", "model.preset=tiny", "device=gpu", "devices=1", "training.steps=4")
    words += ("training.loss_chunk=0", "training.global_batch=6", f"data.seq_length={LENGTH}")
    config = load_config(None, [*words, f"training.precision={precision}", "training.loss_scale.initial=4096"])
    results = []
    for kind in (None, Build):
        built = build(config, layers=kind)
        generator = np.random.default_rng(5)
        for p in sorted(built.network.get_parameters(), key=lambda p: p.name):
            values = generator.standard_normal(p.shape) * 0.1 + p.name.endswith("norm.weight")
            p.set_data(Tensor(values.astype(np.float32)).astype(p.dtype))
        built.step.set_train(True)
        rows = []
        for seed in range(2):
            batch = [Tensor(x) for x in packed_batch(40, EOS, config.micro_batch, LENGTH, seed)]
            if built.accumulate_step is not None:
                built.accumulate_step(*batch)
            rows.append(built.step(*batch).asnumpy())
        slow = slow_operators(built.step, config.micro_batch, 4, LENGTH, 40)
        assert bool(slow) == (kind is Build or config.training.dropout > 0), slow
        if kind is not Build or config.training.dropout > 0:
            assert ("Mul with a number" in slow) == (kind is Build)
        results.append((np.array(rows), [p.asnumpy() for p in built.optimizer.m]))
    (found, moments), (wanted, composed_moments) = results
    assert wanted[:, -1].all()  # both steps update the weights
    np.testing.assert_allclose(found, wanted, rtol=3e-6 if precision == "fp32" else 5e-3)
    largest = max(np.abs(moment).max() for moment in composed_moments)
    for ours, theirs in zip(moments, composed_moments, strict=True):  # means of the gradients
        scale = max(np.abs(theirs).max(), 1e-2 * largest)
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=3e-6 if precision == "fp32" else 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("family", CONFIGS)
def test_the_plan_knows_what_a_graph_keeps(family):
    """The largest sum of the tensors that are alive in the compiled graph, and the plan's memory."""
    words = [f"model.{key}={value}" for key, value in MEDIUM.items()] + [f"model.family={family}"]
    words += ["model.preset=tiny", "device=gpu", "devices=1", "training.steps=1", "training.dropout=0"]
    words += ["training.precision=fp16", "training.loss_chunk=0", "training.global_batch=4", "data.seq_length=256"]
    config = load_config(None, words)
    ratios = []
    for kind in (None, Build):
        built = build(config, layers=kind)
        built.compile(4)
        alive = most_alive(flatten(mindir.parse(exported(built.step))))
        ratios.append(make_plan(config).memory[0].total / alive)
    assert 0.95 < ratios[0] < 1.2 and ratios[1] < 0.85 * ratios[0], ratios
