"""Find source files, sample them, judge their content and split them (CodeGeeX paper, section 3.1)."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ms_codegeex.data.filters import Rules, rejection, size_rejection  # noqa: F401, until the callers have switched
from ms_codegeex.data.languages import HEAD_BYTES, detect, needs_head
from ms_codegeex.errors import UserError

_SKIPPED = frozenset({"__pycache__", "node_modules"})
_NESTED = frozenset({"site-packages", "dist-packages"})  # inside a standard library, but not part of it


@dataclass(frozen=True)
class Root:
    """A place to search.

    Attributes:
        path: directory, or one file.
        label: first component of the identities of its files.
        installed: its top level holds one package per directory or module (site-packages, the standard library).
    """

    path: Path
    label: str
    installed: bool = False


@dataclass(frozen=True)
class SourceFile:
    """A candidate: `identity` is `label/relative/path`, `package` the top-level package, `size` in bytes."""

    identity: str
    path: Path
    package: str
    language: str
    size: int


def default_roots() -> list[Root]:
    """The running interpreter's standard library and installed packages: a corpus every machine has."""
    paths = sysconfig.get_paths()
    roots = [Root(Path(paths["stdlib"]).resolve(), "stdlib", installed=True)]
    for scheme in ("purelib", "platlib"):
        path = Path(paths[scheme]).resolve()
        if path.is_dir() and path not in [root.path for root in roots]:
            roots.append(Root(path, "site-packages" if len(roots) == 1 else f"site-packages-{scheme}", installed=True))
    return roots


def user_roots(inputs: Sequence[Path | str]) -> list[Root]:
    """Roots for given files and directories, labelled by their names; a missing path is a `UserError`."""
    labels: dict[Path, str] = {}
    roots = []
    for given in inputs:
        path = Path(given).expanduser().resolve()
        if not path.exists():
            raise UserError(f"{given}: no such file or directory; give an existing file or directory of source code")
        base = path if path.is_dir() else path.parent
        if base not in labels:
            taken, name = set(labels.values()), printable(base.name) or "root"
            labels[base] = next(
                label
                for count in range(1, len(taken) + 2)
                if (label := name if count == 1 else f"{name}-{count}") not in taken
            )
        roots.append(Root(path, labels[base]))
    return roots


def printable(path: Path | str) -> str:
    """`path` as valid Unicode: a name that is not UTF-8 must not reach a JSON file as a lone surrogate."""
    return os.fsencode(path).decode("utf-8", "replace")


def _entries(folder: Path, unreadable: list[str]) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        unreadable.append(printable(folder))
        return []


def _walk(root: Root, unreadable: list[str]) -> Iterator[tuple[Path, int]]:
    """Regular files below `root` with their sizes; symbolic links are not followed, so there are no loops."""
    if root.path.is_file():
        yield root.path, root.path.stat().st_size
        return
    folders = [root.path]
    while folders:
        for entry in _entries(folders.pop(), unreadable):
            hidden = entry.name.startswith(".") or entry.name in _SKIPPED
            if entry.is_dir(follow_symlinks=False):
                if not hidden and not (root.label == "stdlib" and root.installed and entry.name in _NESTED):
                    folders.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except OSError:  # gone since the directory was listed
                    unreadable.append(printable(entry.path))
                    continue
                yield Path(entry.path), size


def _package(root: Root, relative: PurePosixPath) -> str:
    first = relative.parts[0]
    if len(relative.parts) > 1:
        return f"{root.label}/{first}"
    return f"{root.label}/{first.split('.', 1)[0]}" if root.installed else root.label


def find_sources(roots: Iterable[Root], languages: Iterable[str]) -> tuple[list[SourceFile], list[str]]:
    """Files below `roots` in one of `languages` (canonical names), and the paths that could not be read.

    The files are sorted by identity, so the result does not depend on the order in which the system lists directories.
    A file reached through two roots belongs to the first.
    """
    wanted, unreadable, found = frozenset(languages), [], {}
    for root in roots:
        base = root.path if root.path.is_dir() else root.path.parent
        for path, size in _walk(root, unreadable):
            head = b""
            if needs_head(path):
                try:
                    with open(path, "rb") as stream:
                        head = stream.read(HEAD_BYTES)
                except OSError:
                    unreadable.append(printable(path))
                    continue
            language = detect(path, head)
            if language is not None and language.name in wanted and path not in found:
                relative = PurePosixPath(printable(path.relative_to(base)))
                found[path] = SourceFile(
                    f"{root.label}/{relative}", path, _package(root, relative), language.name, size
                )
    return sorted(found.values(), key=lambda file: (file.identity, str(file.path))), sorted(unreadable)


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def sample(files: Sequence[SourceFile], max_bytes: int, seed: int) -> list[SourceFile]:
    """At most `max_bytes` of `files`, chosen by a hash of seed and identity; the order of `files` is kept."""
    chosen, total = set(), 0
    for file in sorted(files, key=lambda file: (_rank(seed, file.identity), file.identity)):
        if total + file.size <= max_bytes:
            chosen.add(file.path)
            total += file.size
    return [file for file in files if file.path in chosen]


def choose_validation(sizes: Mapping[str, int], share: float, seed: int) -> set[str]:
    """Which groups (packages, or files) go to validation: about `share` of all bytes, in hash order.

    Small groups are preferred, so that validation has several where there are many: first those of at most a third of
    the target, then of at most the target, then of three times the target, then anything. Neither side is left empty.

    Args:
        sizes: bytes per group, at least two groups unless `share` is 0.
        share: wanted share of bytes, 0 <= share < 1; 0 chooses nothing.
        seed: changes the hash order.
    """
    target = share * sum(sizes.values())
    if not target:
        return set()
    ordered = sorted(sizes, key=lambda name: (_rank(seed, name), name))
    best: set[str] = set()
    for limit in (target / 3, target, 3 * target, float("inf")):
        best, total = set(), 0
        for name in ordered:
            fits = sizes[name] <= limit and (not best or total + sizes[name] <= 1.5 * target)
            if total < target and fits and len(best) < len(sizes) - 1:
                best.add(name)
                total += sizes[name]
        if total >= target / 2:
            return best
    return best or {min(ordered, key=lambda name: sizes[name])}
