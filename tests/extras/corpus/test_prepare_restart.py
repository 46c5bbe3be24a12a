"""Runs that end early, go on, or meet: what is finished stays, and the result is that of an undisturbed run."""

import dataclasses
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from prepare_inputs import source, write_mixed, write_tree

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus import building, reading
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.extras.corpus.workers import _start_all
from ms_codegeex.extras.corpus.workspace import work_path

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = PrepareSettings(max_bytes=None, near_duplicates=0, validation_share=0.4)
# The command, with small units. `keep` leaves the work directory there; `held` waits for ever once a worker has
# made the first shard.
DRIVER = """
import sys, time
from ms_codegeex.cli import main
from ms_codegeex.extras.corpus import building, reading, workers
track = workers.ProgressBar.track
def held(*arguments):
    for pair in track(*arguments):
        yield pair
        time.sleep(5432)
if __name__ == "__main__":
    reading._UNIT_FILES = 2
    if sys.argv[1] == "keep":
        building.remove = lambda path: None
    elif sys.argv[1] == "held":
        workers.ProgressBar.track = held
    sys.exit(main(["prepare", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The input, and the program that prepares it in small units."""
    root = tmp_path_factory.mktemp("restart")
    write_mixed(root / "input")
    (root / "driver.py").write_text(DRIVER)
    return root


def start(place, output, workers, *options, mode="plain"):
    words = ["--input", str(place / "input"), "--output", str(output), "--workers", str(workers), *options]
    return subprocess.Popen(
        [sys.executable, str(place / "driver.py"), mode, *words],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True},
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def shards(work):
    """Finished shards by name, with what changes when one is written again."""
    if not work.is_dir():
        return {}
    finished = [path for path in work.iterdir() if path.suffix in (".bin", ".npz")]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}


@pytest.fixture(scope="module")
def undisturbed(place):
    """The files of a run that nothing disturbs, and how many files of shards it made."""
    process = start(place, place / "whole", 1, "--dropped", str(place / "whole.jsonl"), mode="keep")
    assert process.wait(600) == 0, process.stderr.read()
    return content(place / "whole"), len(shards(work_path(place / "whole")))


def gone(processes, seconds=600):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def kill_and_go_on(place, output, undisturbed, finished, delay, workers, then=1, more=()):
    """Kill the command `delay` seconds after so many files of shards are there, and run it again with `then` workers;
    how many of them that found. How far a run comes in a given time depends on what else the machine does."""
    process = start(place, output, workers, *more, mode="keep")
    while process.poll() is None and len(shards(work_path(output))) < finished:
        time.sleep(0.001)
    time.sleep(delay)
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert gone(children)
    if output.exists():  # it was done before: whole
        assert content(output) == undisturbed
    before = shards(work_path(output))
    process = start(place, output, then, *more, mode="keep")
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    assert content(output) == undisturbed
    after = shards(work_path(output))
    halves = {name for name in before if name.endswith(".bin") and name[:-4] + ".npz" not in before}
    assert {name: value for name, value in before.items() if name not in halves}.items() <= after.items()
    return len(before)


