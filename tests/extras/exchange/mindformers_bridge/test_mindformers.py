"""Our families under mindformers' own Trainer: as a user starts it, and its parts against our own."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import yaml
from conftest import EOS, ROOT, VOCABULARY, command, small_run, write_config
from mindspore import Parameter, Tensor, nn, ops
from mindspore.nn.learning_rate_schedule import LearningRateSchedule
from small_models import save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.printing import print_once
from ms_codegeex.base.reading import read_json
from ms_codegeex.cli import main
from ms_codegeex.data.datasets.batches import PackedSequences
from ms_codegeex.extras.exchange.mindformers_bridge import register
from ms_codegeex.extras.exchange.mindformers_bridge.__main__ import built as building
from ms_codegeex.extras.exchange.mindformers_bridge.__main__ import check_weights
from ms_codegeex.extras.exchange.mindformers_bridge.dataset import COLUMNS, packed_sequences
from ms_codegeex.extras.exchange.mindformers_bridge.settings import check_rates
from ms_codegeex.extras.exchange.mindformers_bridge.settings import load as load_settings
from ms_codegeex.extras.exchange.mindformers_bridge.settings import settings as table_of_settings
from ms_codegeex.extras.exchange.mindformers_bridge.wrapper import PortableTrainOneStepCell
from ms_codegeex.models.causal import Build
from ms_codegeex.models.registry import FAMILIES, family
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.servers.supervision import reserved_port
from ms_codegeex.training.first_values import initial_weight

# looked for, not imported: its import takes 7 s and makes a directory for its logs where it is
pytestmark = pytest.mark.skipif(importlib.util.find_spec("mindformers") is None, reason="mindformers is not installed")

CONFIGS = ROOT / "configs" / "mindformers"
RUNS = [path for path in CONFIGS.glob("*.yaml") if "_base" not in path.stem]
RUNS.sort(key=lambda path: (path.stem != "codegeex_tiny", path))
SHALLOW = "model.model_config.num_layers=1"  # compiles sooner
SMALL = [f"model.model_config.vocab_size={VOCABULARY}", f"model.model_config.eos_token_id={EOS}"]


def run(config, *overrides, cwd):
    """`python -m ms_codegeex.extras.exchange.mindformers_bridge` in a separate process."""
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_DEFAULT_PATH"}
    words = [sys.executable, "-m", "ms_codegeex.extras.exchange.mindformers_bridge", "--config", config, *overrides]
    options = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run([*map(str, words)], cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)}, **options)


def losses(result, first=1):
    """Of every step from `first` on, as mindformers' own monitor prints them."""
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    found = re.findall(r"step:\[ *(\d+)/ *\d+\], loss:\[([\d.]+)/", result.stdout)
    assert [int(step) for step, _ in found] == list(range(first, first + len(found)))
    return [float(loss) for _, loss in found]


@pytest.fixture(autouse=True)
def eager_mode():
    """The comparison takes derivatives of a Python function, whatever the tests before have left."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """mindformers with our classes; it makes a directory for its logs wherever it works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_DEFAULT_PATH", str(tmp_path_factory.mktemp("mindformers")))
        register()
        register()  # again, without harm
        from mindformers.tools.register import MindFormerRegister

        yield MindFormerRegister


def load(path, *overrides):
    return load_settings(path, overrides)


def built(path, dataset, *overrides):
    """Configuration, model, optimizer and train step of a YAML file, made by mindformers' builders."""
    from mindformers.core.optim import build_optim
    from mindformers.models.build_model import build_model
    from mindformers.wrapper import build_wrapper

    config = load(path, f"train_dataset.data_loader.dataset_dir={dataset}", *SMALL, *overrides)
    ms.set_seed(config.seed)
    default = {"dataset_config": config.train_dataset, "batch_size": config.runner_config.batch_size}
    model = build_model(config.model, default_args=default)
    model.set_train()
    optimizer = build_optim(config.optimizer, default_args={"params": model.trainable_params(), "learning_rate": 1e-3})
    step = build_wrapper(config.runner_wrapper, default_args={"network": model, "optimizer": optimizer})
    return config, model, optimizer, step


def our_loss(name, model, batch):
    """Loss and gradient norm of the family's own `Loss` with the model's weights on a batch of ours."""
    build = Build(seq_length=batch.inputs.shape[1], micro_batch=len(batch.inputs))
    network = family(name).model.Loss(model.config.run_config().model.sizes, build)
    weights = {p.name: p for p in model.trainable_params()}
    for parameter in network.trainable_params():
        parameter.set_data(Tensor(weights[parameter.name].asnumpy()))
    network.set_train()
    tensors = [Tensor(array) for array in batch.arrays()]

    def mean(*arguments):
        sums = network(*arguments)
        return sums[0] / sums[1]

    loss, gradients = ms.value_and_grad(mean, None, network.trainable_params())(*tensors)
    return float(loss), float(ops.sqrt(sum(ops.square(gradient).sum() for gradient in gradients)))


