"""Where the benchmarks' files are, which are not part of the project: a directory that MS_CODEGEEX_BENCHMARKS names, by
default `shared/data` beside the checkout, with humaneval-x/, humanevalx-codegeex2/ and mtpb/ in it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str) -> Path:
    """That directory or file; the test is skipped where it is absent."""
    path = Path(os.environ.get("MS_CODEGEEX_BENCHMARKS") or ROOT.parent / "shared" / "data") / name
    if not path.exists():
        pytest.skip(f"needs the benchmark's {name}; name the directory that has it in MS_CODEGEEX_BENCHMARKS")
    return path
