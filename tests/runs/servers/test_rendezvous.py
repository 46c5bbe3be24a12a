"""How the servers of a job watch each other, and `train` on two of them, with stand-ins for Ascend's workers."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, command, small_run, write_config
from run_processes import wait_for

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.formats.checkpoint import list_checkpoints
from ms_codegeex.runs.files.records import read_events, read_log
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import StopExit
from ms_codegeex.runs.servers import rendezvous
from ms_codegeex.runs.servers.rank_table import make_rank_table, write_rank_table
from ms_codegeex.runs.servers.rendezvous import Rendezvous
from ms_codegeex.runs.servers.supervision import reserved_port


class Clock:
    """In place of `time`: it moves only when somebody sleeps, and `meanwhile` is what the others do then."""

    def __init__(self):
        self.now, self.meanwhile = 0.0, lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch):
    """The servers' clock, which the test advances."""
    clock = Clock()
    monkeypatch.setattr(rendezvous, "time", clock)
    return clock


def joined(clock: Clock, folder: Path, first: Rendezvous, rank: int, count: int) -> Rendezvous:
    """Server `rank` enters while server 0 keeps counting."""
    clock.meanwhile = first._write
    other = Rendezvous(folder, rank, count).__enter__()
    clock.meanwhile = lambda: None
    return other


def beat_until(clock, servers, condition):
    for _ in range(1000):
        if condition():
            return
        for server in servers:
            server.beat()
        clock.sleep(rendezvous.BEAT_SECONDS)
    raise AssertionError("did not happen")


def test_servers_meet_learn_the_checkpoint_and_finish(tmp_path, clock):
    with Rendezvous(tmp_path, 0, 3, "checkpoints/step-4") as first:
        others = [joined(clock, tmp_path, first, rank, 3) for rank in (1, 2)]
        assert [server.checkpoint for server in others] == ["checkpoints/step-4"] * 2
        assert not first.all_finished() and others[0].all_finished()
        for server in others:
            server.done()
        beat_until(clock, [first], first.all_finished)


def test_a_job_hangs_only_when_the_ranks_of_every_server_are_quiet(tmp_path, clock):
    with Rendezvous(tmp_path, 0, 3) as first:
        second, third = (joined(clock, tmp_path, first, rank, 3) for rank in (1, 2))

        def beats(*quiet):
            clock.sleep(rendezvous.BEAT_SECONDS)
            return [server.beat(text) for server, text in zip((third, second, first), quiet, strict=True)]

        named = f"{rendezvous.STANDS_OUT} rank 9"
        assert beats("", named, "no rank stands out") == ["", "", ""]  # the third still compiles
        assert beats("no rank", named, "") == ["", "", ""]
        assert beats("no rank", named, "no rank stands out") == ["", "", f"server 1: {named}"]
        assert beats("x", "y", "z") == ["", "", "server 0: z; server 1: y; server 2: x"]
        first.done()  # its ranks have finished, those of the others have not
        assert beats("x", "y", "") == ["", "", "server 1: y; server 2: x"]
        for server in (second, third):
            server.done()
        beat_until(clock, [first], first.all_finished)
        clock.sleep(rendezvous.BEAT_SECONDS)
        assert first.beat("") == ""


def test_what_an_earlier_job_left_is_not_joined(tmp_path, clock):
    old = Rendezvous(tmp_path, 0, 2).__enter__()  # killed: its file says running for ever
    with pytest.raises(RunFailure, match="opened no job"):
        Rendezvous(tmp_path, 1, 2).__enter__()
    new = Rendezvous(tmp_path, 0, 2).__enter__()
    assert joined(clock, tmp_path, new, 1, 2).job == new.job != old.job


