"""What the pickles of a file would import, without running anything.

A pickle is a program: it names functions and calls them. A state dict needs a handful of names. This lists every name
in every pickle of a file, as `picklescan` does, but by the list of what a state dict needs instead of a list of what is
known to be dangerous, which nobody can complete. The operands of `STACK_GLOBAL` are followed through the stack and the
memo; where they cannot be, the name is unknown, which counts as not on the list. A pickle runs until it fails, so what
precedes damage counts too. Only a file that is read to its end, or whose format is known, is called harmless.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import opened
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.torch_pickle import MAX_OPERATIONS, MAX_SHOWN_NAME, OF_A_PROGRAM, use_of_name

MAX_PICKLE_BYTES = 64 << 20  # bytes of one pickle; a model of 1000 tensors takes 200 KB
MAX_PICKLES = 1000  # in an archive, or one after the other in a file
MAX_NAMES = 10_000  # different ones
UNKNOWN = ("computed by the pickle", "unknown")
_ZIP = b"PK\x03\x04"  # PyTorch takes no other beginning for an archive
# What PyTorch before 1.6 wrote: this number, the version, sizes of numbers, the object and the keys of its storages,
# each a pickle of its own, and then the bytes of the storages.
_OLD_FORMAT = tuple(pickle.dumps(0x1950A86A20F9469CFC6C, protocol) for protocol in range(6))
_PICKLES_OF_OLD_FORMAT = 5
_PICKLE_SUFFIXES = (".pkl", ".pickle", ".p", ".dill", ".joblib")
_STRINGS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_GETS, _PUTS = ("GET", "BINGET", "LONG_BINGET"), ("PUT", "BINPUT", "LONG_BINPUT")
_VALUES = {*_STRINGS, *_GETS, *_PUTS}
_TOO_LONG = "longer than any state dict's"
_LENGTHS = {-2: 1, -3: 4, -4: 4, -5: 8}  # bytes of an argument's length, by `pickletools`' kinds of arguments


class _NoPickle(ValueError):
    """Python's unpickler fails here at the latest."""


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
        yield f"  {each['name'][:MAX_SHOWN_NAME]}  {each['times']:,} times: {use}"
    yield from (f"  DAMAGED: {reason}" for reason in report["damage"])
    if any(each["use"] == OF_A_PROGRAM for each in report["names"]) and report["harmless"]:
        yield "no name is known to run anything, but some belong to programs that are not here"
    elif report["harmless"]:
        yield "nothing in it can run"
    elif report["not_on_the_list"]:
        yield f"do not load it elsewhere: {len(report['not_on_the_list'])} names are not on the list"
    else:
        yield "do not load it elsewhere: what could not be read may run"


def scan(path: Path) -> PickleReport:
    """The report of a file. `UserError` if it is missing or no regular file."""
    path = Path(path)
    with opened(path) as stream:
        beginning = stream.read(tarfile.BLOCKSIZE)
        stream.seek(0)
        if beginning.startswith(_ZIP):
            return _scan_archive(path, stream)
        report = PickleReport(path, "pickle")
        reason = _scan_stream(report, path.name, stream)
    if _is_tar(beginning):  # the oldest format of PyTorch, which its newest version still tries first
        report.damage.append("not recognised: a tar archive, which was not looked into")
    elif reason and (known := _known_format(path)):
        report.kind = known
    elif reason:
        known = "neither a zip archive of PyTorch nor a safetensors file or MindSpore checkpoint"
        report.kind = "unknown file"
        report.damage.append(f"not recognised: {known}, and no pickle either ({reason})")
    return report


