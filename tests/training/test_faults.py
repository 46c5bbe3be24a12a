"""Spikes and numbers that are not finite: found, and answered by the policy."""

import numpy as np
import pytest
from mindspore import Tensor
from test_step import SEQ, Net, Sgd, batches

from ms_codegeex.base.errors import Divergence, Rewind
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import FaultsConfig
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.runs.rank.saving import Checkpoints
from ms_codegeex.training.faults import Faults
from ms_codegeex.training.observers import Callback
from ms_codegeex.training.start import RankPlace, RunData, RunStart
from ms_codegeex.training.step import StepSettings, TrainStep
from ms_codegeex.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
SIZE = 4  # samples of a step


def test_a_spike_lies_far_above_the_median_of_a_full_window():
    faults = Faults(FaultsConfig("skip", sigma=6.0, window=20))
    figures = np.random.default_rng(3).normal([5.0, 1.0], [0.1, 0.05], (20, 2)).astype(np.float32)
    assert faults.judge(100.0, 100.0, False) is None  # the window is empty
    for loss, norm in figures.tolist():
        assert faults.judge(loss, norm, False) is None
    for limit, column in zip(faults.limits, figures.T.astype(np.float64), strict=True):
        median = np.median(column)
        assert limit == pytest.approx(median + 6 * 1.4826 * np.median(np.abs(column - median)), rel=1e-6)
    before = faults.state()
    for loss, norm in ((5.0, faults.limits[1] * 1.001), (faults.limits[0] * 1.001, 1.0)):
        assert faults.judge(loss, norm, False) == "spike"
    assert faults.judge(float("nan"), 1.0, False) == faults.judge(5.0, float("inf"), False) == "not finite"
    assert faults.in_a_row == 4 and faults.state() == {**before, "in_a_row": 4}  # the limits stay
    assert faults.judge(float("nan"), float("nan"), True) is None and faults.in_a_row == 4  # FP16's overflow
    assert faults.judge(5.0, 1.0, False) is None and faults.in_a_row == 0


def test_what_this_attempt_leaves_out_stays_out_after_a_restore():
    faults = Faults(FaultsConfig("rewind"), left_out=[8])
    faults.restore({**Faults(FaultsConfig("rewind"), left_out=[4]).state(), "in_a_row": 1})
    assert faults.left_out == [4, 8] and faults.in_a_row == 1


def test_steps_that_hardly_differ_leave_one_per_cent_of_room():
    faults = Faults(FaultsConfig("skip", sigma=5.0, window=4))
    for _ in range(4):
        faults.judge(2.0, 1.0, False)
    assert faults.limits == pytest.approx((2.1, 1.05))


@pytest.fixture(scope="module")
def guarded_step():
    """A compiled step and the network that it trains."""
    network = Net()
    return network, TrainStep(network, Sgd(network), StepSettings(slots=2 * SEQ, guarded=True))


@pytest.mark.parametrize("limit", ["loss", "norm", "finite", None])
def test_a_guarded_step_beyond_a_limit_leaves_everything_as_it_was(guarded_step, limit):
    network, step = guarded_step
    network.a.set_data(Net().a)
    batch = batches(1, 2)[0]
    if limit == "finite":
        batch[0][0, 0] = 200
        network.a.set_data(Tensor(network.a.asnumpy() * 3e37))
    step.set_limits(1e-6 if limit == "loss" else 1e9, 1e-6 if limit == "norm" else 1e9)
    before = network.a.asnumpy().copy()
    *_, rate, _, updated = step(*map(Tensor, batch)).asnumpy().tolist()
    assert (limit is None) == bool(updated) == (rate > 0) == (not np.array_equal(before, network.a.asnumpy()))


class Watch(Callback):
    def __init__(self):
        self.events, self.records, self.warnings = [], [], []

    def event(self, event, **content):
        self.events.append({"event": event, **content})

    def warning(self, text):
        self.warnings.append(text)

    def step(self, trainer, record):
        self.records.append(record)


class Poisoned(Trainer):
    """Some batches, by the number of their first sample, make the loss a spike: their labels are the rarest tokens.
    With others the loss is not a number."""

    poison: tuple[int, ...] = ()
    not_finite: tuple[int, ...] = ()

    def _local_batch(self, first):
        batch = super()._local_batch(first)
        if first in self.poison:
            batch.labels[:] = 95 - batch.labels % 7
        if first in self.not_finite:
            batch.loss_mask[0, 3] = np.nan
        return batch


