"""Files at URLs, read and written through fsspec: `s3://`, `hdfs://`, `hf://`, `gs://` and the other schemes it knows.

A read that fails is retried, which only some of fsspec's file systems do themselves. If it keeps failing, the run ends
and can be continued later: no data is skipped. Credentials come from the environment variables and files of fsspec and
of the scheme's library. Credentials in a URL itself are never part of a text that leaves this file."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import parse_json

T = TypeVar("T")

PAUSES = (1, 2, 4, 8, 16)  # seconds before a read is retried
_BUFFER = 8 << 20
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_USER = re.compile(r"[^/]*(?=@)|[^/:@]*:(?!\d*/)[^@]*(?=@)")  # a password may contain a slash, a port may not
# Names that file systems use for a file's hash, and for the time when it was written.
_HASHES = ("ETag", "etag", "blob_id", "oid", "md5Hash", "sha", "last_commit")
_TIMES = ("mtime", "modified", "modify", "modificationTime", "last_modified", "LastModified", "created")
_NOT_RETRIED = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
SCHEME_EXTRAS = {"s3": "s3", "s3a": "s3"}  # the extra to install this package with


def open_input(path: Path | RemotePath) -> BinaryIO:
    """Open a local file or a file at a URL for reading. Raises `OSError` if it is gone or may not be read."""
    return path.open() if isinstance(path, RemotePath) else open(path, "rb")


def parse_location(text: str) -> Path | RemotePath:
    """Return a local path (also for a `file://` URL) or a remote one. Raises `UserError` if the URL names nothing."""
    if not _URL.match(text):
        return Path(text)
    parts = urlsplit(text)
    if parts.scheme.lower() == "file":
        return Path(unquote(parts.path)) if parts.netloc in ("", "localhost") else RemotePath(text)
    if not _divided(text)[2].strip("/"):
        raise UserError(f"{text}: names no bucket, host or path after '://'; is a variable empty?")
    return RemotePath(text.rstrip("/"))


@dataclass(frozen=True, repr=False)
class RemotePath:
    """A file or directory at a URL, with the part of `pathlib`'s interface that is needed. Only `url` has the user, the
    password and the query that the URL may contain; in text they appear as `***`."""

    url: str

    def __str__(self) -> str:
        scheme, user, rest, query = _divided(self.url)
        return f"{scheme}://{user and '***@'}{rest}{query and '?***'}"

    def __repr__(self) -> str:
        return f"RemotePath(url={str(self)!r})"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def parts(self) -> tuple[str, ...]:
        scheme, _, rest, _ = _divided(self.url)
        return (f"{scheme}://", *(name for name in rest.split("/") if name))

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.removesuffix(f"?{_divided(self.url)[3]}").rpartition("/")[0])

    def relative_to(self, base: RemotePath) -> PurePosixPath:
        return PurePosixPath(*self.parts[len(base.parts) :])

    def is_relative_to(self, other: object) -> bool:
        """Return whether this is in the directory `other`; False for a local one."""
        return isinstance(other, RemotePath) and self.parts[: len(other.parts)] == other.parts

    def exists(self) -> bool:
        with _as_user_errors(self):
            return bool(_request(self, lambda filesystem, path: filesystem.exists(path)))

    def read(self, size: int) -> bytes:
        """Return the complete file of `size` bytes, read in one request. Raises what `open` raises."""
        return _request(self, lambda filesystem, path: _exactly(size, filesystem.cat_file(path)))

    def open(self) -> BinaryIO:
        """Open the file for reading at any offset. `OSError`: it is gone or forbidden; `UserError`: reading fails."""
        from fsspec.spec import AbstractBufferedFile

        class Ranges(AbstractBufferedFile):
            def _fetch_range(_, start: int, end: int) -> bytes:
                end = min(end, size)
                return _request(self, lambda its, path: _exactly(end - start, its.cat_file(path, start=start, end=end)))

        size = _request(self, lambda filesystem, path: filesystem.info(path)["size"])
        return io.BufferedReader(Ranges(*_filesystem(self), cache_type="none", size=size), _BUFFER)


def _divided(url: str) -> tuple[str, str, str, str]:
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?") if scheme.lower() in ("http", "https") else (rest, "", "")
    match = _USER.match(rest)
    user = match.group() if match else ""
    return scheme, user, rest.removeprefix(f"{user}@"), query


def _filesystem(location: RemotePath) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it. Raises `UserError` for an unknown scheme."""
    from fsspec.core import url_to_fs

    scheme = _divided(location.url)[0].lower()
    if scheme == "file":
        raise UserError(f"{location}: names another machine; expected three slashes, as in file:///data/sources")
    try:
        return url_to_fs(location.url)
    except ImportError as error:
        extra = f"pip install 'ms-codegeex[{SCHEME_EXTRAS[scheme]}]'" if scheme in SCHEME_EXTRAS else "install it"
        problem = f"{scheme}:// needs a library that is missing ({_line(error, location)}); {extra}"
    except ValueError as error:
        from fsspec import available_protocols

        known = ", ".join(name for name in ("s3", "gs", "hdfs", "hf", "file") if name in available_protocols())
        problem = f"{_line(error, location)}; give a path, or a URL of a known scheme, such as {known}"
    except Exception as error:  # scheme libraries have their own errors, for example if Hadoop is missing
        problem = f"cannot be opened ({_line(error, location)})"
    raise UserError(f"{location}: {problem}")


