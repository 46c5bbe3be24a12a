"""Small inputs of every kind for tests of `prepare`, counted by hand, and shards as its workers make them."""

import gzip
import json
import random
import tempfile
from pathlib import Path

import numpy as np

from ms_codegeex.extras.corpus.shards import Shard
from ms_codegeex.extras.corpus.tally import Tally

FOLDER = tempfile.TemporaryDirectory()  # removed at the end of the process
WORDS = ("alpha", "beta", "gamma", "value", "index", "result", "total", "buffer", "stream", "parse", "write", "open")


def source(seed: int, lines: int = 30) -> str:
    """Python code, different for each seed."""
    generator = random.Random(seed)
    body = [f"    {'_'.join(generator.choices(WORDS, k=3))} = {generator.choice(WORDS)}" for _ in range(lines)]
    return f"def function_{seed}(argument):\n" + "\n".join(body) + "\n"


def write_tree(root: Path, packages: int = 6, files: int = 5) -> int:
    """Write a tree of Python files; return their number."""
    for package in range(packages):
        folder = root / f"package{package}"
        folder.mkdir(parents=True)
        for number in range(files):
            (folder / f"module{number}.py").write_text(source(package * 1000 + number))
    return packages * files


def write_lines(path: Path, count: int, first: int = 0) -> int:
    """A `.jsonl` file: line 3 is broken, line 5 has no text, line 7 repeats line 1. Return the number of lines."""
    lines = []
    for number in range(1, count + 1):
        record = {"text": source(10_000 + first + number), "lang": "python", "repo_name": f"repo{number % 7}"}
        lines.append(json.dumps(record))
    lines[2] = lines[2][:40]
    lines[4] = json.dumps({"lang": "python"})
    lines[6] = lines[0]
    path.write_text("\n".join(lines) + "\n")
    return count


def write_gzip(path: Path, count: int) -> None:
    """A sound `.jsonl.gz`."""
    with gzip.open(path, "wt") as stream:
        for number in range(count):
            stream.write(json.dumps({"content": source(20_000 + number), "language": "Python"}) + "\n")


def write_parquet(path: Path, count: int) -> None:
    """A `.parquet` file with three rows in a group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"code": [source(30_000 + n) for n in range(count)], "language": ["Python"] * count})
    pq.write_table(table, path, row_group_size=3)


def write_mixed(root: Path) -> int:
    """Write inputs of every kind below `root`; return the number of files, lines and rows."""
    files = write_tree(root / "tree")
    lines = write_lines(root / "dump.jsonl", 12)
    write_gzip(root / "dump.jsonl.gz", 8)
    write_parquet(root / "dump.parquet", 10)
    return files + lines + 8 + 10


def shard(rows, path=None, mask_path=None, **changed):
    """A shard of `(source, language, group or None, content number, bytes, tokens)`, at `path` without ending; columns
    that are `changed` or added."""
    path = path or Path(tempfile.mkdtemp(dir=FOLDER.name)) / "shard"
    languages = list(dict.fromkeys(row[1] for row in rows))
    groups = list(dict.fromkeys(row[2] for row in rows if row[2] is not None))
    sources = [row[0].encode() for row in rows]
    columns = {
        "source": np.frombuffer(b"".join(sources), np.uint8),
        "source_end": np.cumsum([len(source) for source in sources], dtype=np.int64),
        "language": np.array([languages.index(row[1]) for row in rows], np.int64),
        "group": np.array([-1 if row[2] is None else groups.index(row[2]) for row in rows], np.int64),
        "sha256": np.array([[row[3]] * 32 for row in rows], np.uint8).reshape(-1, 32),
        "text_sha256": np.array([[row[3]] * 32 for row in rows], np.uint8).reshape(-1, 32),
        "bytes": np.array([row[4] for row in rows], np.int64),
        "tokens": np.array([row[5] for row in rows], np.int64),
        "licence_bytes": np.zeros(len(rows), np.int64),
        "licence": np.zeros(len(rows), np.int64),
        "redacted": np.zeros((len(rows), 0), np.int64),
        **changed,
    }
    if "signature" in columns:
        columns["signed"] = columns["signature"].any(axis=1)
    meta = {"documents": len(rows), "lines": 0, "tally": vars(Tally()), "languages": languages, "groups": groups}
    meta["licences"] = ["MIT"]
    data = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    np.savez(path.with_name(path.name + ".npz"), meta=data, **columns)
    return Shard(path, len(rows), mask_path)
