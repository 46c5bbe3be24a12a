"""Search for source files and archives, and sampling of files."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import hashlib
import itertools
import os
import re
import stat
import sysconfig
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import MalformedText, in_hub_cache, read_json
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.data.languages import canonical_languages
from ms_codegeex.extras.corpus.detection import HEAD_BYTES, detect, needs_head
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.licences import (
    Stated,
    metadata_rule,
    nearest_licence,
    of_texts,
    rule_is,
    stated_licences,
)
from ms_codegeex.extras.shared.records import ENDINGS, archive_kind, first_record
from ms_codegeex.extras.shared.remote import RemotePath, list_files, open_input, parse_location

_REPOSITORIES = frozenset({".git", ".hg", ".svn"})
_SKIPPED = frozenset({"__pycache__", "node_modules"})  # generated files, or packages of other people
_COMPILER = "ziglang"  # installed by set-up if there is no compiler; must not change the corpus
_METADATA_BYTES = 1 << 18
_JSON = ".json"  # the content of such a file decides whether it holds records
_NESTED = frozenset({"site-packages", "dist-packages"})  # inside a standard library, but not part of it
# Kinds of directory, for the split: a repository, a package, or one that holds several packages.
_REPOSITORY, _PACKAGE, _SEVERAL, _NONE = range(4)

HELD_OUT = "held out, next to a file for training"
FOR_VALIDATION = "for validation, by the name of its split"
OTHER_FORMAT = "the rows of another file in a second format"
MISSING = "missing file of a saved dataset"
OTHER_CONFIGURATION = "another configuration of the dataset's card"
# The last split name in a file's name; the names of validation splits; those of training splits.
_SPLIT = re.compile(r"(.*)(?<![a-z])(test|testing|validation|valid|val|dev|eval)(?![a-z])")
_VALIDATION = re.compile(r"(?i)(.*[-_.])?(validation|valid|val|dev)")
_TRAINING = re.compile(r"(?i)(.*[-_.])?train(ing)?([-_.].*)?")
_CARD, _CARD_BYTES = "README.md", 1 << 20
_STATE = "state.json"  # part of a dataset saved by `datasets`
_ENDINGS = "|".join(re.escape(ending[1:]) for ending in sorted(ENDINGS, key=len, reverse=True))
_FORMATS = ("parquet", "arrow", "jsonl")  # if there are copies, the first is read

Inputs = Sequence[Path | RemotePath | str] | None
"""Files, directories and URLs; None: the running interpreter's libraries."""


@functools.cache
def _folder_rules() -> list[tuple[str, re.Pattern[str], re.Pattern[str]]]:
    rows = shipped_table(Path(__file__).parent / "rules" / "folders.yaml")
    return [(row["reason"], re.compile(row["beside"]), re.compile(row["files"])) for row in rows]


@dataclass(frozen=True)
class Root:
    """A directory or file to search for sources. The identities of its files begin with `label`. If `installed`, its
    top level has one package per directory or module (site-packages, the standard library). If `held_out`, all of its
    documents are for validation. If `splits`, files that are named after a validation split are for validation."""

    path: Path | RemotePath
    label: str
    installed: bool = False
    held_out: bool = False
    splits: bool = False


@dataclass(frozen=True)
class SourceFile:
    """A file to read. `identity` is `label/relative/path`, `package` the unit of the split, `size` in bytes. `modified`
    is in nanoseconds since 1970; for a remote file it is a number that stands for its version. `licence` is what the
    nearest package metadata names, if licences are needed. `held_out` is as in `Root`."""

    identity: str
    path: Path | RemotePath
    package: str
    language: str
    size: int
    modified: int = 0
    licence: str = ""
    held_out: bool = False


def default_roots() -> list[Root]:
    """Return the running interpreter's standard library and installed packages: a corpus that every machine has."""
    paths = sysconfig.get_paths()
    roots = [Root(Path(paths["stdlib"]).resolve(), "stdlib", installed=True)]
    for scheme in ("purelib", "platlib"):
        path = Path(paths[scheme]).resolve()
        if path.is_dir() and path not in [root.path for root in roots]:
            roots.append(Root(path, "site-packages" if len(roots) == 1 else f"site-packages-{scheme}", installed=True))
    return roots


