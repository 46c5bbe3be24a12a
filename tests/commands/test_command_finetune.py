"""`ms-codegeex finetune` as a user runs it."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import small_models
from conftest import ROOT, command, command_here

from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.models.registry import family
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.training.rank_state import initial_weight

SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
QUICK = ("training.global_batch=4", "training.evaluate_samples=8", "logging.plots=false", "logging.tensorboard=false")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Prompts whose answer depends on their word."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    words = ["red", "green", "blue", "black"]
    rows = [{"prompt": f"{n} {words[n % 4]}:", "completion": f" {words[(n + 1) % 4]}"} for n in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run directory of a small model with CodeGeeX's tokenizer."""
    sizes = family("codegeex").config.build_config("tiny", SIZES)
    arrays = {name: initial_weight(name, shape, 0.02, 1) for name, shape in sizes.parameter_shapes().items()}
    return small_models.save_run(tmp_path_factory.mktemp("model") / "run", "codegeex", arrays, **asdict(sizes))


def finetune(model, data, tmp_path, *arguments):
    words = (f"output={tmp_path / 'tuned'}", "devices=1", *QUICK, *arguments)
    return command("finetune", "--model", model, "--data", data, *words, status=0)


def test_pairs_are_prepared_trained_on_and_exported(model, pairs, tmp_path):
    words = ("training.evaluate_every=8", "training.schedule.learning_rate=1e-2", "--epochs", "4")
    result = finetune(model, pairs, tmp_path, *words, "checkpoint.export=false")
    assert f"starting from the weights of {list_checkpoints(model / 'checkpoints')[-1]}" in result.stderr
    (dataset,) = tmp_path.glob("tuning-*")
    described = json.loads((dataset / "dataset.json").read_text())
    assert (described["task"], described["kind"]) == ("completion", "finetune")
    losses = [r["validation_loss"] for r in read_log(tmp_path / "tuned/log.jsonl") if r["validation_loss"] is not None]
    assert min(losses) < losses[0] - 0.5
    summary = json.loads((tmp_path / "tuned/summary.json").read_text())
    assert summary["validation_loss"] == min(losses)
    assert summary["validation_loss_before"] > losses[0] and ", " in result.stdout and " before" in result.stdout
    state = Checkpoint(summary["checkpoint"]).state
    assert state["config"]["model"]["hidden_size"] == 16
    rates = [record["learning_rate"] for record in read_log(tmp_path / "tuned/log.jsonl")]  # a schedule of these epochs
    assert max(rates) > 0.97e-2 and rates[-1] == pytest.approx(3e-5, abs=5e-4)


@pytest.mark.slow  # tests/training/test_trainer.py has one in its own process
def test_a_fine_tuning_that_only_worsens_leaves_the_model_it_started_from(model, pairs, tmp_path):
    words = ("training.evaluate_every=2", "training.steps=8", "training.schedule.learning_rate=2")
    result = finetune(model, pairs, tmp_path, *words, "training.patience=2", "training.schedule.warmup_steps=0")
    assert "NO STEP WAS BETTER than the model that the run started from" in result.stdout
    summary = json.loads((tmp_path / "tuned/summary.json").read_text())
    assert summary["evaluated_step"] == 0 < summary["steps"]
    assert summary["validation_loss"] == summary["validation_loss_before"]
    before = open_source(model).tensors
    after = open_source(Path(summary["huggingface"])).tensors
    for name, tensor in before.items():
        np.testing.assert_array_equal(after[name].float32(), tensor.float32(), err_msg=name)


def test_a_rank_table_of_the_environment_is_not_ignored_in_silence(model, monkeypatch):
    words = ("finetune", "--model", model, "--data", "nowhere.jsonl")
    for servers, devices in ((1, 8), (2, 16)):
        table = ROOT / "configs" / "rank_tables" / f"{servers}_server{'s' * (servers > 1)}_{devices}_devices.json"
        monkeypatch.setenv("RANK_TABLE_FILE", str(table))
        assert "is not used: rank tables are for Ascend, device is cpu" in command_here(*words).stderr
        ascend = command_here(*words, "device=ascend", "parallel.hardware=ascend910").stderr
        expected = "has 2 servers, finetune uses one" if servers == 2 else "from RANK_TABLE_FILE in the environment"
        assert expected in ascend, ascend


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "0"), "--epochs: 0.0 is out of range"),
        (("model.hidden_size=32",), "has hidden_size 16, the run's model 32"),
        (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--data", "training.steps=3"), "--data: training.steps=3 is an override; name files"),
        (("--data", "LONG"), "long.jsonl:1; give data.seq_length=101"),
        (("--model", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_run(model, pairs, tmp_path, arguments, message):
    (long := tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "p", "completion": " x" * 99}))
    words = ("--model", model, "--data", pairs, f"output={tmp_path / 'tuned'}", "devices=1", *QUICK)
    result = command_here("finetune", *words, *(str(long) if word == "LONG" else word for word in arguments), status=2)
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "tuned").exists()


