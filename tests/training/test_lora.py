"""Adapters: which parameters are trained and saved, and the merged model."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import small_run
from mindspore import Tensor

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft import open_adapters
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.rounding import quantise
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.models.layers import Linear, SampleKeys
from ms_codegeex.models.lora import Adaptation, LoraLinear, NarrowProduct
from ms_codegeex.runs.rank.saving import Checkpoints
from ms_codegeex.runs.rank.weights import weights_of
from ms_codegeex.training.start import RankPlace, RunData, RunStart
from ms_codegeex.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
FAMILIES = {
    "codegeex": {},
    "codegen": {"preset": "tiny", "rotary_dim": 4},
    "codegeex2": {"preset": "tiny", "num_kv_groups": 1, "rotary_dim": 4},
}


def first_fused(source, layer):
    """The layer whose A the adapter of `layer` has: PyTorch's CodeGen and CodeGeeX2 fuse query, key and value."""
    block, _, name = layer.rpartition("attention.")
    fused = source.family.name != "codegeex" and name in ("key", "value")
    return f"{block}attention.query" if fused else layer


def make(values, *callbacks, library=None):
    config = build_run_config(values)
    data = RunData(training_data(config), validation_data(config))
    return Trainer(config, data, RunStart(weights_of(config)), RankPlace(library=library), callbacks)


def write_start(values, root):
    """First weights as a run's, so that nothing is compiled."""
    start = {parameter.name: parameter.asnumpy() for parameter in make(values).built.network.trainable_params()}
    write_checkpoint(root / "checkpoints", 1, start, {"config": {"model": values["model"]}})


def run_values(dataset, root, family):
    values = small_run(dataset, root / "run")
    values["model"] |= {"family": family, **FAMILIES[family]}
    values["training"]["steps"] = 3
    return values


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "codegen"]


@pytest.fixture(scope="module", params=["codegen", *SLOW])
def runs(request, dataset, tmp_path_factory):
    """A model, and adapters on it: values, trainer, and the checkpoints' folders."""
    root = tmp_path_factory.mktemp(request.param)
    values = run_values(dataset, root, request.param)
    base = make(values)
    write_start(values, root / "base")
    values["model"]["weights"] = str(root / "base")
    values["lora"] = {"rank": 2, "alpha": 6.0, "targets": ["attention", "feed_forward.down"]}
    trainer = make(values, Checkpoints(root / "tuned" / "checkpoints", 0, 1))
    before = trainer.evaluation.loss()
    trainer.run()
    return values, base, before, trainer, root


def test_a_model_with_new_adapters_is_the_model(runs):
    _, base, before, _, _ = runs
    assert before == pytest.approx(base.evaluation.loss(), rel=1e-6)


def test_only_the_adapters_change_and_are_saved(runs):
    _, _, _, trainer, root = runs
    source = open_source(root / "base")
    layers = source.config.adapted_layers(["attention", "feed_forward.down"])
    assert len(layers) >= 5 and "blocks.0.attention.query" in layers and "blocks.0.feed_forward.up" not in layers
    saved = Checkpoint(list_checkpoints(root / "tuned" / "checkpoints")[-1])
    factors = {f"{layer}.lora_b" for layer in layers} | {f"{first_fused(source, layer)}.lora_a" for layer in layers}
    assert set(saved.names) == {f"{kind}{name}" for name in factors for kind in ("", "optimizer.m.", "optimizer.v.")}
    parameters = {p.name: p for p in trainer.built.step.get_parameters()}
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(parameters[name].asnumpy(), tensor.float32(), err_msg=name)
    assert all(np.abs(saved.tensor(f"{layer}.lora_b")).max() > 0 for layer in layers)


