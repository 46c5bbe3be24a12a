"""Commands of docs/hardware.md for GPUs are understood, and it counts the tests that exist; figures of a step agree."""

import math
import re
import shlex

import pytest
import test_on_a_gpu
from conftest import ROOT

from ms_codegeex.base.hardware import H100
from ms_codegeex.cli import parse

PAGE = ROOT / "docs" / "hardware.md"
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def test_commands_are_understood():
    text = PAGE.read_text(encoding="utf-8").partition("\n## NVIDIA GPUs\n")[2]
    lines = re.findall(r"^(ms-codegeex [^\n#]+)", text, re.MULTILINE)
    assert len(lines) >= 7
    for line in lines:
        parse(shlex.split(line)[1:])


def test_the_pages_count_the_tests_marked_gpu():
    functions = [value for name, value in vars(test_on_a_gpu).items() if name.startswith("test_")]
    marks = [getattr(function, "pytestmark", []) for function in functions]
    count = sum(math.prod(len(mark.args[1]) for mark in each if mark.name == "parametrize") for each in marks)
    for page in ("docs/hardware.md", "docs/status.yaml", "docs/status.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert re.search(rf"all {count} tests marked `gpu`", text, re.IGNORECASE), page


# how many tensors of its size an operator moves; a product with ones and a sum read one
MOVES = {"x * x": 2, "x + x": 2, "BiasAdd": 2, "ones @ x": 1, "ReduceSum(x * x)": 3, "Softmax": 2, "LogSoftmax": 2}
MOVES |= {"LogSoftmaxGrad": 3, "FastGeLU": 2}


def test_predicted_seconds_follow_from_the_bytes():
    text = RESULTS.read_text(encoding="utf-8").partition("\n## A step on an H100, by kernel\n")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (.+), FP(16|32) \[(.+)\] \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| (.*)\|$", text, re.MULTILINE
    )
    assert {row[0] for row in rows} == set(MOVES)
    for name, bits, shape, megabytes, predicted, measured, other in rows:
        moved = MOVES[name] * int(bits) // 8 * math.prod(map(int, shape.split(",")))
        assert int(megabytes.replace(",", "")) == round(moved / 1e6), name
        assert float(predicted) == round(moved / H100.memory_bandwidth * 1e3, 3), name
        assert 1 < float(measured) / float(predicted) < 3, name
        assert not other.strip() or float(other.split()[-1]) > 4 * float(measured), name


def test_the_prediction_of_a_step_is_the_sum_of_its_rows():
    """The slow test of `tests/benchmarks/test_gpu_benchmark.py` computes it from the compiled graphs."""
    text = RESULTS.read_text(encoding="utf-8").partition("\n## A step on an H100, by kernel\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| [^|*]+ \| (\d+\.\d) \| (\d+\.\d) \|$", text, re.MULTILINE)
    (totals,) = re.findall(r"^\| \*\*predicted\*\* \| \*\*([\d.]+)\*\* \| \*\*([\d.]+)\*\* \|$", text, re.MULTILINE)
    assert len(rows) == 14
    for column, total in zip(zip(*rows, strict=True), totals, strict=True):
        assert sum(map(float, column)) == pytest.approx(float(total), abs=0.05 * len(rows))