def test_equal_data_is_prepared_once(model, pairs, tmp_path):
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings
    from ms_codegeex.formats.sources import tokenizer_place
    from ms_codegeex.runs.finetune_choices import prepared_data

    config = load_config("finetune_full", [f"output={tmp_path / 'tuned'}", "data.seq_length=32"])
    source = open_source(model)
    settings = FinetuneSettings("completion", 32, tokenizer_place(source), seed=config.seed)
    first = prepared_data([str(pairs)], settings, config, quiet=True)
    made = (first / "dataset.json").stat().st_mtime_ns
    (copy := tmp_path / "other.jsonl").write_bytes(pairs.read_bytes())
    assert prepared_data([str(copy)], settings, config, quiet=True) == first
    assert (first / "dataset.json").stat().st_mtime_ns == made
    copy.write_text(copy.read_text().replace("red", "grey"))
    assert prepared_data([str(copy)], settings, config, quiet=True) != first
    (folder := tmp_path / "folder").mkdir()
    for name in ("a.jsonl", "b.txt"):
        (folder / name).write_bytes(pairs.read_bytes())
    part = prepared_data([str(folder)], settings, config, quiet=True)
    (folder / "b.txt").rename(folder / "dataset.json")  # as a user may call records
    assert prepared_data([str(folder)], settings, config, quiet=True) != part
    said = command_here("finetune", "--model", model, "--data", folder, part, f"output={tmp_path / 'tuned'}").stderr
    assert f"{part} is a dataset; give it alone, or the records that made it" in said


def chosen(model, pairs, tmp_path, monkeypatch, *words, free=20 * 10**9):
    """The configuration that `finetune` would train, and the lines it prints; nothing is trained."""
    from ms_codegeex.runs import memory_check, training_job

    found = []
    monkeypatch.setattr(training_job, "train", lambda config, *_, **__: found.append(config))
    monkeypatch.setattr(memory_check, "free_memory", lambda: free)
    output = f"output={tmp_path / 'tuned'}"
    done = command_here("finetune", "--model", model, "--data", pairs, output, *words)
    return (found[0] if found else None), done.stderr.splitlines()


def test_without_options_everything_follows_from_data_and_memory(model, pairs, tmp_path, monkeypatch):
    config, lines = chosen(model, pairs, tmp_path, monkeypatch)
    ids = np.fromfile(next(tmp_path.glob("tuning-*")) / "train.bin", np.uint16)
    sizes = np.diff(np.flatnonzero(np.r_[True, ids == 50256]))
    assert (sizes <= config.seq_length).mean() >= 0.99 and config.seq_length == 32  # the model's
    assert config.lora.rank == 0 and config.training.precision == "fp32"
    assert 3 <= config.steps * config.training.global_batch * config.seq_length / sizes.sum() * 0.9 <= 20 < 300
    assert config.steps // config.training.evaluate_every >= 6 and config.training.patience == 3
    said = [line for line in lines if not line.startswith("tokenising")]
    assert len(said) <= 9  # five of them the table of the tally
    for part in ("every weight", "data.seq_length", "GB that are free", "training.micro_batch", "training.steps"):
        assert any(part in line for line in said), (part, said)


@pytest.mark.parametrize(
    ("stored", "words", "held"),
    [
        ("fp16", ("--config", "finetune_lora"), "fp16"),
        ("fp16", ("--config", "finetune_lora", "lora.frozen=fp32"), "fp32"),
        ("fp16", (), "fp32"),  # all weights
        ("fp32", ("--config", "finetune_lora"), "fp32"),
    ],
)
def test_frozen_weights_are_held_as_the_files_have_them(model, pairs, tmp_path, monkeypatch, stored, words, held):
    convert(model, "hf", tmp_path / "stored", dtype=stored, progress=False)
    config, lines = chosen(tmp_path / "stored", pairs, tmp_path, monkeypatch, *words)
    assert config.lora.frozen == held
    assert any("frozen weights in fp16, as stored" in line for line in lines) == (held == "fp16")


