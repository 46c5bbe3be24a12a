"""A small input of every kind for tests of `prepare`, with what is in it counted by hand."""

import gzip
import json
import random
from pathlib import Path

WORDS = ("alpha", "beta", "gamma", "value", "index", "result", "total", "buffer", "stream", "parse", "write", "open")


def source(seed: int, lines: int = 30) -> str:
    """Python code that no other seed gives."""
    generator = random.Random(seed)
    body = [f"    {'_'.join(generator.choices(WORDS, k=3))} = {generator.choice(WORDS)}" for _ in range(lines)]
    return f"def function_{seed}(argument):\n" + "\n".join(body) + "\n"


def write_tree(root: Path, packages: int = 6, files: int = 5) -> int:
    """A tree of Python files; how many."""
    for package in range(packages):
        folder = root / f"package{package}"
        folder.mkdir(parents=True)
        for number in range(files):
            (folder / f"module{number}.py").write_text(source(package * 1000 + number))
    return packages * files


def write_lines(path: Path, count: int, first: int = 0) -> int:
    """A `.jsonl` file of which line 3 is broken, line 5 has no text and line 7 repeats line 1; how many lines."""
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
    """All of it below `root`; how many files, lines and rows."""
    files = write_tree(root / "tree")
    lines = write_lines(root / "dump.jsonl", 12)
    write_gzip(root / "dump.jsonl.gz", 8)
    write_parquet(root / "dump.parquet", 10)
    return files + lines + 8 + 10
