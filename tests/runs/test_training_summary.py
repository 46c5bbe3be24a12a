"""What the end of a run prints: its losses, the model beside simpler ones, and where the time went."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import small_run

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.runs import run_end
from ms_codegeex.runs.run_end import UNKNOWN, Stopwatch, remembered
from ms_codegeex.runs.summary_text import comparison, longer, losses, samples, time_line

SUMMARY = {"steps": 60, "evaluated_step": 60, "validation_loss_before": None}


def said(loss, entropy, shuffled, **more):
    figures = {"validation_loss": loss, "unigram_entropy": entropy, "shuffled_context_loss": shuffled}
    return list(losses({**SUMMARY, **figures, **more}))


def test_a_model_that_has_learnt():
    assert said(2.0, 4.5, 3.25) == [
        "validation loss 2.000 nats per token after 60 steps",
        "  a table of token frequencies would have 4.500, 2.500 more: the model is better",
        "  with shuffled contexts the model has 3.250, 1.250 more: so the context is used",
    ]


def test_a_model_that_has_learnt_nothing():
    assert said(10.668, 4.515, 10.5, validation_loss_before=11.0) == [
        "validation loss 10.668 nats per token after 60 steps, 11.000 before",
        "  a table of token frequencies would have 4.515, 6.153 less: the model is no better",
        "  with shuffled contexts the model has 10.500, 0.168 less: so the context is not used",
    ]


@pytest.mark.parametrize("shuffled", [3.0, None])
def test_equal_and_missing_figures(shuffled):
    lines = said(3.0, 3.0, shuffled)
    assert "0.000 less: the model is no better" in lines[1]
    assert [line.partition(", ")[2] for line in lines[2:]] == ["0.000 less: so the context is not used"] * bool(
        shuffled
    )
    assert said(None, 3.0, None) == ["60 steps; no validation loss: it is not finite"]


def test_which_step_the_figures_are_of():
    best = said(2.0, 4.5, 3.0, evaluated_step=40, validation_loss_before=2.5)
    assert best[0] == "validation loss 2.000 nats per token at step 40, the best of 60, 2.500 before"
    kept = said(2.5, 4.5, 3.0, evaluated_step=0, validation_loss_before=2.5)
    assert kept[0].startswith("NO STEP WAS BETTER than the model that the run started from") and "2.500" in kept[1]
    worse = said(3.0, 4.5, 3.5, validation_loss_before=2.5)
    assert worse[0].endswith("after 60 steps, 2.500 before") and "WORSE than the model" in worse[1]
    assert "training.patience" in worse[2]


def test_what_to_try_next_names_what_ended_the_run():
    config = build_run_config({"training": {"steps": 20, "patience": 2, "evaluate_every": 2}})
    assert longer(config, {"steps": 4, "tokens": 9}) == "training.patience=4"
    assert longer(config, {"steps": 20, "tokens": 9}) == "training.steps=40"


FIGURES = {
    "validation_bits_per_byte": 1.8251,
    "ngram_bits_per_byte": 2.0974,
    "gzip_bits_per_byte": 1.84,
    "byte_frequency_bits_per_byte": 4.9,
    "ngram_tokens": 987_136,
    "validation_bytes": 213_456,
    "parse_share": 0.55,
    "parse_samples": 20,
    "sampling": "temperature 0.5",
}


def test_the_model_beside_simpler_ones():
    assert list(comparison(FIGURES)) == [
        "bits a byte of 213,456 bytes of validation text, comparable between tokenizers:",
        "   1.825  the model",
        "   2.097  a 5-gram (Kneser-Ney) on 987,136 of the tokens trained on",
        "   1.840  gzip -9 of the whole validation split",
        "   4.900  frequencies of bytes in the same tokens",
        "11 of 20 samples parse as Python (functions begun in held-out files, temperature 0.5, ended at a block)",
    ]


def test_the_samples():
    """On a terminal, what the model wrote is bold; what would command the terminal is spelled out."""
    written = [{"prompt": "def f():\n", "continuation": "    x = 1\n    return \x1b\n\n"}]
    summary = {"samples": written, "parse_share": 0.5, "parameters": 989_952}
    head = "how this model of 1 million parameters continues 1 function of held-out files"
    assert list(samples(summary, False)) == [f"{head}:", "", "  def f():", "      x = 1", "      return \\x1b"]
    bold = ["  \x1b[1m    x = 1\x1b[0m", "  \x1b[1m    return \\x1b\x1b[0m"]
    assert list(samples(summary, True)) == [f"{head} (in bold):", "", "  def f():", *bold]
    assert "continues 1 prompt:" in next(samples({**summary, "parse_share": None, "parameters": 2_600_000}, False))


def test_the_time_of_the_last_run_with_the_same_settings(tmp_path, monkeypatch):
    """Wherever its output was; a cache that cannot be written, or holds something else, only takes the line away."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = build_run_config({"training": {"steps": 20}, "output": "a"})
    assert remembered(config, {"steps": 3.0, "total": 5.0}) is None
    assert remembered(replace(config, output="b"), {"total": 7.0}) == {"steps": 3.0, "total": 5.0}
    assert remembered(build_run_config({"training": {"steps": 21}}), {"total": 1.0}) is None
    for damaged in ("[]", "{", '{"total": "5"}', '{"steps": 1}'):
        for file in (tmp_path / "ms_codegeex" / "runs").iterdir():
            file.write_text(damaged)
        assert remembered(config, {"total": 5.0}) is None
        assert remembered(config, {"total": 5.0}) == {"total": 5.0}  # written anew
    for place, found in (("a/corpus-1", None), ("b/corpus-1", {"total": 1.0}), ("c", None)):
        assert remembered(replace(config, data=replace(config.data, train=f"/{place}")), {"total": 1.0}) == found
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert remembered(config, {"total": 5.0}) is None