def make(values, folder, poison=(), left_out=(), not_finite=()):
    config = build_run_config(values)
    watch = Watch()
    callbacks = [Checkpoints(folder, 10, 3), watch]
    data = RunData(training_data(config), validation_data(config))
    trainer = Poisoned(config, data, RunStart(left_out=left_out), RankPlace(), callbacks)
    trainer.poison, trainer.not_finite = poison, not_finite
    return trainer, watch


@pytest.fixture
def guarded(run_values):
    run_values["training"].update(steps=26, dropout=0.1)
    run_values["training"]["schedule"].update(warmup_steps=1)
    run_values["faults"] = {"policy": "skip", "window": 8, "most": 2, "sigma": 10.0}
    return run_values


def weights(trainer):
    return {name: parameter.asnumpy().copy() for name, parameter in trainer.rank_state.tensors().items()}


@pytest.mark.slow
def test_skip_leaves_a_spike_out_and_resumes_with_the_same_limits(guarded, tmp_path):
    trainer, watch = make(guarded, tmp_path / "a", poison=(11 * SIZE, 22 * SIZE))
    trainer.run()
    (first, second) = [event for event in watch.events if event["event"] == "fault"]
    assert (first["kind"], first["step"], first["samples"]) == ("spike", 12, [11 * SIZE, 12 * SIZE])
    assert first["loss"] > first["loss_limit"] and second["step"] == 23 and len(watch.warnings) == 2
    assert [record.step for record in watch.records if record.skipped] == [12, 23]
    assert int(trainer.built.optimizer.step.asnumpy()) == 24
    resumed, _ = make(guarded, tmp_path / "b", poison=(11 * SIZE, 22 * SIZE))
    resumed.restore(Checkpoint(tmp_path / "a" / "step-00000020"))
    resumed.run()
    assert resumed.faults.state() == trainer.faults.state()
    for name, value in weights(trainer).items():
        np.testing.assert_array_equal(weights(resumed)[name], value, err_msg=name)


@pytest.mark.slow
def test_rewind_gives_the_run_that_never_saw_the_batch(guarded, tmp_path):
    guarded["faults"]["policy"] = "rewind"
    trainer, watch = make(guarded, tmp_path / "a", poison=(14 * SIZE,))
    with pytest.raises(Rewind, match=f"samples from {14 * SIZE} on: spike"):
        trainer.run()
    assert watch.events[-1] == {"event": "rewind", "step": 15, "left_out": 14 * SIZE}
    again, _ = make(guarded, tmp_path / "a", poison=(14 * SIZE,), left_out=[14 * SIZE])
    again.restore(Checkpoint(list_checkpoints(tmp_path / "a")[-1]))
    again.run()
    other, _ = make(guarded, tmp_path / "b", left_out=[14 * SIZE])
    other.run()
    assert other.progress.samples == again.progress.samples == 27 * SIZE
    for name, value in weights(other).items():
        np.testing.assert_array_equal(weights(again)[name], value, err_msg=name)
    assert Checkpoint(list_checkpoints(tmp_path / "a")[-1]).state["faults"]["left_out"] == [14 * SIZE]


def test_what_is_not_finite_is_skipped_but_not_too_many_faults_in_a_row(guarded, tmp_path):
    trainer, watch = make(guarded, tmp_path / "a", tuple(range(9 * SIZE, 20 * SIZE, SIZE)), not_finite=(3 * SIZE,))
    with pytest.raises(Divergence, match="as were the 2 steps before it"):
        trainer.run()
    assert trainer.progress.step == 12
    first, *spikes = [event for event in watch.events if event["event"] == "fault"]
    assert (first["kind"], first["step"], first["samples"]) == ("not finite", 4, [3 * SIZE, 4 * SIZE])
    assert [(event["kind"], event["step"]) for event in spikes] == [("spike", step) for step in (10, 11, 12)]
    assert int(trainer.built.optimizer.step.asnumpy()) == 8
    assert all(np.isfinite(value).all() for value in weights(trainer).values())
    trainer.faults.config = FaultsConfig(policy="stop", window=8)
    with pytest.raises(Divergence, match=r"faults\.policy is stop"):
        trainer.run()
    assert trainer.progress.step == 13
