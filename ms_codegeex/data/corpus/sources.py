"""Find source files and archives, and sample files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import in_hub_cache
from ms_codegeex.data.corpus.archives import archive_kind, first_record, remedies
from ms_codegeex.data.corpus.licences import Stated, is_beside, metadata_rule, nearest_licence, stated_licences
from ms_codegeex.data.corpus.remote import RemotePath, list_files, open_input, parse_location
from ms_codegeex.data.detection import HEAD_BYTES, detect, needs_head
from ms_codegeex.data.languages import canonical_languages

_NO_SOURCES = frozenset({"__pycache__", ".git", ".hg", ".svn"})
_PACKAGES = "node_modules"  # of other people, as JavaScript's package manager installs them
_COMPILER = "ziglang"  # set-up installs it where there is no compiler; the corpus must not depend on that
_METADATA_BYTES = 1 << 18
_JSON = ".json"  # what is in such a file decides whether it holds records
_NESTED = frozenset({"site-packages", "dist-packages"})  # inside a standard library, but not part of it

Inputs = Sequence[Path | RemotePath | str] | None
"""Files, directories and URLs; None: the running interpreter's libraries."""


@dataclass(frozen=True)
class Root:
    """A directory or file to search for sources. The identities of its files begin with `label`; if it is `installed`,
    its top level holds one package per directory or module (site-packages, the standard library)."""

    path: Path | RemotePath
    label: str
    installed: bool = False


@dataclass(frozen=True)
class SourceFile:
    """A file to read: `identity` is `label/relative/path`, `package` the top-level package, `size` in bytes, `modified`
    in nanoseconds since 1970, or a number that stands for the version of a remote file; and the `licence` that the
    nearest metadata of a package name, if it has to be known."""

    identity: str
    path: Path | RemotePath
    package: str
    language: str
    size: int
    modified: int = 0
    licence: str = ""


def default_roots() -> list[Root]:
    """The running interpreter's standard library and installed packages: a corpus that every machine has."""
    paths = sysconfig.get_paths()
    roots = [Root(Path(paths["stdlib"]).resolve(), "stdlib", installed=True)]
    for scheme in ("purelib", "platlib"):
        path = Path(paths[scheme]).resolve()
        if path.is_dir() and path not in [root.path for root in roots]:
            roots.append(Root(path, "site-packages" if len(roots) == 1 else f"site-packages-{scheme}", installed=True))
    return roots


def user_roots(inputs: Inputs) -> list[Root]:
    """Roots for given files, directories and URLs, labelled by their names (of a URL, the last one that is no archive);
    None: `default_roots`. A missing path is a `UserError`; a URL is not accessed."""
    if inputs is None:
        return default_roots()
    places = [parse_location(given) if isinstance(given, str) else given for given in inputs]
    paths = [given if isinstance(given, RemotePath) else _existing(given) for given in places]
    bases = [_base(path) for path in paths]
    labels = _labels(bases)
    return [Root(path, labels[base]) for path, base in zip(paths, bases, strict=True)]


def _base(path: Path | RemotePath) -> Path | RemotePath:
    """The directory with which the names of files begin."""
    if isinstance(path, RemotePath):
        return path if archive_kind(path.name) is None or len(path.parts) < 3 else path.parent
    return path if path.is_dir() else path.parent


def _existing(given: Path | str) -> Path:
    try:
        named = Path(given).expanduser()
        kept = named.parent.resolve() / named.name
        path = kept if in_hub_cache(kept) else kept.resolve()
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a loop of links, an unknown user's home
        problem = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{given}: cannot be followed ({problem}); give an existing file or directory") from None
    if not exists:
        raise UserError(f"{given}: no such file or directory; give an existing file or directory")
    return path


def _labels(bases: Iterable[Path | RemotePath]) -> dict[Path | RemotePath, str]:
    """A label for each directory: its name, preceded by as many parents' names as make it unique. Their order does not
    matter, so that the same inputs give the same bytes."""
    ordered = sorted(set(bases), key=lambda base: base.parts)
    parts = {base: [printable(part) for part in base.parts[1:]] or ["root"] for base in ordered}
    depths = dict.fromkeys(parts, 1)
    while True:
        labels = {base: "-".join(names[-depths[base] :]) for base, names in parts.items()}
        counts = Counter(labels.values())
        grow = [base for base in parts if counts[labels[base]] > 1 and depths[base] < len(parts[base])]
        if not grow:
            break
        for base in grow:
            depths[base] += 1
    seen = Counter[str]()
    for base, label in labels.items():  # /a-b and /a/b, in the order of their paths
        seen[label] += 1
        labels[base] = label if seen[label] == 1 else f"{label}-{seen[label]}"
    return labels