def first_batch(dataset, config):
    data = PackedSequences(dataset, "train", config.train_dataset.data_loader.seq_length, config.seed)
    return data.training_batch(0, config.runner_config.batch_size)


def test_every_family_has_a_run():
    assert sorted(path.stem for path in RUNS) == sorted(f"{name}_tiny" for name in FAMILIES)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=() if path.stem == "codegen_tiny" else pytest.mark.slow) for path in RUNS],
    ids=lambda path: path.stem,
)
def test_every_configuration_builds_and_its_first_step_is_ours(registered, dataset, path):
    """Loss and gradient norm of the step against the family's own network; weights against the seed's."""
    config, model, optimizer, step = built(path, dataset, SHALLOW)
    assert config.model.model_config.seq_length == config.train_dataset.data_loader.seq_length
    assert config.train_dataset.data_loader.num_samples == 20 * config.runner_config.batch_size
    name = model.config.model_type
    again = type(model.config)(**model.config.to_dict())
    assert again.run_config() == model.config.run_config()
    sizes = model.config.run_config().model.sizes
    for parameter in model.trainable_params():
        std = sizes.initial_std(parameter.name)
        value = initial_weight(parameter.name, tuple(parameter.shape), std, config.seed)
        np.testing.assert_array_equal(parameter.asnumpy(), value, err_msg=parameter.name)
    batch = first_batch(dataset, config)
    loss, norm = our_loss(name, model, batch)
    assert norm > 1.0  # so that clipping has something to do
    ids = np.concatenate([batch.inputs, batch.labels[:, -1:]], 1)
    out = [np.asarray(value.asnumpy()) for value in step(Tensor(ids), Tensor(batch.samples))]
    assert out[0] == pytest.approx(loss, rel=1e-5) and out[4] == pytest.approx(norm, rel=1e-4)
    assert not out[1] and out[2] == 1.0 and out[3] == pytest.approx(1e-3)
    moments = np.sqrt(sum(np.square(m.asnumpy()).sum() for m in optimizer.exp_avg))
    assert moments == pytest.approx((1 - config.optimizer.betas[0]) * 1.0, rel=1e-3)  # a gradient of norm 1


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_loss_falls_in_twenty_steps(registered, dataset, tmp_path, path):
    override = f"train_dataset.data_loader.dataset_dir={dataset}"
    found = losses(run(path, override, *SMALL, cwd=tmp_path))
    assert len(found) == 20
    assert np.mean(found[-3:]) < 0.75 * np.mean(found[:3])
    config, model, *_ = built(path, dataset)
    expected, _ = our_loss(model.config.model_type, model, first_batch(dataset, config))
    assert found[0] == pytest.approx(expected, abs=2e-6)  # printed with six digits
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_the_curve_is_that_of_our_own_trainer(dataset, tmp_path):
    """With the same seed and rates: order, weights, loss, clipping and update agree over ten steps."""
    values = small_run(dataset, tmp_path / "ours")
    values["training"]["schedule"].update(learning_rate=1e-2, end_learning_rate=1e-2, warmup_steps=0)
    assert command("train", "--config", write_config(tmp_path / "ours.yaml", values)).returncode == 0
    ours = [record["loss"] for record in read_log(tmp_path / "ours" / "log.jsonl")]
    model = {key: value for key, value in values["model"].items() if key != "family"}
    overrides = [
        *(f"model.model_config.{key}={value}" for key, value in {**model, "seq_length": 32}.items()),
        f"train_dataset.data_loader={{type: PackedSequences, dataset_dir: {dataset}, seq_length: 32, num_samples: 40}}",
        "lr_schedule={type: ConstantWarmUpLR, learning_rate: 1.0e-2, warmup_steps: 0, total_steps: 10}",
        "seed=7",
        "optimizer.weight_decay=0.1",
    ]
    theirs = losses(run(CONFIGS / "codegeex_tiny.yaml", *overrides, cwd=tmp_path))
    np.testing.assert_allclose(theirs, ours, rtol=2e-4)


