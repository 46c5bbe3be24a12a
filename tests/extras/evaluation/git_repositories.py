"""A small git history with known edits."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

WHO = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com", "-c", "commit.gpgsign=false"]


def git(place: Path, *words: str) -> None:
    """Run git there; where there is none, the test is skipped."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run(["git", "-C", str(place), *WHO, *words], check=True, capture_output=True)


def commit(place: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (place / name).write_bytes(content)
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message", "Change")


def write_repository(place: Path) -> Path:
    """A history in which a class gets a function, another file uses it, and a third one is finished."""
    git(place, "init", "--quiet")
    shape = b"class Shape:\n    pass\n"
    commit(place, {"shapes.py": shape, "main.py": b"\nprint(1)\n", "util.go": b"func add(a int, b int) int {\n}\n"})
    area = b"\n\ndef area(width, height):\n    return width * height\n"
    commit(
        place, {"main.py": b"from shapes import area\n\nprint(1)\n", "shapes.py": shape + area, "new.py": b"new()\n"}
    )
    commit(place, {"main.py": b"from shapes import area\n\nprint(area(2, 3))\n"})
    commit(place, {"util.go": b"func add(a int, b int) int {\n\treturn a + b\n}\n"})
    return place
