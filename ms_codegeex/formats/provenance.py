"""What an output was made from and by what, with hashes: `provenance.json` in a directory, `FILE.provenance.json`
next to a file.

It is the in-toto statement that OpenSSF model signing v1.0 signs: a SHA-256 for every file, and one over all of them
(https://github.com/sigstore/model-transparency). What made the files is in `predicate.ms_codegeex`. It has no time and
no path of a machine, so the same model gives the same bytes. It shows accidents; a signature by that package's own
command also shows edits (docs/provenance.md)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ms_codegeex import __version__
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.quarantine import PROVENANCE, SIGNATURE, check_file, is_description, is_read, read_json_inside
from ms_codegeex.base.reading import open_regular

TYPE, PREDICATE = "https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0"
OURS, FORMAT = "ms_codegeex", 1
_EDGE = 1 << 20  # bytes at either end of a file, where safetensors, zip archives and checkpoints hold their checksums
_BLOCK = 1 << 20
_THREADS = 4
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Input:
    """Files of a model that something is made from: its `role` ("model", "base", "adapter", "tokenizer"), its name, and
    the files by the names that the statement has for them."""

    role: str
    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Deviation:
    """A file that is not as the statement says: `what` is "changed", "missing" or "extra"."""

    name: str
    what: str


def inputs_of(role: str, root: Path, files: Iterable[Path]) -> Input:
    """The files of a directory, or a single file, as an input."""
    root = Path(root)
    below = root if root.is_dir() else root.parent
    return Input(role, root.resolve().name, {path.relative_to(below).as_posix(): path for path in files})


def statement_path(path: Path) -> Path:
    return path / PROVENANCE if path.is_dir() else path.with_name(f"{path.name}.{PROVENANCE}")


def ends(file: Path) -> dict[str, Any]:
    """Size and a hash of both ends: fast even for 26 GB, and saving the file again changes one of them."""
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        digest = hashlib.sha256(stream.read(_EDGE))
        stream.seek(max(0, size - _EDGE))
        digest.update(stream.read(_EDGE))
    return {"size": size, "ends": digest.hexdigest()}


def _sha256(file: Path, progress: Progress = lambda size: None) -> dict[str, Any]:
    digest, size, block = hashlib.sha256(), 0, bytearray(_BLOCK)
    with open_regular(file) as stream:
        while count := stream.readinto(block):  # neither reading nor hashing holds the interpreter
            digest.update(memoryview(block)[:count])
            size += count
            progress(count)
    return {"size": size, "sha256": digest.hexdigest()}


def files_below(directory: Path, statement: bool = False) -> list[Path]:
    """Everything in a directory but its folders and, unless wanted, the `statement`, in the order of model signing."""
    found = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    own = () if statement else (directory / PROVENANCE, directory / SIGNATURE)
    kept = (path for path in found if path not in own)
    return sorted(kept, key=lambda path: PurePosixPath(path.relative_to(directory).as_posix()))


class FileHashes:
    """Hashes of files that threads compute, of each file once."""

    def __init__(self, inputs: Sequence[Input], pool: ThreadPoolExecutor) -> None:
        self.inputs, self._pool = inputs, pool
        self._hashes = {path: pool.submit(_sha256, path) for each in inputs for path in each.files.values()}

    def begin(self, file: Path) -> None:
        self._hashes[file] = self._pool.submit(_sha256, file)

    def known(self, file: Path, hashes: Mapping[str, Any]) -> None:
        self._hashes[file] = Future()
        self._hashes[file].set_result(dict(hashes))

    def described(self) -> list[dict[str, Any]]:
        return [
            {
                "role": each.role,
                "name": each.name,
                "files": [{"name": name, **self._hashes[path].result()} for name, path in sorted(each.files.items())],
            }
            for each in self.inputs
        ]

    def check_source(self, source: Path) -> None:
        """`UserError` if a file of the model at `source` is not as its own statement says; a line on standard error if
        it only describes the model."""
        if (recorded := read_statement(source)) is None:
            return
        files = [file for each in self.described() if each["role"] == "model" for file in each["files"]]
        digests = recorded.digests
        names = [file["name"] for file in files if digests.get(file["name"]) != file["sha256"]]
        different = [Deviation(name, "changed" if name in digests else "extra") for name in names]
        for each in different:
            if each.what == "changed" and is_read(each.name) and not is_description(each.name):
                raise _unlike(source, each, recorded)
        _say_edited(source, [each for each in different if is_description(each.name)])

    def statement(self, made: Path, where: Path, choices: Mapping[str, Any]) -> dict[str, Any]:
        """The statement about a directory or file that is at `made` until it is renamed to `where`. It is written into
        a directory; that of a file is for the caller to write, once the file has its name."""
        files = files_below(made) if made.is_dir() else [made]
        names = [file.relative_to(made).as_posix() for file in files] if made.is_dir() else [where.name]
        for file in files:
            if file not in self._hashes:
                self.begin(file)
        described = {n: {**self._hashes[file].result(), **ends(file)} for n, file in zip(names, files, strict=True)}
        statement = _statement(where.name, described, {"choices": dict(choices), "inputs": self.described()})
        if made.is_dir():
            write_json(made / PROVENANCE, statement)
        return statement


@contextlib.contextmanager
def hashed(inputs: Sequence[Input]) -> Iterator[FileHashes]:
    """Begin to hash what something is made from, while it is made."""
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        yield FileHashes(inputs, pool)
    finally:
        pool.shutdown(cancel_futures=True)


def _statement(name: str, files: Mapping[str, Mapping[str, Any]], origin: Mapping[str, Any]) -> dict[str, Any]:
    root = hashlib.sha256(b"".join(bytes.fromhex(file["sha256"]) for file in files.values()))
    ignored = {"allow_symlinks": False, "ignore_paths": [PROVENANCE, SIGNATURE]}
    return {
        "_type": TYPE,
        "subject": [{"name": name, "digest": {"sha256": root.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", **ignored},
            "resources": [{"name": key, "algorithm": "sha256", "digest": it["sha256"]} for key, it in files.items()],
            OURS: {
                "format": FORMAT,
                "version": __version__,
                **origin,
                "files": {key: {"size": file["size"], "ends": file["ends"]} for key, file in files.items()},
            },
        },
    }


@dataclass(frozen=True)
class Statement:
    """A statement that was read: where it is, the SHA-256 of each file, and what `_statement` got as `origin`.
    `ends`: the size and ends of each file. `name`: that of the directory or file when it was made."""

    path: Path
    name: str
    digests: Mapping[str, str]
    ends: Mapping[str, Any]
    origin: Mapping[str, Any]

    def differences(self, target: Path, thorough: bool, progress: Progress = lambda size: None) -> list[Deviation]:
        """The files at `target`, a directory or file, that are not as recorded. `thorough`: hash all their bytes, not
        only the ends. Hidden files are ignored, except weights (not macOS's `._` files)."""
        directory = target if target.is_dir() else target.parent
        if target.is_dir():
            shown = [path.relative_to(target).as_posix() for path in files_below(target)]
            found = [name for name in shown if not name.startswith(("._",) if is_read(name) else ".")]
        else:
            found = [target.name]

        def judged(name: str) -> Deviation | None:
            path = directory / name
            if not os.path.lexists(path):
                return Deviation(name, "missing")
            if path.is_symlink() and not path.is_file():
                return Deviation(name, "changed")
            same = ends(path) == self.ends.get(name) and (
                not thorough or _sha256(path, progress)["sha256"] == self.digests[name]
            )
            return None if same else Deviation(name, "changed")

        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            judgements = [each for each in pool.map(judged, self.digests) if each is not None]
        extra = [Deviation(name, "extra") for name in found if name not in self.digests]
        return sorted([*judgements, *extra], key=lambda each: each.name)

    def check_undescribed(self, directory: Path) -> None:
        """`UserError` if a file has changed that has a part in a model's answers and that `record_edits` would not have
        as it is now."""
        different = [each for each in self.differences(directory, False) if is_read(each.name)]
        wrong = [each for each in different if not is_description(each.name) and each.name != "tokenizer_config.json"]
        if wrong:
            raise _unlike(directory, wrong[0], self, len(wrong) - 1)

    @property
    def edits(self) -> list[str]:
        """What users have set since."""
        found = self.origin.get("edits")
        return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def read_statement(target: Path) -> Statement | None:
    """The statement about a directory or file; None if there is none. `UserError` if it is malformed."""
    path = statement_path(Path(target))
    if not os.path.lexists(path):
        return None
    check_file(path.parent, path.name)
    statement = read_json_inside(path.parent, path.name)
    try:
        resources, ours = statement["predicate"]["resources"], statement["predicate"][OURS]
        digests = {each["name"]: each["digest"] for each in resources}
        (subject,) = statement["subject"]
        names = all(type(name) is str and not {"", ".", ".."} & {*name.split("/")} for name in digests)
        texts = all(type(digest) is str and len(bytes.fromhex(digest)) == 32 for digest in digests.values())
        algorithms = {each["algorithm"] for each in resources} <= {"sha256"}
        root = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
        if statement["_type"] != TYPE or statement["predicateType"] != PREDICATE or ours["format"] != FORMAT:
            raise ValueError("of another type")
        sizes = all(type(ours["files"][name]["size"]) is int for name in digests)
        if not (names and texts and algorithms and sizes and len(digests) == len(resources) == len(ours["files"])):
            raise ValueError("its list of files is malformed")
        if subject["digest"]["sha256"] != root:
            raise ValueError("its hashes do not give the hash of all of them")
        return Statement(path, str(subject["name"]), digests, ours["files"], ours)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"not a statement that ms-codegeex wrote ({error})"
        raise UserError(f"{path}: {reason}; restore it, or delete it if the model needs none") from None


def check(target: Path, thorough: bool = False) -> None:
    """Check a model that is going to be used with its statement, if it has one. A changed, missing or extra file that
    has a part in the model's answers is a `UserError`, unless it only describes the model; a line on standard error
    says what else was edited by hand."""
    if (recorded := read_statement(target)) is None:
        return
    target = Path(target)
    different = recorded.differences(target, thorough)
    counts = {each.name for each in different if is_read(each.name) and not is_description(each.name)}
    mattering = [each for each in different if not target.is_dir() or each.name in counts]
    if mattering:
        raise _unlike(target, mattering[0], recorded, len(mattering) - 1)
    _say_edited(target, different)


def _say_edited(target: Path, different: Sequence[Deviation]) -> None:
    """A line on standard error about files of a model that are not as they were written, which is no error."""
    if different:
        first, more = different[0], f", and {len(different) - 1} more" if len(different) > 1 else ""
        said = f"{target / first.name}: is {first.what} since {PROVENANCE} was written{more}"
        setting = f"card=@{target / first.name}" if first.name == "README.md" else "KEY=VALUE"
        command = f"; `ms-codegeex inspect {target} --set {setting}` records such an edit"
        print_error(f"{said}{command}" if is_description(first.name) else f"warning: {said}")


def described_files(directory: Path) -> list[str]:
    names = [path.relative_to(directory).as_posix() for path in files_below(directory) if path.is_file()]
    return [name for name in names if is_description(name) or name == "tokenizer_config.json"]


def record_edits(directory: Path, recorded: Statement, keys: Sequence[str]) -> list[str]:
    """Let the statement about a directory have its descriptions as they are now, and that `keys` were set. Returns the
    names of the files that it had otherwise. All other files stay as they were recorded."""
    present = described_files(directory)
    others = {name: digest for name, digest in recorded.digests.items() if not is_description(name)}
    described = {name: {**recorded.ends[name], "sha256": digest} for name, digest in others.items()}
    now = {name: {**_sha256(directory / name), **ends(directory / name)} for name in present}
    described |= now
    digests = {name: file["sha256"] for name, file in described.items()}
    changed = [name for name in {**recorded.digests, **now} if recorded.digests.get(name) != digests.get(name)]
    if changed:
        order = sorted(described, key=PurePosixPath)
        origin = {name: value for name, value in recorded.origin.items() if name not in ("format", "version", "files")}
        origin["edits"] = [*dict.fromkeys([*recorded.edits, *keys])]
        statement = _statement(recorded.name, {name: described[name] for name in order}, origin)
        statement["predicate"][OURS]["version"] = recorded.origin.get("version")
        write_json(directory / PROVENANCE, statement)
    return changed


def _unlike(target: Path, first: Deviation, recorded: Statement, others: int = 0) -> UserError:
    more = f", and {others} more" if others else ""
    remedy = "restore the files, or make the model again from what it was made from"
    if first.name == "tokenizer_config.json":
        remedy = f"restore it, or record a chat template with `ms-codegeex inspect {target} --set chat=@FILE`"
    said = f"is {first.what}, by {recorded.path.name}{more}"
    return UserError(f"{target / first.name if target.is_dir() else target}: {said}; {remedy}")


def made_from(recorded: Statement) -> str:
    """In a line: what made the files."""
    inputs = recorded.origin.get("inputs")
    listed = inputs if isinstance(inputs, list) else []
    names = [f"{each.get('role')} {each.get('name')}" for each in listed if isinstance(each, dict)]
    choices = recorded.origin.get("choices")
    verb = choices.get("command") if isinstance(choices, dict) else None
    edited = f"; set since: {', '.join(recorded.edits)}" if recorded.edits else ""
    sources = ", ".join(names) or "nothing recorded"
    return f"{verb} of ms-codegeex {recorded.origin.get('version')}, from {sources}{edited}"
