"""Write files so that they appear whole or not at all: under a temporary name, synced, then renamed; read JSON."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.base.locks import take_lock
from ms_codegeex.base.reading import read_regular, read_standard_input, read_stream

WRITE_BACK_SECONDS = 0.25
MAX_WAITING = 1 << 20  # bytes of lines for which a full disk has no room
MAX_TEXT = 16 << 20  # bytes of a prompt; the longest context has a thousandth of it
MAX_JSON = 64 << 20  # bytes of a JSON file; the largest of a model, its tokenizer, has tens of millions


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _parent(path: Path) -> Iterator[None]:
    """Create the parent directory of `path`; on an error, remove the directories that were created, if they are
    empty."""
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
    """A descriptor that holds the lock of a file or directory; None if another process has it or locks are
    unsupported."""
    try:
        return take_lock(path, wait=False, flags=os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, a half-written file or directory, to show that a process is still writing it."""
    descriptor = _lock(path)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left next to `path`, and restore the old content if they died between the two
    renamings. A process that is still writing is left alone: it holds the lock of its temporary file."""
    name = re.compile(re.escape(f".{path.name}.") + r"\d+\.(tmp|old)")
    parent = path.absolute().parent
    found = [entry for entry in parent.iterdir() if name.fullmatch(entry.name)] if parent.is_dir() else []
    for entry in sorted(found):  # `.old` before `.tmp`, whose lock says whether its process lives
        with suppress(OSError):  # gone in the meantime, or a link
            writing = entry.with_suffix(".tmp")
            descriptor = _lock(writing if writing.exists() else entry)
            if descriptor is None:
                continue
            try:
                if entry.suffix == ".old" and not os.path.lexists(path):
                    os.replace(entry, path)
                else:
                    _remove(entry)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or directory of ours, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def _removed(*paths: Path) -> Iterator[None]:
    """Remove these paths at the end."""
    try:
        yield
    finally:
        for path in paths:
            _remove(path)


@contextmanager
def written_back(temporary: Path, seconds: float | None = None) -> Iterator[None]:
    """Meanwhile, sync in a thread what is already in `temporary` (a file or a directory), so that less is left at
    the end; `seconds` between two passes (default: a quarter of one).

    Small files are done before the thread's first pass. The system reports a failed write only to the first process
    that syncs, so an error in the thread is raised at the end.
    """
    done, failures = threading.Event(), []

    def work() -> None:
        while not done.wait(seconds or WRITE_BACK_SECONDS):
            try:
                for file in [temporary, *temporary.rglob("*")]:
                    if file.is_file():
                        sync(file)
            except FileNotFoundError:  # renamed in the meantime
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


@contextmanager
def atomic_file(path: Path, check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path`. On success it is synced and renamed to `path`, on an error it is
    removed.

    `check(temporary)` is called before the renaming; an exception from it counts as an error.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with _parent(path), _removed(temporary):
            temporary.touch()
            with _locked(temporary):
                with written_back(temporary):
                    yield temporary
                sync(temporary)
                if check is not None:
                    check(temporary)
                os.replace(temporary, path)
            sync(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror}); the old file is unchanged, "
            "free some space or choose another place"
        ) from error


def unwritable(place: Path, error: OSError) -> UserError:
    """The error for a directory of work that goes on when the same command is run again."""
    return UserError(
        f"{place}: could not be written ({error.strerror}); what is finished stays there, free some "
        "space and run the same command again"
    )


@contextmanager
def shared_files(*paths: Path, synced: bool = True) -> Iterator[list[Path]]:
    """Yield temporary paths next to `paths`, in a directory to which processes of many machines write at once. On
    success they are renamed to `paths`, in this order.

    The names hold the machine and the process. Of a file that is small and can be made again only the content is
    synced, not its name; with `synced` False neither.
    """
    temporary = [path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp") for path in paths]
    try:
        yield temporary
        for name, path in zip(temporary, paths, strict=True):
            if synced:
                sync(name)
            os.replace(name, path)
    except OSError as error:
        for name in temporary:
            name.unlink(missing_ok=True)
        raise unwritable(paths[0].parent, error) from error


def _swap(temporary: Path, path: Path, old: Path) -> None:
    """Move a finished directory to `path`. The present one moves to `old`, and back if this fails."""
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise


@contextmanager
def atomic_directory(path: Path, check: Callable[[Path], object] | None = None) -> Iterator[Path]:
    """Yield a temporary directory next to `path`. On success it replaces `path` as a whole, on an error it is
    removed.

    `check(temporary)` is called before the renaming; an exception from it counts as an error. If `path` is a
    symbolic link, the link stays and the directory that it points to is replaced.
    """
    path = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    temporary, old = _temporary(path), path.with_name(f".{path.name}.{os.getpid()}.old")
    _remove(temporary)
    try:
        with _parent(path), _removed(temporary, old):
            temporary.mkdir()
            with _locked(temporary):
                with written_back(temporary):
                    yield temporary
                for entry in sorted(temporary.rglob("*"), reverse=True):  # a directory after what is in it
                    if entry.is_file() or entry.is_dir():
                        sync(entry)
                sync(temporary)
                if check is not None:
                    check(temporary)
                _swap(temporary, path, old)
            sync(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror}); what was there before is unchanged, "
            "free some space or choose another place"
        ) from error


class AppendedFile:
    """A file to which lines are appended, or an open descriptor. Lines that do not fit on a full disk are kept, up to
    `MAX_WAITING` bytes, and written once there is room; further lines are lost.

    A last line that a kill left incomplete stays on its own line. `OSError` only if the file cannot be opened.
    """

    def __init__(self, path: Path | int):
        self.path, self._pending = path, b""
        if not isinstance(path, int) and path.exists() and _incomplete(path):
            self._pending = b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = os.dup(path) if isinstance(path, int) else os.open(path, flags, 0o644)

    def write(self, line: str) -> OSError | None:
        """Append a line, given without its line break. If it has to wait or is lost, return the reason."""
        data = line.encode() + b"\n"
        if len(self._pending) + len(data) <= MAX_WAITING or not self._pending:
            self._pending += data
        try:
            while self._pending:
                self._pending = self._pending[os.write(self._descriptor, self._pending) :]
        except OSError as error:
            return error
        return None

    def close(self) -> None:
        """Close the file; lines that still wait are lost."""
        os.close(self._descriptor)


def _incomplete(path: Path) -> bool:
    """Whether a regular file ends within a line."""
    with contextlib.suppress(OSError):  # not readable
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as stream:
                stream.seek(-1, os.SEEK_END)
                return stream.read(1) != b"\n"
    return False


def given_text(name: str, option: str) -> str:
    """The text of a file that `option` names, or of standard input if its name is `-`. `UserError`: it is not UTF-8,
    cannot be read, is a device, or has more than `MAX_TEXT` bytes."""
    try:
        # not `sys.stdin`, which lets anything through if the locale is C
        data = read_standard_input(MAX_TEXT) if name == "-" else read_stream(Path(name), MAX_TEXT)
        return io.TextIOWrapper(io.BytesIO(data), "utf-8").read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {name} cannot be read as text ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, maximum: int = MAX_JSON, parse: Callable[[bytes], Any] = parse_json) -> Any:
    """Read a JSON file of at most `most` bytes; a missing or malformed one is a `UserError` that names it.

    `parse` takes the content, and may raise `Malformed` as `parse_json` does.
    """
    try:
        return json_of(read_regular(path, maximum), path, parse)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: not readable as JSON ({error.strerror}); restore or recreate it") from None


def json_of(content: bytes, path: Path, parse: Callable[[bytes], Any] = parse_json) -> Any:
    """The value of a JSON file's content; `path` is for the `UserError` that malformed content raises."""
    try:
        return parse(content)
    except Malformed as error:
        raise UserError(f"{path}: not readable as JSON ({error}); restore or recreate it") from None


