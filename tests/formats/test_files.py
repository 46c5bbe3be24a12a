"""Files and directories that appear whole or not at all."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from ms_codegeex import files
from ms_codegeex.errors import UserError


def test_a_failed_write_that_only_the_syncing_thread_hears_of_fails(tmp_path, monkeypatch):
    """The system tells it to the first who syncs; later calls succeed, though the data are lost."""
    old, told, sync = tmp_path / "old", threading.Event(), os.fsync

    def fsync(descriptor):
        if threading.current_thread() is not threading.main_thread() and not told.is_set():
            told.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    old.write_text("old")
    monkeypatch.setattr(files, "WRITE_BACK_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="old: could not be written"), files.atomic_file(old) as temporary:
        temporary.write_text("new")
        assert told.wait(5)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_files_that_are_renamed_meanwhile_do_not_stop_the_syncing(tmp_path, monkeypatch):
    calls, sync = [], files._sync

    def once_gone(path):
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(path)
        sync(path)

    monkeypatch.setattr(files, "WRITE_BACK_SECONDS", 0.01)
    monkeypatch.setattr(files, "_sync", once_gone)
    with files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        end = time.monotonic() + 5
        while len(calls) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(calls) >= 2
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("appear", [files.atomic_file, files.atomic_directory])
def test_a_file_where_a_directory_is_wanted(tmp_path, appear):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file/new: could not be written"), appear(tmp_path / "file" / "new"):
        raise AssertionError("not reached")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_link_to_a_directory_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").touch()
    (tmp_path / "link").symlink_to("there")
    with files.atomic_directory(tmp_path / "link") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["new"]
    assert {path.name for path in tmp_path.iterdir()} == {"link", "there"}


def killed(path, appear):
    """A process that writes `path` and is killed in the middle; returns what it left behind."""
    code = (
        "import os, signal, pathlib\n"
        f"from ms_codegeex.files import {appear}\n"
        f"with {appear}(pathlib.Path({str(path)!r})) as temporary:\n"
        "    target = temporary / 'a' if temporary.is_dir() else temporary\n"
        "    target.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = [entry for entry in path.parent.iterdir() if entry.name.startswith(".")]
    return left


@pytest.mark.parametrize("appear", ["atomic_file", "atomic_directory"])
def test_what_a_killed_process_left_is_removed(tmp_path, appear):
    left = killed(tmp_path / "out", appear)
    (tmp_path / ".out.77.txt").touch()
    (tmp_path / ".other.77.tmp").touch()
    files.remove_leftovers(tmp_path / "out")
    assert not left.exists() and sorted(entry.name for entry in tmp_path.iterdir()) == [".other.77.tmp", ".out.77.txt"]


@pytest.mark.parametrize("appear", [files.atomic_file, files.atomic_directory])
def test_a_process_at_work_is_left_alone(tmp_path, appear):
    with appear(tmp_path / "out") as temporary:
        files.remove_leftovers(tmp_path / "out")
        assert temporary.exists()
    assert (tmp_path / "out").exists()


def test_killed_between_the_renamings(tmp_path):
    left = killed(tmp_path / "out", "atomic_directory")
    old = left.with_suffix(".old")
    old.mkdir()
    (old / "a").write_text("old")
    files.remove_leftovers(tmp_path / "out")
    assert (tmp_path / "out" / "a").read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["out"]
    shutil.copytree(tmp_path / "out", old)  # killed while the old one was being removed
    files.remove_leftovers(tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("appear", [files.atomic_file, files.atomic_directory])
def test_directories_made_for_a_failed_output_go_again(tmp_path, appear):
    (tmp_path / "kept").mkdir()
    with pytest.raises(ValueError, match="no"), appear(tmp_path / "kept" / "new" / "er" / "out"):
        raise ValueError("no")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["kept"]