def test_figures_that_are_missing_have_no_line():
    """Ids of an unknown tokenizer and no Python; a loss that is not finite and a run without a step."""
    assert list(comparison({**UNKNOWN, "parse_share": None})) == []
    missing = dict.fromkeys(("validation_bits_per_byte", "ngram_bits_per_byte", "byte_frequency_bits_per_byte"))
    lines = list(comparison({**FIGURES, **missing, "parse_share": None}))
    assert len(lines) == 2 and lines[1].endswith("gzip -9 of the whole validation split")


def history(events, log, every=1):
    """Stands in for `runs.files.history.History`, which test_first_command_with_a_small_run meets."""
    return SimpleNamespace(events=events, log=log, config=SimpleNamespace(logging=SimpleNamespace(every=every)))


def test_where_the_time_went(monkeypatch):
    """The second attempt of a run is restarted once; the first one belongs to another command."""
    now = [100.0]
    monkeypatch.setattr(run_end.time, "monotonic", lambda: now[0])
    monkeypatch.setenv(run_end.SETUP_SECONDS, "95")
    watch = Stopwatch()
    for name, seconds in (("corpus", 30.0), ("comparison", 2.5), ("export", 4.0), ("sample", 6.0)):
        with watch.part(name):
            now[0] += seconds
    now[0] += 60
    times = {1: (1.0, 500.0), 2: (1000.0, 1007.0), 3: (1010.0, 1018.0, 1040.0)}
    events = [
        {"event": name, "attempt": attempt, "time": when}
        for attempt in times
        for name, when in zip(("start", "compiled", "end"), times[attempt], strict=False)
    ]
    steps = ((1, 1, 9.0), (2, 1, 4.0), (3, 3, 7.0), (5, 3, 2.0), (7, 3, 2.0), (9, 3, 2.0))
    log = [
        {"step": step, "attempt": attempt, "step_seconds": seconds, "compiling": step in (1, 3)}
        for step, attempt, seconds in steps
    ]
    found = watch.training(history(events, log, every=2), 1, {"evaluation_seconds": 5.0})
    assert found == {
        **{"set-up": 95.0, "corpus": 30.0, "start and compile": 15.0, "steps": 12.0, "evaluation": 5.0},
        **{"comparison": 2.5, "export": 4.0, "sample": 6.0, "other": 28.0, "total": 197.5},
    }
    assert time_line(found) == (
        "time 198 s: set-up 95, corpus 30, start and compile 15, steps 12, evaluation 5, comparison 2, export 4, "
        "sample 6, other 28"
    )


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan"])
def test_without_a_time_of_set_up_the_line_starts_with_the_corpus(monkeypatch, value):
    monkeypatch.setenv(run_end.SETUP_SECONDS, value)
    watch = Stopwatch()
    found = watch.training(history([], []), 0, {})
    assert "set-up" not in found and found["total"] < 90 and set(found) == {"other", "total"}


def test_without_the_extra_there_is_only_the_loss(dataset, monkeypatch, tmp_path, capsys):
    config = build_run_config(small_run(dataset, tmp_path))
    monkeypatch.setattr(run_end, "REGISTERED", ("train", "an extra that is missing"))
    assert run_end.compared(config, tmp_path / "step-00000010", 2.0, []) == UNKNOWN
    assert run_end.sampled(config, Path("model"), 10)["sample"] is None
    assert capsys.readouterr().err.count("is not installed") == 2
