"""Spans are what their kind says, and figures follow their definitions for a model whose answers are known."""

import heapq
import json
import math
import textwrap

import numpy as np
import pytest
import small_benchmarks
from code_dataset import functions
from tokenizer_files import write_qwen2

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.evaluation import infilling as evaluation
from ms_codegeex.extras.evaluation.infilling import KINDS, NumberedText, choose_spans, chosen_texts
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.perplexity.scoring import Score
from ms_codegeex.extras.evaluation.reports.page import render

TEXTS = [NumberedText(number, text) for number, text in enumerate(functions(textwrap, heapq))]


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_of_their_kind_and_differ(kind):
    spans = choose_spans(TEXTS, kind, 200, seed=3)
    assert len(spans) == len({*spans}) == 200
    assert spans == choose_spans(TEXTS, kind, 200, seed=3) != choose_spans(TEXTS, kind, 200, seed=4)
    assert choose_spans(TEXTS, kind, 20, seed=3) == spans[:20]
    assert len({span.document for span in spans[: len(TEXTS)]}) > len(TEXTS) - 3  # from each text in turn
    inside = 0
    for span in spans:
        prefix, middle, suffix = TEXTS[span.document].parts(span)
        assert prefix + middle + suffix == TEXTS[span.document].text and middle.strip()
        if kind != "random":
            assert (not prefix or prefix.endswith("\n")) and (not suffix or suffix.startswith("\n"))
            lines = middle.split("\n")
            assert len(lines) == 1 if kind == "single-line" else 2 <= len(lines) <= 8
            assert lines[0].strip() and lines[-1].strip()
        else:
            assert len(middle) <= 256
            inside += (prefix[-1:] + middle[0]).isalpha()
    assert kind != "random" or inside > 50


def test_few_or_blank_texts_give_what_they_have():
    two = [NumberedText(0, "a\n\nb\n")]
    assert sorted(two[0].parts(span)[1] for span in choose_spans(two, "single-line", 9, 0)) == ["a", "b"]
    assert choose_spans([NumberedText(0, "only")], "multi-line", 9, 0) == []
    assert all(choose_spans([NumberedText(0, " \n\n"), NumberedText(1, "")], kind, 9, 0) == [] for kind in KINDS)


def test_texts_are_chosen_alike_often():
    counts = np.zeros(20)
    for seed in range(400):
        for text in chosen_texts(map(str, range(20)), 5, seed):
            assert text.text == str(text.number)
            counts[text.number] += 1
    assert counts.sum() == 2000 and abs(counts - 100).max() < 40


class Known:
    """A model that answers with the text between prefix and suffix if it is asked for it, and knows probabilities."""

    def __init__(self, tokenizer, texts, sentinels=None, context=400, more=""):
        self.tokenizer, self.texts, self.sentinels, self.seq_length = tokenizer, texts, sentinels, context
        self.path, self.asked, self.more = None, [], more

    def log_probabilities(self, ids):
        assert len(ids) <= self.seq_length
        each = -0.25 if self.sentinels is not None and self.sentinels.middle in ids else -0.5
        return np.full(len(ids) - 1, each, np.float32)

    def stream(self, ids, settings):
        assert settings.temperature == 0 and len(ids) + settings.max_new_tokens <= self.seq_length
        self.asked.append(list(ids))
        if self.sentinels is None or self.sentinels.middle not in ids:
            prefix = self.tokenizer.decode(ids)
            rest = next(text.split(prefix, 1)[1] for text in self.texts if prefix in text)
            return iter(self.tokenizer.decode(self.tokenizer.encode(rest)[: settings.max_new_tokens]))
        cut = ids.index(self.sentinels.suffix)
        prefix, suffix = self.tokenizer.decode(ids[1:cut]), self.tokenizer.decode(ids[cut + 1 : -1])
        text = next(text for text in self.texts if text.startswith(prefix) and text.endswith(suffix))
        return iter([text[len(prefix) : len(text) - len(suffix)] + self.more])


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("codegeex")


def test_figures_of_a_model_that_was_trained_for_it(tokenizer):
    model = Known(tokenizer, [text.text for text in TEXTS], Sentinels(*tokenizer.sentinels), context=2000)
    tallies, rows = evaluation._measure(evaluation.Asker(model), TEXTS, 12, seed=1)
    assert list(tallies) == list(KINDS) and len(rows) == 36
    for kind, ways in tallies.items():
        assert list(ways) == ["infill", "prefix"]
        ours = [row for row in rows if row["kind"] == kind]
        tokens = sum(len(tokenizer.encode(row["middle"])) for row in ours)
        for way, each in (("infill", 0.25), ("prefix", 0.5)):
            found = ways[way].row()
            assert found["tokens"] == tokens and found["spans"] == len(ours)
            assert math.log(found["perplexity"]) == pytest.approx(each) == found["loss (nats per token)"]
            size = sum(len(row["middle"].encode()) for row in ours)
            assert found["bits per byte"] == pytest.approx(each * tokens / math.log(2) / size)
            assert found["exact match"] == sum(row[way]["match"] for row in ours) / len(ours)
        assert ways["infill"].matches == 12 and ways["prefix"].matches >= 8  # some prefixes begin several texts
    wrong = next(row for row in rows if row["infill"]["match"])
    assert wrong["infill"]["answer"] == wrong["middle"] and wrong["prefix"]["answer"] != wrong["middle"]
    assert sum(ids.count(tokenizer.sentinels[2]) for ids in model.asked) == 36


