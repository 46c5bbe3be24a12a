"""The benchmark of decoding, with a tiny model."""

import importlib
import subprocess
import sys

import pytest
from conftest import ROOT

from ms_codegeex.models.registry import family


def test_no_two_blocks_have_the_same_weights(monkeypatch):
    """CTranslate2 stores equal weights once: a third of the memory, and faster than with a trained model."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    decode = importlib.import_module("decode")
    config = family("codegen").config.build_config("350m-multi", {"vocab_size": 51200})
    first = [decode.random_weights(name, (8,)).tobytes() for name in config.parameter_shapes()]
    assert len(set(first)) == len(first) > 200
    assert first == [decode.random_weights(name, (8,)).tobytes() for name in config.parameter_shapes()]


@pytest.mark.slow
def test_all_of_it_with_a_tiny_model(tmp_path):
    pytest.importorskip("transformers")
    words = ["--tiny", "--rounds", "1", "--new", "4", "--first", "40", "--models", str(tmp_path)]
    engines = ["--engines", "ours-32", "ours-16", "ours-8", "ours-4", "ours-8-fast", "transformers-float32"]
    command = [sys.executable, str(ROOT / "benchmarks" / "decode.py"), *words, *engines]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert "ids of ours-32 and transformers-float32 are equal" in result.stdout
    assert result.stdout.count("aim") == 14 and result.stdout.count("peak") == 6


@pytest.mark.slow
def test_a_tiny_model_with_a_tied_head(tmp_path):
    words = ["--size", "0.5b", "--tiny", "--rounds", "1", "--new", "4", "--first", "40", "--models", str(tmp_path)]
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "decode.py"),
        *words,
        "--engines",
        "ours-32",
        "ours-8",
        "ours-4",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("share of the memory") == 1 and result.stdout.count("peak") == 3
