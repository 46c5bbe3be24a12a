import errno
import json
import os
import re
import sys
from dataclasses import asdict

import pytest

from ms_codegeex.config import RunConfig
from ms_codegeex.runs.files.display import Display, duration
from ms_codegeex.runs.files.records import read_events, read_log
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import LastStep
from ms_codegeex.runs.opening import keep_logs
from ms_codegeex.runs.rank.callbacks import Eta, EventLog, JsonLog, LossPlot, StopOnRequest, TensorBoard, plot_loss
from ms_codegeex.training.observers import StepRecord


def record(step, **changes):
    values = {"step": step, "loss": 5.0 - 0.1 * step, "tokens": 100 * step, "compiling": step == 1, "skipped": False}
    values |= {"learning_rate": 1e-3, "gradient_norm": 1.0, "loss_scale": 1.0, "memory_bytes": 10**9}
    rates = {"tokens_per_second": 50.0, "mfu": 0.5, "data_wait_percent": 0.1, "step_seconds": 2.0}
    return StepRecord(**{**values, **rates, **changes})


class Watched:
    """What callbacks use of a trainer."""

    config, stopped = RunConfig(), False

    def __init__(self, step=1, steps=100):
        self.steps_left, self.ending, self.warnings = steps - step, step == steps, []

    def warn(self, text):
        self.warnings.append(text)


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.logs.mkdir()
    return directory


def test_eta_ignores_the_compiling_step():
    eta = Eta()
    assert eta.update(60.0, 10) is None
    assert eta.update(2.0, 9) == pytest.approx(18.0)


def test_log_holds_every_nth_evaluated_skipped_and_last_step(run):
    log = JsonLog(run, every=4)
    for step in range(1, 11):
        skipped = {"skipped": True, "gradient_norm": None} if step == 3 else {}
        log.step(Watched(step, 10), record(step, validation_loss=4.0 if step == 6 else None, **skipped))
    assert [r["step"] for r in read_log(run.log)] == [3, 4, 6, 8, 10]
    assert set(read_log(run.log)[0]) == {*asdict(record(1)), "attempt"}
    assert len(run.progress.read_text().splitlines()) == 10  # the display sees them all


def test_what_is_not_finite_is_null(run, capsys):
    log = JsonLog(run, every=1)
    log.step(Watched(), record(2, loss=float("nan"), skipped=True, gradient_norm=None))
    assert read_log(run.log)[0]["loss"] is None
    Display(run.progress, 10, lines=10).poll()
    assert "loss not finite" in capsys.readouterr().err


def test_a_later_attempt_replaces_the_steps_that_it_repeats_and_those_after_them(run):
    for steps in (range(1, 6), range(3, 5)):
        run.add_event("start")
        log = JsonLog(run, every=1)
        for step in steps:
            log.step(Watched(), record(step))
    assert [(r["attempt"], r["step"]) for r in read_log(run.log)] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert len(run.log.read_text().splitlines()) == 7  # nothing is deleted


def test_a_line_that_a_kill_left_incomplete_costs_no_other_line(run):
    JsonLog(run, every=1).step(Watched(), record(1))
    with run.log.open("a") as stream:
        stream.write('{"step": 2, "lo')
    JsonLog(run, every=1).step(Watched(), record(2))
    assert [r["step"] for r in read_log(run.log)] == [1, 2]


def test_events_are_appended_with_time_and_attempt(run):
    for attempt in (1, 2):
        run.add_event("start", attempt=attempt)
        EventLog(run).event("skip", step=3, samples=[8, 12], norm=float("nan"), losses={"a": [float("inf"), 1.0]})
    events = read_events(run.events)
    assert [(e["attempt"], e["event"]) for e in events] == [(1, "start"), (1, "skip"), (2, "start"), (2, "skip")]
    assert events[1]["samples"] == [8, 12] and events[1]["norm"] is None and events[1]["losses"] == {"a": [None, 1.0]}
    assert all(e["time"] > 1.7e9 for e in events) and run.attempt == 2