@pytest.mark.slow
def test_a_resumed_run_goes_on_to_the_digit(dataset, tmp_path):
    """mindformers' own checkpoints hold weights, moments, counts and the place in the data."""
    callbacks = "callbacks=[{type: MFLossMonitor}, {type: CheckpointMonitor, prefix: tiny, save_checkpoint_steps: 10}]"
    data = f"train_dataset.data_loader.dataset_dir={dataset}"
    common = [CONFIGS / "codegeex_tiny.yaml", data, *SMALL, SHALLOW, "model.model_config.dropout=0.1", callbacks]
    whole = run(*common, "output_dir=whole", cwd=tmp_path)
    resume = ["load_checkpoint=whole/checkpoint", "resume_training=tiny_rank_0-1_10.ckpt", "output_dir=rest"]
    rest = run(*common, *resume, cwd=tmp_path)
    assert losses(rest, first=11) == losses(whole)[10:]


def saved_by_convert(model, tmp_path):
    """A model's weights, which `convert` has written to `tmp_path / "saved"` in mindformers' layout."""
    weights = {parameter.name: parameter.asnumpy().copy() for parameter in model.trainable_params()}
    sizes = asdict(model.config.run_config().model.sizes)
    trained = save_run(tmp_path / "run", model.config.model_type, weights, **sizes)
    words = ["--to", "mindspore", "--layout", "mindformers", "--output", str(tmp_path / "saved")]
    assert main(["convert", "--model", str(trained), *words]) == 0
    return weights


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_mindformers_loads_what_convert_writes(registered, dataset, tmp_path, path):
    from mindformers.checkpoint.checkpoint import CommonInfo, load_checkpoint

    model = built(path, dataset, SHALLOW)[1]
    weights = saved_by_convert(model, tmp_path)
    for parameter in model.trainable_params():
        parameter.set_data(Tensor(np.zeros_like(weights[parameter.name])))
    load_checkpoint(str(tmp_path / "saved"), model)
    for parameter in model.trainable_params():
        np.testing.assert_array_equal(parameter.asnumpy(), weights[parameter.name], err_msg=parameter.name)
    assert CommonInfo.load_common(str(tmp_path / "saved/iteration_00000000/common.json")).global_step == 0


@pytest.mark.slow
def test_its_trainer_begins_with_what_convert_writes(registered, dataset, tmp_path):
    _, model, *_ = built(RUNS[0], dataset, SHALLOW)
    for parameter in model.trainable_params():
        parameter.set_data(parameter * 0.5)
    saved_by_convert(model, tmp_path)
    loading = ["checkpoint={load_path: saved, no_load_optim: True}", "load_ckpt_format=safetensors"]
    data = f"train_dataset.data_loader.dataset_dir={dataset}"
    result = run(RUNS[0], data, *SMALL, SHALLOW, *loading, cwd=tmp_path)
    batch = first_batch(dataset, load(RUNS[0]))
    assert losses(result)[0] == pytest.approx(our_loss("codegeex", model, batch)[0], abs=2e-6)


@pytest.mark.slow
def test_half_precision_with_a_dynamic_loss_scale(registered, dataset):
    scale = "{type: DynamicLossScaleUpdateCell, loss_scale_value: 65536, scale_factor: 2, scale_window: 1000}"
    half = ["model.model_config.precision=fp16", f"runner_wrapper.scale_sense={scale}"]
    config, model, _, step = built(RUNS[0], dataset, SHALLOW, *half)
    batch = first_batch(dataset, config)
    loss, norm = our_loss(model.config.model_type, model, batch)
    ids = np.concatenate([batch.inputs, batch.labels[:, -1:]], 1)
    out = [np.asarray(value.asnumpy()) for value in step(Tensor(ids), Tensor(batch.samples))]
    assert out[0] == pytest.approx(loss, rel=2e-3) and out[4] == pytest.approx(norm, rel=2e-2)
    assert not out[1] and out[2] == 65536.0


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_misspelt_model_key_is_an_error(registered, dataset, path):
    with pytest.raises(UserError, match=r"model\.model_config\.num_layer: unknown key; did you mean 'num_layers'\?"):
        built(path, dataset, "model.model_config.num_layer=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake, message",
    [
        ("model.model_config.num_layer=2", "model.model_config.num_layer: unknown key; did you mean 'num_layers'?"),
        (
            "lr_schedule={type: PolynomialWithWarmUpLR, learning_rate: .1, warmup_steps: 0, decay_steps: 3, power: .5}",
            "lr_schedule: the learning rate is nan at step 5; correct warmup_steps, decay_steps and total_steps",
        ),
        ("optimizer.eps=small", "optimizer: AdamW: For 'AdamW', the type of 'eps'"),
    ],
)
def test_a_mistake_is_one_line_on_the_command_line(tmp_path, dataset, mistake, message):
    override = f"train_dataset.data_loader.dataset_dir={dataset}"
    result = run(CONFIGS / "codegeex_tiny.yaml", override, *SMALL, mistake, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1] and "step:[" not in result.stdout


