"""`prepare --engine ray` on clusters that really run: the bytes are those of one process, also if a node is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet
import pytest
from ray_clusters import children, cluster, needs_ray

from ms_codegeex.cli import main
from ms_codegeex.extras.corpus.workspace import work_path
from ms_codegeex.extras.ray_engines.corpus import _call

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = "asyncio concurrent email http importlib json logging multiprocessing unittest xml"
# The command with small units, blocks and parts, so that a small corpus has many of each; the work directory stays.
DRIVER = """
import sys
from ms_codegeex.cli import main
from ms_codegeex.extras.corpus import building, reading, phases
if __name__ == "__main__":
    reading._UNIT_BYTES, phases.PART_ROWS, phases.BLOCK_DOCUMENTS = 100_000, 1000, 40
    building.remove = lambda path: None
    sys.exit(main(["prepare", *sys.argv[1:]]))
"""
OPTIONS = ("--near-duplicates", "0.85", "--validation-share", "0.2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Packages of the standard library, copies of some of their files, and slightly changed copies of others."""
    root = tmp_path_factory.mktemp("ray")
    (root / "driver.py").write_text(DRIVER)
    library = Path(os.__file__).parent
    for name in PACKAGES.split():
        shutil.copytree(library / name, root / "input" / name, ignore=shutil.ignore_patterns("__pycache__", "test*"))
    for number, path in enumerate(sorted((root / "input").rglob("*.py"))):
        text = path.read_text("utf-8")
        if number % 3 == 0 and len(text.split()) > 400:
            copy = root / "input" / f"zz_fork{number % 5}" / f"copied_{number}.py"
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(text if number % 2 else f"{text}\n# changed in this fork only\nfork = {number}\n", "utf-8")
    return root


def command(place, output, *options):
    words = ["--input", str(place / "input"), "--output", str(output), *OPTIONS, *options]
    return [sys.executable, str(place / "driver.py"), *words]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


def prepared(place, output, *options):
    done = subprocess.run(command(place, output, *options), capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return content(output)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def alone(place):
    return prepared(place, place / "alone", "--workers", "1")


def wait_for_workers():
    """Until Ray has ended the workers of a command that is gone: those that have done a task carry its name."""
    deadline = time.monotonic() + 60
    while any(name(process).startswith(f"ray::{_call.__name__}") for process in children()):
        assert time.monotonic() < deadline, "Ray keeps the workers of a command that was killed"
        time.sleep(0.05)


def name(process):
    """What a process is called in its command line, which Ray changes; empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def finished(work):
    """Finished shards, with what changes when one is written again."""
    return {path.name: path.stat().st_mtime_ns for path in work.glob("*.npz")} if work.is_dir() else {}


@pytest.mark.slow  # starts a Ray cluster twice: a minute
@needs_ray
class TestCluster:
    def test_one_process_four_processes_and_two_nodes_give_the_same_bytes(self, place, alone):
        assert prepared(place, place / "pool", "--workers", "4") == alone
        with cluster(2) as (made, _):
            assert prepared(place, place / "ray", "--engine", "ray", "--ray-address", made.address) == alone

    def test_planted_copies_are_dropped_wherever_their_originals_are(self, place, alone):
        report = json.loads(alone["report.json"])
        planted = list((place / "input").glob("zz_fork*/*.py"))
        assert len(planted) > 30
        splits = [place / "alone" / f"{split}.documents.parquet" for split in ("train", "validation")]
        kept = [source for path in splits for source in pyarrow.parquet.read_table(path)["source"].to_pylist()]
        assert report["dropped"]["exact duplicate"]["documents"] >= len(planted) // 3
        assert len(kept) > 150
        originals = sorted(path for path in (place / "input").rglob("*.py") if path not in planted)
        for copy in planted:  # of equal texts the first stays, of similar ones the largest, which is the changed copy
            number = int(copy.stem.removeprefix("copied_"))
            stays, goes = (copy, originals[number])[:: 1 if number % 2 == 0 else -1]
            assert str(stays.relative_to(place)) in kept and str(goes.relative_to(place)) not in kept

    def test_a_lost_node_costs_only_what_it_was_doing(self, place, alone):
        output = place / "lost"
        work = work_path(output)
        with cluster(2) as (made, (node,)):
            words = command(place, output, "--engine", "ray", "--ray-address", made.address)
            process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment())
            while process.poll() is None and len(finished(work)) < 8:
                time.sleep(0.01)
            before = finished(work)
            assert process.poll() is None, process.stderr.read()
            made.remove_node(node, allow_graceful=False)
            _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        after = finished(work)
        assert content(output) == alone
        assert len(after) > len(before) + 5 and before.items() <= after.items()

    def test_a_command_that_was_killed_goes_on_in_processes(self, place, alone):
        output = place / "killed"
        work = work_path(output)
        with cluster(1) as (made, _):
            words = command(place, output, "--engine", "ray", "--ray-address", made.address)
            process = subprocess.Popen(words, stderr=subprocess.DEVNULL, env=environment())
            while process.poll() is None and len(finished(work)) < 5:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            wait_for_workers()
            before = finished(work)
        assert prepared(place, output, "--workers", "2") == alone
        assert len(before) >= 5 and before.items() <= finished(work).items()


def refused(capsys, *options):
    assert main(["prepare", "--output", "never", *options]) == 2
    return capsys.readouterr().err.strip()


def test_without_ray_one_line_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'ms-codegeex[ray]'" in refused(capsys, "--engine", "ray", "--input", str(tmp_path))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--engine ray --workers 2", "--workers: not with --engine ray, which uses all cores of the cluster"),
        ("--ray-address auto", "--ray-address: is for --engine ray"),
    ],
)
def test_options_that_do_not_go_together(capsys, tmp_path, options, message):
    assert message in refused(capsys, *options.split(), "--input", str(tmp_path))


@needs_ray
def test_without_a_cluster_one_line_says_how_to_start_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text("one = two\n")
    error = refused(capsys, "--engine", "ray", "--ray-address", "127.0.0.1:1", "--input", str(tmp_path / "a.py"))
    assert "no Ray cluster was found" in error and "ray start --head" in error
