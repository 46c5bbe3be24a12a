"""`evaluation.json`: what an evaluation's files were made with, so that nothing else is mixed into them."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import ms_codegeex
from ms_codegeex.errors import UserError
from ms_codegeex.files import read_json, write_json

SECTIONS = ("task", "recipe", "data", "model", "judging", "machine", "references", "versions", "run")
FILE, FORMAT = "evaluation.json", "ms-codegeex evaluation"


class Record:
    """The settings in a directory. A section is written when its step begins."""

    def __init__(self, directory: Path):
        self.path = directory / FILE
        self.values: dict[str, Any] = {}
        if self.path.exists():
            self.values = read_json(self.path)
            known = isinstance(self.values, dict) and self.values.get("format") == FORMAT
            if not known or not all(isinstance(self.values.get(name, {}), dict) for name in SECTIONS):
                raise UserError(f"{self.path}: not an evaluation's settings; choose another --output")
        elif any((directory / name).exists() for name in ("samples.jsonl", "results.jsonl")):
            raise UserError(
                f"{directory}: has samples or results but no {FILE}; choose another --output, and give the file there "
                "with --samples"
            )

    def compare(
        self, section: str, values: Mapping[str, Any], growing: Collection[str] = (), free: Collection[str] = ()
    ) -> None:
        """See that a section, if it is recorded, says the same.

        Another value is a `UserError` that names its key; numbers of `growing` may be larger than before (none is the
        largest), keys of `free` anything, at any depth.
        """
        if section not in self.values:
            return
        old, new = dict(_flat(self.values[section])), dict(_flat(_plain(values)))
        for key in {**old, **new}:
            before, now = old.get(key), new.get(key)
            if key.rpartition(".")[2] in free or before == now or (key in growing and _at_least(now, before)):
                continue
            raise UserError(
                f"{self.path}: {section}.{key} is {before!r}, now {now!r}; give what was given before, or another "
                "--output"
            )

    def settle(self, section: str, values: Mapping[str, Any], free: Collection[str] = ()) -> None:
        """Write a section that is not recorded, or see that it is the recorded one."""
        self.compare(section, values, free=free)
        self.write(section, values)

    def write(self, section: str, values: Mapping[str, Any]) -> None:
        """Write a section, whatever it was."""
        if self.values.get(section) == _plain(values):
            return
        self.values = {"format": FORMAT, "version": 1, **self.values, section: _plain(values)}
        write_json(self.path, self.values)


def versions() -> dict[str, str]:
    """Programs whose version may show in samples."""
    found = {"ms_codegeex": ms_codegeex.__version__, "python": platform.python_version()}
    for name in ("mindspore", "numpy", "tokenizers", "openai"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _at_least(now: Any, before: Any) -> bool:
    return now is None or (before is not None and now >= before)


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