def test_an_answer_that_does_not_end_where_the_middle_does_is_no_match(tokenizer):
    model = Known(tokenizer, [text.text for text in TEXTS], Sentinels(*tokenizer.sentinels), context=2000, more=" ")
    tallies, _ = evaluation._measure(evaluation.Asker(model), TEXTS, 4, seed=1)
    assert all(ways["infill"].matches == 0 for ways in tallies.values())


def test_figures_of_any_other_model_are_of_the_prefix_alone(tokenizer):
    model = Known(tokenizer, [text.text for text in TEXTS])
    tallies, rows = evaluation._measure(evaluation.Asker(model), TEXTS, 9, seed=1)
    assert all(list(ways) == ["prefix"] for ways in tallies.values())
    assert not any(number in ids for ids in model.asked for number in tokenizer.sentinels)
    assert all("infill" not in row for row in rows)
    assert all(len(tokenizer.encode(row["middle"])) <= 200 for row in rows)  # half of the context


def test_from_a_model_to_the_report_and_its_page(tokenizer, tmp_path, monkeypatch):
    texts = [text.text for text in TEXTS]
    model = Known(tokenizer, texts, Sentinels(*tokenizer.sentinels), context=2000)
    model.path = small_benchmarks.write_model(tmp_path / "model")
    from ms_codegeex.generation import engine

    monkeypatch.setattr(engine, "Generator", lambda path, **_: model)
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    report = evaluation.evaluate_infilling(LocalModel(model.path), data, tmp_path / "out", count=5, seed=2)
    assert report == json.loads((tmp_path / "out/report.json").read_text())
    recipe = {"count": 5, "seed": 2, "ways": ["infill", "prefix"]}
    assert report["infill"] == "trained" and report["settings"]["recipe"] == recipe
    rows = [json.loads(line) for line in (tmp_path / "out/spans.jsonl").read_text().splitlines()]
    assert len(rows) == 15 and {row["kind"] for row in rows} == {*KINDS}
    assert all(texts[row["document"]][row["start"] : row["stop"]] == row["middle"] for row in rows)
    assert evaluation.evaluate_infilling(LocalModel(model.path), data, tmp_path / "out", count=5, seed=2) == report
    html = (tmp_path / "out/report.html").read_text()
    assert html == render(report) and "multi-line" in html and "exact match" in html
    table = list(evaluation.lines(report))
    assert len(table) == 7 and " % (" in table[1] and table[1].split()[:3] == ["single-line", "infill", "5"]
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(UserError, match="no text in which a middle fits"):
        evaluation.evaluate_infilling(LocalModel(model.path), tmp_path / "blank.txt", tmp_path / "none")
    with pytest.raises(UserError, match=r"--data: .* does not exist"):
        evaluation.evaluate_infilling(LocalModel(model.path), tmp_path / "missing", tmp_path / "none")


def test_the_files_of_a_repository_are_texts_of_their_own(tmp_path, monkeypatch):
    tokenizer, texts = load_tokenizer(write_qwen2(tmp_path / "tokenizer")), [text.text for text in TEXTS[:3]]
    files = [[tokenizer.file_marks[1], *tokenizer.encode(f"lib/{n}.py\n{text}")] for n, text in enumerate(texts)]
    document = [*tokenizer.encode_marks("<|repo_name|>octo/texts\n"), *(number for ids in files for number in ids)]
    assert tokenizer.file_texts(document) == texts and tokenizer.file_texts(files[0][1:]) == [f"lib/0.py\n{texts[0]}"]
    model = Known(tokenizer, texts, Sentinels(*tokenizer.sentinels), context=2000)
    model.path = small_benchmarks.write_model(tmp_path / "model")
    from ms_codegeex.generation import engine

    monkeypatch.setattr(engine, "Generator", lambda path, **_: model)
    monkeypatch.setattr(evaluation, "corpus_documents", lambda *_: [document])
    evaluation.evaluate_infilling(LocalModel(model.path), tmp_path, tmp_path / "out", count=5, seed=2)
    rows = [json.loads(line) for line in (tmp_path / "out/spans.jsonl").read_text().splitlines()]
    assert {row["document"] for row in rows} == {0, 1, 2}
    assert all(texts[row["document"]][row["start"] : row["stop"]] == row["middle"] for row in rows)


@pytest.mark.parametrize("matches, spans, shown", [(0, 100, "0.00 % (0.0 to 3.7)"), (3, 3, "100.00 % (43.9 to 100.0)")])
def test_no_rate_is_certain(matches, spans, shown):
    """Wilson's interval of none of n goes up to z^2 / (n + z^2), with z = 1.96; that of all is its mirror image."""
    tally = evaluation.SpanTally(Score(1.0, 1), bytes=1, spans=spans, matches=matches)
    report = {"infilling": {"random": {"infill": tally.row()}}}
    rest = 1.96**2 / (spans + 1.96**2)
    assert (tally.row()["high"] if matches == 0 else 1 - tally.row()["low"]) == pytest.approx(rest, abs=1e-4)
    assert shown in list(evaluation.lines(report))[1] and shown in render(report)
