"""The trainer in this process: what it learns, what it evaluates, how it resumes."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import mindspore as ms
import numpy as np
import psutil
import pytest
from conftest import EOS, VOCABULARY, small_run, write_dataset

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.data.datasets.batches import unigram_entropy
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.kernels import compiling
from ms_codegeex.models.compiled import CompiledAttention
from ms_codegeex.models.layers import LayerNorm
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.rank.__main__ import SLOWER, _result, compiled_operators
from ms_codegeex.runs.rank.saving import Checkpoints
from ms_codegeex.runs.resume import is_finished
from ms_codegeex.training.observers import Callback
from ms_codegeex.training.operators import operators_library
from ms_codegeex.training.progress import Patience, Rates, TrainingProgress
from ms_codegeex.training.rank_state import RankState
from ms_codegeex.training.start import RankPlace, RunData, RunStart
from ms_codegeex.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


class Keep(Callback):
    def __init__(self):
        self.records, self.texts = [], []

    def step(self, trainer, record):
        self.records.append(record)

    def status(self, text):
        self.texts.append(text)


def make(values, *callbacks, **options):
    """`options`: of the start and the place."""
    config = build_run_config(values)
    options.setdefault("library", operators_library(config, 1))
    start = {each.name: options.pop(each.name) for each in fields(RunStart) if each.name in options}
    data = RunData(training_data(config), validation_data(config))
    return Trainer(config, data, RunStart(**start), RankPlace(**options), callbacks)


def state(trainer):
    return {name: parameter.asnumpy().copy() for name, parameter in trainer.rank_state.tensors().items()}


def test_moments_and_sums_begin_on_pages_that_nobody_has_written(run_values):
    """256 MB of zeros; those of a 13B's rank are gigabytes. The engine leaves them empty on several devices only."""
    shape, kept = (1 << 13, 1 << 13), []
    empty = {"name": "sums", "shape": shape, "dtype": ms.float32, "has_init": True}
    sums = SimpleNamespace(**empty, set_data=lambda tensor, **_: kept.append(tensor))
    step, optimizer = SimpleNamespace(get_parameters=lambda: [sums]), SimpleNamespace(parameters=[])
    cells = SimpleNamespace(step=step, optimizer=optimizer)
    began = psutil.Process().memory_info().rss
    RankState(build_run_config(run_values), cells, SimpleNamespace(elsewhere=lambda name: False)).initialise({})
    assert psutil.Process().memory_info().rss - began < 128e6
    assert kept[0].shape == shape and not kept[0].asnumpy()[-1].any()


def test_without_a_compiler_a_run_has_composed_cells_and_says_so(run_values, monkeypatch):
    watch, config = create_autospec(Callback, instance=True), build_run_config(run_values)
    with_compiler = make(run_values, library=compiled_operators(config, [watch])).built.network
    assert not watch.warning.called
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    without = make(run_values, library=compiled_operators(config, [watch])).built.network
    reason = "there is no C++ compiler; install g++, or run `pip install ziglang`"
    watch.warning.assert_called_once_with(f"{SLOWER}: {reason}")
    kinds = [{type(cell) for _, cell in network.cells_and_names()} for network in (with_compiler, without)]
    assert CompiledAttention in kinds[0] and LayerNorm not in kinds[0]
    assert not any(kind.__name__.startswith("Compiled") for kind in kinds[1]) and LayerNorm in kinds[1]


@pytest.mark.slow  # the main job's test trains one too
def test_it_becomes_a_language_model(run_values):
    run_values["training"].update(steps=150, global_batch=8, evaluate_every=50, evaluate_samples=60)
    run_values["training"]["schedule"].update(decay_steps=150)
    keep = Keep()
    trainer = make(run_values, keep)
    trainer.run()
    figures = trainer.final_figures()
    assert [r.step for r in keep.records if r.validation_loss is not None] == [50, 100, 150]
    assert keep.records[-1].validation_loss == figures["validation_loss"]
    assert figures["unigram_entropy"] == pytest.approx(unigram_entropy(trainer.evaluation.validation))
    assert figures["validation_loss"] < figures["unigram_entropy"] - 1.0  # bigrams of 0.8, 0.15, 0.05 can be learnt
    assert figures["shuffled_context_loss"] > figures["validation_loss"] + 1.0
    assert "compiling the training graph" in keep.texts
    last = keep.records[-1]
    assert last.tokens == sum(int(trainer.data.training_batch(8 * i, 8).loss_mask.sum()) for i in range(150))
    assert last.tokens_per_second > 0 and last.memory_bytes > 1e8