MISTAKES = {
    "model.model_config.dropout=1.5": "model.model_config.dropout: found 1.5",
    "model.model_config.seq_length=100000": "model.model_config.seq_length: 100000 is longer than",
    "model.model_config.vocab_size=95": "model.model_config.vocab_size: 95 rows",
    "model.model_config.preset=huge": "model.model_config.preset: 'huge' is unknown",
    "runner_wrapper.max_grad_norm=0": "runner_wrapper.max_grad_norm: 0 is not above 0",
    "runner_wrapper.max_gradnorm=1": "runner_wrapper.max_gradnorm: unknown key",
    "runner_wrapper.calculate_per_token_loss=true": "runner_wrapper.calculate_per_token_loss: found True",
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes_name_the_key(registered, dataset, override):
    with pytest.raises(UserError, match=re.escape(MISTAKES[override])):
        built(RUNS[0], dataset, override)


REFUSED = {  # settings that would have no effect on these models, or a wrong one
    "model.model_config.pet_config={pet_type: lora, lora_rank: 8}": "leave it out to train all weights",
    "model.model_config.pet_config={pet_type: LoRA}": "`ms-codegeex train` and lora.rank",
    "model.model_config.pet_config={pet_type: prefixtuning}": "mindformers puts adapters into",
    "pet_config={pet_type: lora}": "or train adapters with `ms-codegeex train`",
    "model.pet_config={pet_type: lora}": "or train adapters with `ms-codegeex train`",
    "model.model_config.checkpoint_name_or_path=a.ckpt": "set load_checkpoint instead",
    "model.model_config.compute_dtype=float16": "set model.model_config.precision",
    "model.model_config.use_flash_attention=true": "the fastest attention",
    "run_mode=predict": "run_mode: found predict; this command trains.* generate predicts",
    "model.arch.type=LlamaForCausalLM": "this trains CodeGeeXForCausalLM, .* and Qwen2CoderForCausalLM",
    "model={arch: {type: ChatGLM2WithPtuning2}, model_config: {compute_dtype: float16}}": "in mindformers ChatGLM2",
    "model.model_config.type=ChatGLM2Config": "such as preset: 6b",
    "model.arch.type=null trainer.model_name=Qwen3": "missing, and trainer.model_name is Qwen3; this trains",
    "use_parallel=True parallel.enable_parallel_optimizer=True": "parallel.optimizer_shard",
    "use_legacy=False": "use_legacy: found False",
    "do_eval=True": "`ms-codegeex train` evaluates",
    "runner_config.gradient_accumulation_steps=2": "set runner_config.batch_size",
    "moe_config={expert_num: 4}": "moe_config.expert_num: found 4",
    "optimizer.type=Muon": "optimizer.type: found Muon",
    "lr_schedule.learning_rate=.nan": "lr_schedule.learning_rate: found nan; give a finite number",
    "optimizer.betas=[0.9, .inf]": "optimizer.betas: found inf",
    "modle.model_config.seq_length=64": r"mindformers has no such section or key; did you mean model\?",
    "load_checkpiont=a.ckpt": r"did you mean load_checkpoint\?",
    "train_dataset.data_loder.dataset_dir=a": r"did you mean train_dataset\.data_loader\?",
}


@pytest.mark.parametrize("override", REFUSED)
def test_settings_that_these_models_do_not_have_are_refused(registered, override):
    words = override.split() if override.count("=") == 2 else [override]
    with pytest.raises(UserError, match=REFUSED[override]) as error:
        load(RUNS[0], *words)
    key, asked = str(error.value).partition(":")[0], words[-1 if "parallel" in override else 0].partition("=")[0]
    assert (asked.startswith(key) or key.startswith(asked)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "model, message", [("Bert", "model.arch.type: found Bert"), (None, "gets an unexpected key: image_size")]
)
def test_an_older_file_is_refused_for_its_model_first(registered, tmp_path, model, message):
    """mindformers refuses keys that it had before."""
    content = yaml.safe_load((CONFIGS / "tiny_base.yaml").read_text())
    content |= {"model": {"arch": {"type": model or "CodeGenForCausalLM"}, "model_config": {"type": "CodeGenConfig"}}}
    content["runner_config"]["image_size"] = 224
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        load(tmp_path / "old.yaml")
    with pytest.raises(UserError, match="gets an unexpected key: image_size"):  # the file's model may not be meant
        load(tmp_path / "old.yaml", "model.arch.type=CodeGenForCausalLM")


@pytest.mark.parametrize("content", ["[]", "model: x", "model: {arch: x}", "trainer: x", "{}"])
def test_a_file_of_other_content_is_refused_in_a_line(registered, tmp_path, content):
    (tmp_path / "odd.yaml").write_text(content)
    with pytest.raises(UserError, match=r"^(--config: mindformers refuses|model\.arch\.type: missing)"):
        load(tmp_path / "odd.yaml")


def test_refused_settings_of_the_model_are_refused_without_the_command_too(registered):
    from ms_codegeex.extras.exchange.mindformers_bridge.models import family_classes

    config, _ = family_classes("codegeex")
    with pytest.raises(UserError, match=r"model\.model_config\.pet_config: found"):
        config(preset="tiny", pet_config={"pet_type": "LoRA"})
    assert config(preset="tiny", use_flash_attention=False, pet_config=None, use_past=False).family == "codegeex"


def test_what_is_ignored_is_said(registered, capsys):
    load(RUNS[0], "recompute_config={recompute: True}", "parallel_config={model_parallel: 2, data_parallel: 1}")
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in said] == ["recompute_config.recompute", "parallel_config.model_parallel"]
    assert all("which has no effect" in line for line in said)


