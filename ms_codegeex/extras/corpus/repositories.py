"""Documents that join the files of a repository, in the format of Qwen2.5-Coder (its technical report, 2024, and its
guide to completion in repositories):

    <|repo_name|>NAME
    <|file_sep|>PATH
    TEXT
    <|file_sep|>PATH
    TEXT
    <|endoftext|>

In the shards, each file begins with the name of its repository. Joining removes it from all but the first file of a
document. Only files that were kept are joined, in the order of the input; for source files this is the order of their
paths. A repository with files in both splits counts once in each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
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

COUNTS, _NUMBERS = ("repositories", "files", "documents"), ("number", "start", "tokens", "bytes")
_FILE = np.dtype([("key", "<u8"), ("split", "i1"), *((name, "<i8") for name in _NUMBERS), ("language", "S32")])
Placed = tuple[Shard, np.ndarray]
"""A shard and what became of its documents, as of `selection.placed_documents`."""


def check_marks(tokenizer: Tokenizer, limit: int | None) -> None:
    """Raise `UserError` if files are to be joined but the tokenizer has no marks for them."""
    if limit is not None and tokenizer.file_marks is None:
        lacking = f"the {tokenizer.name} tokenizer has no tokens that mark repositories and files"
        remedy = "give --tokenizer a directory with Qwen2's, or leave out --repositories"
        raise UserError(f"--repositories {limit}: {lacking}; {remedy}")


def join_files(
    documents: Documents, placed: Iterable[Placed], tokenizer: str, limit: int, phases: Phases
) -> tuple[list[Placed], dict[str, int]]:
    """Join the files that are `placed` in a split into documents of at most `limit` tokens; a larger file is its own
    document. Return the shards to write, first those with documents outside repositories, and the numbers `COUNTS`."""
    keyed = KeyedRows(phases.directory, "files", len(phases.blocks), _FILE, len(phases.blocks))
    phases.by_block(keyed.phase, _files, save=keyed.write)
    paths = [result_path(phases.directory, f"joined-{limit}", part) for part in range(keyed.parts)]
    missing = [(path, part) for part, path in enumerate(paths) if not path.with_name(path.name + ENDINGS[-1]).exists()]
    ids = [shard.ids_path for shard in documents.shards]
    phases.run(functools.partial(_join, keyed, documents.starts, ids, tokenizer, limit), missing)
    alone = ((shard, np.where(shard.column("group") < 0, splits, -1)) for shard, splits in placed)
    written = [(shard, splits) for shard, splits in alone if (splits >= 0).any()]
    metas = [*map(read_meta, paths)]
    for path, meta in zip(paths, metas, strict=True):
        sizes = [meta["train"], meta["documents"] - meta["train"]]
        written.append((Shard(path, meta["documents"]), np.repeat(np.array([TRAIN, VALIDATION], np.int8), sizes)))
    return written, {name: sum(meta[name] for meta in metas) for name in COUNTS}


def _files(directory: Path, block: DocumentBlock, _: np.ndarray) -> np.ndarray:
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
    keyed: KeyedRows, starts: np.ndarray, paths: list[Path], name: str, limit: int, task: tuple[Path, int]
) -> None:
    path, part = task
    files = keyed.read(part)
    files = files[np.lexsort((files["number"], files["key"], files["split"]))]
    tokenizer, _, dtype = load_encoder(name)
    decode, opened = text_decoder(tokenizer), functools.lru_cache(64)(lambda path: np.memmap(path, dtype, "r"))
    marks = [decode([mark]) for mark in tokenizer.file_marks]

    def read(file: np.void) -> np.ndarray:
        ids = opened(paths[int(np.searchsorted(starts, file["number"], side="right")) - 1])
        return ids[file["start"] : file["start"] + file["tokens"] - 1]

    rows, training = DocumentRows(), 0
    with shared_files(*(path.with_name(path.name + ending) for ending in ENDINGS)) as (ids_path, others):
        with open(ids_path, "wb") as stream:
            tokens = TokenFile(stream, dtype, tokenizer.eos_id)
            for its, ids in _documents(files, read, limit, tokenizer.file_marks[1]):
                rows.add(_document(its, decode(ids.tolist()), marks), *tokens.add([ids]))
                training += its["split"][0] == TRAIN
        groups = np.unique(files[["key", "split"]])
        rows.write(others, repositories=groups.size, files=files.size, train=int(training))


def _documents(
    files: np.ndarray, read: Callable[[np.void], np.ndarray], limit: int, mark: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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


def _document(files: np.ndarray, text: bytes, marks: list[bytes]) -> Document:
    """Return a joined document, named after its repository and first file, in the language of most of its bytes."""
    lines = zip(text.split(b"\n", 2), marks, strict=False)
    repository, path = (line.removeprefix(mark).decode() for line, mark in lines)
    languages = sorted({*files["language"].tolist()})
    language = max(languages, key=lambda name: files["bytes"][files["language"] == name].sum())
    return Document(f"{repository}/{path}", text, language.decode(), repository)
