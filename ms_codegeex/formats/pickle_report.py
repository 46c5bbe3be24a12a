"""What the pickles of a file would import, without running anything.

A pickle is a program: it names functions and calls them. A state dict needs a handful of names. This lists every name
in every pickle of a file, as `picklescan` does, but by the list of what a state dict needs instead of a list of what is
known to be dangerous, which nobody can complete. The operands of `STACK_GLOBAL` are followed through the stack and the
memo; where they cannot be, the name is unknown, which counts as not on the list. A pickle runs until it fails, so what
precedes damage counts too.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import open_regular
from ms_codegeex.formats.torch_pickle import LONGEST_NAME, MAX_OPERATIONS, OF_A_PROGRAM, use_of_name

LARGEST = 64 << 20  # bytes of one pickle; a model of 1000 tensors takes 200 KB
MOST_PICKLES = 1000  # of an archive, or one after the other in a file
MOST_NAMES = 10_000  # different ones
UNKNOWN = ("computed by the pickle", "unknown")
_ZIP, _GGUF = b"PK", b"GGUF"
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".p", ".dill", ".joblib")
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_DAMAGE = (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, zlib.error, struct.error)


@dataclass
class PickleReport:
    """The names in the pickles of a file and how often each is there. `pickles`: where each pickle is. `damage`: why
    the rest of it could not be read."""

    path: Path
    kind: str
    pickles: list[str] = field(default_factory=list)
    names: Counter[tuple[str, str]] = field(default_factory=Counter)
    operations: int = 0
    damage: list[str] = field(default_factory=list)

    @property
    def foreign(self) -> list[str]:
        """The names that are not on the list, in alphabetical order."""
        return sorted(".".join(name) for name in self.names if use_of_name(*name) is None)

    @property
    def harmless(self) -> bool:
        """Whether all of it was read and every name is on the list."""
        return not self.foreign and not self.damage

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        names = [
            {"name": ".".join(name), "times": count, "use": use_of_name(*name)}
            for name, count in sorted(self.names.items())
        ]
        return {
            "kind": self.kind,
            "path": str(self.path),
            "pickles": self.pickles,
            "operations": self.operations,
            "names": names,
            "not_on_the_list": self.foreign,
            "damage": self.damage,
            "harmless": self.harmless,
        }


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A report for people, from its JSON."""
    found = (
        f"{len(report['pickles'])} pickles, {report['operations']:,} operations" if report["pickles"] else "no pickle"
    )
    yield f"{report['kind']}: {found}"
    for each in report["names"]:
        use = each["use"] or "NOT ON THE LIST of what a state dict needs: a program that loads it may run it"
        yield f"  {each['name'][:LONGEST_NAME]}  {each['times']:,} times: {use}"
    yield from (f"  DAMAGED: {reason}" for reason in report["damage"])
    if any(each["use"] == OF_A_PROGRAM for each in report["names"]) and report["harmless"]:
        yield "no name is known to run anything, but some belong to programs that are not here"
    elif report["harmless"]:
        yield (
            "nothing in it can run"
            if report["pickles"]
            else "it does not begin as a pickle or an archive; nothing else was looked at"
        )
    else:
        yield f"do not load it elsewhere: {len(report['not_on_the_list'])} names are not on the list"


def scan(path: Path) -> PickleReport:
    """The report of a file. `UserError` if it is missing or no regular file."""
    path = Path(path)
    try:
        with open_regular(path) as stream:
            beginning = stream.read(4)
            stream.seek(0)
            if beginning.startswith(_ZIP):
                return _scan_archive(path, stream)
            if _begins_pickle(beginning):
                return _scan_stream(PickleReport(path, "pickle"), str(path.name), stream)
    except OSError as error:
        raise UserError(f"{path}: could not be read ({error.strerror})") from None
    return PickleReport(path, "file without a pickle")


def _begins_pickle(beginning: bytes) -> bool:
    """Whether a protocol from 2 on, or the operations with which protocols 0 and 1 begin containers and names."""
    return (beginning[:1] == b"\x80" and beginning[1:2] <= b"\x05") or beginning[:1] in (b"(", b"}", b"]", b"c", b"i")