def user_roots(
    inputs: Inputs, held_out: Sequence[Path | RemotePath | str] = (), share: float | None = None
) -> list[Root]:
    """Return the roots for files, directories and URLs, or `default_roots` for None, labelled by their names (of a URL,
    the last one that is not an archive's). Those `held_out` come first, so a file in both is held out. With a `share`
    for validation, a validation split replaces it. Raises `UserError` for a missing path; URLs are not accessed."""
    places = [parse_location(given) if isinstance(given, str) else given for given in (*held_out, *(inputs or ()))]
    paths = [given if isinstance(given, RemotePath) else _existing(given) for given in places]
    bases = [_base(path) for path in paths]
    labels = _labels(bases)
    roots = [Root(path, labels[base], splits=bool(share)) for path, base in zip(paths, bases, strict=True)]
    own = [replace(root, held_out=True) for root in roots[: len(held_out)]]
    return [*own, *(default_roots() if inputs is None else roots[len(held_out) :])]


def described_roots(roots: Sequence[Root]) -> list[dict[str, Any]]:
    entries = ({"path": printable(root.path), "label": root.label, "validation": root.held_out} for root in roots)
    return [{name: value for name, value in entry.items() if value is not False} for entry in entries]


def _base(path: Path | RemotePath) -> Path | RemotePath:
    if isinstance(path, RemotePath):
        return path if archive_kind(path.name) is None or len(path.parts) < 3 else path.parent
    return path if path.is_dir() else path.parent


def _existing(given: Path | str) -> Path:
    try:
        named = Path(given).expanduser()
        kept = named.parent.resolve() / named.name
        path = kept.resolve()  # a link's name is kept if its target's says less, as in data caches
        path = kept if in_hub_cache(kept) or (path.suffix == "" and path.is_file()) else path
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # a loop of links, an unknown user's home
        problem = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{given}: cannot be followed ({problem}); give an existing file or directory") from None
    if not exists:
        raise UserError(f"{given}: no such file or directory; give an existing file or directory")
    return path


def _labels(bases: Iterable[Path | RemotePath]) -> dict[Path | RemotePath, str]:
    """Return a label for each directory: its name, preceded by as many of its parents' names as make it unique. The
    order of `bases` does not matter, so the same inputs give the same bytes."""
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
    for base, label in labels.items():  # /a-b and /a/b are numbered in this order
        seen[label] += 1
        labels[base] = label if seen[label] == 1 else f"{label}-{seen[label]}"
    return labels


def printable(path: Path | RemotePath | PurePosixPath | str) -> str:
    """Return `path` as valid Unicode: JSON files cannot hold the lone surrogates of a name that is not UTF-8."""
    return os.fsencode(str(path)).decode("utf-8", "replace")


@dataclass(frozen=True)
class FoundSources:
    """The results of a search, sorted by identity: source files (`language` is empty if it is unknown and such files
    were requested), files of records (without a language), and the others as events. A directory that is skipped is one
    event, which counts its files."""

    sources: list[SourceFile]
    archives: list[SourceFile]
    others: list[Event]


Recognise = Callable[[Mapping[str, Any]], bool]


