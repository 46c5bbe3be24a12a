"""Where a program runs: in namespaces of its own, or, for want of them, in a temporary directory."""

from __future__ import annotations

import marshal
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.sandbox import landlock
from ms_codegeex.evaluation.sandbox.layers import NOBODY, Layers
from ms_codegeex.evaluation.sandbox.private import check_readable
from ms_codegeex.evaluation.sandbox.view import DEVICES, DIRECTORY, SCRATCH, SYSTEM, homes, system_view


@dataclass(frozen=True)
class Place:
    """Where its directory is, and what the supervisor and the fork server must know."""

    directory: str
    job: dict[str, Any]
    view: bytes = b""  # what a fork server is told, marshalled
    shown: Sequence[tuple[int, int]] = ()  # device and inode of what is readable: its name may be given anew
    names: Mapping[str, str] = field(default_factory=dict)  # paths inside that are others here

    def local(self, text: str) -> str:
        """A word or a variable, its paths of the inside replaced by those of this place."""
        return os.pathsep.join(map(self._path, text.split(os.pathsep))) if self.names else text

    def _path(self, text: str) -> str:
        """One path; anything else stays as it is."""
        for inside, outside in self.names.items():
            if text == inside or text.startswith(inside + "/"):
                return outside + text[len(inside) :]
        return text


def rules(layers: Layers, readable: list[str], writable: list[str]) -> dict[str, Any] | None:
    """The Landlock rules, None without Landlock."""
    if not layers.landlock:
        return None
    return landlock.rules(layers.landlock, ["/usr", "/etc", "/proc", *SYSTEM, *readable], writable, DEVICES)


def resolved(readable: Mapping[str, Path]) -> dict[str, str]:
    """The paths of this machine without their symbolic links; none may be or contain a home directory."""
    check_readable(readable.values())
    try:
        return {inside: str(path.resolve(strict=True)) for inside, path in readable.items()}
    except OSError as error:
        told = f"{error.filename}: {error.strerror}"
        raise UserError(f"sandbox: a program needs {told}; expected a path that you may read") from None


def veiled(path: str) -> bool:
    """Whether only its owner or group may walk to a path."""
    return any(not parent.stat().st_mode & stat.S_IXOTH for parent in Path(path).parents)


def isolated(layers: Layers, disk: int, readable: Mapping[str, Path]) -> Place:
    """In namespaces of its own, within those of a fork server that shows the system and what is readable."""
    sources = resolved(readable)
    shown = tuple((state.st_dev, state.st_ino) for state in map(os.stat, sources.values()))
    writable = [path for path, _ in homes(disk)]
    job = {"alone": True, "volumes": writable, "landlock": rules(layers, ["/dev", *readable], writable)}
    covered = [path for path in readable if any(f"{path}/".startswith(f"{home}/") for home in writable)]
    job.update(homes=homes(disk), covered=covered)
    user = layers.identity.get("user")
    view = {**system_view(sources), "user": user, "veiled": any(map(veiled, sources.values()))}
    return Place(DIRECTORY, job, marshal.dumps(view, 2), shown)


@contextmanager
def plain(layers: Layers, readable: Mapping[str, Path]) -> Iterator[Place]:
    """In a temporary directory of this machine, seen under the names that it has here."""
    sources = resolved(readable)
    top = Path(tempfile.mkdtemp(prefix="sandbox-"))
    try:
        elsewhere = {inside: source for inside, source in sources.items() if inside != str(readable[inside])}
        names = {**elsewhere, DIRECTORY: str(top / "program"), SCRATCH: str(top / "tmp")}
        for path in (names[DIRECTORY], names[SCRATCH]):
            os.mkdir(path)
        for path in (str(top), names[DIRECTORY], names[SCRATCH]):
            if layers.identity:
                os.chown(path, NOBODY, NOBODY)
        seen = rules(layers, ["/dev", *sources.values()], [str(top)])
        yield Place(names[DIRECTORY], {"alone": False, "volumes": [], "landlock": seen}, names=names)
    finally:
        shutil.rmtree(top, ignore_errors=True)