def printable(path: Path | RemotePath | PurePosixPath | str) -> str:
    """`path` as valid Unicode: JSON files cannot hold the lone surrogates of a name that is not UTF-8."""
    return os.fsencode(str(path)).decode("utf-8", "replace")


def path_ending(path: Path | RemotePath) -> str:
    """The ending of a file's name, as the tally names it."""
    return printable(PurePosixPath(path.name).suffix.lower()) or "without an ending"


@dataclass(frozen=True)
class FoundSources:
    """The results of a search, sorted by identity: source files (`language` is empty if it is unknown and such files
    were requested), files of records (without a language), identity and reason for what could not be read or is not
    followed; and for the other files in directories of the user, by ending, their number and the first one."""

    sources: list[SourceFile]
    archives: list[SourceFile]
    skipped: list[tuple[str, str]]
    passed: dict[str, tuple[int, str]]


Recognise = Callable[[Mapping[str, Any]], bool]


class _Search:
    """One search. Results are keyed by path, so a file reached through two roots belongs to the first."""

    def __init__(
        self, languages: Iterable[str], recognise: Recognise, all_text: bool, leave_out: Path | None, licences: bool
    ) -> None:
        self.licences, self.metadata = licences, dict[Path | RemotePath, list[tuple[int, Path | RemotePath]]]()
        self.stated: dict[Path | RemotePath, list[Stated]] = {}
        self.languages, self.all_text, self.leave_out = frozenset(languages), all_text, leave_out
        self.recognise = recognise
        self.known = self.languages | {*canonical_languages(())}
        self.sources: dict[Path | RemotePath, SourceFile] = {}
        self.archives: dict[Path | RemotePath, SourceFile] = {}
        self.skipped: set[tuple[str, str]] = set()
        self.passed: dict[str, tuple[int, str]] = {}
        self.base: Path | RemotePath = Path()

    def search(self, root: Root) -> None:
        self.base = _base(root.path)
        if isinstance(root.path, RemotePath):
            self._search_remote(root)
        elif not root.path.is_dir():
            self._file(root, root.path)
        else:

            def unreadable(error: OSError) -> None:
                self._skip(root, Path(error.filename), "unreadable")

            folders = [root.path]
            while folders:  # level by level: below Python 3.12 `os.walk` recurses
                folder, directories, names = next(os.walk(folders.pop(), onerror=unreadable), ("", [], []))
                folders += [path for name in directories if self._enters(root, path := Path(folder, name))]
                for name in names:
                    self._file(root, Path(folder, name))

    def _file(self, root: Root, path: Path) -> None:
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode) and (path == root.path or in_hub_cache(path)):
                status = path.stat()
        except OSError:  # gone since the directory was listed
            self._skip(root, path, "unreadable")
            return
        if stat.S_ISREG(status.st_mode):
            self._add(root, path, status.st_size, status.st_mtime_ns)
        elif path == root.path or self._by_name(root, path):
            self._skip(root, path, "symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file")

    def _enters(self, root: Root, folder: Path | RemotePath) -> bool:
        """Whether a directory of this name is searched; `skipped` says why not. Links are not followed."""
        nested = root.installed and folder.name in (_NESTED if root.label == "stdlib" else (_COMPILER,))
        reason = ""
        if isinstance(folder, Path) and folder.is_symlink():
            reason = "symbolic link"
        elif folder.name in _NO_SOURCES or folder == self.leave_out or nested:
            return False
        elif folder.name == _PACKAGES or folder.name.startswith("."):
            reason = _PACKAGES if folder.name == _PACKAGES else "hidden directory"
        if reason:
            self._skip(root, folder, reason)
        return not reason

    def _search_remote(self, root: Root) -> None:
        """Take the files below a URL; their names show their directories."""
        entered = {self.base: True}

        def enters(folder: RemotePath) -> bool:
            if folder not in entered:
                entered[folder] = enters(folder.parent) and self._enters(root, folder)
            return entered[folder]

        for path, size, version in list_files(root.path):
            if path == root.path or enters(path.parent):
                self._add(root, path, size, version)

    def _by_name(self, root: Root, path: Path) -> bool:
        """Whether a file of this name would be taken, as far as the name decides."""
        language = None if not path.suffix else detect(path)
        wanted = language is not None and language.name in self.languages
        return wanted or (not root.installed and archive_kind(path.name) is not None)

    def _holds_records(self, root: Root, path: Path | RemotePath) -> bool:
        """Whether a file holds records: its name says so, or the first record does. Without `all_text`, a `.json` file
        that was given by name can be nothing else. Packages' test data are no corpus."""
        if root.installed or archive_kind(path.name) is None:
            return False
        if not path.name.lower().endswith(_JSON) or (path == root.path and not self.all_text):
            return True
        record = first_record(path)
        return record is not None and self.recognise(record)

    def _skip(self, root: Root, path: Path | RemotePath, reason: str) -> None:
        self.skipped.add((_identity(root, self.base, path)[0], reason))

    def _add(self, root: Root, path: Path | RemotePath, size: int, modified: int) -> None:
        if path in self.sources or path in self.archives:
            return
        if self.licences and (number := metadata_rule(path.parent.name, path.name)) is not None:
            folder = path.parent.parent if is_beside(number) else path.parent
            self.metadata.setdefault(folder, []).append((number, path))
        identity, package = _identity(root, self.base, path)
        if self._holds_records(root, path):
            self.archives[path] = SourceFile(identity, path, package, "", size, modified)
            return
        if archive_kind(path.name) is not None and not path.name.lower().endswith(_JSON):
            return
        head = b""
        if needs_head(path.name):
            try:
                with open_input(path) as stream:
                    head = stream.read(HEAD_BYTES)
            except OSError:
                self._skip(root, path, "unreadable")
                return
        language = detect(path.name, head)
        name = language.name if language is not None and language.name in self.known else ""
        if name in self.languages if name else self.all_text:
            self.sources[path] = SourceFile(identity, path, package, name, size, modified)
        elif path == root.path and path_ending(path) not in remedies("unpacked"):  # a file that was given by name
            self._skip(root, path, "other language" if language is not None else "unknown language")
        elif not root.installed:
            ending = path_ending(path)
            count, first = self.passed.get(ending, (0, identity))
            self.passed[ending] = count + 1, min(first, identity)

    def licensed(self, file: SourceFile) -> SourceFile:
        """The file with the licence that the nearest metadata state for it, from its directory up to the root's."""
        folder, below = file.path.parent, file.path.name
        for _ in range(file.identity.count("/")):
            if folder not in self.stated:
                found = sorted(self.metadata.get(folder, ()), key=lambda it: (it[0], it[1].name))
                self.stated[folder] = [each for number, path in found for each in _read_metadata(number, path)]
            if name := nearest_licence(self.stated[folder], below):
                return replace(file, licence=name)
            folder, below = folder.parent, f"{folder.name}/{below}"
        return file


