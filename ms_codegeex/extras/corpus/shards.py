"""Shards: a worker's output for one unit of input, the ids and columns of its documents in two files.

`NAME.bin` holds the concatenated ids of all documents, `NAME.npz` the columns and the rejected input. The .npz appears
last, in one step; without it a shard does not exist. Nothing is synced: shards have to survive a killed process, but
not a power failure, whose damage their checksums show."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from isal import isal_zlib

from ms_codegeex.base.files import shared_files
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.data.datasets.indexed import token_dtype
from ms_codegeex.data.infilling.sentinels import UNNAMED
from ms_codegeex.data.languages import tag_prefix
from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.reading import Document, Unit, read_unit
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.tally import Tally, moved
from ms_codegeex.extras.shared.records import ReturnKeeper

ENDINGS = (".bin", ".npz")
NUMBERS = ("language", "group", "licence", "bytes", "tokens", "licence_bytes")  # columns of int64
LISTED = ("dropped", "problems", "unread", "changed")  # kinds of events in the file of `--dropped`
_BUFFER = 1 << 22  # bytes
_BLOCK = 1 << 21  # bytes of text that are encoded and written together


@dataclass(frozen=True)
class ShardJob:
    """Settings that all units share: how input is read, the scheme of the tag lines, and a tokenizer's name or
    directory. `signatures`: compute MinHash signatures by `words` or `tokens` (None: no signatures). `listed`: shards
    list what was dropped or changed. `marked`: the files of a repository are marked, for `repositories`."""

    reading: ReadingSettings
    tags: str
    tokenizer: str
    signatures: str | None
    listed: bool = False
    marked: bool = False


def shard_name(key: str, unit: Unit) -> str:
    """Return a shard's name without ending. It depends on `key` and the files' times, so no stale shard is found."""
    return hashlib.sha256(f"{key} {unit!r}".encode()).hexdigest()[:40]


@functools.lru_cache(maxsize=1)
def load_encoder(name: str) -> tuple[Tokenizer, CorpusEncoder, np.dtype]:
    tokenizer = load_tokenizer(name)
    return tokenizer, CorpusEncoder(tokenizer), token_dtype(tokenizer.vocab_size)


class TokenFile:
    """A file of ids. `checksum` is the CRC-32 of what was added."""

    def __init__(self, stream: BinaryIO, dtype: np.dtype, eos_id: int) -> None:
        self._stream, self._end = stream, np.array([eos_id], dtype)
        self.checksum = 0

    def add(self, documents: Sequence[np.ndarray]) -> list[int]:
        """Append documents, each with its end token. Return their numbers of ids."""
        pieces = [piece for ids in documents for piece in (ids, self._end)]
        together = np.concatenate(pieces, dtype=self._end.dtype, casting="unsafe")
        self._stream.write(together.data)
        self.checksum = isal_zlib.crc32(together.data, self.checksum)
        return [ids.size + 1 for ids in documents]


class DocumentRows:
    """The columns of a shard, collected document by document."""

    def __init__(self, redactions: Sequence[str] = (), signatures: str | None = None) -> None:
        self._redactions, self._signed_by = redactions, signatures
        self._sources: list[bytes] = []
        self._names: dict[str, dict[str, int]] = {"languages": {}, "groups": {}, "licences": {}}
        self._numbers: list[tuple[int, ...]] = []
        self._hashes: list[bytes] = []
        self._redacted: list[list[int]] = []
        self._signatures: list[np.ndarray | None] = []
        self.events: list[bytes] = []

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, document: Document, tokens: int) -> None:
        """Append a document that has `tokens` ids, including its end token."""
        source, data, language, group, redacted, licence_bytes, licence, _ = document
        self._sources.append(source.encode())
        languages, groups, licences = self._names.values()
        code = languages.setdefault(language, len(languages))
        group = -1 if group == source else groups.setdefault(group, len(groups))
        licence = licences.setdefault(licence, len(licences))
        self._numbers.append((code, group, licence, len(data), tokens, licence_bytes))
        text = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
        body = text.rstrip(b"\n") if text.endswith(b"\n\n") else memoryview(text)[: len(text) - text.endswith(b"\n")]
        hashed = hashlib.sha256(body)
        plain = hashed.digest()
        hashed.update(data[len(body) :])  # one pass for both hashes
        self._hashes += [(hashed if text is data else hashlib.sha256(data)).digest(), plain]
        if self._redactions:
            emails, everything = dict(redacted).get("email", 0), sum(n for _, n in redacted)
            counts = {"email": emails, "real-email": emails, "secrets": everything - emails}
            self._redacted.append([counts[name] for name in self._redactions])
        if self._signed_by:
            from ms_codegeex.extras.corpus.minhash import signature

            self._signatures.append(signature(data, language, self._signed_by))

    def write(self, path: Path, **meta: Any) -> None:
        """Write the `.npz` file of a shard, with `meta` and the names that its codes stand for."""
        names = {kind: list(known) for kind, known in self._names.items()}
        text = json.dumps({"documents": len(self), **meta, **names}, ensure_ascii=False)
        with open(path, "wb") as stream:
            events = np.frombuffer(b"".join(self.events), np.uint8)
            np.savez(stream, meta=np.frombuffer(text.encode(), np.uint8), events=events, **self._columns())

    def _columns(self) -> dict[str, np.ndarray]:
        count, numbers = len(self), np.array(self._numbers, np.int64).reshape(-1, len(NUMBERS))
        hashes = np.frombuffer(b"".join(self._hashes), np.uint8).reshape(count, 2, 32)
        columns = {
            "source": np.frombuffer(b"".join(self._sources), np.uint8),
            "source_end": np.cumsum([len(source) for source in self._sources], dtype=np.int64),
            **dict(zip(NUMBERS, numbers.T, strict=True)),
            "sha256": hashes[:, 0],
            "text_sha256": hashes[:, 1],
            "redacted": np.array(self._redacted, np.int64).reshape(count, len(self._redactions)),
        }
        if self._signed_by:
            from ms_codegeex.extras.corpus.minhash import PERMUTATIONS

            blank = np.zeros(PERMUTATIONS, np.uint32)
            rows = [blank if row is None else row for row in self._signatures]
            columns["signature"] = np.array(rows, np.uint32).reshape(count, PERMUTATIONS)
            columns["signed"] = np.array([row is not None for row in self._signatures], bool)
        return columns


def make_shard(job: ShardJob, task: tuple[Unit, Path]) -> None:
    """Read a unit and write its shard to the path (without ending) in `task`, unless a sound one is there. Raises
    `UserError` if it cannot be written, for example because the disk is full."""
    unit, path = task
    if is_sound(path):
        return
    files = (path.with_name(path.name + ending) for ending in ENDINGS)
    with contextlib.ExitStack() as stack, shared_files(*files, synced=False) as (ids, others):
        if gc.isenabled():  # documents have no cycles, and each collection would visit every object
            gc.disable()
            stack.callback(gc.enable)
        tokenizer, encoder, dtype = load_encoder(job.tokenizer)
        encode = functools.partial(_encode, job.tags, encoder, tokenizer.file_marks if job.marked else None)
        rows, tally = DocumentRows(job.reading.redact, job.signatures), Tally()
        with open(ids, "wb", _BUFFER) as stream:  # buffered: on a full disk, an unbuffered write is truncated silently
            tokens = TokenFile(stream, dtype, tokenizer.eos_id)
            lines = _fill(unit, job, encode, tokens, rows, tally)
        rows.write(others, checksum=tokens.checksum, lines=lines, tally=vars(tally))


def _encode(tags: str, encoder: CorpusEncoder, marks: tuple[int, int] | None, document: Document) -> np.ndarray:
    text = tag_prefix(document.language, tags) + document.data
    if marks is None or document.group == document.source:
        return encoder.encode(text)
    name, path = (f"{text}\n".encode("utf-8", "replace") for text in (document.group, document.path or UNNAMED))
    file = encoder.encode(path + text.rstrip() + b"\n")  # as infilling shows other files to the model
    return np.concatenate([marks[:1], encoder.encode(name), marks[1:], file])


def _fill(
    unit: Unit,
    job: ShardJob,
    encode: Callable[[Document], np.ndarray],
    tokens: TokenFile,
    rows: DocumentRows,
    tally: Tally,
) -> int:
    items, block, size = ReturnKeeper(read_unit(unit, job.reading)), [], 0
    for item in itertools.chain(items, [None]):
        if isinstance(item, Document):
            block.append(item)
            size += len(item.data)
        elif item is not None:
            tally.add(item, unit.part is not None)
            if job.listed and item.kind in LISTED:
                rows.events.append(json.dumps(item).encode() + b"\n")
        if block and (size >= _BLOCK or item is None):
            for document, count in zip(block, tokens.add([*map(encode, block)]), strict=True):
                rows.add(document, count)
            block, size = [], 0
    return items.value


def is_sound(path: Path) -> bool:
    """Return whether a complete, undamaged shard is at `path` (without ending)."""
    try:
        with _open(path) as columns:
            for name in columns.files:
                columns[name]  # reading it checks its CRC-32
            expected = parse_json(columns["meta"].tobytes())["checksum"]
        checksum = 0
        with open(path.with_name(path.name + ".bin"), "rb") as stream:
            while block := stream.read(_BUFFER):
                checksum = isal_zlib.crc32(block, checksum)
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, isal_zlib.error):
        return False
    return checksum == expected


@dataclass(frozen=True, slots=True)  # slots, as there are very many
class Shard:
    """A finished shard: its path without ending, and the number of its documents. `mask_path`: a file that says which
    ids the loss counts (uint8, one byte per id), or None. `lines` is added to the line number at the end of every
    source. `records` says whether the documents are records."""

    path: Path
    documents: int
    mask_path: Path | None = None
    lines: int = 0
    records: bool = False

    @property
    def ids_path(self) -> Path:
        return self.path.with_name(self.path.name + ".bin")

    def read(self, *names: str) -> dict[str, np.ndarray]:
        """Return columns by name, read together. `source` uint8 and `source_end` int64: the UTF-8 of all sources, and
        where each ends; `language`, `group` and `licence` int64: indices into the `names` (group -1: the document
        itself); `bytes`, `tokens` and `licence_bytes` int64; `sha256` uint8 `[documents, 32]`; `text_sha256`, the same
        without differences in line endings and trailing blank lines; `redacted` int64 `[documents, kinds]`; and if
        there are signatures, `signature` uint32 `[documents, 128]` and `signed` bool."""
        with _open(self.path) as stored:
            return {name: stored[name] for name in names}

    def column(self, name: str) -> np.ndarray:
        return self.read(name)[name]

    def names(self) -> Mapping[str, Sequence[str]]:
        return read_meta(self.path)

    def sources(self, columns: Mapping[str, np.ndarray] | None = None) -> list[str]:
        """Return the sources of all documents, from `columns` if `source` and `source_end` have been read."""
        columns = columns or self.read("source", "source_end")
        data, starts = columns["source"].tobytes(), [0, *columns["source_end"].tolist()]
        return [moved(data[start:end].decode(), self.lines) for start, end in itertools.pairwise(starts)]

    def events(self) -> Iterator[Event]:
        """Yield what was dropped or changed of the input, if the shard lists it."""
        for line in self.column("events").tobytes().splitlines():
            event = Event(*parse_json(line))
            yield event._replace(source=moved(event.source, self.lines))


def read_meta(path: Path) -> dict[str, Any]:
    with _open(path) as columns:
        return parse_json(columns["meta"].tobytes())


def _open(path: Path) -> Any:
    return np.load(path.with_name(path.name + ".npz"), allow_pickle=False)


def read_shard(path: Path, lines: int = 0, records: bool = False) -> tuple[Shard, Tally]:
    """Return a shard that `make_shard` wrote, of `records` or of files, and the tally of what was rejected. `lines`:
    the number of lines of its input that are before it."""
    meta, tally = read_meta(path), Tally()
    tally.merge(Tally(**meta["tally"]), lines)
    return Shard(path, meta["documents"], lines=lines, records=records), tally


def lines_before(units: Sequence[Unit], paths: Sequence[Path]) -> Iterator[int]:
    """Yield for each unit the number of lines in earlier parts of its file, taken from the shards of those parts."""
    lines = 0
    for unit, path in zip(units, paths, strict=True):
        span = unit.part and unit.part.span
        lines = lines if span and span[0] else 0
        yield lines
        lines += read_meta(path)["lines"] if span else 0
