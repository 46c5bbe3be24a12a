"""Where a program runs: in namespaces of its own, or, for want of them, in a temporary directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.evaluation.sandbox import landlock
from ms_codegeex.evaluation.sandbox.bubblewrap import DEVICES, DIRECTORY, SCRATCH, SHARED_MEMORY, SYSTEM
from ms_codegeex.evaluation.sandbox.layers import NOBODY, Layers


@dataclass(frozen=True)
class Place:
    """The words that lead to a program, descriptors they need, and what the supervisor must know."""

    lead: list[str]
    directory: str
    job: dict[str, Any]
    descriptors: list[int] = field(default_factory=list)
    names: Mapping[str, str] = field(default_factory=dict)  # paths inside that are others here

    def local(self, text: str) -> str:
        """A word or a variable, its paths of the inside replaced by those of this place."""
        for inside, outside in self.names.items():
            text = os.pathsep.join(
                outside + part[len(inside) :] if part == inside or part.startswith(inside + "/") else part
                for part in text.split(os.pathsep)
            )
        return text


def rules(layers: Layers, readable: list[str], writable: list[str]) -> dict[str, Any] | None:
    """The Landlock rules, None without Landlock."""
    if not layers.landlock:
        return None
    return landlock.rules(layers.landlock, ["/usr", "/etc", "/proc", *SYSTEM, *readable], writable, DEVICES)


@contextmanager
def isolated(layers: Layers, disk: int, readable: Mapping[str, Path]) -> Iterator[Place]:
    """In namespaces of its own, by bubblewrap."""
    assert layers.bubblewrap is not None
    with ExitStack() as stack:
        sources: dict[str, int | str] = {inside: str(path.resolve(strict=True)) for inside, path in readable.items()}
        if layers.identity and layers.bubblewrap.bind_descriptors:  # nobody may not walk to where root may
            for inside, path in sources.items():
                sources[inside] = os.open(path, os.O_PATH | os.O_CLOEXEC)
                stack.callback(os.close, sources[inside])
        writable = [DIRECTORY, SCRATCH, SHARED_MEMORY]
        job = {"alone": True, "volumes": writable, "landlock": rules(layers, ["/dev", *readable], writable)}
        lead = layers.bubblewrap.arguments(disk, sources, [])
        yield Place(lead, DIRECTORY, job, [source for source in sources.values() if isinstance(source, int)])


@contextmanager
def plain(layers: Layers, readable: Mapping[str, Path]) -> Iterator[Place]:
    """In a temporary directory of this machine, seen under the names that it has here."""
    top = Path(tempfile.mkdtemp(prefix="sandbox-"))
    try:
        names = {DIRECTORY: str(top / "work"), SCRATCH: str(top / "tmp")}
        for path in names.values():
            os.mkdir(path)
        for path in (str(top), *names.values()):
            if layers.identity:
                os.chown(path, NOBODY, NOBODY)
        names |= {inside: str(path.resolve(strict=True)) for inside, path in readable.items()}
        seen = ["/dev", *(str(path.resolve()) for path in readable.values())]
        job = {"alone": False, "volumes": [], "landlock": rules(layers, seen, [str(top)])}
        yield Place([], names[DIRECTORY], job, names=names)
    finally:
        shutil.rmtree(top, ignore_errors=True)
