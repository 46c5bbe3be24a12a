"""Find source files and archives, sample files, and choose what goes to validation."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ms_codegeex.data.corpus.archives import archive_kind
from ms_codegeex.data.languages import HEAD_BYTES, LANGUAGES, detect, needs_head
from ms_codegeex.errors import UserError

_SKIPPED = frozenset({"__pycache__", "node_modules"})
_NESTED = frozenset({"site-packages", "dist-packages"})  # inside a standard library, but not part of it


@dataclass(frozen=True)
class Root:
    """A place to search for sources.

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
    """A file to read: `identity` is `label/relative/path`, `package` the top-level package, `size` in bytes, `modified`
    in nanoseconds since 1970."""

    identity: str
    path: Path
    package: str
    language: str
    size: int
    modified: int = 0


def default_roots() -> list[Root]:
    """The running interpreter's standard library and installed packages: a corpus that every machine has."""
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
        try:
            path = Path(given).expanduser().resolve()
            exists = path.exists()
        except (OSError, RuntimeError) as error:  # a loop of links, an unknown user's home
            problem = error.strerror if isinstance(error, OSError) else error
            raise UserError(
                f"{given}: cannot be followed ({problem}); give an existing file or directory of source code"
            ) from None
        if not exists:
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
    """`path` as valid Unicode: JSON files cannot hold the lone surrogates of a name that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def one_line(text: str) -> str:
    """`text` for a terminal: line breaks and control characters, which file names may hold, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(frozen=True)
class FoundSources:
    """What a search found, sorted by identity, so that the order of directory listings does not matter.

    Attributes:
        sources: source files; `language` is empty if it is unknown, where such files were asked for.
        archives: files of records; `language` is empty.
        skipped: identity and reason for what could not be read or is not followed.
    """

    sources: list[SourceFile]
    archives: list[SourceFile]
    skipped: list[tuple[str, str]]


class _Search:
    """One search. Results are keyed by path, so a file reached through two roots belongs to the first."""

    def __init__(self, languages: Iterable[str], all_text: bool, leave_out: Path | None) -> None:
        self.languages, self.all_text, self.leave_out = frozenset(languages), all_text, leave_out
        self.known = self.languages | {language.name for language in LANGUAGES}
        self.sources: dict[Path, SourceFile] = {}
        self.archives: dict[Path, SourceFile] = {}
        self.skipped: set[tuple[str, str]] = set()
        self.base = Path()

    def search(self, root: Root) -> None:
        self.base = root.path if root.path.is_dir() else root.path.parent
        if not root.path.is_dir():
            if root.path.is_file():
                self._add(root, root.path, root.path.stat())
            else:
                self._skip(root, root.path, "not a regular file")
            return
        folders = [root.path]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError:
                self._skip(root, folder, "unreadable")
                continue
            for entry in listed:
                try:
                    if self._entry(root, entry):
                        folders.append(Path(entry.path))
                except OSError:  # gone since the directory was listed
                    self._skip(root, Path(entry.path), "unreadable")

    def _entry(self, root: Root, entry: os.DirEntry) -> bool:
        """Take a file; return whether the entry is a directory to search. Links are not followed."""
        if entry.is_dir(follow_symlinks=False):
            hidden = entry.name.startswith(".") or entry.name in _SKIPPED or Path(entry.path) == self.leave_out
            return not hidden and not (root.label == "stdlib" and root.installed and entry.name in _NESTED)
        path = Path(entry.path)
        if entry.is_file(follow_symlinks=False):
            self._add(root, path, entry.stat(follow_symlinks=False))
        elif entry.is_symlink():
            if self._by_name(root, path) or _leads_to_directory(entry):
                self._skip(root, path, "symbolic link")
        elif self._by_name(root, path):
            self._skip(root, path, "not a regular file")
        return False

    def _by_name(self, root: Root, path: Path) -> bool:
        """Whether a file of this name would be taken, as far as the name decides."""
        language = None if not path.suffix else detect(path)
        wanted = language is not None and language.name in self.languages
        return wanted or (archive_kind(path.name) is not None and not root.installed)

    def _skip(self, root: Root, path: Path, reason: str) -> None:
        self.skipped.add((_identity(root, self.base, path)[0], reason))

    def _add(self, root: Root, path: Path, status: os.stat_result) -> None:
        if path in self.sources or path in self.archives:
            return
        identity, package = _identity(root, self.base, path)
        if archive_kind(path.name) is not None:
            if not root.installed:  # a package's test data is no corpus
                self.archives[path] = SourceFile(identity, path, package, "", status.st_size, status.st_mtime_ns)
            return
        head = b""
        if needs_head(path):
            try:
                with open(path, "rb") as stream:
                    head = stream.read(HEAD_BYTES)
            except OSError:
                self._skip(root, path, "unreadable")
                return
        language = detect(path, head)
        name = language.name if language is not None and language.name in self.known else ""
        if name in self.languages if name else self.all_text:
            self.sources[path] = SourceFile(identity, path, package, name, status.st_size, status.st_mtime_ns)
        elif path == root.path:  # a file given by name: say that it is not taken
            self._skip(root, path, "other language" if language is not None else "unknown language")


def _leads_to_directory(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _identity(root: Root, base: Path, path: Path) -> tuple[str, str]:
    """`label/relative/path` and the top-level package of a path in the root's directory."""
    relative = PurePosixPath(printable(path.relative_to(base)))
    if not relative.parts:
        return root.label, root.label
    first = relative.parts[0]
    if len(relative.parts) > 1:
        package = f"{root.label}/{first}"
    else:
        package = f"{root.label}/{first.split('.', 1)[0]}" if root.installed else root.label
    return f"{root.label}/{relative}", package


def search(
    roots: Iterable[Root], languages: Iterable[str], all_text: bool = False, leave_out: Path | None = None
) -> FoundSources:
    """Files below `roots`.

    Args:
        roots: places to search; installed ones are not searched for archives.
        languages: canonical names of the languages to take.
        all_text: also take files of no known language.
        leave_out: a directory that is not searched.
    """
    work = _Search(languages, all_text, leave_out)
    for root in roots:
        work.search(root)
    return FoundSources(_ordered(work.sources), _ordered(work.archives), sorted(work.skipped))


def _ordered(found: Mapping[Path, SourceFile]) -> list[SourceFile]:
    return sorted(found.values(), key=lambda file: (file.identity, str(file.path)))


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

    Small groups are preferred, so that validation gets several of many: at first those of at most a third of the
    target, then the target, then three times the target, then any. Neither side is left empty.

    Args:
        sizes: bytes per group, at least two groups unless `share` is 0.
        share: wanted share of bytes, 0 <= share < 1; 0 chooses nothing.
        seed: decides the hash order.
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
