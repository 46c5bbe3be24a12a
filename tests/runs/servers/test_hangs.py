"""Hangs, with stand-in ranks that need no engine, and a clock that the tests make."""

import json
import signal
import sys
import textwrap
from types import SimpleNamespace

import psutil
import pytest
from run_processes import wait_for

from ms_codegeex.runs.files import beats as beating
from ms_codegeex.runs.files.beats import FILE_BYTES, Beat, Beats, beat_name, read_beat
from ms_codegeex.runs.servers import hangs
from ms_codegeex.runs.servers.hangs import HangWatch
from ms_codegeex.runs.servers.workers import Workers, WorkerSpec


@pytest.fixture
def clock(monkeypatch):
    """In place of `time`: only the test moves it."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now, sleep=lambda seconds: None)
    monkeypatch.setattr(beating, "time", clock)
    monkeypatch.setattr(hangs, "time", clock)
    return clock


class Process:
    """In place of a rank's process; `test_the_rank_that_the_others_wait_for_is_named` watches real ones."""

    def __init__(self, pid):
        self.pid, self.state, self.seconds, self.signals = pid, psutil.STATUS_SLEEPING, 0.0, []

    def status(self):
        return self.state

    def children(self, recursive):
        return []

    def cpu_times(self):
        return SimpleNamespace(user=self.seconds, system=0.0, children_user=0.0, children_system=0.0)

    def io_counters(self):
        return SimpleNamespace(read_chars=0, write_chars=0)

    def send_signal(self, number):
        self.signals.append(number)


class Job:
    """Ranks whose beats the test writes, and a scheduler."""

    def __init__(self, folder, clock, ranks=2, multiple=5.0, on_device=False):
        self.clock, self.folder = clock, folder
        self.processes = [Process(rank) for rank in range(ranks)]
        self.scheduler = Process(99)
        self.workers = SimpleNamespace(
            family={each.pid: each for each in (*self.processes, self.scheduler)},
            workers={each.pid: each for each in self.processes},
            ranks={each.pid: str(each.pid) for each in self.processes},
            count=ranks,
            label=lambda pid: "scheduler",
        )
        self.watch = HangWatch(self.workers, folder / "beats", folder, multiple, on_device)
        self.beats = [Beats(folder / "beats" / f"{rank}.json") for rank in range(ranks)]

    def pass_seconds(self, seconds, busy=(), at_a_time=1.0):
        """Returns after how many of them something is at fault, and what; a busy rank computes all the time."""
        for passed in range(1, int(seconds / at_a_time) + 1):
            self.clock.now += at_a_time
            for rank in busy:
                self.processes[rank].seconds += at_a_time
            if found := self.watch.stopped() or self.watch.quiet():
                return passed * at_a_time, found
        return None


@pytest.fixture
def job(tmp_path, clock):
    return Job(tmp_path, clock)


def step(beats, number, clock=None, seconds=0.0):
    beats.begin(SimpleNamespace(progress=SimpleNamespace(step=number - 1)))
    if clock is not None:
        clock.now += seconds
        beats.step(None, None)