def test_the_merged_model_is_what_was_trained(runs):
    values, _, before, trainer, root = runs
    source = open_source(root / "tuned")
    base = open_source(root / "base")
    saved = Checkpoint(source.path)
    for name, tensor in source.tensors.items():
        expected, layer = base.tensors[name].float32().astype(np.float64), name.removesuffix(".weight")
        if f"{layer}.lora_b" in saved.names:
            names = f"{layer}.lora_b", f"{first_fused(source, layer)}.lora_a"
            b, a = (saved.tensor(each).astype(np.float64) for each in names)
            expected = expected + 3.0 * b @ a
        np.testing.assert_allclose(tensor.float32(), expected, rtol=1e-6, atol=1e-7, err_msg=name)
    plain = {**values, "lora": {}, "model": {**values["model"], "weights": str(root / "tuned")}}
    after = make(plain).evaluation.loss()
    assert after == pytest.approx(trainer.evaluation.loss(), rel=1e-5)
    assert after < before


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["fp32", "fp16", "int8", "int4"])
def test_a_run_with_adapters_resumes_to_the_bit(dataset, tmp_path, frozen):
    values = run_values(dataset, tmp_path, "codegen")
    base = make(values, Checkpoints(tmp_path / "base" / "checkpoints", 0, 1))
    base.run()
    values["model"]["weights"] = str(tmp_path / "base")
    values["lora"] = {"rank": 1, "dropout": 0.3, "frozen": frozen}
    values["training"]["steps"] = 4
    whole = make(values, Checkpoints(tmp_path / "tuned" / "checkpoints", 2, 2))
    whole.run()
    resumed = make(values)
    resumed.restore(Checkpoint(list_checkpoints(tmp_path / "tuned" / "checkpoints")[0]))
    assert resumed.progress.step == 2
    resumed.run()
    for name, parameter in whole.rank_state.tensors().items():
        np.testing.assert_array_equal(resumed.rank_state.tensors()[name].asnumpy(), parameter.asnumpy(), err_msg=name)
    (tmp_path / "base").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"holds adapters for the model at .*, which is gone"):
        open_source(tmp_path / "tuned")
    other = values | {"seed": 9, "lora": {}, "model": {**values["model"], "weights": None}}
    make(other, Checkpoints(tmp_path / "base" / "checkpoints", 0, 1)).run()
    with pytest.raises(UserError, match="another one is there now"):
        open_source(tmp_path / "tuned")
    with pytest.raises(UserError, match="its adapters belong to another model"):
        make(values).restore(Checkpoint(list_checkpoints(tmp_path / "tuned" / "checkpoints")[0]))


def test_training_continues_from_adapters(runs, tmp_path):
    """From those of a run, and from the directory that it exports."""
    values, _, _, trainer, root = runs
    values = {**values, "seed": 7}
    write_peft(open_source(root / "tuned"), tmp_path / "adapter")
    made = []
    for place in (root / "tuned", tmp_path / "adapter"):
        values["lora"] = {**values["lora"], "weights": str(place)}
        made.append(make(values))
    assert made[0].evaluation.loss() == pytest.approx(trainer.evaluation.loss(), rel=1e-6)
    expected, found = ({p.name: p.asnumpy() for p in each.built.network.get_parameters()} for each in made)
    assert expected.keys() == found.keys() and any(name.endswith("lora_b") for name in found)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    for change in ({"rank": 3}, {"alpha": 2.0}, {"targets": ["attention"]}, {"rank": 0}):
        with pytest.raises(UserError, match=r"lora.weights: .* has rank 2, alpha 6 and targets attention.key, "):
            make({**values, "lora": {**values["lora"], **change}})


@pytest.fixture(scope="module")
def half_model(dataset, tmp_path_factory):
    """Values of a run of adapters on a CodeGen whose directory is in FP16, as released ones are."""
    root = tmp_path_factory.mktemp("half")
    values = run_values(dataset, root, "codegen")
    values["model"]["num_heads"] = 4
    values["training"]["loss_chunk"] = 50
    write_start(values, root / "base")
    convert(root / "base", "hf", root / "model", dtype="fp16", progress=False)
    values["model"]["weights"] = str(root / "model")
    values["lora"] = {"rank": 2, "alpha": 6.0, "targets": ["attention", "feed_forward"], "frozen": "fp16"}
    return values


def test_weights_of_a_16_bit_file_stay_as_they_are(half_model):
    """Matrices and tables are the file's bytes; only those that it fuses are this process's own."""
    parameters = {p.name: p for p in make(half_model).built.network.get_parameters()}
    for name, tensor in open_source(Path(half_model["model"]["weights"])).tensors.items():
        held = parameters[name]
        assert held.dtype == (ms.float16 if len(tensor.shape) == 2 else ms.float32), name
        assert not held.requires_grad
        np.testing.assert_array_equal(held.asnumpy().astype(np.float32), tensor.float32(), err_msg=name)
    assert all(p.dtype == ms.float32 for name, p in parameters.items() if "lora_" in name)


