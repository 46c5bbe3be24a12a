"""The output directory of an evaluation: one writer at a time, and `evaluation.json`, the settings behind its files."""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.locks import take_lock
from ms_codegeex.base.nested import flattened
from ms_codegeex.base.reading import read_json

SECTIONS = ("task", "recipe", "data", "model", "judging", "machine", "references", "versions", "run")
FILE, FORMAT = "evaluation.json", "ms-codegeex evaluation"
LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # what file systems without locks answer


@contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Create a directory and lock it for this process; a `UserError` if another process has it."""
    path = Path(directory)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path / LOCK)
    except OSError as error:
        raise UserError(f"{path}: not writable ({error.strerror}); choose another --output") from None
    if descriptor is None:
        raise UserError(f"{path}: another evaluation writes there; wait for its end, or choose another --output")
    try:
        yield
    finally:
        (path / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # usually there are files in it
                path.rmdir()


def _lock(path: Path) -> int | None:
    try:
        return take_lock(path, wait=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return os.open(path, os.O_RDWR)


class RecordedSettings:
    """The settings in a directory's `evaluation.json`. A section is written when its step begins."""

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.values: dict[str, Any] = {}
        if self.path.exists():
            self.values = read_json(self.path)
            known = isinstance(self.values, dict) and self.values.get("format") == FORMAT
            if not known or not all(isinstance(self.values.get(name, {}), dict) for name in SECTIONS):
                raise UserError(f"{self.path}: not an evaluation's settings; choose another --output")
        elif any((directory / name).exists() for name in ("samples.jsonl", "results.jsonl")):
            remedy = "choose another --output, and give the file there with --samples"
            raise UserError(f"{directory}: has samples or results but no {FILE}; {remedy}")

    def compare(
        self, section: str, values: Mapping[str, Any], growing: Collection[str] = (), free: Collection[str] = ()
    ) -> None:
        """Check that a section, if it is recorded, has the same values; otherwise a `UserError` names the key. Numbers
        in `growing` may be larger than before (None is the largest); keys in `free` may differ, at any depth."""
        if section not in self.values:
            return
        old, new = _by_key(self.values[section]), _by_key(_plain(values))
        for key in {**old, **new}:
            before, now = old.get(key), new.get(key)
            if key.rpartition(".")[2] in free or before == now or (key in growing and _at_least(now, before)):
                continue
            remedy = "give what was given before, or another --output"
            raise UserError(f"{self.path}: {section}.{key} is {before!r}, now {now!r}; {remedy}")

    def settle(self, section: str, values: Mapping[str, Any], free: Collection[str] = ()) -> None:
        self.compare(section, values, free=free)
        self.write(section, values)

    def write(self, section: str, values: Mapping[str, Any]) -> None:
        """Write a section, replacing the recorded one."""
        if self.values.get(section) == _plain(values):
            return
        self.values = {"format": FORMAT, "version": 1, **self.values, section: _plain(values)}
        write_json(self.path, self.values)


def versions() -> dict[str, str]:
    """Versions of the packages that may influence samples."""
    packages = {"ms_codegeex": ms_codegeex.__version__, "python": platform.python_version()}
    for name in ("mindspore", "numpy", "tokenizers", "openai"):
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return packages


def _at_least(now: Any, before: Any) -> bool:
    numbers = type(now) in (int, float) and type(before) in (int, float)
    return now is None or (numbers and now >= before)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values, default=dict))


def _by_key(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flattened(section).items() if value != {}}