def _scan_archive(path: Path, stream: BinaryIO) -> PickleReport:
    """Every record that is a pickle by its name or its beginning. PyTorch reads `data/<key>` as bytes."""
    report = PickleReport(path, "zip archive")
    try:
        with zipfile.ZipFile(stream) as archive:
            for info in archive.infolist():
                name = info.filename
                if name.rpartition("/")[0].endswith("/data") and not name.endswith(_PICKLE_SUFFIXES):
                    continue
                with archive.open(info) as record:
                    data = record.read(LARGEST + 1)  # no more, whatever the archive says
                if len(data) > LARGEST and (name.endswith(_PICKLE_SUFFIXES) or _begins_pickle(data[:4])):
                    report.damage.append(f"{name} has more than {LARGEST:,} bytes")
                elif name.endswith(_PICKLE_SUFFIXES) or _begins_pickle(data[:4]):
                    _scan_stream(report, name, io.BytesIO(data))
                elif data[:2] == _ZIP:
                    report.damage.append(f"{name} is an archive within the archive")
                if len(report.pickles) > MOST_PICKLES:
                    raise ValueError(f"more than {MOST_PICKLES} pickles")
    except _DAMAGE as error:
        report.damage.append(f"the archive: {str(error)[:LONGEST_NAME]}")
    if any(name.endswith("/data.pkl") for name in report.pickles):
        report.kind = "PyTorch file"
    return report


def _scan_stream(report: PickleReport, name: str, stream: BinaryIO) -> PickleReport:
    """Pickles one after the other, as PyTorch before 1.6 wrote them; what follows the last one is not a pickle."""
    while len(report.pickles) < MOST_PICKLES:
        start = stream.tell()
        if start and not _begins_pickle(stream.read(2)):
            return report
        stream.seek(start)
        report.pickles.append(name if not start else f"{name} at byte {start:,}")
        try:
            for found in _names(report, stream):
                report.names[found] += 1
                if len(report.names) > MOST_NAMES:
                    raise ValueError(f"more than {MOST_NAMES:,} names")
        except Exception as error:  # a hostile pickle can raise nearly anything in `pickletools`
            if start and not report.names:
                report.pickles.pop()  # bytes of a tensor that look like a pickle's
                return report
            report.damage.append(f"{report.pickles[-1]}: {type(error).__name__}: {str(error)[:LONGEST_NAME]}")
            return report
    report.damage.append(f"{name}: more than {MOST_PICKLES} pickles")
    return report


def _names(report: PickleReport, stream: BinaryIO) -> Iterator[tuple[str, str]]:
    """The modules and names that one pickle asks for. Its stack is followed: texts as they are, None for all else."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    mark = object()

    def pop() -> Any:
        return stack.pop() if stack else None

    def pop_to_mark() -> None:
        while stack and stack.pop() is not mark:
            pass

    for operation, argument, position in pickletools.genops(stream):
        report.operations += 1
        if report.operations > MAX_OPERATIONS or (position or 0) > LARGEST:
            raise ValueError("longer than any state dict's")
        name = operation.name
        if name in ("GLOBAL", "INST"):
            module, _, member = str(argument).partition(" ")
            yield module, member
        elif name == "STACK_GLOBAL":
            member, module = pop(), pop()
            yield (module, member) if type(module) is str and type(member) is str else UNKNOWN
        elif name in ("EXT1", "EXT2", "EXT4"):
            yield "copyreg extension", str(argument)
        if name in _STRINGS:
            stack.append(argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(argument)))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1] if stack else None
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1] if stack else None
        elif name == "MARK":
            stack.append(mark)
        elif name == "DUP":
            stack.append(stack[-1] if stack else None)
        elif name == "STACK_GLOBAL":
            stack.append(None)
        else:
            _follow(operation, pop, pop_to_mark)
            stack += [None] * len(operation.stack_after)


def _follow(operation: pickletools.OpcodeInfo, pop: Any, pop_to_mark: Any) -> None:
    """Take from the stack what an operation takes."""
    before = operation.stack_before
    if pickletools.markobject in before:
        pop_to_mark()
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        pop()