def test_a_failure_of_one_ends_all(tmp_path, clock):
    first = Rendezvous(tmp_path, 0, 3).__enter__()
    second, third = (joined(clock, tmp_path, first, rank, 3) for rank in (1, 2))
    second.__exit__(RunFailure, RunFailure("device 4 is lost"), None)
    with pytest.raises(RunFailure, match=r"server 1 ended.*device 4 is lost") as error:
        beat_until(clock, [first, third], lambda: False)
    first.__exit__(RunFailure, error.value, None)
    with pytest.raises(RunFailure, match=r"server 0 ended.*server 1 ended.*device 4 is lost"):
        beat_until(clock, [third], lambda: False)


def test_a_server_that_was_stopped_after_its_part_was_done_has_not_failed(tmp_path, clock):
    first = Rendezvous(tmp_path, 0, 2).__enter__()
    second = joined(clock, tmp_path, first, 1, 2)
    second.done()
    second.__exit__(StopExit, StopExit("SIGTERM"), None)
    beat_until(clock, [first], first.all_finished)


@pytest.mark.parametrize("silent, left", [(1, 0), (0, 1)])
def test_a_server_that_falls_silent_ends_the_job(tmp_path, clock, silent, left):
    first = Rendezvous(tmp_path, 0, 2).__enter__()
    servers = [first, joined(clock, tmp_path, first, 1, 2)]
    beat_until(clock, servers, lambda: first.beats > 20)
    with pytest.raises(RunFailure, match=rf"server {silent} has shown no sign of life"):
        beat_until(clock, [servers[left]], lambda: False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: Rendezvous(folder, 0, 2).__enter__(), "another job"),
        (lambda folder: (folder / "000000.json").unlink(), "server 0 has shown no sign of life"),
    ],
    ids=["another job", "silence of a file system"],
)
def test_what_happens_to_the_directory_ends_the_job(tmp_path, clock, change, words):
    second = joined(clock, tmp_path, Rendezvous(tmp_path, 0, 2).__enter__(), 1, 2)
    change(tmp_path)
    with pytest.raises(RunFailure, match=words):
        beat_until(clock, [second], lambda: False)


# --- the command on two servers, both of them here ---

