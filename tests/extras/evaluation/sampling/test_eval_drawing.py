import pytest
from fake_task import Doubling, Seeded, samples_of
from openai_server import Server

from ms_codegeex.extras.evaluation import session
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.judging import engines
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling.drawing import equal_answers, sample_seed
from ms_codegeex.extras.evaluation.sampling.samplers import ServerSampler


def test_seeds_depend_on_nothing_but_what_they_are_for():
    seeds = {sample_seed(s, t, c) for s in range(5) for t in ("a/1", "a/11", "b/1") for c in range(20)}
    assert len(seeds) == 300 and all(0 <= seed < 2**31 for seed in seeds)
    assert sample_seed(42, "Python/0", 0) == sample_seed(42, "Python/0", 0) == 30292175


@pytest.mark.parametrize("concurrency", [1, 3])
def test_samples_are_the_same_however_they_come_about(tmp_path, concurrency):
    whole = samples_of(tmp_path / "whole.jsonl", Seeded(concurrency))
    rows = read_rows(tmp_path / "whole.jsonl")
    order = [(problem.id, i) for problem in Doubling().problems for i in range(4)]
    assert [(row["task_id"], row["completion_id"]) for row in rows] == order
    assert whole == samples_of(tmp_path / "again.jsonl", Seeded())
    assert whole != samples_of(tmp_path / "other.jsonl", Seeded(), seed=2)

    with pytest.raises(KeyboardInterrupt):
        samples_of(tmp_path / "cut.jsonl", Seeded(concurrency, limit=7))
    cut = tmp_path / "cut.jsonl"
    assert len(read_rows(cut)) in range(7 - concurrency + 1, 8)
    cut.write_bytes(cut.read_bytes()[:-5])
    left, rest = len(cut.read_bytes().splitlines()) - 1, Seeded(concurrency)
    assert samples_of(cut, rest) == whole and len(rest.calls) == 24 - left


def test_more_samples_are_added_to_those_that_are_there(tmp_path):
    few, more = Seeded(), Seeded()
    samples_of(tmp_path / "few.jsonl", few, n=2)
    assert samples_of(tmp_path / "few.jsonl", more, n=5) == samples_of(tmp_path / "all.jsonl", Seeded(), n=5)
    assert len(more.calls) == 6 * 3


LINE = "    result = [value for value in values if value > 0]\n"


@pytest.mark.parametrize("kept", [True, False])
def test_equal_answers_of_a_server_are_noticed(tmp_path, monkeypatch, capsys, kept):
    monkeypatch.setattr(engines, "open_sandbox", lambda mode: object())
    recipe = Recipe("humaneval", n=4, temperature=0.8)
    with Server(lambda body: (body["prompt"] + LINE + str(0 if kept else body["seed"]), "stop")) as server:
        options = session.Options(tmp_path / "out", sampler=lambda: ServerSampler(server.url, recipe))
        found = session.evaluate(Doubling(), recipe, options)["samples"].get("equal", "")
    assert bool(found) is kept
    for shown in (capsys.readouterr().err, (tmp_path / "out" / "report.html").read_text()):
        assert ("all 24 answers to 6 problems are equal" in shown) is kept


@pytest.mark.parametrize(
    "lines, drawn, fields, noticed",
    [
        (3, {}, {}, "a cache, or a fixed seed in the server or a proxy; switch it off"),
        (3, {}, {"seed": 1}, "--url-field seed, which all requests have; leave it out"),
        (3, {"temperature": 0.2}, {}, ""),  # then so short a text comes again by chance
        (12, {"temperature": 0.2}, {}, "temperature 0.2"),
        (9, {"temperature": 0.0}, {}, ""),
        (9, {}, {"temperature": 0}, ""),
        (9, {"top_k": 1}, {}, ""),
    ],
)
def test_the_rule_for_equal_answers(lines, drawn, fields, noticed):
    common = {"prompt": "p", "generation": lines * LINE, "finish": "stop", "extra": {}}
    rows = [{"task_id": name, "completion_id": number, **common} for name in "abcd" for number in (0, 1)]
    recipe = Recipe("humaneval", **{"temperature": 0.8, **drawn})
    found = equal_answers(rows, recipe, fields)
    assert noticed in found and bool(found) is bool(noticed)
    assert equal_answers(rows[:2], recipe, fields) == equal_answers(rows[::2], recipe, fields) == ""  # one problem, n=1
    assert equal_answers([*rows[:-1], {**rows[-1], "generation": LINE}], recipe, fields) == ""
    cases = [{**row, "extra": {"case": row["completion_id"]}} for row in rows]  # different questions
    assert equal_answers(cases, recipe, fields) == ""
