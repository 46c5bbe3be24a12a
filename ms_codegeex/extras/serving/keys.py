"""API keys, read from a file with one key per line. Only their hashes stay in memory.

    # name    key, or its SHA-256                          limits of this key (optional)
    alice     3q2-7wXkq1…                                  requests-per-minute=60 concurrent=4 weight=2
    ci        sha256:9f86d081884c7d659a2feaa0c55ad015a3…

Keys should be random texts and have at least 16 characters, so they cannot be guessed by brute force and a fast hash is
enough. The name appears in the access log.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.reading import limited, open_regular

MINIMUM = 16  # characters of a key
MAXIMUM = 1 << 20  # bytes of a key file
PREFIX = "sha256:"
_NAME = re.compile(r"[\w.@-]{1,64}")
_KEY = re.compile(r"[!-~]+")
_LIMITS = ("requests-per-minute", "concurrent", "weight")


@dataclass(frozen=True)
class Key:
    """A key's name, the SHA-256 of its text, its limits (None: the server's) and its relative share of the engine."""

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    concurrent: int | None = None
    weight: int = 1


class Keys:
    """The keys of a file. After `reload`, keys that were removed from the file are refused."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.reload()

    def reload(self) -> None:
        """Read the file again. Raises `UserError` if it is invalid; the old keys then stay in use."""
        self._keys = read_keys(self.path)

    def find(self, text: str) -> Key | None:
        """Return the key with this text, or None. The time taken reveals neither the key nor a partial match."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        found = [key for key in self._keys if hmac.compare_digest(key.digest, digest)]
        return found[0] if found else None


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read the keys of a file. Raises `UserError`, which names the first wrong line but never shows a key."""
    keys, plain = list[Key](), False
    with located("--api-key-file"):
        try:
            with open_regular(path) as stream:
                status, content = os.fstat(stream.fileno()), limited(stream, path, MAXIMUM)
            lines = content.decode("utf-8").splitlines()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; write a key into it, one in a line") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as text ({error}); give a text file") from None
        for number, line in enumerate(lines, 1):
            words = line.split()
            if words and not words[0].startswith("#"):
                plain = plain or not any(word.startswith(PREFIX) for word in words[:2])
                with located(f"{path}, line {number}"):
                    keys.append(_key(words, len(keys) + 1))
        _check(path, status, keys, plain)
    return tuple(keys)


def _key(words: list[str], number: int) -> Key:
    limits = [word for word in words[1:] if word.partition("=")[0] in _LIMITS and "=" in word]
    rest = [word for word in words if word not in limits]
    if len(rest) > 2:
        raise UserError(f"{len(rest)} words; expected a name, a key and limits such as concurrent=4")
    name, text = rest if len(rest) == 2 else (f"key-{number}", rest[0])
    if not _NAME.fullmatch(name):
        raise UserError("the name is not made of letters, digits and . _ - @; choose another one")
    fields = {}
    for word in limits:
        option, _, value = word.partition("=")
        if not re.fullmatch("[0-9]{1,9}", value) or not int(value):
            raise UserError(f"{option} is not a whole number from 1; for example {option}=60")
        fields[option.replace("-", "_")] = int(value)
    return Key(name, _digest(text), **fields)


def _digest(text: str) -> bytes:
    if text.startswith(PREFIX):
        if not re.fullmatch("[0-9a-fA-F]{64}", text[len(PREFIX) :]):
            raise UserError(f"{PREFIX} is not followed by 64 hexadecimal digits; see `sha256sum`")
        return bytes.fromhex(text[len(PREFIX) :])
    if len(text) < MINIMUM or not _KEY.fullmatch(text):
        raise UserError(f"a key has {MINIMUM} or more visible ASCII characters; make one with `openssl rand -hex 32`")
    return hashlib.sha256(text.encode()).digest()


def _check(path: Path, status: os.stat_result, keys: list[Key], plain: bool) -> None:
    if not keys:
        raise UserError(f"{path} holds no key; write one into it, one in a line")
    for kind, values in (("name", [key.name for key in keys]), ("key", [key.digest for key in keys])):
        if len({*values}) < len(values):
            raise UserError(f"{path}: a {kind} occurs twice; remove one of the lines")
    mode, own = stat.S_IMODE(status.st_mode), os.geteuid()
    what = "change" if mode & 0o022 else "read"
    if status.st_uid not in (0, own):
        raise UserError(f"{path} belongs to user {status.st_uid}, who can change it; run `chown {own}` on it")
    if mode & 0o022 or (plain and mode & 0o004):
        raise UserError(f"{path} has mode {mode:03o}, so other users can {what} it; run `chmod 600` on it")
