"""The benchmarks' files, which are not part of the project: in the directory that MS_CODEGEEX_BENCHMARKS names, with
humaneval-x/, humanevalx-codegeex2/ and mtpb/ in it."""

import gzip
import json
import os
from pathlib import Path

import pytest


def benchmark(name: str) -> Path:
    """That directory or file; the test is skipped if it does not exist."""
    place = os.environ.get("MS_CODEGEEX_BENCHMARKS")
    if not place or not (Path(place) / name).exists():
        wanted = f"the benchmarks' {name}" if name else "the benchmarks' files"
        pytest.skip(f"needs {wanted}; name the directory that has them in MS_CODEGEEX_BENCHMARKS")
    return Path(place) / name


def write(path: Path, *rows: dict) -> Path:
    """A file of rows of our own, packed if its name says so."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