@pytest.fixture(scope="module")
def stuck(dataset, tmp_path_factory):
    """A run in FP32 that never improves: its values, its trainer, whose compiled step later tests use, its progress at
    the end, the records, and the folder of checkpoints."""
    folder = tmp_path_factory.mktemp("stuck")
    values = small_run(dataset, folder / "run")
    values["training"].update(steps=20, evaluate_every=2, patience=2)
    values["training"]["schedule"].update(learning_rate=0.0, end_learning_rate=0.0)
    trainer = make(values, keep := Keep(), Checkpoints(folder / "checkpoints", 0, 1, keep_best=True))
    trainer.run()
    assert trainer.finished
    return values, trainer, trainer.progress, keep, folder / "checkpoints"


def test_a_run_that_gets_no_better_ends_and_keeps_its_best_checkpoint(stuck):
    values, trainer, progress, keep, folder = stuck
    assert [r.step for r in keep.records if r.validation_loss is not None] == [2, 4, 6]
    assert trainer.patience.best == (2, keep.records[1].validation_loss)
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000002", "step-00000006"]
    last = Checkpoint(folder / "step-00000006")
    assert is_finished(trainer.config, last)
    resumed = make(values, again := Keep())
    resumed.restore(last)
    resumed.run()
    assert again.records == [] and resumed.progress == progress


def test_the_arithmetic_of_a_step_is_counted_once(run_values, monkeypatch):
    sizes = build_run_config(run_values).model.sizes
    rates = Rates(build_run_config(run_values), 1e9)
    count = create_autospec(type(sizes).flops_per_token)
    monkeypatch.setattr(type(sizes), "flops_per_token", count)
    figures = [rates.of(seconds, 0.0)["mfu"] for seconds in (2.0, 4.0)]
    monkeypatch.undo()
    assert not count.called
    expected = sizes.flops_per_token(32) * 4 * 32 / 2.0 / 1e9
    assert figures == pytest.approx([expected, expected / 2])


def test_a_run_of_tokens_begins_with_as_many_steps_as_its_slots_take(run_values):
    run_values["training"].update(steps=None, tokens=1000)
    config = build_run_config(run_values)
    begun = SimpleNamespace(config=config, progress=TrainingProgress(), rates=Rates(config, 0.0))
    assert Trainer.steps_left.fget(begun) == 8  # of 4 sequences of 32 slots


class Worsen(Callback):
    """The first step makes the model worse."""

    def step(self, trainer, record):
        if record.step == 1:
            for parameter in trainer.built.network.trainable_params():
                parameter.set_data(ms.Tensor(8 * parameter.asnumpy()))


def test_the_model_that_a_run_starts_from_is_kept_if_no_step_is_better(stuck, tmp_path):
    values, trainer, *_ = stuck
    values = {**values, "model": {**values["model"], "weights": "its weights are given to the trainer"}}
    run, keep = RunDirectory(tmp_path), Keep()
    trainer.config, trainer.progress = build_run_config(values), TrainingProgress()  # as a new run, without compiling
    trainer.patience = Patience(trainer.config.training.patience)
    trainer.callbacks = [Worsen(), keep, Checkpoints(run.checkpoints, 0, 1, keep_best=True)]
    start, before, shuffled = state(trainer), trainer.evaluation.loss(), trainer.evaluation.loss(shuffled=True)
    trainer.run()
    losses = [r.validation_loss for r in keep.records if r.validation_loss is not None]
    assert min(losses) > before + 1 and trainer.patience.best == (0, before)
    ended, tokens = trainer.progress.step, trainer.progress.tokens
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000000", f"step-{ended:08}"]
    result = _result(trainer, run, {"again": trainer.evaluation.validation})
    assert Path(result["checkpoint"]) == run.checkpoints / "step-00000000" and result["evaluated_step"] == 0
    assert (result["steps"], result["tokens"]) == (ended, tokens) and ended > 0
    assert result["validation_loss"] == result["held_out"]["again"] == before
    assert result["shuffled_context_loss"] == shuffled
    found = Checkpoint(Path(result["checkpoint"]))
    for name, array in start.items():
        np.testing.assert_array_equal(found.tensor(name), array, err_msg=name)
    resumed = make(values)
    resumed.restore(Checkpoint(run.checkpoints / f"step-{ended:08}"))
    assert resumed.progress == TrainingProgress(ended, 4 * ended, tokens)
    assert resumed.patience.state() == {"best": (0, before), "worse": 2, "lowest": min(losses)}


