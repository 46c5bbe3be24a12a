"""API keys: a file with a key in each line, of which only hashes stay in memory.

    # name    key, or its SHA-256                          limits of this key (optional)
    alice     3q2-7wXkq1…                                  requests-per-minute=60 concurrent=4 weight=2
    ci        sha256:9f86d081884c7d659a2feaa0c55ad015a3…

Keys are random texts of 16 characters or more, so a fast hash is enough: nobody can try them all. The name appears in
the access log.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError

MINIMUM = 16  # characters of a key
MAXIMUM = 1 << 20  # bytes of a file
PREFIX = "sha256:"
_NAME = re.compile(r"[\w.@-]{1,64}")
_KEY = re.compile(r"[!-~]+")
_LIMITS = {"requests-per-minute": "requests_per_minute", "concurrent": "concurrent", "weight": "weight"}


@dataclass(frozen=True)
class Key:
    """A key's name, the SHA-256 of its text, and its own limits (None: those of the server). One with `weight` 2 gets
    twice as much of the engine as one with 1."""

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    concurrent: int | None = None
    weight: int = 1


class Keys:
    """The keys of a file. `reload` reads it again; a key that has been removed is refused from then on."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.reload()

    def reload(self) -> int:
        """Read the file again and return the number of keys. `UserError` if it is invalid; then the old keys stay."""
        self._keys = read_keys(self.path)
        return len(self._keys)

    def find(self, text: str) -> Key | None:
        """The key with this text. The time does not depend on which key it is, or how much of it is right."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                match = key
        return match


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file; a `UserError` names the first line that is wrong, but never shows a key."""
    try:
        status, content = _read(path)
        lines = content.decode("utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"--api-key-file: {path}: no such file; write a key into it, one in a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file: {path} cannot be read as text ({error}); give a text file") from None
    keys: list[Key] = []
    plain = False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        plain = plain or not any(word.startswith(PREFIX) for word in words[:2])
        keys.append(_key(words, f"--api-key-file: {path}, line {number}", len(keys) + 1))
    _check(path, status, keys, plain)
    return tuple(keys)


def _read(path: Path) -> tuple[os.stat_result, bytes]:
    """A file's status and content. Refuses pipes, devices and files above the limit."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        status = os.fstat(stream.fileno())
        content = stream.read(MAXIMUM + 1) if stat.S_ISREG(status.st_mode) else None
    if content is None or len(content) > MAXIMUM:
        raise UserError(f"--api-key-file: {path} is not a file of at most {MAXIMUM >> 20} MiB; give one with keys")
    return status, content


def _key(words: list[str], where: str, number: int) -> Key:
    limits = [word for word in words[1:] if word.partition("=")[0] in _LIMITS and "=" in word]
    rest = [word for word in words if word not in limits]
    if len(rest) > 2:
        raise UserError(f"{where}: {len(rest)} words; expected a name, a key and limits such as concurrent=4")
    name, text = rest if len(rest) == 2 else (f"key-{number}", rest[0])
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: the name is not made of letters, digits and . _ - @; choose another one")
    fields = {}
    for word in limits:
        option, _, value = word.partition("=")
        if not re.fullmatch("[0-9]{1,9}", value) or not int(value):
            raise UserError(f"{where}: {option} is not a whole number from 1; for example {option}=60")
        fields[_LIMITS[option]] = int(value)
    return Key(name, _digest(text, where), **fields)


def _digest(text: str, where: str) -> bytes:
    if text.startswith(PREFIX):
        if not re.fullmatch("[0-9a-fA-F]{64}", text[len(PREFIX) :]):
            raise UserError(f"{where}: {PREFIX} is not followed by 64 hexadecimal digits; see `sha256sum`")
        return bytes.fromhex(text[len(PREFIX) :])
    if len(text) < MINIMUM or not _KEY.fullmatch(text):
        raise UserError(
            f"{where}: a key has {MINIMUM} or more visible ASCII characters; make one with `openssl rand -hex 32`"
        )
    return hashlib.sha256(text.encode()).digest()


def _check(path: Path, status: os.stat_result, keys: list[Key], plain: bool) -> None:
    if not keys:
        raise UserError(f"--api-key-file: {path} holds no key; write one into it, one in a line")
    for kind, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if len({*values}) < len(values):
            raise UserError(f"--api-key-file: {path}: a {kind} occurs twice; remove one of the lines")
    mode = stat.S_IMODE(status.st_mode)
    what = "change" if mode & 0o022 else "read"
    if status.st_uid not in (0, os.geteuid()):
        wrong = f"{path} belongs to user {status.st_uid}, who can change it"
        raise UserError(f"--api-key-file: {wrong}; run `chown {os.geteuid()}` on it")
    if mode & 0o022 or (plain and mode & 0o004):
        wrong = f"{path} has mode {mode:03o}, so other users can {what} it"
        raise UserError(f"--api-key-file: {wrong}; run `chmod 600` on it")