@dataclass
class _Search:
    """One search. Results are keyed by path, so a file that is below two roots belongs to the first."""

    roots: Sequence[Root]
    languages: Collection[str]
    recognise: Recognise
    all_text: bool
    leave_out: Collection[Path]
    licences: bool
    sources: dict[Path | RemotePath, SourceFile] = field(default_factory=dict)
    archives: dict[Path | RemotePath, SourceFile] = field(default_factory=dict)
    others: dict[Path | RemotePath, Event] = field(default_factory=dict)
    metadata: dict[Path | RemotePath, list[tuple[int, Path | RemotePath]]] = field(default_factory=dict)
    stated: dict[Path | RemotePath, list[Stated]] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    folders: dict[Path | RemotePath, list[str]] = field(default_factory=dict)  # with files that a rule may set apart
    cards: list[Path | RemotePath] = field(default_factory=list)
    base: Path | RemotePath = field(default_factory=Path)

    def __post_init__(self) -> None:
        self.given, self.known = {root.path for root in self.roots}, {*self.languages, *canonical_languages(())}

    def search(self, root: Root) -> None:
        self.base = _base(root.path)
        if isinstance(root.path, RemotePath):
            self._search_remote(root)
        elif not root.path.is_dir():
            self._file(root, root.path)
        else:

            def unreadable(error: OSError) -> None:
                self._leave(root, Path(error.filename), "unreadable", kind="problems")

            folders = [root.path]
            while folders:  # one level at a time: `os.walk` recurses before Python 3.12
                folder, directories, names = next(os.walk(folders.pop(), onerror=unreadable), ("", [], []))
                for path in (Path(folder, name) for name in directories):
                    if path in self.leave_out:
                        continue
                    if not (reason := self._barrier(root, path)):
                        folders.append(path)
                    elif path not in self.given and (count := path.is_symlink() or self._files_below(path)):
                        self._leave(root, path, reason, count=int(count))
                for name in names:
                    self._file(root, Path(folder, name))

    def _files_below(self, folder: Path) -> int:
        count, folders, apart = 0, [str(folder)], {str(path) for path in (*self.given, *self.leave_out)}
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        if entry.path not in apart and entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            count += entry.path not in apart
            except OSError:  # an unreadable folder counts as a file
                count += 1
        return count

    def _file(self, root: Root, path: Path) -> None:
        if path in self.leave_out:
            return
        try:
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode) and (path == root.path or in_hub_cache(path)):
                status = path.stat()
        except OSError:  # gone since the directory was listed
            self._leave(root, path, "unreadable", kind="problems")
            return
        if stat.S_ISREG(status.st_mode):
            self._add(root, path, status.st_size, status.st_mtime_ns)
        else:
            self._leave(root, path, "symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file")

    def _barrier(self, root: Root, folder: Path | RemotePath) -> str:
        if folder.name in _REPOSITORIES:
            self._mark(root, folder.parent, _REPOSITORY)
        if isinstance(folder, Path) and folder.is_symlink():
            return "symbolic link"
        nested = root.installed and folder.name in (_NESTED if root.label == "stdlib" else (_COMPILER,))
        if folder.name in _SKIPPED or nested:
            return folder.name
        return "hidden directory" if folder.name.startswith(".") else ""

    def _search_remote(self, root: Root) -> None:
        barriers, counts = {self.base: (self.base, "")}, Counter[tuple[RemotePath, str]]()

        def barrier(folder: RemotePath) -> tuple[RemotePath, str]:
            if folder not in barriers:
                above = barrier(folder.parent)
                barriers[folder] = above if above[1] else (folder, self._barrier(root, folder))
            return barriers[folder]

        for path, size, version in list_files(root.path):
            if path == root.path or not (found := barrier(path.parent))[1]:
                self._add(root, path, size, version)
            elif not any(path.is_relative_to(other) for other in self.given - {root.path}):
                counts[found] += 1
        for (folder, reason), count in counts.items():
            self._leave(root, folder, reason, count=count)

    def _holds_records(self, root: Root, path: Path | RemotePath) -> bool:
        if root.installed or archive_kind(path.name) is None:
            return False
        if not path.name.lower().endswith(_JSON) or (path == root.path and not self.all_text):
            return True
        record = first_record(path)
        return record is not None and self.recognise(record)

    def _leave(self, root: Root, path: Path | RemotePath, reason: str, kind: str = "unread", **more: Any) -> None:
        if path not in self.sources and path not in self.archives:
            self.others.setdefault(path, Event(_identity(root, self.base, path)[0], kind, reason, **more))

    def _add(self, root: Root, path: Path | RemotePath, size: int, modified: int) -> None:
        if path in self.sources or path in self.archives:
            return
        self._note_metadata(root, path)
        if any(each.fullmatch(path.name) for rule in _folder_rules() for each in rule[1:]):
            self.folders.setdefault(path.parent, []).append(path.name)
        for name in _saved_parts(path) if path.name == _STATE and isinstance(path, Path) else ():
            if not (path.parent / name).exists():
                self._leave(root, path.parent / name, MISSING, kind="problems", detail=f"{_STATE} names it")
        if path.name == _CARD and not root.installed:
            self.cards.append(path)
        identity, package = _identity(root, self.base, path)
        if self._holds_records(root, path):
            self.archives[path] = SourceFile(identity, path, package, "", size, modified, held_out=root.held_out)
            self.others.pop(path, None)  # skipped by an input that does not name it
            return
        head, records = b"", archive_kind(path.name) is not None and not path.name.lower().endswith(_JSON)
        if needs_head(path.name) and not records:
            try:
                with open_input(path) as stream:
                    head = stream.read(HEAD_BYTES)
            except OSError:
                self._leave(root, path, "unreadable", kind="problems")
                return
        language = None if records else detect(path.name, head)
        name = language.name if language is not None and language.name in self.known else ""
        if not records and (name in self.languages if name else self.all_text):
            self.sources[path] = SourceFile(identity, path, package, name, size, modified, held_out=root.held_out)
            return
        reason = "unknown language" if language is None else "other language"
        suffix = printable(PurePosixPath(path.name).suffix.lower()) or "without a suffix"
        self._leave(root, path, reason, detail=suffix, bytes=size)

    def _note_metadata(self, root: Root, path: Path | RemotePath) -> None:
        if path.name in _REPOSITORIES:  # a file in a submodule or a work tree
            self._mark(root, path.parent, _REPOSITORY)
        if (number := metadata_rule(path.parent.name, path.name)) is None:
            return
        folder = path.parent.parent if rule_is("folder", number) else path.parent
        if self.licences:
            self.metadata.setdefault(folder, []).append((number, path))
        if not rule_is("texts", number):
            self._mark(root, folder, _SEVERAL if path.parent.name.endswith("-info") else _PACKAGE)

    def set_apart(self) -> None:
        """Exclude what is no input of its own: files of another program, further configurations of a dataset, copies in
        a second format, and test splits. Validation splits are held out if the roots ask for it, otherwise excluded. A
        file that is itself an input is always read."""
        for folder, names in self.folders.items():
            for reason, beside, files in _folder_rules():
                for name in filter(files.fullmatch, names):
                    if any(map(beside.fullmatch, names)):
                        self._set_apart(folder / name, reason)
        for card in self.cards:
            self._configure(card)
        plain = {path: re.sub(r"\d+", "0", file.identity.lower()) for path, file in self.archives.items()}
        known = {*plain.values()}
        for path, name in plain.items():
            if (match := _SPLIT.match(name)) and f"{match[1]}train{name[match.end() :]}" in known:
                self._hold_out(path, match[2])
        kinds: dict[tuple[str, bool], list[Path | RemotePath]] = {}
        for path, file in self.archives.items():
            stem = re.sub(rf"(?i)(/({'|'.join(_FORMATS)}|json)(?=/))|\.({_ENDINGS})$", "", file.identity)
            kinds.setdefault((stem, file.held_out), []).append(path)
        for paths in (paths for paths in kinds.values() if len(paths) > 1):
            kept, *others = sorted(paths, key=lambda path: (_FORMATS.index(archive_kind(path.name) or ""), str(path)))
            for path in (it for it in others if archive_kind(it.name) != archive_kind(kept.name)):
                if first_record(path) == first_record(kept) is not None:
                    self._set_apart(path, OTHER_FORMAT)

    def _configure(self, card: Path | RemotePath) -> None:
        configured = _configurations(card)
        splits = {split for default, split, _ in configured if default}
        for path in [path for path in self.archives if configured and path.is_relative_to(card.parent)]:
            name = printable(path.relative_to(card.parent))
            found = [(not default, split) for default, split, files in configured if files.fullmatch(name)]
            if not found or min(found)[0]:
                self._set_apart(path, OTHER_CONFIGURATION)
            elif not _TRAINING.fullmatch(split := min(found)[1]) and any(map(_TRAINING.fullmatch, splits)):
                self._hold_out(path, split)

    def _hold_out(self, path: Path | RemotePath, split: str) -> None:
        file = self.archives.get(path)
        if file is None or file.held_out or path in self.given:
            return
        records_alone = all(each.name == _CARD for each in self.sources)  # in a source tree, a few may be test data
        if records_alone and _VALIDATION.fullmatch(split) and any(root.splits for root in self.roots):
            self.archives[path] = replace(file, held_out=True)
            self.others[path] = Event(file.identity, "noted", FOR_VALIDATION)
        else:
            self._set_apart(path, HELD_OUT)

    def _set_apart(self, path: Path | RemotePath, reason: str) -> None:
        if path not in self.given and (found := self.archives.pop(path, None) or self.others.get(path)):
            source = found.source if isinstance(found, Event) else found.identity
            self.others[path] = Event(source, "unread", reason)

    def _mark(self, root: Root, folder: Path | RemotePath, kind: int) -> None:
        if not root.installed and folder.is_relative_to(self.base):
            name = _identity(root, self.base, folder)[0]
            self.units[name] = min(kind, self.units.get(name, kind))

    def packaged(self, files: list[SourceFile], installed: Collection[str]) -> Iterator[SourceFile]:
        """Yield the files, sorted by identity, with their units of the split. Seen from the outside, a file's unit is
        the first repository, else the first directory with a package's metadata, else the first directory in which
        files differ. A single input is not a unit, nor is a directory that holds all of its files."""
        inputs = [(label, [*each]) for label, each in itertools.groupby(files, lambda it: it.identity.split("/", 1)[0])]
        for label, group in inputs:
            if label in installed:
                yield from group
                continue
            # The files are sorted, so all share what the first and the last share.
            pair = zip(group[0].identity.split("/")[:-1], group[-1].identity.split("/")[:-1], strict=False)
            top = len([*itertools.takewhile(lambda names: names[0] == names[1], pair)])
            for file in group:
                yield replace(file, package=self._unit(file.identity, top, top if len(inputs) == 1 else 0))

    def _unit(self, identity: str, top: int, first: int) -> str:
        names = identity.split("/")
        folders = ["/".join(names[:size]) for size in range(1, len(names))]
        kinds = [self.units.get(folder, _NONE) for folder in folders]
        for kind in (_REPOSITORY, _PACKAGE):
            for number, folder in enumerate(folders[first:], first):
                if kinds[number] == kind or (kind and number and kinds[number - 1] == _SEVERAL):
                    return folder
        if kinds[-1] == _SEVERAL:  # a module next to packages
            return f"{folders[-1]}/{names[-1].split('.', 1)[0]}"
        return folders[min(top, len(folders) - 1)]

    def licensed(self, file: SourceFile) -> SourceFile:
        """Return the file with the licence in the nearest metadata, searched from its directory up to the root's."""
        folder, below = file.path.parent, file.path.name
        for _ in range(file.identity.count("/")):
            if folder not in self.stated:
                found = sorted(self.metadata.get(folder, ()), key=lambda it: (it[0], it[1].name))
                read = [(rule_is("texts", number), _read_metadata(number, path)) for number, path in found]
                named, texts = (
                    [each for is_text, many in read for each in many if is_text is of] for of in (False, True)
                )
                self.stated[folder] = [*named, *of_texts(texts)]
            if name := nearest_licence(self.stated[folder], below):
                return replace(file, licence=name)
            folder, below = folder.parent, f"{folder.name}/{below}"
        return file