@pytest.mark.parametrize(
    ("losses", "best", "worse"),
    [
        ([5.0, 4.9, 4.7], (0, 4.5), 0),  # still worse than at the start, but learning
        ([5.0, 4.4, 4.6], (2, 4.4), 1),
        ([5.0, 5.0, 5.1], (0, 4.5), 2),
        ([float("nan"), 4.5, 4.5], (0, 4.5), 1),
    ],
)
def test_patience_counts_evaluations_that_are_no_better_than_earlier_ones(losses, best, worse):
    patience = Patience(3)
    patience.start(4.5)
    for step, loss in enumerate(losses, 1):
        patience.compare(step, loss)
    assert (patience.best, patience.worse) == (best, worse)


@pytest.mark.slow  # the command's resume is tested by default; test_optimizer.py continues from what is saved
@pytest.mark.parametrize(("precision", "optimizer"), [("fp32", "adamw"), ("fp16", "adamw"), ("fp16", "muon")])
def test_resume_is_bitwise_also_with_dropout_and_accumulation(run_values, precision, optimizer, tmp_path):
    run_values["training"].update(steps=6, dropout=0.2, micro_batch=2, precision=precision)
    run_values["training"]["optimizer"]["name"] = optimizer
    run_values["training"]["loss_scale"] = {"initial": 2.0**20, "window": 2}  # FP16 skips a few first
    whole = make(run_values, keep := Keep(), Checkpoints(tmp_path, 3, 2))
    whole.run()
    resumed = make(run_values, again := Keep())
    resumed.restore(Checkpoint(list_checkpoints(tmp_path)[0]))
    done = resumed.progress.step
    assert 3 <= done < 6
    resumed.run()
    assert [r.loss for r in again.records] == [r.loss for r in keep.records[done:]]
    if precision == "fp16":
        assert any(r.skipped for r in keep.records) and not all(r.skipped for r in keep.records)
    expected, found = state(whole), state(resumed)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert resumed.state()["loss_scale"] == whole.state()["loss_scale"]
    matrix, table = (f"optimizer.v.{name}.weight" for name in ("blocks.0.attention.query", "embedding.word"))
    assert (matrix in found) == (optimizer == "adamw") and table in found


