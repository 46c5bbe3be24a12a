"""Write files atomically: under a temporary name, synced, then renamed."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError, escaped, remedy_of
from ms_codegeex.base.locks import take_lock

WRITE_BACK_SECONDS = 0.25


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _parent(path: Path) -> Iterator[None]:
    """Create the parent directory of `path`. On an error, remove created directories if empty."""
    made = [directory for directory in path.absolute().parents if not directory.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for directory in made:
                directory.rmdir()
        raise


def _lock(path: Path) -> int | None:
    try:
        return take_lock(path, wait=False, flags=os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left next to `path`. If one died between the two renames, restore the old content.
    Files of a process that is still writing are left alone: it holds the lock of its temporary file."""
    name = re.compile(re.escape(f".{path.name}.") + r"\d+\.(tmp|old)")
    parent = path.absolute().parent
    leftovers = [entry for entry in parent.iterdir() if name.fullmatch(entry.name)] if parent.is_dir() else []
    for entry in sorted(leftovers):  # `.old` before `.tmp`, whose lock tells whether its process is alive
        with suppress(OSError):  # removed meanwhile, or a link
            writing = entry.with_suffix(".tmp")
            descriptor = _lock(writing if writing.exists() else entry)
            if descriptor is None:
                continue
            try:
                if entry.suffix == ".old" and not os.path.lexists(path):
                    os.replace(entry, path)
                else:
                    remove(entry)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory tree, if it exists. Ignores errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _removed(*paths: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for path in paths:
            remove(path)


@contextmanager
def written_back(temporary: Path, seconds: float | None = None) -> Iterator[None]:
    """During the block, sync the files in `temporary` (a file or a directory) in a thread, so that little is left to
    sync at the end. `seconds`: time between two passes (default: `WRITE_BACK_SECONDS`). Small files are complete before
    the first pass. The system reports a failed write only once, so an error in the thread is raised at the end."""
    done, failures = threading.Event(), []

    def work() -> None:
        while not done.wait(seconds or WRITE_BACK_SECONDS):
            try:
                for file in [temporary, *temporary.rglob("*")]:
                    if file.is_file():
                        sync(file)
            except FileNotFoundError:  # renamed meanwhile
                continue
            except OSError as error:
                failures.append(error)
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]


def unwritable(directory: Path, error: OSError) -> UserError:
    """Return the error for a work directory that could not be written; the same command continues there."""
    again = "run the same command again, which continues what is finished there"
    return UserError(f"{directory}: could not be written ({error.strerror}); {remedy_of(error, again)}")


@contextmanager
def shared_files(*paths: Path, synced: bool = True) -> Iterator[list[Path]]:
    """Yield temporary paths next to `paths`, in a directory that processes on many machines write to at once. The names
    contain the machine and the process id. On success they are renamed to `paths`, in this order. Only the content is
    synced, not the directory entry, because these files are small and can be recreated; with `synced` False, nothing is
    synced."""
    temporary = [path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp") for path in paths]
    try:
        yield temporary
        for name, path in zip(temporary, paths, strict=True):
            if synced:
                sync(name)
            os.replace(name, path)
    except OSError as error:
        for name in temporary:
            remove(name)
        raise unwritable(paths[0].parent, error) from error


def _place(path: Path, directory: bool) -> Path:
    """Return the path to replace: `path` itself, or the target of a link to a directory. Raises `UserError` if the path
    has no name, or if it is a device, a pipe, a socket, or a link to a file: someone else's link may lead to a file of
    the user's."""
    if path.name in ("", ".."):
        raise UserError(f"{path}: is not the name of a file; choose another")
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path}: is a device, a pipe or a socket, which no file replaces; choose another name")
    if path.is_symlink() and (not directory or path.is_file()):
        raise UserError(f"{path}: is a link; give the file that it leads to")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _swap(temporary: Path, path: Path, old: Path) -> None:
    if temporary.is_dir() and path.exists():
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise


@contextmanager
def _replacing(
    path: Path, make: Callable[[Path], object], check: Callable[[Path], object] | None, unchanged: str
) -> Iterator[Path]:
    """Yield what `make` creates next to `path`, or next to the target of a link. On success it is synced and replaces
    the target; on an error it is removed. `unchanged` says in error messages what is still there."""
    try:
        path = _place(path, make is Path.mkdir)
        temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
        with _parent(path), _removed(temporary, old):
            remove(temporary)
            make(temporary)
            with _locked(temporary):
                with written_back(temporary):
                    yield temporary
                for entry in sorted(temporary.rglob("*"), reverse=True):  # contents before their directory
                    if entry.is_file() or entry.is_dir():
                        sync(entry)
                sync(temporary)
                if check is not None:
                    check(temporary)
                _swap(temporary, path, old)
            sync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); {unchanged}, {remedy_of(error)}") from error


def atomic_file(path: Path, check: Callable[[Path], object] | None = None) -> AbstractContextManager[Path]:
    """Yield a temporary path next to `path`. On success it is synced and renamed to `path`; on an error it is removed.
    `check(temporary)` is called before the renaming, and an exception from it counts as an error."""
    return _replacing(Path(path), Path.touch, check, "the old file is unchanged")


def atomic_directory(path: Path, check: Callable[[Path], object] | None = None) -> AbstractContextManager[Path]:
    """Like `atomic_file`, for a directory that replaces `path` as a whole. If `path` is a symbolic link, the link stays
    and the directory that it points to is replaced."""
    return _replacing(Path(path), Path.mkdir, check, "what was there before is unchanged")


def moved_along(path: Path, before: Path, now: Path) -> Path:
    """Return where a missing absolute path is now, if it was moved together with the directory `before`, whose new
    place is `now`. Return the path unchanged if it exists, is relative, or is not found there either."""
    if not path.is_absolute() or path.exists():
        return path
    there = Path(os.path.normpath(now.absolute() / os.path.relpath(path, before)))
    return there if there.exists() else path


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. Lone surrogates, as in file names that are not UTF-8, are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(re.sub(r"[\ud800-\udfff]", lambda x: f"\\{escaped(x[0])}", text) + "\n", encoding="utf-8")