def test_logs_of_an_earlier_attempt_are_kept(run):
    keep_logs(run)
    assert not list(run.logs.iterdir())
    for attempt in (1, 2):
        run.add_event("start")
        (run.logs / "worker_0.log").write_text(str(attempt))
        run.summary.write_text("{}")
        keep_logs(run)
    names = sorted(str(path.relative_to(run.logs)) for path in run.logs.rglob("*") if path.is_file())
    assert names == [f"attempt-000{n}/{name}" for n in (1, 2) for name in ("summary.json", "worker_0.log")]
    assert not run.summary.exists()


class Shutdown(Watched):
    def stop(self):
        self.stopped = True


@pytest.mark.parametrize("several", [False, True])
def test_a_run_stops_after_a_requested_step_that_was_not_skipped(run, several):
    last, trainer = LastStep(run, leads=True), Shutdown()
    callback = StopOnRequest(last, (lambda mine: mine) if several else None)
    callback.step(trainer, record(4))
    run.stop_request.write_text('{"signal": "SIGTERM"}')
    for step, skipped in ((5, False), (6, True)) if not several else ((5, True),):
        callback.step(trainer, record(step, skipped=skipped))
        assert not trainer.stopped  # the step to end after is announced first; after a skipped one nothing is saved
    callback.step(trainer, record(7))
    assert trainer.stopped


def test_a_stopped_run_draws_no_plot(run):
    log, trainer = JsonLog(run, every=1), Shutdown(3)
    trainer.stopped = trainer.ending = True
    log.step(trainer, record(3))
    LossPlot(run).end(trainer)
    assert not run.plot.exists()
    events = Display(run.progress, 10).poll()
    assert [event["event"] for event in events] == ["step"] and events[-1]["ending"]


def test_plot_is_a_picture_of_the_log(run):
    log = JsonLog(run, every=1)
    plot_loss(run.log, run.plot)
    assert not run.plot.exists()  # nothing to draw yet
    for step in range(1, 4):
        log.step(Watched(), record(step, validation_loss=4.5 if step == 2 else None))
    LossPlot(run).end(Watched())
    assert run.plot.read_bytes().startswith(b"\x89PNG")
    first = run.plot.read_bytes()
    log.step(Watched(), record(4, loss=9.0))
    plot_loss(run.log, run.plot)
    assert run.plot.read_bytes() != first


def test_tensorboard_events_hold_the_figures(run):
    writer = TensorBoard(run.tensorboard, 0)
    writer.step(Watched(), record(1))
    writer.step(Watched(), record(2, validation_loss=4.0))
    writer.end(Watched())
    events = b"".join(path.read_bytes() for path in run.tensorboard.iterdir())
    for name in (b"loss", b"validation_loss", b"learning_rate", b"mfu"):
        assert name in events


def test_no_process_imports_pytorch_for_its_events(run, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "tensorboardX")]:
        monkeypatch.delitem(sys.modules, name)
    TensorBoard(run.tensorboard, 0).end(Watched())
    assert "tensorboardX" in sys.modules and "torch" not in sys.modules


def test_display_prints_plain_lines_and_says_when_and_how_long_it_compiles(run, capsys):
    log, display = JsonLog(run, every=1), Display(run.progress, 100, lines=10)
    log.status("compiling the training graph")
    display.poll()
    for step in range(1, 21):
        log.step(Watched(step, 100), record(step, loss_scale=1024.0, validation_loss=3.25 if step == 13 else None))
    with run.progress.open("a") as stream:
        stream.write('{"event": "sta')  # a line still being written
    display.poll()
    display.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("compiling the training graph")
    assert "compiled in 0:00" in lines[1]
    assert [line.split()[1] for line in lines[1:]] == ["1/100", "10/100", "13/100", "20/100"]
    figures = ("loss 3.700", "validation 3.250", "lr 1.0e-03", "norm 1.00", "scale 1024", "50 tok/s", "MFU 50%")
    assert [word for word in (*figures, "GB", "ETA 2:54") if word not in lines[3]] == []