def _read_metadata(number: int, path: Path | RemotePath) -> list[Stated]:
    def head(path: Path | RemotePath) -> bytes:
        with contextlib.suppress(OSError), open_input(path) as stream:
            return stream.read(_METADATA_BYTES)
        return b""

    scope = list[str]()
    if path.parent.name.endswith("-info"):  # one of many packages may be installed here
        names = re.findall(rb"(?m)^([^/,\s]+)", head(path.parent / "top_level.txt") or head(path.parent / "RECORD"))
        scope = sorted({name.decode("utf-8", "replace").removesuffix(".py") for name in names}) or [
            path.parent.name.partition("-")[0]
        ]
    return stated_licences(number, head(path), scope)


def _identity(root: Root, base: Path | RemotePath, path: Path | RemotePath) -> tuple[str, str]:
    """`label/relative/path` and the top-level package of a path in the root's directory."""
    relative = printable(path.relative_to(base))
    if relative == ".":
        return root.label, root.label
    first, below, _ = relative.partition("/")
    name = first if below else first.split(".", 1)[0] if root.installed else ""
    return f"{root.label}/{relative}", f"{root.label}/{name}".rstrip("/")


def search(
    roots: Iterable[Root],
    languages: Iterable[str],
    recognise: Recognise = lambda record: True,
    all_text: bool = False,
    leave_out: Path | None = None,
    licences: bool = False,
) -> FoundSources:
    """Files below `roots`: sources in these languages (canonical names), with `all_text` also those of no known
    language, and, if the root is not installed, files of records. `recognise` says whether the object that a `.json`
    file begins with is a record. The directory `leave_out` is not searched. `licences`: those of source files are
    looked for."""
    work = _Search(languages, recognise, all_text, leave_out, licences)
    for root in roots:
        work.search(root)
    found = (work.sources, work.archives)
    sources, archives = (sorted(files.values(), key=lambda file: (file.identity, str(file.path))) for files in found)
    if licences:
        sources = [work.licensed(file) for file in sources]
    return FoundSources(sources, archives, sorted(work.skipped), work.passed)


def hash_key(seed: int, text: str) -> bytes:
    """The hash by which names are ordered for a random choice."""
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def sample(files: Sequence[SourceFile], max_bytes: int, seed: int) -> list[SourceFile]:
    """At most `max_bytes` of `files`, chosen by a hash of seed and identity; the order of `files` is kept."""
    chosen, total = set(), 0
    for file in sorted(files, key=lambda file: (hash_key(seed, file.identity), file.identity)):
        if total + file.size <= max_bytes:
            chosen.add(file.path)
            total += file.size
    return [file for file in files if file.path in chosen]
