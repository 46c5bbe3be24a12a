"""Datasets as MindRecord files and back: rows `input_ids`, int32, as PanGu's preprocessing writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.base.printing import print_once
from ms_codegeex.data.datasets.batches import KIND, PackedSequences, read_info
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.exchange.interchange.foreign import check_ids, check_new, import_documents

COLUMN, MASK = "input_ids", "attention_mask"
DIGITS = "0123456789"  # at the end of the names of files that MindRecord's writer made together
_ROWS = 256  # handed to MindRecord at a time


def export_mindrecord(
    dataset: Path,
    output: Path,
    split: str = "train",
    seq_length: int = 2048,
    *,
    files: int = 1,
    seed: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the packed sequences of a split as MindRecord files into a new directory, completely or not at all.

    Fine-tuning examples are refused because MindRecord has no mask. Each file is independent and the first rows are in
    the first, so give a reader all of them, in order. Rows have `seq_length` + 1 tokens; neighbours share their border
    token, as in training.

    Args:
        output: directory for `SPLIT-00000-of-00004.mindrecord` and so on.
        seed: write rows in the order of training with this seed; None: in the order of the dataset.

    Returns:
        `rows`, `files` (names), `seq_length`, `split`, `output`.
    """
    if read_info(dataset).get("kind") == KIND:
        raise UserError(f"{dataset}: holds examples of fine-tuning, and MindRecord has no mask; export it --to triplet")
    if seed is not None and not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: expected 0 to 2**32 - 1, as in a run")
    sequences = PackedSequences(dataset, split, seq_length, seed or 0)
    if not 1 <= files <= sequences.size:
        raise UserError(f"--files {files}: expected 1 to {sequences.size}, the number of rows")
    check_new(output)
    names = [f"{split}-{number:05d}-of-{files:05d}.mindrecord" for number in range(files)]
    bounds = np.linspace(0, sequences.size, files + 1).astype(np.int64)
    rows = tqdm(total=sequences.size, unit=" rows", disable=None if progress else True)  # only on a terminal
    with atomic_directory(output) as directory, rows as bar:
        for number, name in enumerate(names):
            chunks = _packed_rows(sequences, int(bounds[number]), int(bounds[number + 1]), seed)
            _write_mindrecord(directory / name, chunks, bar)
    return {"rows": sequences.size, "files": names, "seq_length": seq_length, "split": split, "output": str(output)}


def _packed_rows(sequences: PackedSequences, start: int, stop: int, seed: int | None) -> Iterator[np.ndarray]:
    """Rows start..stop-1 in blocks, int32 `[rows, seq_length + 1]`."""
    for first in range(start, stop, _ROWS):
        numbers = np.arange(first, min(first + _ROWS, stop))
        indices = numbers if seed is None else sequences.indices(numbers)
        batch = sequences.read(indices, numbers)
        yield np.concatenate([batch.inputs, batch.labels[:, -1:]], axis=1)


def _write_mindrecord(path: Path, blocks: Iterable[np.ndarray], bar: Any) -> None:
    from mindspore.mindrecord import FileWriter

    try:
        writer = FileWriter(str(path), shard_num=1)
        writer.add_schema({COLUMN: {"type": "int32", "shape": [-1]}}, "token ids")
        for rows in blocks:
            writer.write_raw_data([{COLUMN: row} for row in rows])
            bar.update(len(rows))
        writer.commit()
    except RuntimeError as error:
        remedy = "check the space and the mode of its directory"
        raise UserError(f"{path.name}: MindRecord could not be written ({_line(error)}); {remedy}") from None


def mindrecord_rows(paths: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
    """Source (`file:row`, rows from 0) and `input_ids` of each row of the files, in order; without padding, if there is
    an `attention_mask`. A line names other columns."""
    from mindspore.mindrecord import FileReader

    for path in paths:
        try:
            # a list: given a single name, it would also read the sibling files
            reader = FileReader([str(path)])
        except RuntimeError as error:
            unread = f"not readable as MindRecord ({_line(error)})"
            raise UserError(f"{path}: {unread}; add its .db, or write it again") from None
        try:
            if COLUMN not in (columns := reader.schema()):
                lacks = f"has no column {COLUMN}, but {', '.join(columns)}"
                raise UserError(f"{path}: {lacks}; write the token ids as {COLUMN}")
            if others := ", ".join(sorted(columns.keys() - {COLUMN, MASK})):
                print_once(f"{path.parent}: of MindRecord's columns only {COLUMN} is imported, not {others}")
            for number, row in enumerate(reader.get_next()):
                ids = np.asarray(row[COLUMN]).ravel()
                if ids.dtype.kind not in "iu":
                    raise UserError(f"{path}: {COLUMN} holds {ids.dtype.name}, expected whole numbers; give token ids")
                if (real := np.asarray(row.get(MASK, np.ones(ids.size))).ravel()).size != ids.size:
                    wrong = f"{MASK} has {real.size} numbers for {ids.size} ids"
                    raise UserError(f"{path}: {wrong}; write it again without {MASK}")
                yield f"{path.name}:{number}", ids[real != 0]
        except RuntimeError as error:
            raise UserError(f"{path}: not readable to its end ({_line(error)}); write or copy it again") from None
        finally:
            reader.close()


def _line(error: Exception) -> str:
    """The message of an error: MindSpore's line with [ERROR], which follows a heading and a frame, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return next((line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")), lines[0])


def import_mindrecord(
    inputs: Sequence[Path], output: Path, tokenizer: str, *, validation_share: float = 0.05, replace: bool = False
) -> dict[str, Any]:
    """Write a dataset directory from MindRecord files, or from the `.mindrecord` files of directories in the order of
    their names; the other arguments are as in `import_documents`. A row is split into documents after each end token. A
    document that ends with its row gets one, so a document that continues in the next row becomes two. Runs of end
    tokens, as in padding, are not documents."""
    known = load_tokenizer(tokenizer)
    paths = [path for given in inputs for path in _mindrecords(given)]
    for folder, stem in sorted({(path.parent, path.name.rstrip(DIGITS)) for path in paths if path.name[-1] in DIGITS}):
        if left := sum(x.name.rstrip(DIGITS) == stem and x not in paths for x in folder.iterdir()):
            print_once(f"{folder / stem}…: {left} more files of this set are not named, so they are not imported")

    def documents() -> Iterator[tuple[str, np.ndarray, None]]:
        for source, row in mindrecord_rows(paths):
            check_ids(row, known, source)
            ends = np.flatnonzero(row == known.eos_id)
            for number, part in enumerate(np.split(row, ends + 1)):
                text = part[part != known.eos_id]
                if text.size:
                    yield f"{source}.{number}", np.append(text, known.eos_id), None

    extra = {"made_from": "mindrecord"}
    return import_documents(documents(), output, known, tokenizer, extra, validation_share, replace)


def _mindrecords(path: Path) -> list[Path]:
    if path.is_dir():
        named = (file for file in path.iterdir() if ".mindrecord" in file.name or Path(f"{file}.db").exists())
        files = sorted(file for file in named if file.suffix != ".db")
        if files:
            return files
    if not path.is_file():
        raise UserError(f"{path}: neither a MindRecord file nor a directory with one; name the file")
    return [path]