STAND_IN = """
    import json, os, sys, time
    from pathlib import Path
    run, rank = Path(sys.argv[1]), int(os.environ["RANK_ID"])
    if os.environ["MS_ROLE"] == "MS_SCHED":
        time.sleep(600)
    print("rank", rank, "of", os.environ["RANK_SIZE"], "on device", os.environ["DEVICE_ID"], flush=True)
    assert (run / "config.yaml").exists() and Path.cwd().name == f"rank_{rank}"
    while not (run / "go").exists():
        time.sleep(0.05)
    if (run / "go").read_text() == str(rank):
        print("device lost", flush=True)
        os._exit(9)
    if (run / "go").read_text() != "all":
        time.sleep(600)
    while rank > 1 and (run / "hold").exists():
        time.sleep(0.05)
    if rank == 0:
        figures = {"steps": 1, "validation_loss": 1.0, "unigram_entropy": 2.0, "shuffled_context_loss": 3.0}
        (run / "logs" / "result.json").write_text(json.dumps({**figures, "checkpoint": "none"}))
        line = {"compiling": True, "step_seconds": 1.0, "tokens_per_second": 1.0, "mfu": 0.1}
        (run / "log.jsonl").write_text(json.dumps(line) + "\\n")
    (run / "logs" / f"done_{rank}.json").write_text("{}")
"""
LAUNCH = """
    import sys
    from ms_codegeex.runs.servers import rendezvous, supervision
    from ms_codegeex.runs import training_job
    supervision.program_of, rendezvous.BEAT_SECONDS = lambda config: "cluster_stand_in", 0.2
    training_job.check_ascend = lambda config: None  # the workers need no CANN
    from ms_codegeex.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def cluster(dataset, tmp_path):
    """Starts `train` as server K of two servers with two devices each; returns the process."""
    (tmp_path / "cluster_stand_in.py").write_text(textwrap.dedent(STAND_IN))
    (tmp_path / "launch.py").write_text(textwrap.dedent(LAUNCH))
    servers = [(f"10.0.0.{i}", {0: f"10.1.{i}.1", 1: f"10.1.{i}.2"}) for i in (1, 2)]
    write_rank_table(tmp_path / "t.json", make_rank_table(servers))
    run = {**small_run(dataset, tmp_path / "run"), "device": "ascend", "devices": 4, "parallel": {"tensor": 2}}
    run["training"].update(steps=1, global_batch=8)
    write_config(tmp_path / "run.yaml", run)
    started = []

    def start(rank: int, *words: str) -> subprocess.Popen:
        launch = [sys.executable, "launch.py", "train", "--config", "run.yaml", "--rank-table", "t.json"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        options = {"cwd": tmp_path, "env": environment, "text": True, "stdout": subprocess.PIPE}
        words = ("--node-rank", str(rank), *words)
        started.append(subprocess.Popen([*launch, *words], stderr=subprocess.PIPE, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def logs_of(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run / "logs").glob("worker_*.log")}


def workers_of(run: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if {"cluster_stand_in", str(run)} <= {*(process.info["cmdline"] or [])}
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def all_started(run: Path) -> bool:
    return len(logs_of(run)) == 4 and all(text.startswith("rank") for text in logs_of(run).values())


def test_two_servers_run_one_job(cluster, tmp_path):
    second, first = cluster(1), cluster(0, "--json")
    run = tmp_path / "run"
    wait_for(lambda: all_started(run))
    assert logs_of(run)["worker_3.log"] == "rank 3 of 4 on device 1\n"
    (run / "hold").touch()
    (run / "go").write_text("all")

    def state():
        return json.loads((run / ".servers" / "000000.json").read_text())

    wait_for(lambda: state()["state"] == "done")
    beats = state()["beat"]
    wait_for(lambda: state()["beat"] > beats + 2)  # it waits: a checkpoint needs the parts of all servers
    assert not (run / "summary.json").exists()
    (run / "hold").unlink()
    (output, errors), (silent, others) = (job.communicate(timeout=600) for job in (first, second))
    assert first.returncode == second.returncode == 0, errors + others
    assert json.loads(output)["steps"] == 1
    assert silent == "" and "starting 2 workers on server 1 of 2" in others


def die(run):
    (run / "go").write_text("3")


def stop(run):
    next(each for each in workers_of(run) if each.environ().get("RANK_ID") == "3").suspend()


STOPPED = "a process was stopped and did not continue: rank 3 in phase start, stopped by SIGSTOP"


@pytest.mark.parametrize(
    ("fail", "there", "elsewhere"),
    [
        (die, "a worker ended before its work was done", "device lost"),
        pytest.param(stop, STOPPED, "rank 3 in phase start", marks=pytest.mark.slow),  # a dead one is seen in seconds
    ],
)
def test_a_failed_process_on_one_server_ends_both(cluster, tmp_path, fail, there, elsewhere):
    jobs = [cluster(0), cluster(1)]
    run = tmp_path / "run"
    wait_for(lambda: all_started(run))
    fail(run)
    errors = [job.communicate(timeout=600)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [1, 1]
    assert there in errors[1] and (fail is stop or "worker_3.log" in errors[1])
    assert "server 1 ended" in errors[0] and elsewhere in errors[0]
    assert not workers_of(run)


def test_a_killed_launcher_leaves_no_process(cluster, tmp_path):
    job = cluster(0)
    run = tmp_path / "run"
    wait_for(lambda: len(workers_of(run)) == 3)  # two ranks and the scheduler
    job.kill()
    wait_for(lambda: not workers_of(run))


def test_servers_must_be_given_the_same(cluster, tmp_path):
    jobs = [cluster(0), cluster(1, "seed=8")]
    errors = [job.communicate(timeout=600)[1] for job in jobs]
    assert jobs[1].returncode == 2 and "seed: 8, but server 0 runs with 7" in errors[1]
    assert jobs[0].returncode == 1 and "server 1 ended" in errors[0]


def test_servers_need_a_prepared_dataset(cluster):
    job = cluster(0, "data.train=null")
    assert "data.train: 2 servers need the same prepared dataset" in job.communicate(timeout=600)[1]
    assert job.returncode == 2


# --- MindSpore's own launcher, twice ---

TWO_LAUNCHERS = """
    import dataclasses, sys
    from pathlib import Path
    from ms_codegeex.config.loading import load_config
    from ms_codegeex.runs.servers import supervision
    from ms_codegeex.runs.servers.node import Node
    from ms_codegeex.runs.opening import held_run, join_run, open_run
    from ms_codegeex.runs.servers.rendezvous import meeting
    from ms_codegeex.runs.servers.attempts import resumed
    from ms_codegeex.runs.files.run_directory import RunDirectory
    from ms_codegeex.runs.opening import starting_point

    rank, port = int(sys.argv[1]), int(sys.argv[2])
    config = load_config(Path("run.yaml"))
    run = RunDirectory(Path(config.output))
    node = Node(rank, 2, range(rank, rank + 1), (0,), master=("127.0.0.1", port))
    if rank:  # here both servers have the scheduler's address; the second must not start a scheduler too
        code = (
            "import mindspore.parallel.cluster.process_entity._api as api; api._is_local_ip = lambda address: False;"
            "from mindspore.parallel.cluster.run import main; main()"
        )
        specs = supervision.node_processes
        supervision.node_processes = lambda *a: [
            dataclasses.replace(spec, command=(sys.executable, "-c", code, *spec.command[1:])) for spec in specs(*a)
        ]
        with meeting(run, node) as others:
            join_run(config, run)
            supervision.run_workers(config, run, None, node, others)
    else:
        with held_run(run):
            start = starting_point(resumed(config, run), run)
            open_run(config, run, start)
            with meeting(run, node, start.checkpoint) as others:
                supervision.run_workers(config, run, start.checkpoint, node, others)