PHASES = ["start", "rendezvous", "compile", "load", "step", "evaluation", "save", "report"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_stopped_rank_is_named_in_every_phase_while_others_compute(job, phase):
    job.beats[1].enter(phase)
    job.processes[1].state = psutil.STATUS_STOPPED
    seconds, found = job.pass_seconds(60, busy=[0])
    assert seconds <= 20 and f"rank 1 in phase {phase}, stopped by SIGSTOP or a debugger" in found
    assert "rank 0 in" not in found
    assert job.processes[1].signals == [hangs.STACKS, signal.SIGCONT]  # it writes its stack as soon as it continues


@pytest.mark.parametrize("phase", PHASES)
def test_ranks_that_do_nothing_are_named_within_a_minute_in_every_phase(job, phase):
    for beats in job.beats:
        beats.enter(phase)
    seconds, found = job.pass_seconds(100)
    assert 40 <= seconds <= 50
    assert "no rank has done anything for" in found and f"rank 0 in phase {phase}" in found
    assert f"rank 1 in phase {phase}" in found


@pytest.mark.parametrize("phase", ["start", "compile", "load", "save", "export", "evaluation"])
def test_a_rank_that_computes_may_take_as_long_as_it_needs(job, phase):
    job.beats[0].enter("step")  # it waits for the other one
    job.beats[1].enter(phase)
    assert job.pass_seconds(400, busy=[1]) is None
    assert job.pass_seconds(100)[0] <= 60


def test_a_rank_that_waits_is_not_at_fault_while_another_one_saves(job, clock):
    for number in range(1, 6):
        step(job.beats[1], number, clock, 0.1)
    step(job.beats[1], 6)
    step(job.beats[0], 5)
    job.beats[0].phase("save")
    assert job.pass_seconds(400, busy=[0]) is None


def test_once_the_length_of_a_step_is_known_computing_is_no_excuse(job, clock):
    for beats in job.beats:
        for number in range(1, 5):
            step(beats, number, clock, 20.0)
        step(beats, 5)
    assert job.pass_seconds(98, busy=[0, 1]) is None  # five times the median
    seconds, found = job.pass_seconds(20, busy=[0, 1])
    assert seconds <= 4 and "in phase step (step 5)" in found


def test_what_a_device_does_is_waited_for_until_the_length_of_a_step_is_known(tmp_path, clock):
    job = Job(tmp_path, clock, on_device=True)
    for beats in job.beats:
        beats.enter("compile")
    assert job.pass_seconds(590) is None and job.pass_seconds(20) is not None
    for beats in job.beats:
        beats.enter("stress check")
    assert job.pass_seconds(1000) is None
    job.processes[0].state = psutil.STATUS_STOPPED
    assert "rank 0 in phase stress check, stopped" in job.pass_seconds(20)[1]
    job.processes[0].state = psutil.STATUS_SLEEPING
    for beats in job.beats:
        for number in range(1, 5):
            step(beats, number, clock, 1.0)
        step(beats, 5)
    assert 40 <= job.pass_seconds(60)[0] <= 45


def test_only_whole_steps_and_batches_are_measured(tmp_path, clock):
    beats = Beats(tmp_path / "0.json")
    for number in range(1, 5):
        step(beats, number)
        clock.now += 3.0
        beats.phase("evaluation")
        clock.now += 50.0  # its data
        for _ in range(2):
            beats.beat()
            clock.now += 7.0
        beats.phase(None)
        assert read_beat(tmp_path / "0.json").usual in (None, 3.0)
        clock.now += 40.0
        beats.step(None, None)
        clock.now += 100.0
    step(beats, 5)
    learnt = {"step": 3.0, "evaluation": 7.0}
    assert read_beat(tmp_path / "0.json") == Beat(1 + 4 * 6 + 1, "step", 5, 3.0, learnt)
    beats.phase("evaluation")
    assert read_beat(tmp_path / "0.json").usual == 7.0


def test_the_wait_for_data_before_the_first_step_is_no_step(tmp_path, clock):
    beats = Beats(tmp_path / "0.json")
    for number in range(1, 5):
        step(beats, number)
        clock.now += 1.0 if number == 1 else 9.0
        if number == 1:
            beats.phase("compile")
            clock.now += 60.0
            beats.phase(None)
        beats.step(None, None)
    assert read_beat(tmp_path / "0.json").learnt == {"step": 9.0}


def beats_of_two_attempts(folder, clock, of="b" * 32):
    """One that has measured steps of 20 s and batches of 30 s, and the next, of settings `of`, in its step."""
    before = Beats(folder / "before.json")
    before.carry("b" * 32, folder / "none.json")
    for number in range(1, 5):
        step(before, number)
        clock.now += 20.0
        before.phase("evaluation")
        for _ in range(2):
            before.beat()
            clock.now += 30.0
        before.phase(None)
        before.step(None, None)
    before.enter("result")
    assert (folder / "before.json").stat().st_size == FILE_BYTES
    after = Beats(folder / "beats" / "0.json")
    after.carry(of, folder / "before.json")
    for phase in ("rendezvous", "load"):
        after.enter(phase)
        assert read_beat(folder / "beats" / "0.json").usual is None
    step(after, 5)
    return after


def test_an_attempt_expects_the_times_that_the_one_before_has_measured(tmp_path, clock):
    job = Job(tmp_path, clock, ranks=1)
    beats = beats_of_two_attempts(tmp_path, clock)
    seconds, found = job.pass_seconds(200, busy=[0])
    assert 100 <= seconds <= 104 and "rank 0 in phase step (step 5)" in found  # computing is not an excuse
    beats.phase("evaluation")
    beats.beat()
    assert job.pass_seconds(400, busy=[0]) is None  # it may compile its graph
    beats.beat()
    assert 150 <= job.pass_seconds(200, busy=[0])[0] <= 154
    beats.phase(None)
    clock.now += 1.0
    for number in range(6, 9):
        step(beats, number, clock, 50.0)
    step(beats, 9)
    assert read_beat(tmp_path / "beats" / "0.json").usual == 50.0  # its own
    assert 250 <= job.pass_seconds(300, busy=[0])[0] <= 254


def test_times_of_other_settings_or_that_an_attempt_has_only_carried_count_for_nothing(tmp_path, clock):
    beats_of_two_attempts(tmp_path, clock, of="c" * 32)
    assert read_beat(tmp_path / "beats" / "0.json").usual is None
    beats_of_two_attempts(tmp_path, clock)
    assert read_beat(tmp_path / "beats" / "0.json").usual == 20.0
    third = Beats(tmp_path / "third.json")
    third.carry("b" * 32, tmp_path / "beats" / "0.json")
    step(third, 5)
    assert read_beat(tmp_path / "third.json").usual is None


def test_a_rank_goes_on_without_a_file_for_its_beats(tmp_path):
    (tmp_path / "beats").touch()
    step(Beats(tmp_path / "beats" / "0.json"), 1)
    assert read_beat(tmp_path / "beats" / "0.json") is None


def test_what_is_no_beat_is_none(tmp_path):
    file = tmp_path / "0.json"
    assert read_beat(file) is None
    for text in ("", '{"number": 1', "[1]", '{"number": 1}', json.dumps({"x": 1})):
        file.write_text(text)
        assert read_beat(file) is None
    names = [beat_name(x) for x in ({}, {"RANK_ID": "3"}, {"MS_ROLE": "MS_SCHED", "RANK_ID": "0"})]
    assert names == ["0.json", "3.json", "scheduler.json"]


def test_a_stopped_scheduler_is_named(job):
    job.scheduler.state = psutil.STATUS_STOPPED
    assert "stopped and did not continue: scheduler;" in job.pass_seconds(60, busy=[0, 1])[1]


def test_a_launcher_that_was_stopped_itself_blames_nobody(job):
    job.processes[1].state = psutil.STATUS_STOPPED
    assert job.pass_seconds(3600, at_a_time=3600) is None  # it has seen this once
    job.processes[1].state = psutil.STATUS_SLEEPING
    assert job.pass_seconds(30) is None


def test_a_rank_that_has_finished_may_stop(job, tmp_path):
    (tmp_path / "done_1.json").touch()
    job.processes[1].state = psutil.STATUS_STOPPED
    assert job.pass_seconds(300, busy=[0]) is None
    assert "rank 0 in phase start" in job.pass_seconds(60)[1]


def test_a_watch_that_is_off_sees_nothing(tmp_path, clock):
    job = Job(tmp_path, clock, multiple=0.0)
    job.processes[1].state = psutil.STATUS_STOPPED
    assert job.pass_seconds(1000) is None


WAITING = """
    import faulthandler, signal, threading, time
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    def {name}():
        print("ready", flush=True)
        while True:
            time.sleep(600)
    {name}()
"""


@pytest.mark.parametrize("odd", [0, 1])
def test_the_rank_that_the_others_wait_for_is_named(tmp_path, odd, monkeypatch):
    (tmp_path / "mindspore").mkdir()
    (tmp_path / "mindspore" / "__init__.py").touch()
    (tmp_path / "mindspore" / "graph.py").write_text(textwrap.dedent(WAITING.format(name="run_graph")))
    (tmp_path / "reader.py").write_text(textwrap.dedent(WAITING.format(name="read_batch")))
    specs = []
    for rank in range(3):
        log, module = tmp_path / f"worker_{rank}.log", "reader" if rank == odd else "mindspore.graph"
        environment = {"PYTHONPATH": str(tmp_path), "RANK_ID": str(rank)}
        specs.append(WorkerSpec("", (sys.executable, "-m", module), tmp_path, log, environment, worker_logs=(log,)))
        step(Beats(tmp_path / "beats" / f"{rank}.json"), 7)
    for name in ("QUIET_SECONDS", "SETTLED_SECONDS", "STOPPED_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(hangs, name, 1e-9)
    monkeypatch.setattr(hangs, "STACK_SECONDS", 1.0)
    with Workers(specs) as workers:
        wait_for(lambda: all(spec.log.exists() and "ready" in spec.log.read_text() for spec in specs))
        watch = HangWatch(workers, tmp_path / "beats", tmp_path, 5.0)
        process = next(process for pid, process in workers.workers.items() if workers.ranks[pid] == str(odd))
        process.suspend()
        wait_for(lambda: process.status() == "stopped")
        found = watch.stopped()
        where = f"rank {odd} in phase step (step 7), stopped by SIGSTOP or a debugger, in read_batch (reader.py:8) < "
        assert found.startswith(f"a process was stopped and did not continue: {where}")
        wait_for(lambda: process.status() != "stopped")
        monkeypatch.setattr(hangs, "STOPPED_SECONDS", 1e9)
        watch.stopped()
        waited = f"s: the others wait for rank {odd} in phase step (step 7), in read_batch (reader.py:8) <"
        assert waited in watch.quiet()