def sha256(path: Path) -> str:
    """The hex digest of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cached_folder(name: str, what: str, fill: Callable[[Path], None]) -> Path:
    """The folder `name` in the user's cache, made on the first call; safe to call from many processes at once.

    Args:
        name: changes with what is in the folder.
        what: it holds, for an error message.
        fill: fills the folder that it is given.
    """
    directory = user_cache() / name
    if not directory.is_dir():
        with _cache_lock(directory.with_suffix(".lock"), what):
            if not directory.is_dir():
                with atomic_directory(directory) as temporary:
                    fill(temporary)
    return directory


@contextmanager
def _cache_lock(path: Path, what: str) -> Iterator[None]:
    """Wait for the lock file `path` and hold it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(path, wait=True)
    except OSError as error:
        raise UserError(
            f"{path.parent}: {what} cannot be stored here ({error.strerror}); set XDG_CACHE_HOME to a folder you can "
            "write to"
        ) from error
    try:
        yield
    finally:
        os.close(lock)


def user_cache() -> Path:
    """The directory for files that can be made again: `ms_codegeex` in `$XDG_CACHE_HOME` or `~/.cache`.

    Without a home directory, or if it is read-only, a directory in the system's temporary directory that only this
    user can enter; a `UserError` if something else has that name.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "ms_codegeex"
    with suppress(RuntimeError, OSError):  # RuntimeError: no HOME, and no such user
        cache = Path.home() / ".cache" / "ms_codegeex"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    cache = Path(tempfile.gettempdir()) / f"ms_codegeex-{os.getuid()}"
    with suppress(OSError):
        cache.mkdir(mode=0o700, exist_ok=True)
        found = cache.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return cache
    raise UserError(
        f"{cache}: expected a directory that only this user can enter, as there is no home directory that can be "
        "written; set XDG_CACHE_HOME to a directory that can"
    )
