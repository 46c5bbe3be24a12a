"""The benchmarks' files, which are not part of the project: in a directory named by MS_CODEGEEX_BENCHMARKS, by
default `shared/data` next to the checkout, with humaneval-x/, humanevalx-codegeex2/ and mtpb/ in it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def benchmark(name: str) -> Path:
    """That directory or file; the test is skipped if it does not exist."""
    path = Path(os.environ.get("MS_CODEGEEX_BENCHMARKS") or ROOT.parent / "shared" / "data") / name
    if not path.exists():
        pytest.skip(f"needs the benchmark's {name}; name the directory that has it in MS_CODEGEEX_BENCHMARKS")
    return path