def _configurations(card: Path | RemotePath) -> list[tuple[bool, str, re.Pattern[str]]]:
    from ms_codegeex.base.yaml_reading import parse_yaml  # workers of `prepare` need no YAML

    found: list[tuple[bool, str, re.Pattern[str]]] = []
    with contextlib.suppress(OSError, MalformedText, UnicodeDecodeError, AttributeError, TypeError, re.error):
        with open_input(card) as stream:
            text = stream.read(_CARD_BYTES).decode()
        _, opened, rest = text.partition("---\n")
        rows = parse_yaml(rest.partition("\n---")[0]).get("configs") if opened and not _ else None
        rows = [row for row in rows or () if row.get("data_files") or row.get("data_dir")]
        wanted = [row for row in rows if row.get("default") is True or row.get("config_name") == "default"] or rows
        for row in rows:
            splits = row.get("data_files") or f"{row['data_dir'].rstrip('/')}/**"
            splits = [{"split": "train", "path": splits}] if isinstance(splits, str) else splits
            for split in ({"split": "train", "path": each} if isinstance(each, str) else each for each in splits):
                paths = [split["path"]] if isinstance(split["path"], str) else split["path"]
                files = "|".join(fnmatch.translate(re.sub(r"\*\*/?", "*", path.lstrip("./"))) for path in paths)
                found.append((row is wanted[0], str(split.get("split", "train")), re.compile(files)))
    return found


