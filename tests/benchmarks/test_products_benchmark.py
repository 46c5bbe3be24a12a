"""The benchmark of products with quantised weights, with small matrices and a tiny model."""

import importlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT

from ms_codegeex.kernels import compiling, levels

pytestmark = pytest.mark.skipif(not compiling.cxx_compilers(), reason="no C++ compiler")


def test_time(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    products = importlib.import_module("products")
    for name, value in {"LAYER": ((64, 96), (96, 64)), "LAYERS": 1, "HEAD": (128, 64)}.items():
        monkeypatch.setattr(products, name, value)
    products.measure_time(levels.AUTO, [1, 5], 1)
    lines = capsys.readouterr().out.splitlines()
    assert [re.findall(r"int\d|rows \d|exact|default|fast", line) for line in lines] == [
        [bits, rows, "exact", "default", "fast"] for rows in ("rows 1", "rows 5") for bits in ("int8", "int4")
    ]


@pytest.mark.slow
def test_quality(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    model = importlib.import_module("decode").make_models(tmp_path, True, [])
    words = ["--model", str(model), "--windows", "1", "--length", "40"]
    command = [sys.executable, str(ROOT / "benchmarks" / "products.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rms = dict(re.findall(r"^(int\d \w+) .* ([\d.e-]+) rms", done.stdout, re.MULTILINE))
    assert rms.keys() == {f"{bits} {name}" for bits in ("int8", "int4") for name in ("order", "default", "fast")}
    for bits in ("int8", "int4"):
        assert 0 < 20 * float(rms[f"{bits} default"]) < float(rms[f"{bits} fast"])