def _exactly(size: int, data: bytes) -> bytes:
    if len(data) != size:
        raise OSError(f"{len(data)} bytes instead of {size}")
    return data


def _line(error: BaseException, location: RemotePath) -> str:
    return _hidden(" ".join((str(error) or type(error).__name__).split()), location)[:200]


def _hidden(text: str, location: RemotePath) -> str:
    _, user, _, query = _divided(location.url)
    secret = {user, *user.split(":", 1), query, *(value for _, value in parse_qsl(query))}
    secret = {form for item in secret for form in (item, unquote(item), quote(item, safe="")) if form}
    for item in sorted(secret, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(item)}(?!\w)", "***", text)
    return text


def _request(location: RemotePath, work: Callable[[Any, str], T]) -> T:
    """Return `work(file system, path)`. Errors that may be temporary are retried; `UserError` if they persist."""
    arguments = _filesystem(location)
    for pause in (*PAUSES, None):
        try:
            return work(*arguments)
        except _NOT_RETRIED as error:
            kind = next(kind for kind in _NOT_RETRIED if isinstance(error, kind))
            words = [_hidden(word, location) if isinstance(word, str) else word for word in error.args]
            raise kind(*words) from None
        except Exception as error:  # every library for a URL scheme has its own errors
            if pause is None or type(error).__name__ == "NoCredentialsError":
                raise UserError(
                    f"{location}: could not be reached or read ({type(error).__name__}: {_line(error, location)}); "
                    "check the address and the credentials, then run the same command again (what is finished is kept)"
                ) from None
            time.sleep(pause)
    raise AssertionError


@contextlib.contextmanager
def _as_user_errors(location: RemotePath) -> Iterator[None]:
    """Turn errors that persist after all retries into `UserError`."""
    try:
        yield
    except OSError as error:
        line = _line(error, location)
        if isinstance(error, FileNotFoundError):
            line = f"not found ({line}); give an existing bucket, directory or file"
        if isinstance(error, PermissionError):
            line = f"access refused ({line}); check the credentials"
        raise UserError(f"{location}: {line}") from None


def list_files(root: RemotePath) -> list[tuple[RemotePath, int, int]]:
    """Return all files below `root`, or `root` itself if it is a file: path, size in bytes, and a number that changes
    with the content. Raises `UserError` if there is nothing, or it may not be listed."""
    with _as_user_errors(root):
        entries = _request(root, lambda filesystem, path: filesystem.find(path, detail=True))
        if not entries:
            # the error of `ls` says more than that of `find`
            _request(root, lambda filesystem, path: filesystem.ls(path, detail=False))
            raise FileNotFoundError("it is empty")
    files, base = [], _filesystem(root)[1].rstrip("/")
    for name, entry in sorted(entries.items()):
        below = name[len(base) :].strip("/")
        location = RemotePath(f"{root.url}/{below}" if below else root.url)
        if entry.get("type") == "file" and not name.endswith("/"):
            files.append((location, int(entry["size"]), _version(entry)))
    return files


def _version(entry: dict[str, Any]) -> int:
    known = {name: str(entry[name]) for name in (*_HASHES, *_TIMES) if entry.get(name) is not None}
    return int.from_bytes(bytes.fromhex(json_digest(known)[:14]), "little")


def read_json(url: RemotePath) -> Any | None:
    """Return the content of a JSON file, or None if it does not exist. Raises `UserError` if it is not JSON."""
    with _as_user_errors(url):
        try:
            return parse_json(_request(url, lambda filesystem, path: filesystem.cat_file(path)))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{url}: is not JSON; check its content, and delete it or add --replace") from None


def upload(directory: Path, target: RemotePath, last: str) -> None:
    """Copy the files of a directory to a URL, `last` at the end, where it marks a complete copy; an earlier `last` is
    removed first. Sizes are checked. Raises `UserError` if the URL cannot be written to."""
    files = sorted((file for file in directory.rglob("*") if file.is_file()), key=lambda file: file.name == last)
    with _as_user_errors(target):
        if (target / last).exists():
            _request(target / last, lambda filesystem, path: filesystem.rm_file(path))
        for file in files:
            name = file.relative_to(directory)
            _request(target, lambda filesystem, path, file=file, name=name: _put(filesystem, file, f"{path}/{name}"))


def _put(filesystem: Any, file: Path, target: str) -> None:
    filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
    filesystem.put_file(str(file), target)
    filesystem.invalidate_cache()
    size = filesystem.info(target)["size"]
    if size != file.stat().st_size:
        raise OSError(f"{target} has {size} bytes instead of {file.stat().st_size}")
