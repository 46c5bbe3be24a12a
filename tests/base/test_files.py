"""Files and directories that appear whole or not at all."""

import errno
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from ms_codegeex.base import cache, files
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json


def test_a_failed_write_that_only_the_syncing_thread_hears_of_fails(tmp_path, monkeypatch):
    """The system tells it to the first who syncs; later calls succeed, though the data are lost."""
    old, reported, sync = tmp_path / "old", threading.Event(), os.fsync

    def fsync(descriptor):
        if threading.current_thread() is not threading.main_thread() and not reported.is_set():
            reported.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    old.write_text("old")
    monkeypatch.setattr(files, "WRITE_BACK_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match="old: could not be written"), files.atomic_file(old) as temporary:
        temporary.write_text("new")
        assert reported.wait(600)
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_name_that_is_too_long_for_its_temporary_file_is_a_users_mistake(tmp_path):
    remedy = r"could not be written .File name too long.*unchanged, give a shorter name, or choose another place"
    with pytest.raises(UserError, match=remedy):
        files.write_json(tmp_path / ("a" * 250), {})


def test_files_that_are_renamed_meanwhile_do_not_stop_the_syncing(tmp_path, monkeypatch):
    calls, sync = [], files.sync

    def once_gone(path):
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(path)
        sync(path)

    monkeypatch.setattr(files, "WRITE_BACK_SECONDS", 0.01)
    monkeypatch.setattr(files, "sync", once_gone)
    with files.atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        while len(calls) < 2:  # for ever if the thread has stopped
            time.sleep(0.01)
    assert (tmp_path / "file").read_text() == "new"


def test_on_a_disk_everything_is_synced_before_its_name_appears(disk_path, monkeypatch):
    """The other tests' files may lie in memory, where a fsync does nothing."""
    synced, appeared, replace, sync = [], [], os.replace, os.fsync

    def published(source, target):
        replace(source, target)
        appeared.append(len(synced))

    def noted(descriptor):
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_ino)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", noted)
        patch.setattr(os, "replace", published)
        with files.atomic_directory(disk_path / "new") as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "file").write_bytes(bytes(1 << 20))
    new, before = disk_path / "new", set(synced[: appeared[0]])
    assert {path.stat().st_ino for path in (new, new / "inner", new / "inner" / "file")} <= before
    assert disk_path.stat().st_ino in synced[appeared[0] :]  # the name itself


either = pytest.mark.parametrize("appear", [files.atomic_file, files.atomic_directory])


@either
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


def test_no_file_is_written_through_a_link_or_replaces_one(tmp_path):
    """An untrusted directory may have a link to a file of the user, under a name that is written."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old").write_text("old")
    for name, target in (("new", "there/new"), ("old", "there/old")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name}: is a link; give the file that it leads to"):
            files.write_json(tmp_path / name, [name])
        assert (tmp_path / name).is_symlink()
    with pytest.raises(UserError, match="old: is a link"), files.atomic_directory(tmp_path / "old"):
        raise AssertionError("not reached")
    (tmp_path / "loop").symlink_to("loop")
    for appear in (files.atomic_file, files.atomic_directory):
        with pytest.raises(UserError, match="loop: could not be written"), appear(tmp_path / "loop"):
            raise AssertionError("not reached")
    assert {path.name for path in tmp_path.rglob("*")} == {"there", "new", "old", "loop"}
    assert (tmp_path / "there" / "old").read_text() == "old"


@either
def test_pipes_and_devices_are_not_replaced(tmp_path, appear):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match=f"{name}: is a device, a pipe or a socket"), appear(tmp_path / name):
            pass
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode) and (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


@either
@pytest.mark.parametrize("name", ["", ".", "..", "there/.."])
def test_what_is_no_name_is_a_users_mistake(tmp_path, monkeypatch, appear, name):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="is not the name of a file; choose another"), appear(name):
        raise AssertionError("not reached")


def test_bytes_of_a_name_that_are_not_utf8_are_spelled_out_in_json(tmp_path):
    files.write_json(tmp_path / "a.json", {os.fsdecode(b"n\xff"): ["\\\ud83d", "\u20ac\\"]})
    assert read_json(tmp_path / "a.json") == {"n\\udcff": ["\\\\ud83d", "\u20ac\\"]}


# --- the user's cache ---


@pytest.fixture
def without_home(tmp_path, monkeypatch):
    """Neither a home directory nor a cache that was named; another directory for what is temporary."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", lambda user: {}[user])
    return tmp_path / f"ms_codegeex-{os.getuid()}"


def test_the_cache_is_where_the_user_wants_it(tmp_path, without_home, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.user_cache() == tmp_path / "home" / ".cache" / "ms_codegeex"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache.user_cache() == tmp_path / "home" / ".cache" / "ms_codegeex"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache.user_cache() == tmp_path / "cache" / "ms_codegeex"


@pytest.mark.parametrize("home", [None, "file", "read-only"])
def test_without_a_home_to_write_to_the_cache_is_private_and_temporary(tmp_path, without_home, monkeypatch, home):
    (tmp_path / "file").touch()
    (tmp_path / "read-only").mkdir()
    if home is not None:
        monkeypatch.setenv("HOME", str(tmp_path / home))
    access = os.access  # root may write everywhere; a file system that is mounted read-only says so here
    monkeypatch.setattr(os, "access", lambda path, mode: "read-only" not in str(path) and access(path, mode))
    for _ in range(2):
        assert cache.user_cache() == without_home
    assert stat.S_IMODE(without_home.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["file", "link", "open to others"])
def test_a_temporary_cache_of_somebody_else_is_refused(tmp_path, without_home, kind):
    (tmp_path / "theirs").mkdir(mode=0o700)
    if kind == "file":
        without_home.touch()
    elif kind == "link":
        without_home.symlink_to(tmp_path / "theirs")
    else:
        without_home.mkdir()
        without_home.chmod(0o777)
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        cache.user_cache()


def killed(path, appear):
    """A process that writes `path` and is killed in the middle; returns what it left behind."""
    code = f"""
import os, pathlib, signal
from ms_codegeex.base.files import {appear}
with {appear}(pathlib.Path({str(path)!r})) as temporary:
    (temporary / 'a' if temporary.is_dir() else temporary).write_text('half')
    os.kill(os.getpid(), signal.SIGKILL)
"""
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


@either
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


@either
def test_directories_made_for_a_failed_output_go_again(tmp_path, appear):
    (tmp_path / "kept").mkdir()
    with pytest.raises(ValueError, match="no"), appear(tmp_path / "kept" / "new" / "er" / "out"):
        raise ValueError("no")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["kept"]