def _read_metadata(number: int, path: Path | RemotePath) -> list[Stated]:
    def head(path: Path | RemotePath) -> bytes:
        with contextlib.suppress(OSError), open_input(path) as stream:
            return stream.read(_METADATA_BYTES)
        return b""

    scope = list[str]()
    if path.parent.name.endswith("-info"):  # several packages may be installed here
        names = re.findall(rb"(?m)^([^/,\s]+)", head(path.parent / "top_level.txt") or head(path.parent / "RECORD"))
        modules = {name.decode("utf-8", "replace").removesuffix(".py") for name in names}
        scope = sorted(modules) or [path.parent.name.partition("-")[0]]
    return stated_licences(number, head(path), scope)


def _identity(root: Root, base: Path | RemotePath, path: Path | RemotePath) -> tuple[str, str]:
    relative = printable(path.relative_to(base))
    if relative == ".":
        return root.label, root.label
    first, below, _ = relative.partition("/")
    name = first if below else first.split(".", 1)[0] if root.installed else ""
    return f"{root.label}/{relative}", f"{root.label}/{name}".rstrip("/")


def _saved_parts(state: Path) -> list[str]:
    try:
        return [PurePosixPath(each["filename"]).name for each in read_json(state)["_data_files"]]
    except (UserError, KeyError, TypeError):  # another program's file of this name
        return []


