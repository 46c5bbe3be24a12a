from dataclasses import replace
from unittest.mock import create_autospec

import numpy as np
import pytest

from ms_codegeex.base.errors import Divergence, Rewind, RunFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.sections import CheckpointConfig
from ms_codegeex.formats.checkpoint import Checkpoint, DamagedFile
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.runs.files.records import read_events
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import LastStep, NextSave, StopExit, StopRequest
from ms_codegeex.runs.opening import pass_over, starting_point
from ms_codegeex.runs.servers import attempts
from ms_codegeex.runs.servers.attempts import recorded_end, resumed, with_restarts


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.logs.mkdir()
    directory.add_event("start")
    return directory


@pytest.fixture
def pauses(monkeypatch):
    found = []
    monkeypatch.setattr(attempts.time, "sleep", found.append)
    return found


def failing(run, failures):
    """An attempt that fails as listed; a number is a step that was logged before."""
    calls = []

    def attempt(number):
        calls.append(number)
        for item in failures[number] if number < len(failures) else ():
            if isinstance(item, int):
                with run.log.open("a") as stream:
                    stream.write(f'{{"step": {item}}}\n')
            else:
                raise item

    return attempt, calls


def test_a_failed_attempt_is_followed_by_another(run, pauses, capsys):
    attempt, calls = failing(run, [(3, RunFailure("rank 1 was killed")), (5, RunFailure("rank 0 was killed"))])
    with_restarts(run, 2, 0, attempt)
    assert calls == [0, 1, 2] and pauses == [0.0, 0.0]
    assert "rank 1 was killed" in capsys.readouterr().err


def test_damage_that_a_rank_finds_sends_the_run_to_the_checkpoint_before(run, tmp_path, pauses, capsys):
    config, begun = replace(RunConfig(), checkpoint=CheckpointConfig(resume="auto")), []
    for step in (2, 4, 6):
        file = write_checkpoint(run.checkpoints, step, {"w": np.arange(3)}, {}) / "rank_00000.safetensors"
        if step > 2:
            file.write_bytes(file.read_bytes()[:-1] + b"x")

    def attempt(_):
        checkpoint = starting_point(config, run).checkpoint
        begun.append(checkpoint.step)
        try:
            checkpoint.tensor("w")
        except DamagedFile as damage:
            pass_over(checkpoint, run, damage)
            raise

    with_restarts(run, 0, 0, attempt)
    assert begun == [6, 4, 2] and pauses == []
    assert "skipped: " in capsys.readouterr().err
    names = ["damaged-step-00000004", "damaged-step-00000006", "step-00000002"]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == names
    elsewhere = Checkpoint(write_checkpoint(tmp_path / "elsewhere", 2, {"w": np.arange(3)}, {}))
    last = Checkpoint(run.checkpoints / "step-00000002")
    for checkpoint in (elsewhere, last):
        with pytest.raises(UserError, match="is damaged") as caught:
            pass_over(checkpoint, run, DamagedFile(f"{elsewhere.path}/x: is damaged"))
        assert type(caught.value) is UserError and checkpoint.path.is_dir()  # which ends the attempts
    with pytest.raises(UserError, match=r"no checkpoint in .* is sound"):
        pass_over(last, run, DamagedFile(f"{last.path}/x: is damaged"))


def test_the_last_failure_is_raised(run, pauses):
    attempt, calls = failing(run, [(RunFailure("one"),), (RunFailure("two"),), (RunFailure("three"),)])
    with pytest.raises(RunFailure, match="two"):
        with_restarts(run, 1, 0, attempt)
    assert calls == [0, 1]


def test_pauses_grow_while_no_step_is_made(run, pauses):
    attempt, _ = failing(run, [(RunFailure(""),)] * 8 + [(1, RunFailure(""))])
    with_restarts(run, 10, 0, attempt)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 0]


@pytest.mark.parametrize(
    "reaches,saves,expected",
    [([97, 98, 98], [], [0, 0, 2]), ([97, 97, 97], [1], [0, 0, 2]), ([97, None, None], [], [0, 2, 4])],
)
def test_steps_that_are_not_logged_and_checkpoints_are_progress(run, pauses, reaches, saves, expected):
    """Whatever is logged: an attempt without a step is none."""

    def attempt(number):
        run.progress.write_text('{"event": "status", "text": ""}\n')
        if number in saves:
            (run.checkpoints / f"step-{80 + number:08d}").mkdir(parents=True)
        if number < len(reaches):
            if reaches[number]:
                run.progress.open("a").write(f'{{"event": "step", "step": {reaches[number]}}}\n')
            raise RunFailure("a worker was killed")

    run.log.write_text('{"step": 90}\n')
    with_restarts(run, 3, 0, attempt)
    assert pauses == expected