@pytest.mark.parametrize(
    "key", ["recompute_config.recompute", "recompute_config.select_comm_recompute", "model.model_config.offset"]
)
def test_lists_of_stages_are_taken_out_once_they_are_said(registered, capsys, key):
    """mindformers' own classes refuse a list that is longer than the stages, of which there is one here."""
    found = load(RUNS[0], f"{key}=[[1, 0], [2, 1]]", "parallel.enable_parallel_optimizer=True")
    assert f"{key}: found [[1, 0], [2, 1]], which has no effect" in capsys.readouterr().err
    for part in key.split("."):
        found = found[part]
    assert found in (False, 1)


def test_the_page_has_the_table_of_settings():
    page = (ROOT / "docs" / "exchange.md").read_text(encoding="utf-8")
    rows = {tuple(row["keys"]): row for row in table_of_settings().values()}
    for keys, row in ((keys, row) for keys, row in rows.items() if row["is"] != "harmless"):
        assert f"| {', '.join(f'`{key}`' for key in keys)} | {row['is']} | {row['why']} |" in page, keys


def test_numbers_that_yaml_takes_for_text_are_numbers(registered, tmp_path):
    base = (CONFIGS / "tiny_base.yaml").read_text().replace("2.0e-3", "2e-3").replace("1.0e-8", "1E-8")
    model = "model: {arch: {type: CodeGeeXForCausalLM}, model_config: {type: CodeGeeXConfig}}"
    (tmp_path / "mine.yaml").write_text(f"{base}{model}\noutput_dir: 1e5\n")
    steps = ["lr_schedule.total_steps=1e3", "runner_config.epochs=1e0", "seed=1.2e1"]
    config = load(tmp_path / "mine.yaml", "lr_schedule.lr_end=5e-5", "optimizer.betas=[9e-1, 0.95]", *steps)
    counts = [config.lr_schedule.total_steps, config.runner_config.epochs, config.seed]
    assert counts == [1000, 1, 12] and {*map(type, counts)} == {int}
    rates = config.lr_schedule.learning_rate, config.lr_schedule.lr_end, config.optimizer.eps, config.optimizer.betas
    assert rates == (2e-3, 5e-5, 1e-8, [0.9, 0.95]) and config.output_dir == "1e5"


def test_a_checkpoint_without_the_models_weights_is_refused(registered, tmp_path):
    """mindformers warns of each and trains on from random ones."""
    sizes = [*SMALL, SHALLOW, "load_checkpoint=" + str(tmp_path / "checkpoint")]
    check_weights(load(RUNS[0], *sizes[:-1]))
    names = load(RUNS[0], *sizes).model.model_config  # of the same sizes
    from ms_codegeex.extras.exchange.mindformers_bridge.models import family_classes

    own = {key: value for key, value in names.items() if key not in ("type", "checkpoint_name_or_path")}
    shapes = family_classes("codegeex")[0](**own).run_config().model.sizes.parameter_shapes()
    weights = [{"name": name, "data": Tensor(np.zeros(1, np.float32))} for name in shapes]
    (tmp_path / "checkpoint" / "rank_0").mkdir(parents=True)
    (tmp_path / "checkpoint" / "ckpt_strategy_rank_0.ckpt").write_bytes(b"\n\x05other")  # is passed over
    file = str(tmp_path / "checkpoint/rank_0/mine_rank_0-1_10.ckpt")
    ms.save_checkpoint(weights, file)
    check_weights(load(RUNS[0], *sizes))
    ms.save_checkpoint(weights[:-1], file)
    with pytest.raises(UserError, match=rf"load_checkpoint: .* lacks 1 weights, such as {weights[-1]['name']}; give"):
        check_weights(load(RUNS[0], *sizes))


