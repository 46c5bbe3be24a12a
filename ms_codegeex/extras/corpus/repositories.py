"""Documents that hold the files of a repository, in the form of Qwen2.5-Coder (its technical report, 2024; its guide to
completion in repositories):

    <|repo_name|>NAME
    <|file_sep|>PATH
    TEXT
    <|file_sep|>PATH
    TEXT
    <|endoftext|>

In the shards, each file begins with its repository's name, which all but the first file of a document lose here. Joined
are the files that were kept, in the order of the input: source files in that of their paths. A repository with files in
both splits counts as one in each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import shared_files
from ms_codegeex.data.tokenizer import Tokenizer
from ms_codegeex.data.tokenizer.fast import text_decoder
from ms_codegeex.extras.corpus.phases import DocumentBlock, Documents, KeyedRows, Phases, result_path
from ms_codegeex.extras.corpus.reading import Document
from ms_codegeex.extras.corpus.selection import TRAIN, VALIDATION
from ms_codegeex.extras.corpus.shards import ENDINGS, DocumentRows, Shard, TokenFile, load_encoder, read_meta

COUNTS = ("repositories", "files", "documents")
_NUMBERS = ("number", "start", "tokens", "bytes")
_FILE = np.dtype([("key", "<u8"), ("split", "i1"), *((name, "<i8") for name in _NUMBERS), ("language", "S32")])


def check_marks(tokenizer: Tokenizer, limit: int | None) -> None:
    """`UserError` if files are to be joined, and the tokenizer has no marks for them."""
    if limit is not None and tokenizer.file_marks is None:
        lacking = f"the {tokenizer.name} tokenizer has no tokens that mark repositories and files"
        remedy = "give --tokenizer a directory with Qwen2's, or leave out --repositories"
        raise UserError(f"--repositories {limit}: {lacking}; {remedy}")


@dataclass(frozen=True)
class JoinedFiles:
    """The shards of joined documents, by their paths without ending."""

    paths: tuple[Path, ...]

    def counts(self) -> dict[str, int]:
        """How many `files` of how many `repositories` are in how many `documents`."""
        metas = [*map(read_meta, self.paths)]
        return {name: sum(meta[name] for meta in metas) for name in COUNTS}

    def placed(self, files: Iterable[tuple[Shard, np.ndarray]]) -> Iterator[tuple[Shard, np.ndarray]]:
        """Shards with the splits of their documents, as `write_splits` takes them: of `files`, which are the placed
        documents of all shards, those that are in no repository, then the joined ones."""
        for shard, splits in files:
            yield shard, np.where(shard.column("group") < 0, splits, -1)
        for path in self.paths:
            count, training = (read_meta(path)[name] for name in ("documents", "train"))
            yield Shard(path, count), np.repeat(np.array([TRAIN, VALIDATION], np.int8), [training, count - training])


def join_files(documents: Documents, tokenizer: str, limit: int, phases: Phases) -> JoinedFiles:
    """Join the files that `select` has placed into documents of at most `limit` tokens, or of one larger file."""
    keyed = KeyedRows(phases.directory, "files", len(phases.blocks), _FILE, len(phases.blocks))
    phases.by_block(keyed.phase, _files, save=keyed.write)
    paths = tuple(result_path(phases.directory, f"joined-{limit}", part) for part in range(keyed.parts))
    missing = [(path, part) for part, path in enumerate(paths) if not path.with_name(path.name + ENDINGS[-1]).exists()]
    ids = tuple(shard.ids_path for shard in documents.shards)
    phases.run(functools.partial(_join, keyed, documents.starts, ids, tokenizer, limit), missing)
    return JoinedFiles(paths)


def _files(directory: Path, block: DocumentBlock, _: np.ndarray) -> np.ndarray:
    """A row for each document of the block that is kept and belongs to a repository."""
    tables = [np.empty(0, _FILE)]
    for shard in block.shards:
        columns, table = shard.read("language", "bytes", "tokens"), np.zeros(shard.documents, _FILE)
        table["start"] = np.cumsum(columns["tokens"]) - columns["tokens"]
        table["language"] = np.array(shard.names()["languages"], "S32")[columns["language"]]
        table["tokens"], table["bytes"] = columns["tokens"], columns["bytes"]
        tables.append(table)
    table = np.concatenate(tables)
    table["number"] = np.arange(block.first, block.end)
    for name, phase in (("key", "keys-package"), ("split", "placed")):
        table[name] = np.load(result_path(directory, phase, block.number), allow_pickle=False)
    return table[(table["split"] >= 0) & (block.column("group") >= 0)]


def _join(
    keyed: KeyedRows, starts: np.ndarray, paths: tuple[Path, ...], name: str, limit: int, task: tuple[Path, int]
) -> None:
    """Write a shard of the joined documents of one part, those for training first."""
    path, part = task
    files = keyed.read(part)
    files = files[np.lexsort((files["number"], files["key"], files["split"]))]
    tokenizer, _, dtype = load_encoder(name)
    opened = functools.lru_cache(64)(lambda shard: np.memmap(paths[shard], dtype, "r"))

    def read(file: np.void) -> np.ndarray:
        start, shard = file["start"], int(np.searchsorted(starts, file["number"], side="right")) - 1
        return opened(shard)[start : start + file["tokens"] - 1]

    decode, rows, splits = text_decoder(tokenizer), DocumentRows(), [0, 0]
    outputs = (path.with_name(path.name + ending) for ending in ENDINGS)
    with shared_files(*outputs) as (ids_path, others):
        with open(ids_path, "wb") as stream:
            tokens = TokenFile(stream, dtype, tokenizer.eos_id)
            for its, ids in _documents(files, read, limit, tokenizer.file_marks[1]):
                document = _document(its, ids, decode, tokenizer.file_marks[1])
                rows.add(document, *tokens.add([ids]))
                splits[its["split"][0]] += 1
        count = len(np.unique(files[["key", "split"]]))
        rows.write(others, checksum=tokens.checksum, repositories=count, files=files.size, train=splits[TRAIN])


def _documents(
    files: np.ndarray, read: Callable[[np.void], np.ndarray], limit: int, mark: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of each document's files, and its ids without the end token."""
    first, pieces, size = 0, list[np.ndarray](), 1
    for number, file in enumerate(files):
        ids = read(file)
        body = ids[int((ids == mark).argmax()) :]
        same = all(files[first][name] == file[name] for name in ("key", "split"))
        if pieces and (not same or size + len(body) > limit):
            yield files[first:number], np.concatenate(pieces)
            first, pieces, size = number, [], 1
        pieces.append(body if pieces else ids)
        size += len(pieces[-1])
    if pieces:
        yield files[first:], np.concatenate(pieces)


def _document(files: np.ndarray, ids: np.ndarray, decode: Callable[[list[int]], bytes], mark: int) -> Document:
    """A joined document, named by its repository and its first file, in the language of most of its bytes."""
    head = int((ids == mark).argmax())
    parts = [decode(part.tolist()) for part in (ids[:1], ids[1:head], ids[head : head + 1], ids[head + 1 :])]
    repository, path = (part.partition(b"\n")[0].decode() for part in parts[1::2])
    sizes = {name: int(files["bytes"][files["language"] == name].sum()) for name in np.unique(files["language"])}
    language = max(sizes, key=sizes.__getitem__).decode()
    return Document(f"{repository}/{path}", b"".join(parts), language, repository)