"""


def started_by_msrun(run, rank):
    """The process of this rank, or None."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            role = [process.environ().get(name) for name in ("MS_ROLE", "RANK_ID")]
            if str(run) in process.cmdline() and role == ["MS_WORKER", str(rank)]:
                return process
    return None


@pytest.mark.slow  # two workers, three times
def test_two_launchers_that_are_started_again_train_as_one_does(dataset, tmp_path):
    """Real workers of two msrun, which differ in --node-rank and share the run directory. After one worker is killed,
    both launchers end. Restarted, they give bit for bit the losses of one with two workers."""

    def values(name):
        values = {**small_run(dataset, tmp_path / name), "devices": 2}
        values["training"].update(steps=100, dropout=0.1)
        values["checkpoint"].update(every=10, keep=3)
        return values

    def launch(port):
        words, environment = [sys.executable, "two.py"], {**os.environ, "PYTHONPATH": str(ROOT)}
        return [subprocess.Popen([*words, str(rank), str(port)], cwd=tmp_path, env=environment) for rank in (0, 1)]

    (tmp_path / "two.py").write_text(textwrap.dedent(TWO_LAUNCHERS))
    write_config(tmp_path / "run.yaml", values("one"))
    assert command("train", "--config", "run.yaml", cwd=tmp_path).returncode == 0
    write_config(tmp_path / "run.yaml", values("two"))
    run = RunDirectory(tmp_path / "two")
    with reserved_port() as port:
        jobs = launch(port)
        try:
            wait_for(lambda: list_checkpoints(run.checkpoints) or any(job.poll() is not None for job in jobs))
            started_by_msrun(run.path, 1).kill()
            assert [job.wait(timeout=600) for job in jobs] == [1, 1]
            saved = int(list_checkpoints(run.checkpoints)[-1].name.removeprefix("step-"))
            jobs += launch(port)
            assert [job.wait(timeout=1200) for job in jobs[2:]] == [0, 0]
        finally:
            for job in jobs:
                job.kill()
    assert [event["step"] for event in read_events(run.events) if event["event"] == "start"] == [0, saved]
    losses = [[record["loss"] for record in read_log(tmp_path / name / "log.jsonl")] for name in ("one", "two")]
    assert losses[0] == losses[1] and len(losses[0]) == 100