PARTS = {
    "lr_schedule.learning_rate=fast": "lr_schedule: .*learning_rate.*; correct it",
    "lr_schedule={type: PolynomialWithWarmUpLR, learning_rate: 1.0e-3, warmup_steps: 0, lr_end: 1.0}": "lr_end",
    "lr_schedule={type: NoSuch}": "lr_schedule: .*NoSuch",
    "lr_schedule={type: LinearWithWarmUpLR, learning_rate: 1.0e-3, warmup_ratio: 2.0}": "warmup_ratio",
    "optimizer.eps=small": "optimizer: .*eps.*; correct it",
    "optimizer.weight_decay=much": "optimizer: .*weight_decay",
}


@pytest.mark.parametrize("override", PARTS)
def test_what_mindformers_refuses_to_build_is_one_line(registered, override):
    from mindformers.core.lr import build_lr
    from mindformers.core.optim import build_optim

    weights = {"params": [Parameter(np.zeros(1, np.float32), name="weight")], "learning_rate": 1e-3}
    config = load(RUNS[0], override, "lr_schedule.total_steps=20")
    with pytest.raises(UserError, match=PARTS[override]) as error, building():
        build_lr(config.lr_schedule)
        build_optim(config.optimizer, default_args=weights)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="another"), building():
        raise ValueError("another")


STEPS = {"learning_rate": 1e-3, "total_steps": 20}


def case(kind, wrong="", said="", **settings):
    """Settings of a schedule, the error, and the message."""
    error = wrong and f"lr_schedule: the learning rate is {wrong} correct"
    return {"type": kind, **settings}, error, said and f"falls at once {said} "


SCHEDULES = {  # of 20 steps
    "constant": case("ConstantWarmUpLR", warmup_steps=0),
    "constant, warm-up": case("ConstantWarmUpLR", warmup_ratio=0.1),
    "linear": case("LinearWithWarmUpLR", warmup_steps=0),
    "linear, short": case("LinearWithWarmUpLR", warmup_steps=30),
    "cosine": case("CosineWithWarmUpLR", warmup_steps=0, lr_end=1e-4),
    "cosine, warm-up": case("CosineWithWarmUpLR", warmup_ratio=0.1),
    "cosine, cut": case("CosineWithWarmUpLR", said="from 0.00057.* to 0 at step 11;", decay_steps=10),
    "cosine, cut in its warm-up": case(
        "CosineWithWarmUpLR", said="from 0.001 to 0 at step 6;", warmup_steps=4, decay_steps=5
    ),
    "restarts": case("CosineWithRestartsAndWarmUpLR", warmup_steps=0),
    "restarts, cut": case(
        "CosineWithRestartsAndWarmUpLR", said="from 0.0005.* to 0 at step 11;", warmup_steps=0, decay_steps=10
    ),
    "polynomial": case("PolynomialWithWarmUpLR", warmup_steps=0),
    "polynomial, root": case(
        "PolynomialWithWarmUpLR", wrong="nan at step 12;", warmup_steps=0, decay_steps=10, power=0.5
    ),
    "polynomial, short": case("PolynomialWithWarmUpLR", wrong="-9.9.* at step 14;", warmup_steps=2, decay_steps=10),
    "stable": case("WarmUpStableDecayLR", warmup_steps=2, decay_start_ratio=0.5),
    "stable to the end": case("WarmUpStableDecayLR", warmup_steps=2, decay_start_steps=20),
    "stable, no warm-up": case("WarmUpStableDecayLR", wrong="nan at step 1;", warmup_steps=0, decay_start_steps=10),
    "cool-down": case("ConstantWithCoolDownLR", warmup_steps=0, keep_steps=5, decay_steps=10, lr_end1=5e-4),
    "annealing": case("CosineAnnealingLR", base_lr=1e-3, t_max=20),
    "warm restarts": case("CosineAnnealingWarmRestarts", base_lr=1e-3, t_0=5, t_mult=2),
    "long": case(
        "CosineWithWarmUpLR", said="from 0.0006.* to 0 at step 123457;", decay_steps=123456, total_steps=3 * 10**5
    ),
}


def test_a_schedule_without_a_rate_is_one_line(registered):
    from mindformers.core.lr import build_lr

    with pytest.raises(UserError, match=r"lr_schedule: no rate can be computed .*give all its numbers"):
        check_rates(build_lr(STEPS | {"type": "ConstantWarmUpLR", "warmup_steps": 2, "learning_rate": None}))