def check_equal_runs(every, root):
    """The first of two runs trains as the second, on the same numbers in 32 bits; returns its trainer and loss."""
    losses, trainers = [], []
    for values in every:
        place = root / values["lora"]["frozen"] / "checkpoints"
        trainers.append(trainer := make(values, Checkpoints(place, 0, 1)))
        before = trainer.evaluation.loss()
        trainer.run()
        losses.append((before, trainer.evaluation.loss()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0][1] < losses[0][0]
    narrow, wide = (trainer.rank_state.tensors() for trainer in trainers)
    for name in wide:
        np.testing.assert_allclose(narrow[name].asnumpy(), wide[name].asnumpy(), rtol=1e-4, atol=1e-6, err_msg=name)
    return narrow, losses[0][1]


@pytest.mark.slow
def test_training_on_16_bit_weights_is_that_on_the_same_numbers_in_32(half_model, tmp_path):
    """And the merged model is what was trained."""
    _, loss = check_equal_runs((half_model, rounded_values(half_model, "fp32")), tmp_path)
    merged = {**half_model["model"], "weights": str(tmp_path / "fp16")}
    after = make({**half_model, "lora": {}, "model": merged}).evaluation.loss()
    assert after == pytest.approx(loss, rel=1e-5)


def rounded_values(values, frozen):
    return {**values, "lora": {**values["lora"], "frozen": frozen}}


@pytest.mark.parametrize("frozen", ["int8", "int4"])
def test_matrices_are_the_integers_that_quantize_writes(half_model, frozen, tmp_path):
    """And tables are the file's bytes; nothing else is held of a matrix."""
    source = open_source(Path(half_model["model"]["weights"]))
    write_quantised(source, int(frozen[3:]), 64, tmp_path / "quantised")
    written = SafetensorsFile(tmp_path / "quantised" / "quantised.safetensors").tensors
    parameters = {p.name: p for p in make(rounded_values(half_model, frozen)).built.network.get_parameters()}
    matrices = source.config.matrix_names()
    for name, tensor in source.tensors.items():
        held = parameters.pop(name)
        assert not held.requires_grad
        if name in matrices:
            np.testing.assert_array_equal(held.asnumpy(), written[name].array(), err_msg=name)
            scales = parameters.pop(f"{name}.scales").asnumpy()
            np.testing.assert_array_equal(scales, written[f"{name}.scales"].array(), err_msg=name)
        else:
            assert held.dtype == (ms.float16 if len(tensor.shape) == 2 else ms.float32), name
    assert all("lora_" in name for name in parameters)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["int8", "int4"])
def test_training_on_integers_is_that_on_the_same_numbers_in_32(half_model, tmp_path, frozen):
    """The second run starts from a model whose matrices are what the integers stand for. What is merged afterwards is
    the model's own matrices with the adapters, and the exported adapters know no type of their base."""
    source = open_source(Path(half_model["model"]["weights"]))
    matrices = source.config.matrix_names()
    start = {
        name: quantise(tensor.float32(), int(frozen[3:])).float32() if name in matrices else tensor.float32()
        for name, tensor in source.tensors.items()
    }
    write_checkpoint(tmp_path / "rounded" / "checkpoints", 1, start, {"config": {"model": half_model["model"]}})
    other = {**half_model, "model": {**half_model["model"], "weights": str(tmp_path / "rounded")}}
    both = rounded_values(half_model, frozen), rounded_values(other, "fp32")
    integers, _ = check_equal_runs(both, tmp_path)
    write_peft(open_source(tmp_path / frozen), tmp_path / "adapter")
    exported = {k: v.float32() for k, v in open_adapters(tmp_path / "adapter", source).tensors.items()}
    merged = open_source(tmp_path / frozen).tensors
    layer = "blocks.0.feed_forward.up"
    added = 3.0 * integers[f"{layer}.lora_b"].asnumpy() @ integers[f"{layer}.lora_a"].asnumpy()
    np.testing.assert_array_equal(exported[f"{layer}.lora_b"], integers[f"{layer}.lora_b"].asnumpy())
    own = source.tensors[f"{layer}.weight"].float32()
    np.testing.assert_allclose(merged[f"{layer}.weight"].float32(), own + added, rtol=1e-5, atol=1e-6)