def test_a_rewind_is_followed_by_another_attempt_until_it_helps_no_more(run, pauses):
    attempt, calls = failing(run, [(Rewind("step 3: spike"),)] * 2)
    with_restarts(run, 0, 2, attempt)
    assert calls == [0, 1, 2] and pauses == []
    attempt, _ = failing(run, [(Rewind("step 3: spike"),)] * 3)
    with pytest.raises(RunFailure, match="has gone back 2 times in a row"):
        with_restarts(run, 0, 2, attempt)
    attempt, calls = failing(run, [(Rewind("step 3: spike"),)])
    with pytest.raises(Rewind):  # of several servers: their scheduler starts the job again
        with_restarts(run, 5, 0, attempt)
    assert calls == [0]


def test_a_newer_checkpoint_gives_a_rewind_new_tries(run, pauses):
    def attempt(number):
        (run.checkpoints / f"step-{number:08d}").mkdir(parents=True)
        if number < 5:
            raise Rewind("step 3: spike")

    with_restarts(run, 0, 1, attempt)


@pytest.mark.parametrize(
    "error", [Divergence("loss nan", 3), UserError("data"), KeyboardInterrupt(), StopExit("SIGTERM")]
)
def test_what_a_restart_would_repeat_ends_the_run(run, pauses, error):
    attempt, calls = failing(run, [(1, error)])
    with pytest.raises(type(error)):
        with_restarts(run, 5, 0, attempt)
    assert calls == [0]


@pytest.mark.parametrize(
    "error,reason",
    [
        (None, {"reason": "finished"}),
        (RunFailure("rank 1 was killed\nlog"), {"reason": "failed", "message": "rank 1 was killed"}),
        (Divergence("loss nan", 3), {"reason": "not finite", "message": "loss nan"}),
        (StopExit("SIGUSR1"), {"reason": "stopped", "signal": "SIGUSR1"}),
        (KeyboardInterrupt(), {"reason": "interrupted"}),
    ],
)
def test_the_end_of_an_attempt_is_an_event(run, error, reason):
    try:
        with recorded_end(run):
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    event = read_events(run.events)[-1]
    del event["time"]
    assert event == {"attempt": 1, "event": "end", "step": 0, **reason}


def test_a_later_attempt_goes_on_from_the_runs_own_checkpoints(run):
    config = RunConfig()
    assert resumed(config, run) == config  # nothing is saved yet: as the first one
    (run.checkpoints / "step-00000002").mkdir(parents=True)
    assert resumed(config, run).checkpoint.resume == "auto"


def test_all_ranks_stop_after_the_step_that_rank_0_names(run):
    ranks = [LastStep(run, leads=rank == 0) for rank in range(3)]
    assert not any(rank.reached(4) for rank in ranks)
    StopRequest(run, 10)._handle(15, None)
    late, lead, early = ranks[1], ranks[0], ranks[2]
    assert not early.reached(5) and not lead.reached(5) and not late.reached(5)
    assert all(rank.reached(6) for rank in (late, early, lead))


def test_all_ranks_save_after_the_step_that_rank_0_names(run):
    lead, other = NextSave(run, leads=True), NextSave(run, leads=False)
    assert not lead.reached(4, True) and not other.reached(4, False)
    assert other.reached(5, True) and lead.reached(5, True)  # what the others' clocks say does not count
    assert not lead.reached(6, False) and not other.reached(6, True)
    assert not lead.reached(7, True) and not other.reached(7, True) and other.reached(8, False)


def test_a_block_ends_as_stopped_when_a_signal_came_and_a_failure_meanwhile_does_not_start_the_run_again(run, capsys):
    stop = StopRequest(run, 10)
    with pytest.raises(RunFailure, match="no signal"), stop.listening():
        raise RunFailure("no signal")
    for failure in (None, RunFailure("rank 1 was killed"), Rewind("step 3: spike")):
        with pytest.raises(StopExit) as stopped, stop.listening():
            run.stop_request.write_text('{"signal": "SIGUSR1"}')  # perhaps another server's
            if failure:
                raise failure
        assert stopped.value.code == 138
    assert "rank 1 was killed" in capsys.readouterr().err


def test_a_request_that_did_not_fit_on_the_disk_is_made_again(run, monkeypatch):
    stop, full = StopRequest(run, 10), create_autospec(write_json, side_effect=UserError("the disk is full"))
    monkeypatch.setattr("ms_codegeex.runs.files.stopping.write_json", full)
    stop._handle(15, None)
    assert not run.stop_request.exists()
    monkeypatch.undo()
    stop.check()
    assert run.stop_request.exists()


def test_a_second_signal_and_the_end_of_the_grace_end_the_run_at_once(run, monkeypatch):
    stop = StopRequest(run, 10)
    stop.check()
    stop._handle(15, None)
    stop.check()
    with pytest.raises(StopExit) as stopped:
        stop._handle(15, None)
    assert stopped.value.code == 143
    monkeypatch.setattr("ms_codegeex.runs.files.stopping.time.monotonic", lambda: stop.since + 11)
    with pytest.raises(StopExit):
        stop.check()