@pytest.mark.parametrize("settings, wrong, said", SCHEDULES.values(), ids=SCHEDULES)
def test_each_schedule_of_mindformers_before_the_run(registered, capsys, settings, wrong, said):
    from mindformers.core.lr import build_lr

    print_once.cache_clear()
    schedule = build_lr(STEPS | settings)
    begins = float(schedule.construct(Tensor([0], ms.int32)).asnumpy().reshape(()))
    if wrong and ("at step 1;" not in wrong or np.isnan(begins)):  # a later mindformers may begin with a rate
        with pytest.raises(UserError, match=wrong):
            check_rates(schedule)
    else:
        check_rates(schedule)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(said) and all(re.search(said, line) for line in lines)


def test_every_schedule_of_mindformers_is_tried(registered):
    from mindformers.core.lr import lr_schedule

    tried = {settings["type"] for settings, *_ in SCHEDULES.values()}
    assert tried == {*lr_schedule.__all__} - {"LearningRateWiseLayer"}


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"dataset_dir": "nowhere"}, "train_dataset.data_loader.dataset_dir: nowhere is not a dataset directory"),
        ({"seq_length": None}, "train_dataset.data_loader.seq_length: found None"),
        ({"num_samples": 0}, "train_dataset.data_loader.num_samples: found 0"),
        ({"column_names": ["input_ids"]}, "train_dataset.input_columns: found ['input_ids']"),
    ],
)
def test_mistakes_of_the_loader_name_the_key(dataset, changes, message):
    good = {"dataset_dir": str(dataset), "seq_length": 32, "column_names": ["input_ids", "samples"]}
    assert packed_sequences(**good).get_dataset_size() > 0
    with pytest.raises(UserError, match=re.escape(message)):
        packed_sequences(**{**good, **changes})