@pytest.mark.parametrize("share", [0.6, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on(place, tmp_path, undisturbed, share):
    (files, number), listed = undisturbed, tmp_path / "lists/list.jsonl"
    more = ("--dropped", str(listed))
    assert kill_and_go_on(place, tmp_path / "out", files, int(share * number), 0.0, 2, more=more)
    assert listed.read_bytes() == (place / "whole.jsonl").read_bytes() and [*listed.parent.iterdir()] == [listed]
    rules = [json.loads(line)["rule"] for line in listed.read_bytes().splitlines()]
    assert sorted(rules) == ["exact duplicate", "invalid JSON", "missing field"]


@pytest.mark.slow  # twenty runs that are killed and twenty that go on
def test_a_run_killed_at_any_moment_goes_on(place, tmp_path, undisturbed):
    generator, (undisturbed, total) = random.Random(5), undisturbed
    found = []
    for number in range(20):
        finished, delay, workers = generator.randint(0, total), generator.uniform(0, 0.1), 1 + number % 3
        output = tmp_path / f"out{number}"
        found.append(kill_and_go_on(place, output, undisturbed, finished, delay, workers, workers))
    assert any(found)  # some were killed with shards finished


def test_two_commands_on_one_output(place, tmp_path, undisturbed):
    output = tmp_path / "out"
    processes = [start(place, output, 1, "--json") for _ in range(2)]
    results = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert sorted(json.loads(result)["cached"] for result, _ in results) == [False, True]
    assert any("another process prepares it; waiting" in error or "already prepared" in error for _, error in results)
    assert content(output) == undisturbed[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# A signal to all reaches the command, too.
@pytest.mark.parametrize("to_all", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_interrupt_ends_all_workers(place, tmp_path, to_all):
    """Ctrl-C reaches every process of the terminal; `kill -INT` only one. Both end all of them, with one line."""
    process = start(place, tmp_path / "out", 2, mode="held")
    while process.poll() is None and not shards(work_path(tmp_path / "out")):
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 130 and gone(children)
    assert error.splitlines()[-1] == "ms-codegeex prepare: interrupted" and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_dead_worker_is_reported(place, tmp_path, undisturbed):
    process = start(place, tmp_path / "out", 2)
    victims = []
    while process.poll() is None and not victims:
        children = psutil.Process(process.pid).children()
        victims = children if len(children) == 2 else []  # forked; where they are fresh ones, the first has no work
    victims[-1].kill()
    _, error = process.communicate(timeout=600)
    assert process.returncode == 2, error
    assert "worker processes was ended from outside" in error.splitlines()[-1]
    process = start(place, tmp_path / "out", 1)
    assert process.wait(600) == 0 and content(tmp_path / "out") == undisturbed[0]


class TestFullDisk:
    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        """Three units: the second makes a shard of more than 20 kB."""
        monkeypatch.setattr(reading, "_UNIT_FILES", 1)
        write_tree(tmp_path / "src", packages=3, files=1)
        (tmp_path / "src/package1/module0.py").write_text(source(77, lines=1500))
        return tmp_path / "src"

    def prepare(self, tree, workers, limit=None):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))  # no file may grow beyond
        try:
            return prepare_dataset([tree], tree.parent / "out", SETTINGS, RunOptions(workers=workers, progress=False))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    @pytest.mark.parametrize("workers", [1, 2])
    def test_while_shards_are_made(self, tree, monkeypatch, workers):
        said = r"\.out\.work: could not be written \(File too large\).* same command"
        with pytest.raises(UserError, match=said) as error:
            self.prepare(tree, workers, 20_000)
        assert "\n" not in str(error.value) and not (tree.parent / "out").exists()
        work = tree.parent / ".out.work"
        before = shards(work)
        assert before and (workers > 1 or not [path for path in work.iterdir() if path.name.endswith(".tmp")])
        monkeypatch.setattr(building, "remove", lambda path: None)
        assert sum(split["documents"] for split in self.prepare(tree, 1)["splits"].values()) == 3
        assert {name: shards(work)[name] for name in before} == before

    @pytest.mark.parametrize("phase", ["duplicates", "selection"])
    @pytest.mark.parametrize("limit", [None, 140])
    def test_while_documents_are_selected(self, tree, monkeypatch, phase, limit):
        """The directory of a phase's files cannot be made, or holds half of one. Shards are not made again."""
        whole = prepare_dataset([tree], tree.parent / "whole", SETTINGS, RunOptions(workers=1, progress=False))
        find, finished, mkdir = building.find_duplicates, {}, Path.mkdir

        def full(path, *arguments, **options):
            if path.name.startswith(phase):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            mkdir(path, *arguments, **options)

        def limited(documents, threshold, directory, mapper, instead):
            finished.update(shards(tree.parent / ".out.work"))
            found = find(documents, threshold, directory, mapper, instead) if phase == "selection" else None
            if limit is None:
                monkeypatch.setattr(Path, "mkdir", full)
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            return found or find(documents, threshold, directory, mapper, instead)

        with monkeypatch.context() as patch:
            patch.setattr(building, "find_duplicates", limited)
            with pytest.raises(UserError, match=r"could not be written \(.*same command"):
                self.prepare(tree, 1, resource.RLIM_INFINITY)
        monkeypatch.setattr(Path, "mkdir", mkdir)
        assert len(finished) == 6 and shards(tree.parent / ".out.work") == finished
        assert not [path for path in tree.parent.rglob("*") if path.name.endswith(".tmp")]
        assert self.prepare(tree, 1)["files"] == whole["files"] and not (tree.parent / ".out.work").exists()

    def test_while_the_dataset_is_written(self, tree, monkeypatch):
        whole = prepare_dataset([tree], tree.parent / "whole", SETTINGS, RunOptions(workers=1, progress=False))

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(building, "write_splits", full)
        said, summaries = r"out: could not be written \(No space left on device\).*unchanged, free some space, or", []
        for _ in range(2):
            with pytest.raises(UserError, match=said):
                self.prepare(tree, 1)
            assert len(shards(tree.parent / ".out.work")) == 6 and not (tree.parent / "out").exists()
            found = (tree.parent / ".out.work").glob("selection-*/summary-*")
            summaries.append({path: path.stat().st_mtime_ns for path in found})
        assert len(summaries[0]) == 1 and summaries[0] == summaries[1]  # what was decided is not decided again
        monkeypatch.undo()
        monkeypatch.setattr(reading, "_UNIT_FILES", 1)
        result = self.prepare(tree, 1)
        assert result["files"] == whole["files"] and not (tree.parent / ".out.work").exists()


class TestStaleShards:
    @pytest.fixture
    def stopped(self, tmp_path, monkeypatch):
        """A run that ended with all its shards finished, just before the dataset was written."""
        monkeypatch.setattr(reading, "_UNIT_FILES", 1)
        write_tree(tmp_path / "src", packages=3, files=2)

        def interrupt(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(building, "Documents", interrupt)
            with pytest.raises(KeyboardInterrupt):
                prepare_dataset([tmp_path / "src"], tmp_path / "out", SETTINGS, RunOptions(workers=1, progress=False))
        monkeypatch.setattr(building, "remove", lambda path: None)
        return tmp_path, shards(tmp_path / ".out.work")

    def again(self, place, settings=SETTINGS):
        """Prepare, compare with a run in a fresh place; the shards that were used."""
        prepare_dataset([place / "src"], place / "out", settings, RunOptions(workers=1, progress=False))
        prepare_dataset([place / "src"], place / "fresh", settings, RunOptions(workers=1, progress=False))
        assert content(place / "out") == content(place / "fresh")
        return shards(place / ".out.work")

    def test_what_does_not_concern_shards_leaves_them(self, stopped):
        settings = PrepareSettings(max_bytes=None, near_duplicates=0, seed=3, validation_share=0.5)
        assert self.again(stopped[0], settings) == stopped[1]

    @pytest.mark.parametrize(
        "changed",
        [
            {"tags": "none"},
            {"near_duplicates": 0.85},
            {"tokenizer": "codegen-mono"},
            {"reading": ReadingSettings(redact=("email",))},
        ],
    )
    def test_another_setting(self, stopped, changed):
        after = self.again(stopped[0], dataclasses.replace(SETTINGS, **changed))
        assert len(after) == 12 and not after.keys() & stopped[1].keys()

    def test_another_input(self, stopped):
        changed = stopped[0] / "src/package1/module0.py"
        changed.write_text(source(4711))
        after = self.again(stopped[0])
        assert len(after) == 12 and len(after.keys() & stopped[1].keys()) == 10


def test_what_a_kill_in_the_last_stage_left_is_removed(tmp_path):
    write_tree(tmp_path / "src", packages=2, files=1)
    for name in (".out.123.tmp", ".out.old.tmp", ".other.123.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.bin").write_text("half")
    prepare_dataset([tmp_path / "src"], tmp_path / "out", SETTINGS, RunOptions(workers=1, progress=False))
    assert {path.name for path in tmp_path.iterdir()} == {"src", "out", ".out.old.tmp", ".other.123.tmp"}


@pytest.mark.parametrize("broken", [True, False])
def test_queues_that_a_broken_pool_has_closed_are_a_broken_pool(broken):
    class Pool:
        calls = 0

        def submit(self, work):
            self.calls += 1
            if self.calls == 2:
                raise OSError("handle is closed")
            if self.calls > 2 and broken:
                raise BrokenProcessPool

    with pytest.raises(BrokenProcessPool if broken else OSError):
        _start_all(Pool(), 2)
