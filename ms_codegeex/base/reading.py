"""Read untrusted files: only regular files, up to a size limit, and no links out of their directory."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ms_codegeex.base.errors import UserError, remedy_of
from ms_codegeex.base.json_reading import MalformedText, parse_json

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # a pipe without a writer must not block
_BLOCK = 1 << 20
MAX_TEXT = 16 << 20  # bytes of a prompt; the longest context is a thousandth of this
MAX_JSON = 64 << 20  # bytes of a JSON file; the largest, a tokenizer, has tens of millions
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link that leads to itself or changed meanwhile",
}


def check_regular(status: os.stat_result, path: Path) -> None:
    """Raise `UserError`, naming `path`, unless `status` is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a file")
        raise UserError(f"{path}: is {kind}, expected a regular file; put one there")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, following links. Raises `UserError` for anything else, without blocking on a
    pipe or opening a device; `OSError` if it is missing or not readable."""
    return os.fdopen(_descriptor(path, path), "rb")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file as `open_regular` does. In the block, an `OSError` becomes a `UserError` naming it."""
    try:
        with open_regular(path) as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror}); {remedy_of(error, 'restore it')}") from None


def _descriptor(name: Path | str, path: Path, flags: int = 0, folder: int | None = None) -> int:
    """Return a descriptor of the regular file `name` in `folder`; errors name `path`. The type is checked before
    opening, because opening a device may have an effect, and again on the open file."""
    check_regular(os.stat(name, dir_fd=folder, follow_symlinks=not flags & os.O_NOFOLLOW), path)
    descriptor = os.open(name, _FLAGS | flags, dir_fd=folder)
    try:
        check_regular(os.fstat(descriptor), path)
    except UserError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, maximum: int) -> bytes:
    """Return the content of a regular file of at most `maximum` bytes. Raises errors as `open_regular` does."""
    with open_regular(path) as stream:
        return limited(stream, path, maximum)


def read_stream(path: Path, maximum: int) -> bytes:
    """Return the content of a file that the user named: a regular file or a pipe, such as bash's `<(command)`."""
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return read_regular(path, maximum)
    with open(path, "rb") as stream:
        return limited(stream, path, maximum)


def limited(stream: BinaryIO, path: Path, maximum: int) -> bytes:
    """Return the rest of a stream. Raises `UserError`, naming `path`, if that is more than `maximum` bytes."""
    data = bytearray()
    while block := stream.read(_BLOCK):  # a single read would reserve memory for `maximum` bytes
        data += block
        if len(data) > maximum:
            raise UserError(f"{path}: is larger than {maximum:,} bytes, the most for a file of its kind; shorten it")
    return bytes(data)


def in_hub_cache(path: Path) -> bool:
    return path.is_symlink() and _blobs(path) is not None


def _blobs(path: Path) -> Path | None:
    target = Path(os.path.realpath(path))  # unlike Path.resolve, it returns for a loop of links
    for parent in path.parents:
        if parent.name == "snapshots" and "--" in parent.parent.name:
            blobs = Path(os.path.realpath(parent.parent)) / "blobs"
            if target.parent == blobs and target.is_file() and not blobs.is_symlink():
                return blobs
    return None


def open_inside(directory: Path, name: str) -> BinaryIO:
    """Open a regular file in an untrusted directory. Links are followed only to files inside the directory, or from a
    snapshot in Hugging Face's cache to its blobs. The resolved path is then opened without following any links, so a
    link that is swapped in meanwhile is refused too. Raises `UserError` for other links, for anything but a regular
    file, and if the file is missing or not readable."""
    path = Path(directory) / name
    base, target = place_inside(directory, name)
    try:
        descriptor = _walk(base, target.relative_to(base).parts, path)
    except OSError as error:
        changed = error.errno in (errno.ELOOP, errno.ENOTDIR)
        reason = "was exchanged for a link while it was opened" if changed else error.strerror
        raise UserError(f"{path}: not readable ({reason}); restore it") from None
    return os.fdopen(descriptor, "rb")


def place_inside(directory: Path, name: str) -> tuple[Path, Path]:
    """Return the folder of a file in a directory, and the file, with links resolved. `UserError` if it is outside."""
    root = Path(os.path.realpath(directory))
    target = Path(os.path.realpath(root / name))
    base = root if root in target.parents else _blobs(root / name)
    if base is None:
        wrong = f"is a link to {target}, outside {directory}"
        raise UserError(f"{Path(directory) / name}: {wrong}; replace it with a copy of that file if it belongs there")
    return base, target


def _walk(base: Path, parts: tuple[str, ...], path: Path) -> int:
    directory = os.open(base, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FLAGS | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        return _descriptor(parts[-1], path, os.O_NOFOLLOW, directory)
    finally:
        os.close(directory)


def read_inside(directory: Path, name: str, maximum: int) -> bytes:
    """Return the content, at most `maximum` bytes, of a file in an untrusted directory; see `open_inside`."""
    with open_inside(directory, name) as stream:
        return limited(stream, Path(directory) / name, maximum)


def read_json(path: Path, maximum: int = MAX_JSON, parse: Callable[[bytes], Any] = parse_json) -> Any:
    """Return the value of a JSON file of at most `maximum` bytes. Raises `UserError`, naming the file, if it is missing
    or malformed. `parse` takes the content, and may raise `MalformedText` as `parse_json` does."""
    try:
        return json_of(read_regular(path, maximum), path, parse)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; restore it or name another") from None
    except OSError as error:
        raise UserError(f"{path}: not readable as JSON ({error.strerror}); restore or recreate it") from None


def json_of(content: bytes, path: Path, parse: Callable[[bytes], Any] = parse_json) -> Any:
    """Return the value of a JSON file's content. Raises `UserError`, naming `path`, for malformed content."""
    try:
        return parse(content)
    except MalformedText as error:
        raise UserError(f"{path}: not readable as JSON ({error}); restore or recreate it") from None


def given_text(name: str, option: str) -> str:
    """Return the text of a file that `option` names, or of standard input if its name is `-`. Lines end in `\\n`, and a
    byte-order mark is removed. Raises `UserError` if it is not UTF-8, cannot be read, is a device, or has more than
    `MAX_TEXT` bytes."""
    return given_content(name, option)[1]


def given_content(name: str, option: str) -> tuple[bytes, str]:
    """Return the bytes of such a file unchanged, and its text as `given_text` does."""
    try:
        if name != "-":
            data = read_stream(Path(name), MAX_TEXT)
        elif sys.stdin is None:
            raise UserError(f"{option}: standard input is closed; give a file, or pipe the text in")
        else:  # not `sys.stdin` itself, which accepts invalid bytes if the locale is C
            data = limited(sys.stdin.buffer, Path("standard input"), MAX_TEXT)
        return data, io.TextIOWrapper(io.BytesIO(data), "utf-8-sig").read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {name} cannot be read as text ({error}); give a file in UTF-8") from None