def test_examples_of_fine_tuning_are_refused(dataset, tmp_path):
    examples = shutil.copytree(dataset, tmp_path / "examples")
    (examples / "train.mask").write_bytes(b"\1" * ((examples / "train.bin").stat().st_size // 2))
    info = {**read_json(examples / "dataset.json"), "kind": "finetune", "seq_length": 60}
    write_json(examples / "dataset.json", info)
    with pytest.raises(UserError, match=r"dataset_dir: .*fine-tuning examples.*ms-codegeex train"):
        packed_sequences(str(examples), 64, column_names=["input_ids", "samples"])


def test_the_loader_reads_what_our_trainer_reads(dataset):
    ms.set_seed(11)
    loader = packed_sequences(str(dataset), 32, num_samples=1000, column_names=["input_ids", "samples"])
    rows = list(loader.create_tuple_iterator(output_numpy=True, num_epochs=1))
    data = PackedSequences(dataset, "train", 32, 11)
    assert data.size < 1000 == len(rows)
    expected = data.training_batch(0, 1000)
    np.testing.assert_array_equal([row[0][:-1] for row in rows], expected.inputs)
    np.testing.assert_array_equal([row[0][1:] for row in rows], expected.labels)
    np.testing.assert_array_equal([row[1] for row in rows], expected.samples)


class Product(nn.Cell):
    def __init__(self, numbers):
        super().__init__(auto_prefix=False)
        self.weight = Parameter(Tensor(numbers, ms.float32), name="weight")

    def construct(self, x):
        return (self.weight * x).mean()


def test_an_overflow_changes_nothing_but_the_loss_scale(registered):
    from mindformers.core.optim import build_optim
    from mindformers.wrapper import build_wrapper

    network = Product([[2.0, 3.0]])
    optimizer = build_optim({"type": "AdamW"}, default_args={"params": network.trainable_params()})
    scale = {"type": "DynamicLossScaleUpdateCell", "loss_scale_value": 64, "scale_factor": 4, "scale_window": 2}
    values = {"type": "PortableTrainOneStepCell", "scale_sense": scale}
    step = build_wrapper(values, default_args={"network": network, "optimizer": optimizer})
    x, bad = Tensor([[1.0, 1.0]], ms.float32), Tensor([[1.0, np.inf]], ms.float32)
    seen = []
    for batch in (bad, x, x, x):
        before = network.weight.asnumpy().copy()
        loss, overflow, scale, _, norm = (value.asnumpy() for value in step(batch))
        seen.append((bool(overflow), float(scale)))
        assert overflow == (network.weight.asnumpy() == before).all()
        assert overflow or norm == pytest.approx(np.sqrt(0.5))
        assert overflow or loss == pytest.approx(before.mean())
    assert seen == [(True, 64.0), (False, 16.0), (False, 16.0), (False, 64.0)]
    assert int(optimizer.global_step.asnumpy()[0]) == 3


def test_a_rate_that_is_not_finite_changes_no_weight(registered):
    """One that no check before the run has met: of a schedule of the user's own."""
    from mindformers.core.lr import build_lr

    class Later(LearningRateSchedule):
        def construct(self, global_step):
            return 0.1 / (1.0 - global_step.astype(ms.float32))

    network, x = Product([2.0]), Tensor([1.0], ms.float32)
    optimizer = nn.SGD(network.trainable_params(), learning_rate=Later())
    step = PortableTrainOneStepCell(network, optimizer)
    assert not bool(step(x)[1]) and network.weight.asnumpy() == pytest.approx([1.9])
    assert all(bool(step(x)[1]) for _ in range(2)) and network.weight.asnumpy() == pytest.approx([1.9])
    optimizer = nn.SGD(network.trainable_params(), learning_rate=build_lr(SCHEDULES["polynomial, short"][0] | STEPS))
    with pytest.raises(UserError, match="lr_schedule: the learning rate is -"):
        PortableTrainOneStepCell(network, optimizer)


def test_the_shards_of_a_step_are_the_batch_of_one_device(dataset):
    def batches(size, **shard):
        source = packed_sequences(str(dataset), 16, num_samples=24, column_names=COLUMNS, **shard)
        rows = source.batch(size).create_tuple_iterator(output_numpy=True)
        return [[row.tobytes() for row in ids] for ids, _ in rows]

    whole, parts = batches(4), [batches(2, num_shards=2, shard_id=shard) for shard in range(2)]
    assert len(whole) == 6 and all(len(part) == 6 for part in parts)
    for step, rows in enumerate(whole):
        assert sorted(rows) == sorted(parts[0][step] + parts[1][step])


def test_only_copies_of_a_model_are_trained_on_several_devices(registered, dataset, monkeypatch):
    monkeypatch.setattr(ms, "get_auto_parallel_context", lambda name: "semi_auto_parallel")
    with pytest.raises(UserError, match=r"parallel\.parallel_mode: found semi_auto_parallel; .* `ms-codegeex train`"):
        built(RUNS[0], dataset)


@pytest.mark.slow
def test_two_devices_train_as_one(dataset, tmp_path):
    """With dropout and unequal masks: the loss of every step is that of the whole batch on one device."""
    words = [f"train_dataset.data_loader.dataset_dir={dataset}", "train_dataset.data_loader.num_samples=24", *SMALL]
    words += [SHALLOW, "model.model_config.hidden_size=32", "model.model_config.dropout=0.1"]
    one = losses(run("codegeex_tiny", *words, "runner_config.batch_size=4", cwd=tmp_path))
    script = ROOT / "ms_codegeex" / "extras" / "exchange" / "mindformers_bridge" / "__main__.py"
    words += ["use_parallel=True", "runner_config.batch_size=2"]
    with reserved_port() as port:
        start = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True", "--log_dir=msrun"]
        program = [Path(sys.executable).with_name("msrun"), *start, script, "--config", "codegeex_tiny", *words]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PYTHONPATH": str(ROOT), "PATH": path, "LOCAL_DEFAULT_PATH": str(tmp_path / "log")}
        options = {"capture_output": True, "text": True, "timeout": 600}
        result = subprocess.run(program, cwd=tmp_path, env={**os.environ, **own}, **options)
    assert result.returncode == 0, result.stdout[-3000:]
    for rank in range(2):
        text = (tmp_path / "msrun" / f"worker_{rank}.log").read_text()
        found = [float(loss) for loss in re.findall(r"step:\[ *\d+/ *\d+\], loss:\[([\d.]+)/", text)]
        assert found == pytest.approx(one, rel=2e-6)
    assert len(one) == 6 and one[-1] < one[0]


def test_dropout_needs_the_numbers_of_the_samples(registered, dataset):
    config, model, *_ = built(RUNS[0], dataset, SHALLOW, "model.model_config.dropout=0.1")
    batch = first_batch(dataset, config)
    ids = Tensor(np.concatenate([batch.inputs, batch.labels[:, -1:]], 1))
    with pytest.raises(ValueError, match="dropout"):
        model(ids)
    assert float(model(ids, Tensor(batch.samples))) != float(model(ids, Tensor(batch.samples + 1, ms.int32)))


def test_a_shipped_file_is_found_by_name(registered, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(Path("codegen_tiny")) == load(CONFIGS / "codegen_tiny.yaml")


def test_without_mindformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mindformers.tools.register", None)
    with pytest.raises(UserError, match=r"^mindformers: .*; run `pip install 'ms-codegeex\[mindformers\]'` \("):
        register()