def test_numbers_beyond_16_bits_are_refused(half_model, tmp_path):
    values = {**half_model, "model": {**half_model["model"], "weights": None}, "lora": {}}
    start = {parameter.name: parameter.asnumpy() for parameter in make(values).built.network.trainable_params()}
    start["blocks.0.feed_forward.up.weight"][0, 0] = 7e4
    write_checkpoint(tmp_path / "checkpoints", 1, start, {"config": {"model": values["model"]}})
    with pytest.raises(UserError, match=r"blocks\.0\.feed_forward\.up\.weight .* in 16 bits; set lora\.frozen=fp32"):
        make({**half_model, "model": {**half_model["model"], "weights": str(tmp_path)}})


@pytest.mark.slow
def test_dropout_acts_on_the_input_of_the_adapter_alone():
    """With identities as factors, the output is x + scale * drop(x)."""
    x = np.random.default_rng(0).uniform(1, 2, (2 * 50, 40)).astype(np.float32)

    def outputs(name="blocks.0.attention.query", seed=1, samples=(5, 6), training=True):
        base = Linear(40, 40, 0.0, ms.float32, bias=False)
        layer = LoraLinear(base, name, 40, NarrowProduct(base, name, Adaptation([], 40, 80.0, 0.25, seed), 50))
        for parameter in (base.weight, layer.narrow.a, layer.b):
            parameter.set_data(Tensor(np.eye(40, dtype=np.float32)))
        keys = SampleKeys()(Tensor(np.array(samples, np.int32)))
        return layer.set_train(training)(Tensor(x), keys).asnumpy()

    found = outputs()
    kept = found > 1.5 * x
    np.testing.assert_allclose(found, np.where(kept, x + 2 * x / 0.75, x), rtol=1e-5)
    assert 0.22 < 1 - kept.mean() < 0.28
    np.testing.assert_array_equal(outputs(), found)
    for other in (outputs(name="blocks.0.attention.key"), outputs(seed=2), outputs(samples=(7, 8))):
        assert 0.2 < ((other > 1.5 * x) != kept).mean() < 0.6
    np.testing.assert_array_equal(outputs(samples=(6, 5))[:50] > 1.5 * x[:50], kept[50:])
    np.testing.assert_allclose(outputs(training=False), 3 * x, rtol=1e-5)


FROZEN = {"rank": 4, "frozen": "fp16"}


@pytest.mark.parametrize(
    ("lora", "changes", "message"),
    [
        ({"dropout": 1.0}, {}, "lora.dropout: found 1"),
        ({"rank": -1}, {}, "lora.rank: found -1"),
        ({"alpha": 0}, {}, "lora.alpha: found 0"),
        ({"frozen": "fp16"}, {}, "lora.frozen: fp16, but all weights are trained"),
        ({"frozen": "int4"}, {}, "lora.frozen: int4, but all weights are trained"),
        ({"rank": 4, "frozen": "bf16"}, {}, "a CPU holds frozen weights as fp16"),
        (FROZEN, {"training": {"steps": 1, "precision": "bf16"}}, "a CPU holds frozen"),
        (FROZEN, {"device": "ascend", "devices": 2}, "set devices=1, or lora.frozen=fp32"),
        (FROZEN, {"device": "ascend"}, "set lora.frozen=fp16 and training.precision=fp16, or"),
        ({"rank": 4, "frozen": "int8"}, {"devices": 2}, "devices: 2 and training.precision: fp32; matrices of 8"),
        ({"rank": 4, "frozen": "int4"}, {"device": "ascend"}, "set device=cpu, devices=1 and"),
        ({"ranks": 4}, {}, "lora.ranks: unknown key; did you mean 'rank'"),
    ],
)
def test_mistakes_in_the_section_are_named(lora, changes, message):
    with pytest.raises(UserError) as error:
        build_run_config({"training": {"steps": 1}, "lora": lora, **changes})
    assert message in str(error.value)


def test_adapters_need_a_model():
    with pytest.raises(UserError, match=r"lora.rank: model\.weights is missing"):
        weights_of(build_run_config({"training": {"steps": 1}, "lora": {"rank": 4}}))


def test_a_layer_that_does_not_exist_is_named():
    sizes = build_run_config({"training": {"steps": 1}, "model": {"preset": "tiny"}}).model.sizes
    with pytest.raises(UserError, match=r"lora.targets: no linear layer is named atention; known are attention\.query"):
        sizes.adapted_layers(["atention"])
