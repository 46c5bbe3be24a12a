"""Where tests find the benchmarks' files: only where the user says."""

import pytest
from benchmark_data import benchmark

VARIABLE = "MS_CODEGEEX_BENCHMARKS"


def reason(name):
    with pytest.raises(pytest.skip.Exception) as skipped:
        benchmark(name)
    return str(skipped.value)


def test_only_the_variable_names_the_directory(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "mtpb").mkdir()
    assert benchmark("mtpb") == tmp_path / "mtpb" and benchmark("") == tmp_path
    for value in (None, ""):
        monkeypatch.setenv(VARIABLE, value) if value is not None else monkeypatch.delenv(VARIABLE)
        assert reason("mtpb") == f"needs the benchmarks' mtpb; name the directory that has them in {VARIABLE}"


def test_without_a_name_the_reason_is_a_sentence_too(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    assert reason("") == f"needs the benchmarks' files; name the directory that has them in {VARIABLE}"