@pytest.mark.slow
def test_a_blend_of_a_corpus_and_examples_resumes_bitwise(run_values, tmp_path):
    examples = write_dataset(tmp_path / "examples", documents=60, seed=5)
    for split in ("train", "validation"):  # whole documents, of which the loss counts the second half
        sizes = IndexedDataset(examples / split).sizes.tolist()
        flags = np.concatenate([np.arange(size) >= size // 2 for size in sizes])
        (examples / f"{split}.mask").write_bytes(flags.astype(np.uint8).tobytes())
    info = {"vocab_size": VOCABULARY, "eos_id": EOS, "kind": "finetune", "seq_length": 60}
    write_json(examples / "dataset.json", info)
    corpus = run_values["data"]["train"]
    stages = [{"from_step": 0, "weights": {corpus: 1}}, {"from_step": 2, "weights": {str(examples): 3, corpus: 1}}]
    run_values["data"] = {"blend": stages, "seq_length": 64, "workers": 2}
    run_values["model"]["max_position_embeddings"] = 64
    run_values["training"].update(steps=5, dropout=0.2)
    whole = make(run_values, keep := Keep(), Checkpoints(tmp_path / "c", 3, 2))
    whole.run()
    run_values["data"]["workers"] = 0
    resumed = make(run_values, again := Keep())
    resumed.restore(Checkpoint(list_checkpoints(tmp_path / "c")[0]))
    assert resumed.progress.step == 3
    resumed.run()
    assert [r.loss for r in again.records] == [r.loss for r in keep.records[3:]]
    masks = [whole.data.training_batch(4 * i, 4).loss_mask.sum() for i in range(5)]
    assert whole.progress.tokens == sum(masks) and max(masks[2:]) < 0.8 * min(masks[:2])
    assert whole.final_figures()["unigram_entropy"] == unigram_entropy(whole.evaluation.validation)


@pytest.fixture(scope="module")
def fp16(dataset, tmp_path_factory):
    """A run in FP16 whose first steps overflow: its trainer, whose compiled step later tests use, the trainer's state
    at the end, and the records."""
    values = small_run(dataset, tmp_path_factory.mktemp("fp16") / "run")
    values["training"].update(steps=8, precision="fp16", loss_scale={"initial": 2.0**21, "window": 100})
    trainer = make(values, keep := Keep())
    trainer.run()
    return trainer, trainer.state(), keep


def test_a_run_that_begins_at_the_default_loss_scale_skips_no_step(fp16):
    """The scale is halved until a step is finite; the default is not above that."""
    _, _, keep = fp16
    first = next(record for record in keep.records if not record.skipped)
    assert LossScaleConfig().initial <= first.loss_scale < keep.records[0].loss_scale


def test_a_skipped_step_advances_log_and_data_but_not_the_schedule(fp16):
    _, scalars, keep = fp16
    skipped = [r for r in keep.records if r.skipped]
    done = [r for r in keep.records if not r.skipped]
    assert skipped and done
    assert [r.step for r in keep.records] == list(range(1, 9))
    assert scalars["samples"] == 8 * 4 and scalars["optimizer_step"] == len(done)
    assert [r.learning_rate for r in done[:2]] == [0.0, pytest.approx(5e-3)]  # warm-up of 2 updates starts here
    assert all(r.learning_rate == 0.0 and r.gradient_norm is None for r in skipped)


@pytest.mark.slow  # test_step.py compares an update over several micro-batches with the whole batch
def test_accumulation_does_not_change_the_run(run_values):
    losses = []
    for micro in (4, 1):
        run_values["training"].update(steps=4, micro_batch=micro)
        make(run_values, keep := Keep()).run()
        losses.append([(r.loss, r.gradient_norm) for r in keep.records])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_evaluation_does_not_depend_on_its_batch_size(run_values, stuck):
    values, _, _, keep, _ = stuck  # at a rate of 0, so its weights are the initial
    assert values["training"]["evaluate_samples"] == 10 and values["training"]["global_batch"] == 4  # 10 = 4 + 4 + 2
    run_values["training"].update(micro_batch=1)
    assert make(run_values).evaluation.loss() == pytest.approx(keep.records[-1].validation_loss, rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_is_saved(stuck, tmp_path):
    _, trainer, *_ = stuck
    trainer.progress = TrainingProgress()  # as a new run, without its compilation
    trainer.callbacks = [Checkpoints(tmp_path / "checkpoints", 0, 2)]
    weight = trainer.built.network.trainable_params()[0]
    weight.set_data(ms.Tensor(np.full(weight.shape, np.nan, np.float32)))
    with pytest.raises(RunFailure, match=r"step 1: loss nan.*learning_rate"):
        trainer.run()
    assert not list_checkpoints(tmp_path / "checkpoints")


def test_an_fp32_checkpoint_does_not_hand_its_loss_scale_to_fp16(run_values, stuck):
    run_values["training"].update(steps=1, precision="fp16", loss_scale={"initial": 2.0**12})
    resumed = make(run_values)
    resumed.restore(Checkpoint(list_checkpoints(stuck[-1])[-1]))
    assert float(resumed.built.step.scale.asnumpy()) == 2.0**12


def test_fp16_that_overflows_even_unscaled_stops_the_run(fp16):
    trainer, *_ = fp16
    trainer.progress = TrainingProgress()  # as a new run, without its compilation
    trainer.built.step.scale.set_data(ms.Tensor(1.0, ms.float32))
    weight = trainer.built.network.trainable_params()[0]
    weight.set_data(ms.Tensor(np.full(weight.shape, np.nan, np.float32)))
    with pytest.raises(RunFailure, match="step 1"):
        trainer.run()


def test_a_checkpoint_of_another_model_is_refused(run_values, stuck):
    checkpoint = Checkpoint(list_checkpoints(stuck[-1])[-1])
    for change, named in (({"intermediate_size": 48}, r"feed_forward\.up"), ({"num_layers": 2}, r"blocks\.1")):
        other = make({**run_values, "model": {**run_values["model"], **change}})
        with pytest.raises(UserError, match=named):
            other.restore(checkpoint)


@pytest.mark.slow
def test_bf16_trains_like_fp32_without_a_loss_scale(run_values, tmp_path):
    """Measured: from 4.654 to 1.851 in both, never more than 0.0016 nats apart."""
    losses = {}
    for precision in ("fp32", "bf16"):
        run_values["training"].update(steps=50, precision=precision)
        trainer = make(run_values, keep := Keep())
        trainer.run()
        assert not trainer.built.step.scaled
        assert {record.loss_scale for record in keep.records} == {None} and not any(r.skipped for r in keep.records)
        losses[precision] = np.array([record.loss for record in keep.records])
    difference = np.abs(losses["bf16"] - losses["fp32"])
    assert losses["bf16"][-1] < losses["bf16"][0] - 2
    assert 1e-4 < difference.max() < 0.01