def test_matrices_are_rounded_to_8_bits_only_if_nothing_larger_fits(model, pairs, tmp_path, monkeypatch):
    from ms_codegeex.runs import finetune_choices

    sizes = {"fp32": 4, "fp16": 2, "int8": 1, "int4": 1}  # of a large model; this one's tables are most of it
    monkeypatch.setattr(finetune_choices, "required_memory", lambda config: sizes[config.lora.frozen] * 10**9)
    for free, held in ((5, "fp32"), (3, "fp16"), (2, "int8")):
        words = ("--config", "finetune_lora")
        config, lines = chosen(model, pairs, tmp_path, monkeypatch, *words, free=free * 10**9)
        assert config.lora.frozen == held and config.devices == 1
    assert any("frozen weights in int8, rounded" in line for line in lines)
    config, _ = chosen(model, pairs, tmp_path, monkeypatch, *words, "lora.frozen=int4")
    assert (config.lora.frozen, config.devices) == ("int4", 1)


def test_what_is_stated_stays(model, pairs, tmp_path, monkeypatch):
    words = ("devices=2", "training.micro_batch=2", "training.recompute=full", "training.steps=7", "lora.rank=4")
    words += ("data.seq_length=24", "training.evaluate_every=5")
    config, lines = chosen(model, pairs, tmp_path, monkeypatch, *words)
    assert (config.devices, config.micro_batch, config.training.recompute, config.steps) == (2, 2, "full", 7)
    assert (config.seq_length, config.lora.rank, config.training.evaluate_every) == (24, 4, 5)
    assert (config.lora.targets, config.training.schedule.learning_rate) == (["attention", "feed_forward"], 3e-3)
    assert any("as stated" in line for line in lines) and any("as data.seq_length says" in line for line in lines)
    config, lines = chosen(model, pairs, tmp_path, monkeypatch, "lora={alpha: 32}")
    assert (config.lora.rank, config.lora.alpha) == (8, 32) and "finetune_lora, as lora.alpha says" in lines
    (tmp_path / "own.yaml").write_text("training: {steps: 3, micro_batch: 1, global_batch: 2}\ndevices: 1\n")
    config, _ = chosen(model, pairs, tmp_path, monkeypatch, "--config", str(tmp_path / "own.yaml"))
    assert (config.steps, config.micro_batch, config.devices, config.lora.rank) == (3, 1, 1, 0)


def test_less_memory_gives_smaller_settings_and_too_little_a_figure_and_a_remedy(model, pairs, tmp_path, monkeypatch):
    from ms_codegeex.runs.memory_check import required_memory

    much, _ = chosen(model, pairs, tmp_path, monkeypatch, "training.global_batch=64")
    free = int(required_memory(much) / 0.9)
    less, _ = chosen(model, pairs, tmp_path, monkeypatch, "training.global_batch=64", free=free)
    assert less.devices * less.micro_batch < much.devices * much.micro_batch
    assert required_memory(less) <= 0.85 * free < required_memory(much)
    nothing, lines = chosen(model, pairs, tmp_path, monkeypatch, free=10**8)
    assert nothing is None
    assert lines[-1].startswith("ms-codegeex finetune: --model: ") and "0.1 GB are free; free 0." in lines[-1]
    words = ("training.micro_batch=64", "training.global_batch=64", "devices=1", "training.recompute=none")
    whole, _ = chosen(model, pairs, tmp_path, monkeypatch, *words)
    _, lines = chosen(model, pairs, tmp_path, monkeypatch, *words, free=required_memory(whole) - 10**6)
    assert "training.micro_batch=1 training.recompute=full devices=1 needs" in lines[-1]


def test_a_run_that_goes_on_keeps_its_choices(model, pairs, tmp_path, monkeypatch):
    config, _ = chosen(model, pairs, tmp_path, monkeypatch, "training.micro_batch=2")
    (tmp_path / "tuned").mkdir()
    values = {**config.to_dict(), "devices": 1}
    (tmp_path / "tuned" / "config.yaml").write_text(json.dumps(values, default=str))
    again, lines = chosen(model, pairs, tmp_path, monkeypatch, free=10**8)
    assert (again.devices, again.micro_batch, again.steps) == (1, 2, config.steps)
    assert any("which continues" in line for line in lines)