def _is_tar(beginning: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(beginning, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _known_format(path: Path) -> str:
    """The format of a sound file that holds no pickle; "" if it is none that is known here."""
    readers: list[Callable[[Path], object]] = [SafetensorsFile, read_mindspore]
    for name, read in zip(("safetensors file", "MindSpore checkpoint"), readers, strict=True):
        try:
            read(path)
        except UserError:
            continue
        return name
    return ""


def _directory_start(stream: BinaryIO) -> int:
    """Where an archive says that its directory begins. `zipfile` corrects that for bytes in front of the archive, so a
    file could show it other records than PyTorch, which does not."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - (1 << 16) - zipfile.sizeEndCentDir))
    first, data = stream.tell(), stream.read()
    end = data.rfind(b"PK\x05\x06", 0, len(data) - zipfile.sizeEndCentDir + 4)
    (start,) = struct.unpack_from("<I", data, end + 16)
    locator = first + end - zipfile.sizeEndCentDir64Locator
    stream.seek(max(0, locator))
    signature, _, record, _ = struct.unpack("<4sIQI", stream.read(zipfile.sizeEndCentDir64Locator))
    if signature != b"PK\x06\x07":
        return start
    if record != locator - zipfile.sizeEndCentDir64:
        return -1
    stream.seek(record + 48)
    return struct.unpack("<Q", stream.read(8))[0]


def _scan_archive(path: Path, stream: BinaryIO) -> PickleReport:
    """Every record that is a pickle by its name or its content."""
    report = PickleReport(path, "zip archive")
    try:
        with zipfile.ZipFile(stream) as archive:
            if _directory_start(stream) != archive.start_dir:
                raise ValueError("programs would find different records in it")
            if sum(info.compress_size for info in archive.infolist()) > os.fstat(stream.fileno()).st_size:
                raise ValueError("its records overlap")
            stems = {name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")}
            for info in archive.infolist():
                stem, _, key = info.filename.rpartition("/data/")  # PyTorch reads STEM/data/KEY as bytes
                if stem not in stems or key.lower().endswith(_PICKLE_SUFFIXES):
                    _scan_record(report, archive, info)
                if len(report.pickles) > MAX_PICKLES:
                    raise ValueError(f"more than {MAX_PICKLES} pickles")
    except Exception as error:  # a hostile archive can raise nearly anything in `zipfile`
        report.damage.append(f"the archive: {type(error).__name__}: {str(error)[:MAX_SHOWN_NAME]}")
    if any(name.endswith("/data.pkl") for name in report.pickles):
        report.kind = "PyTorch file"
    elif not report.damage:
        report.damage.append("not recognised: a zip archive without PyTorch's data.pkl, which other programs may read")
    return report


def _scan_record(report: PickleReport, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    name = info.filename
    is_pickle = name.lower().endswith(_PICKLE_SUFFIXES)  # PyTorch finds DATA.PKL too
    with archive.open(info) as record:
        data = record.read(MAX_PICKLE_BYTES + 1)  # no more, whatever the archive says
    if len(data) > MAX_PICKLE_BYTES and is_pickle:
        report.damage.append(f"{name} has more than {MAX_PICKLE_BYTES:,} bytes")
        return
    reason = _scan_stream(report, name, io.BytesIO(data))
    if reason and is_pickle:
        report.pickles.append(name)
        report.damage.append(f"{name}: {reason}")
    elif data[:2] == _ZIP[:2]:
        report.damage.append(f"{name} is an archive within the archive")


def _scan_stream(report: PickleReport, name: str, stream: BinaryIO) -> str:
    """Pickles one after the other up to the end; in PyTorch's old format the first five, after which it reads no more.

    Returns why the file is none, if Python's unpickler fails before it asks for a name. "" otherwise.
    """
    old = False
    for number in range(MAX_PICKLES):
        start = stream.tell()
        if old and number == _PICKLES_OF_OLD_FORMAT:
            return ""
        if number and not stream.read(1):
            if old:
                report.damage.append(f"{name}: cut off, PyTorch's old format has {_PICKLES_OF_OLD_FORMAT} pickles")
            return ""
        stream.seek(start)
        where = name if not start else f"{name} at byte {start:,}"
        asked = False
        try:
            for found in _names(report, stream):
                asked = True
                report.names[found] += 1
                if len(report.names) > MAX_NAMES:
                    raise ValueError(f"more than {MAX_NAMES:,} names")
        except Exception as error:  # a hostile pickle can raise nearly anything
            reason = str(error)[:MAX_SHOWN_NAME]
            if type(error) is _NoPickle and not number and not asked:
                return reason
            report.pickles.append(where)
            report.damage.append(f"{where}: {type(error).__name__.strip('_')}: {reason}")
            return ""
        report.pickles.append(where)
        if not number:
            end = stream.tell()
            stream.seek(0)
            old = stream.read(end) in _OLD_FORMAT
    report.damage.append(f"{name}: more than {MAX_PICKLES} pickles")
    return ""


def _argument(operation: pickletools.OpcodeInfo, stream: BinaryIO, room: int) -> bytes:
    """The argument of an operation as it lies in the file, its length included. `room`: what may be left to read."""
    size = operation.arg.n if operation.arg else 0
    if size == pickletools.UP_TO_NEWLINE:
        lines = 2 if operation.name in ("GLOBAL", "INST") else 1
        found = b"".join(stream.readline(MAX_PICKLE_BYTES + 1) for _ in range(lines))
        missing = found.count(b"\n") < lines
    else:
        found = stream.read(width := _LENGTHS.get(size, 0))
        size = int.from_bytes(found, "little") if width else size
        found += stream.read(min(size, MAX_PICKLE_BYTES + 1))
        missing = len(found) < width + size
    if missing:
        raise ValueError(_TOO_LONG) if len(found) >= room else _NoPickle("cut off")
    return found


def _operations(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, bytes]]:
    """The operations of one pickle and their arguments, divided as Python's unpickler does.

    `pickletools.genops` refuses numbers and texts that the unpickler takes. The unpickler does not go back into a frame
    that it left, so an operation across the end of a frame, or an end before it, would have it read elsewhere.
    """
    position = frame_end = 0
    while True:
        code = stream.read(1)
        operation = pickletools.code2op.get(code.decode("latin-1"))
        if operation is None:
            raise _NoPickle(f"no operation has the code {code!r}" if code else "cut off")
        argument = _argument(operation, stream, MAX_PICKLE_BYTES - position)
        start, position = position, position + 1 + len(argument)
        if position > MAX_PICKLE_BYTES:
            raise ValueError(_TOO_LONG)
        if start < frame_end and (operation.name == "FRAME" or position > frame_end):
            raise ValueError("an operation across the end of a frame")
        if operation.name == "FRAME":
            frame_end = position + int.from_bytes(argument, "little")
        if operation.name == "STOP" and position < frame_end:
            raise ValueError("a frame beyond the end")
        yield operation, argument
        if operation.name == "STOP":
            return


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

    for operation, raw in _operations(stream):
        report.operations += 1
        if report.operations > MAX_OPERATIONS:
            raise ValueError(_TOO_LONG)
        name = operation.name
        argument = _value(operation, raw) if name in _VALUES else None
        if name in ("GLOBAL", "INST"):
            yield _global(raw)
        elif name == "STACK_GLOBAL":
            if len(stack) < 2:
                raise _NoPickle("a name of nothing")
            member, module = pop(), pop()
            known = type(module) is str and type(member) is str
            yield (_shortened(module), _shortened(member)) if known else UNKNOWN
        elif name in ("EXT1", "EXT2", "EXT4"):
            yield "copyreg extension", str(int.from_bytes(raw, "little"))
        if name in _STRINGS:
            stack.append(argument)
        elif name in _GETS:
            stack.append(memo.get(argument))
        elif name in _PUTS:
            memo[argument] = stack[-1] if stack else None
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


def _value(operation: pickletools.OpcodeInfo, raw: bytes) -> Any:
    """A text, None if its encoding decides what it is; a place in the memo, which must be a number."""
    try:
        return operation.arg.reader(io.BytesIO(raw))
    except ValueError:
        if operation.name in _STRINGS:
            return None
        raise


def _global(raw: bytes) -> tuple[str, str]:
    """The module and the name in two lines."""
    try:
        module, member, _ = raw.decode().split("\n")
    except UnicodeDecodeError:
        raise _NoPickle("a name that is not UTF-8") from None
    return _shortened(module), _shortened(member)


def _shortened(name: str) -> str:
    """A name of bounded length, which the points keep off the list."""
    return name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}..."


def _follow(operation: pickletools.OpcodeInfo, pop: Any, pop_to_mark: Any) -> None:
    """Take from the stack what an operation takes."""
    before = operation.stack_before
    if pickletools.markobject in before:
        pop_to_mark()
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        pop()


SHOWN = ("file of weights", lambda path: scan(path).to_json(), lines, False)  # for `inspect`
