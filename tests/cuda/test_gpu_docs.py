"""Commands of docs/gpu.md are understood, and it counts the tests that exist."""

import math
import re
import shlex

import test_on_a_gpu
from conftest import ROOT

from ms_codegeex.cli import parse


def test_commands_are_understood():
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(ms-codegeex [^\n#]+)", text, re.MULTILINE)
    assert len(lines) >= 7
    for line in lines:
        parse(shlex.split(line)[1:])


def test_the_pages_count_the_tests_marked_gpu():
    functions = [value for name, value in vars(test_on_a_gpu).items() if name.startswith("test_")]
    marks = [getattr(function, "pytestmark", []) for function in functions]
    count = sum(math.prod(len(mark.args[1]) for mark in each if mark.name == "parametrize") for each in marks)
    for page in ("docs/gpu.md", "docs/status.yaml", "docs/status.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert re.search(rf"all {count} tests marked `gpu`", text, re.IGNORECASE), page