def search(
    roots: Sequence[Root],
    languages: Iterable[str],
    recognise: Recognise = lambda record: True,
    all_text: bool = False,
    leave_out: Collection[Path] = (),
    licences: bool = False,
) -> FoundSources:
    """Find the files below `roots`, those held out first: sources in `languages` (canonical names), with `all_text`
    also those of no known language, and, unless the root is installed, files of records. `recognise` tells whether the
    object at the start of a `.json` file is a record. `leave_out` has files and directories that are not input. With
    `licences`, those of source files are looked up."""
    work = _Search(roots, frozenset(languages), recognise, all_text, leave_out, licences)
    for root in roots:
        work.search(root)
    work.set_apart()
    found, installed = (work.sources, work.archives), {root.label for root in roots if root.installed}
    sources, archives = (
        sorted(files.values(), key=lambda file: (not file.held_out, file.identity, str(file.path))) for files in found
    )
    sides = ([file for file in sources if file.held_out is side] for side in (True, False))
    sources = [file for side in sides for file in work.packaged(side, installed)]
    if licences:
        sources = [work.licensed(file) for file in sources]
    return FoundSources(sources, archives, sorted(work.others.values()))


def hash_key(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}:{text}".encode()).digest()


def sample(files: Sequence[SourceFile], max_bytes: int, seed: int) -> list[SourceFile]:
    """Return at most `max_bytes` of `files`, chosen by a hash of seed and identity; the order of `files` is kept."""
    chosen, total = set(), 0
    for file in sorted(files, key=lambda file: (hash_key(seed, file.identity), file.identity)):
        if total + file.size <= max_bytes:
            chosen.add(file.path)
            total += file.size
    return [file for file in files if file.path in chosen]
