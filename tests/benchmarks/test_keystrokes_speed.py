"""The benchmark of keystrokes, with a tiny model; what it types, and what it makes of the answers."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from keystrokes import Side, ours, percentile, report, typing, unrelated

from ms_codegeex.data.tokenizer import load_tokenizer


def test_a_prompt_is_the_text_after_the_cursor_then_the_text_before_it():
    tokenizer = load_tokenizer("codegen-multi")
    text = (ROOT / "benchmarks" / "serve.py").read_text(encoding="utf-8")
    prompts = list(typing(text, tokenizer, 100, 30, 8))
    begin = len(tokenizer.decode(tokenizer.encode(text)[:100]))
    after = text[begin + 8 :]
    for count, ids in enumerate(prompts, 1):
        assert after.startswith(tokenizer.decode(ids[:30])) and tokenizer.decode(ids[30:]) == text[: begin + count]
    with pytest.raises(SystemExit, match="too short"):
        list(typing("x = 1\n" * 50, tokenizer, 100, 300, 8))


def test_no_two_first_requests_begin_alike():
    assert len({ids[0] for ids in unrelated(50, 12)}) == 10 == len(unrelated(50, 12))
    assert {len(ids) for ids in unrelated(50, 12)} == {12}


def test_ratios_and_reuse_are_those_of_the_sides(capsys):
    values = [number / 100 for number in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (0.51, 0.96)
    quick = Side("ms-codegeex", None, "", values, reused=99, computed=1)
    slow = Side("llama.cpp", None, "", [2 * value for value in values], reused=90, computed=10)
    found = report([quick, slow])
    assert found["ms-codegeex"] == {"p50_ms": 510.0, "p95_ms": 960.0, "reused": 0.99} and found["p50_ratio"] == 0.5
    printed = capsys.readouterr().out
    assert "reuse: 0.99, aim 0.95 met" in printed and "p95 over llama.cpp's: 0.5, aim 1 met" in printed
    report([slow])
    assert "reuse: 0.9, aim 0.95 not met" in capsys.readouterr().out


def test_a_server_that_does_not_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(SystemExit, match="serve did not start"):
        ours(tmp_path, 1)


@pytest.mark.slow
def test_keystrokes_of_a_tiny_model(tmp_path):
    words = ["--tiny", "--keystrokes", "20", "--new", "4", "--before", "100", "--after", "30", "--models", tmp_path]
    command = [sys.executable, ROOT / "benchmarks" / "keystrokes.py", *words, "--json", tmp_path / "figures"]
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"reuse: 0\.99\d?, aim 0.95 met", result.stdout), result.stdout
    found = json.loads((tmp_path / "figures").read_text())
    assert found["ms-codegeex"]["reused"] > 0.98 and found["first_over_tenth"] > 0