def test_display_on_a_terminal_is_one_live_bar(run, capsys, monkeypatch):
    log, display = JsonLog(run, every=1), Display(run.progress, 4)
    display.terminal = True
    log.status("compiling the training graph")
    display.poll()
    for step in range(1, 5):
        log.step(Watched(step, 4), record(step, skipped=step == 2, gradient_norm=None if step == 2 else 1.0))
    display.poll()
    display.close()
    shown = capsys.readouterr().err
    assert "compiling the training graph (0:00)" in shown and "4/4" in shown and "loss 4.600" in shown


@pytest.mark.parametrize("columns, words", [(80, "validation 3.250"), (160, "GB")])
def test_a_terminal_shows_the_bar_the_step_and_the_remaining_time_and_what_else_fits(
    run, capsys, monkeypatch, columns, words
):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (columns, 24))
    log, display = JsonLog(run, every=1), Display(run.progress, 10_000)
    display.terminal = True
    log.step(Watched(4, 10_000), record(4, loss_scale=1024.0, validation_loss=3.25))
    display.poll()
    log.status("evaluating all of the documents")
    display.poll()
    display.close()
    frames = [each for each in re.split("[\r\n]", capsys.readouterr().err) if " 4/" in each]
    assert frames and max(len(each.rstrip()) for each in frames) < columns and words in frames[0]
    assert all(re.search(r"\|.{10}\| 4/10000, ETA \S+", each) for each in frames)


@pytest.mark.parametrize("seconds,text", [(None, "?"), (5, "0:05"), (75.9, "1:15"), (3725, "1:02:05")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that is full until `full_disk.clear()`: every write fails."""
    full = [True]
    for name in ("write", "fsync"):
        original = getattr(os, name)
        attempt = lambda *given, original=original: (no_space if full else original)(*given)  # noqa: E731
        monkeypatch.setattr(os, name, attempt)
    return full


def test_a_full_disk_delays_the_log_and_warns_once(run, full_disk, capsys):
    log, trainer = JsonLog(run, every=1), Watched()
    for step in (1, 2, 3):
        log.step(trainer, record(step))
    assert len(trainer.warnings) == 1 and "log.jsonl: could not be written (No space left" in trainer.warnings[0]
    assert read_log(run.log) == []
    full_disk.clear()
    log.step(trainer, record(4))
    assert [line["step"] for line in read_log(run.log)] == [1, 2, 3, 4]
    full_disk.append(True)
    log.step(trainer, record(5))
    assert len(trainer.warnings) == 2  # it is full again
    log.warning("reported")
    assert "warning: reported" in capsys.readouterr().err


def test_a_line_written_in_part_is_not_repeated(run, monkeypatch):
    write, room = os.write, [10]

    def short(descriptor, data):
        if not room[0]:
            no_space()
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    log = JsonLog(run, every=1)
    monkeypatch.setattr(os, "write", short)
    log.step(Watched(), record(1))
    room[0] = 10**6
    log.step(Watched(), record(2))
    assert [line["step"] for line in read_log(run.log)] == [1, 2]


def test_a_full_disk_leaves_out_the_plot_and_warns_once(run, full_disk):
    run.log.write_text(json.dumps(asdict(record(1))) + "\n")
    trainer, plot = Watched(), LossPlot(run, every_seconds=-1)
    plot.step(trainer, record(1))
    plot.step(trainer, record(2))
    assert len(trainer.warnings) == 1 and "loss.png: could not be written" in trainer.warnings[0]
    assert not run.plot.exists()
    full_disk.clear()
    plot.end(trainer)
    assert run.plot.exists()


def test_a_full_disk_ends_the_events_and_not_the_run(run, monkeypatch):
    writer, trainer = TensorBoard(run.tensorboard, 0), Watched()
    monkeypatch.setattr(writer.writer._py_recordio_writer, "write", no_space)
    for step in range(1, 100):  # more than any queue holds
        writer.step(trainer, record(step))
    writer.end(trainer)
    assert trainer.warnings == ["TensorBoard events end here (No space left on device); log.jsonl has the same figures"]


def test_the_display_shows_warnings(run, capsys):
    JsonLog(run, every=1).warning("the disk is full")
    capsys.readouterr()
    Display(run.progress, 10).poll()
    assert capsys.readouterr().err == "warning: the disk is full\n"
