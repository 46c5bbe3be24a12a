"""A whole evaluation of a small benchmark: what is written, what is refused, how it resumes."""

import dataclasses
import json
import math
import re
from math import comb

import pytest
from benchmark_data import write
from fake_task import Doubling, Seeded

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.judging import engines
from ms_codegeex.extras.evaluation.output_directory import FILE, FORMAT, RecordedSettings
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.session import Options, evaluate, raise_for_refused

RECIPE = Recipe("humaneval", n=4, temperature=0.8)
GATED = Recipe("humaneval-x", n=4, temperature=0.8)


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch):
    monkeypatch.setattr(engines, "open_sandbox", lambda mode: object())


@pytest.fixture
def options(tmp_path):
    return Options(tmp_path / "out", sampler=Seeded, workers=2, progress=False)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_an_evaluation_leaves(options):
    result = evaluate(Doubling(), RECIPE, options)
    rows = {f"{name}.jsonl" for name in ("references", "samples", "results")}
    assert set(files(options.output)) == {"evaluation.json", "report.json", "report.html", *rows}
    assert read_json(options.output / "report.json") == json.loads(json.dumps(result))
    rows = read_rows(options.output / "results.jsonl")
    passed = sum(row["verdicts"]["strict"] == "passed" for row in rows)
    score = result["scores"]["strict"]["all"]
    assert (score["samples"], score["passed"], score["problems"]) == (24, passed, 6)
    assert score["pass_rate"]["value"] == pytest.approx(passed / 24) == score["pass_at"]["1"]["value"]
    assert result["scores"]["published"]["all"]["passed"] == 24
    by = result["scores"]["strict"]["by"]["language"]
    assert by["python"]["passed"] + by["cpp"]["passed"] == passed


def test_the_same_again_changes_nothing_and_asks_nobody(options):
    evaluate(Doubling(), RECIPE, options)
    before = files(options.output)
    task = Doubling()
    evaluate(task, RECIPE, dataclasses.replace(options, sampler=None))
    assert files(options.output) == before and not task.judged


def test_samples_and_verdicts_may_come_from_two_machines(options, tmp_path):
    evaluate(Doubling(), RECIPE, options)
    other = tmp_path / "two"
    steps = dataclasses.replace(options, output=other, judge=False)
    task = Doubling()
    evaluate(task, RECIPE, steps)
    assert not task.judged and not (other / "results.jsonl").exists()
    evaluate(Doubling(), RECIPE, dataclasses.replace(steps, judge=True, sampler=None))
    for name in ("samples.jsonl", "results.jsonl"):
        assert (other / name).read_bytes() == (options.output / name).read_bytes()


def test_an_interrupted_evaluation_goes_on(options, tmp_path):
    evaluate(Doubling(), RECIPE, dataclasses.replace(options, output=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        evaluate(Doubling(), RECIPE, dataclasses.replace(options, sampler=lambda: Seeded(limit=9)))
    evaluate(Doubling(), RECIPE, options)
    for name in ("samples.jsonl", "results.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (options.output / name).read_bytes()


def test_going_on_with_other_settings_is_refused(options):
    evaluate(Doubling(), RECIPE, options)
    before = files(options.output)
    for recipe, change, words in (
        ({"temperature": 0.2}, {}, "recipe.temperature is 0.8, now 0.2"),
        ({"seed": 1}, {}, "recipe.seed is 42, now 1"),
        ({"n": 3}, {}, "recipe.n is 4, now 3"),
        ({}, {"limit": 1}, "recipe.limit is None, now 1"),
        ({}, {"timeout": 3.0}, "judging.timeout is None, now 3.0"),
        ({}, {"sandbox": "best-effort"}, "judging.sandbox is 'strict', now 'best-effort'"),
    ):
        with pytest.raises(UserError) as caught:
            evaluate(Doubling(), dataclasses.replace(RECIPE, **recipe), dataclasses.replace(options, **change))
        assert words in str(caught.value) and "another --output" in str(caught.value)
        assert all(before[name] == files(options.output)[name] for name in ("samples.jsonl", "results.jsonl"))


@pytest.mark.parametrize(("recorded", "shown"), [("x", "'x'"), ([1], "[1]"), (None, "None")])
def test_a_recorded_number_that_is_none_is_refused(tmp_path, recorded, shown):
    (tmp_path / FILE).write_text(json.dumps({"format": FORMAT, "recipe": {"n": recorded}}))
    with pytest.raises(UserError, match=re.escape(f"{FILE}: recipe.n is {shown}, now 4; give what was given before")):
        RecordedSettings(tmp_path).compare("recipe", {"n": 4}, growing=("n",))


def test_other_data_and_other_models_are_refused(options):
    evaluate(Doubling(), RECIPE, options)
    with pytest.raises(UserError, match=r"data\.(problems|count) is"):
        evaluate(Doubling(problems=2), RECIPE, options)

    def other():
        sampler = Seeded()
        sampler.identity = {"path": "elsewhere", "sha256": "other"}
        return sampler

    with pytest.raises(UserError, match=r"model\.sha256 is '5eed', now 'other'"):
        evaluate(Doubling(), dataclasses.replace(RECIPE, n=5), dataclasses.replace(options, sampler=other))
    claims = dataclasses.replace(options, model=lambda: other().identity)
    with pytest.raises(UserError, match=r"model\.sha256 is '5eed', now 'other'"):  # though nothing is to be drawn
        evaluate(Doubling(), RECIPE, claims)
    evaluate(Doubling(), RECIPE, dataclasses.replace(options, model=lambda: {"sha256": "5eed", "path": "elsewhere"}))


def test_a_model_may_move_and_an_evaluation_may_grow(options, tmp_path):
    def moved():
        sampler = Seeded()
        sampler.identity = {"path": "elsewhere", "sha256": "5eed"}
        return sampler

    few = dataclasses.replace(options, limit=1)
    assert evaluate(Doubling(), dataclasses.replace(RECIPE, n=2), few)["samples"]["judged"] == 4
    assert evaluate(Doubling(), RECIPE, dataclasses.replace(options, sampler=moved))["samples"]["judged"] == 24
    evaluate(Doubling(), RECIPE, dataclasses.replace(options, output=tmp_path / "once"))
    assert (tmp_path / "once/results.jsonl").read_bytes() == (options.output / "results.jsonl").read_bytes()


def test_a_missing_tool_chain_is_left_out_and_reported(options, capsys):
    task = Doubling()
    task.lacking = {"cpp": "apt-get install g++", "js-md5": "npm install js-md5"}
    result = evaluate(task, GATED, dataclasses.replace(options, progress=True))
    reported = capsys.readouterr().err
    assert "cpp: left out, its tools are not on this machine; apt-get install g++" in reported
    assert "js-md5: is not on this machine; npm install js-md5" in reported
    assert result["skipped"] == {"cpp": "apt-get install g++"}
    assert result["missing"] == task.lacking
    assert "npm install js-md5" in (options.output / "report.html").read_text()
    assert {row["task_id"][:3] for row in read_rows(options.output / "results.jsonl")} == {"pyt"}
    assert list(result["scores"]["strict"]["by"]["language"]) == ["python"]
    result = evaluate(Doubling(), GATED, options)  # installed meanwhile
    assert not result["skipped"] and result["samples"]["judged"] == 24


def test_nothing_to_judge_with(options):
    task = Doubling()
    task.lacking = {"cpp": "apt-get install g++", "python": "apt-get install python3"}
    with pytest.raises(UserError, match=r"nothing can be judged .*apt-get install g\+\+; apt-get install python3"):
        evaluate(task, GATED, options)


def test_failing_references_refuse_their_language(options, capsys):
    task = Doubling(defects={"python/1": "its test is wrong"})
    task.broken = {"cpp/0", "cpp/2"}
    with pytest.raises(
        RunFailure, match=r"not judged: cpp: references fail: cpp/0 \(strict wrong, .*\), cpp/2; see .*; mend the tool"
    ):
        raise_for_refused(evaluate(task, GATED, dataclasses.replace(options, progress=True)))
    reported = capsys.readouterr().err
    assert (
        "references, python: 2 of 3 pass" in reported
        and "python/1 does not, as expected: its test is wrong" in reported
    )
    assert "references, cpp: 1 of 3 pass" in reported and "cpp/2 FAILS (strict wrong, published passed: " in reported
    result = read_json(options.output / "report.json")
    assert result["refused"]["cpp"].startswith("references fail: cpp/0 (strict wrong, published passed: ")
    assert result["references"]["python"]["defects"] == {"python/1": "its test is wrong"}
    assert {row["task_id"][:3] for row in read_rows(options.output / "results.jsonl")} == {"pyt"}
    task.judged.clear()
    result = evaluate(task, GATED, dataclasses.replace(options, references="skip"))
    assert not result["refused"] and result["samples"]["judged"] == 24


@pytest.mark.parametrize("recipe", [RECIPE, GATED])
@pytest.mark.parametrize("given", [False, True])
def test_where_no_reference_of_a_language_passes_nothing_is_sampled(options, tmp_path, recipe, given):
    """Also for samples from elsewhere. Once the machine is mended, the same command goes on."""
    row = {"task_id": "cpp/1", "completion_id": 0, "prompt": "", "generation": "2", "finish": "eos", "extra": {}}
    (tmp_path / "given.jsonl").write_text(json.dumps(row) + "\n")
    if given:
        options = dataclasses.replace(options, sampler=None, given=tmp_path / "given.jsonl")
    task = Doubling(defects={"cpp/0": "its test is wrong"})
    task.broken, task.tools = {"cpp"}, lambda: {"cpp": "g++ 13"}
    with pytest.raises(RunFailure, match=r"cpp \(g\+\+ 13\): strict wrong, published passed: .*--skip-references"):
        evaluate(task, recipe, options)
    assert not (options.output / "samples.jsonl").exists() and "cpp/0" not in {name for name, _ in task.judged}
    skipped = evaluate(task, recipe, dataclasses.replace(options, output=tmp_path / "skipped", references="skip"))
    assert skipped["samples"]["judged"] == (1 if given else 24)
    task.broken = set()
    assert evaluate(task, recipe, options)["samples"]["judged"] == (1 if given else 24)


def test_one_reference_that_passes_is_enough(options):
    """Each is only tried if those before it fail."""
    task = Doubling()
    task.broken = {"cpp/0", "cpp/1"}
    evaluate(task, RECIPE, dataclasses.replace(options, sampler=lambda: Seeded(limit=24)))
    assert sorted(name for name, _ in task.judged[:4]) == ["cpp/0", "cpp/1", "cpp/2", "python/0"]
    task.judged.clear()
    evaluate(task, RECIPE, dataclasses.replace(options, output=options.output / "x", judge=False))
    assert not task.judged


def test_references_are_judged_once_on_a_machine(options):
    class Tools(Doubling):
        version = "1"

        def tools(self):
            return {"python": self.version}

    only = dataclasses.replace(options, references="only", sampler=None)
    first, again, newer = Tools(), Tools(), Tools()
    newer.version = "2"
    assert evaluate(first, RECIPE, only)["references"]["cpp"]["passed"] == 3
    assert not (options.output / "samples.jsonl").exists()
    evaluate(again, RECIPE, only)
    evaluate(newer, RECIPE, only)
    assert len(first.judged) == 6 == len(newer.judged) and not again.judged


def test_time_limits_come_from_the_references(options):
    class Slow(Doubling):
        def calibrate(self, judgements):
            self.seconds = {each.task_id: each.seconds for each in judgements}
            return {}

    for task in (Slow(), Slow()):  # judged, then remembered
        evaluate(task, GATED, options)
        assert task.seconds == dict.fromkeys((problem.id for problem in task.problems), 0.25)


def test_a_problem_that_needs_a_missing_package_is_left_out(options):
    task = Doubling(defects={"cpp/1": "js-md5 is not on this machine", "cpp/2": "its test is wrong"})
    task.lacking = {"js-md5": "npm install js-md5"}
    result = evaluate(task, GATED, options)
    assert result["skipped"] == {"cpp/1": "js-md5 is not on this machine"}
    assert result["problems"] == {"chosen": 5, "judged": 5}
    assert "cpp/1" not in {row["task_id"] for row in read_rows(options.output / "samples.jsonl")}
    assert result["references"]["cpp"]["defects"] == {"cpp/2": "its test is wrong"}


def test_references_of_other_tasks_are_reported_and_bind_nobody(options):
    task = Doubling()
    task.broken = {"cpp/1", "cpp/2"}
    assert evaluate(task, RECIPE, options)["references"] == {}
    result = evaluate(task, RECIPE, dataclasses.replace(options, references="check"))
    assert list(result["references"]["cpp"]["failing"]) == ["cpp/1", "cpp/2"] and not result["refused"]


def test_a_part_of_a_benchmark_is_not_compared_with_published_figures(options, tmp_path):
    """The settings show it, and that references were not checked."""
    result = evaluate(Doubling(), GATED, dataclasses.replace(options, limit=2, references="skip"))
    assert result["published"] == [] and "Published results" not in (options.output / "report.html").read_text()
    assert result["settings"]["run"] == {"limit": 2, "references": "skip"}
    whole = evaluate(Doubling(), GATED, dataclasses.replace(options, output=tmp_path / "whole"))
    assert whole["published"] and whole["settings"]["run"] == {"limit": None, "references": "default"}
    task = Doubling()
    task.lacking = {"cpp": "apt-get install g++"}
    assert evaluate(task, GATED, dataclasses.replace(options, output=tmp_path / "python"))["published"]


def test_a_budget_is_split_over_languages(options):
    result = evaluate(Doubling(), dataclasses.replace(GATED, n=10), options)
    rows = {row["strategy"]: row for row in result["budget"]}
    assert list(rows) == ["best single", "uniform", "weighted", "max"] and rows["uniform"]["split"] == "cpp 5, python 5"
    passed = {row["task_id"]: row["passed"]["strict"] for row in result["by_problem"]}
    missed = [math.prod(comb(10 - passed[f"{name}/{i}"], 5) for name in ("cpp", "python")) for i in range(3)]
    assert rows["uniform"]["rate"] == pytest.approx(1 - sum(missed) / comb(10, 5) ** 2 / 3)
    assert "10 samples, uniform" in (options.output / "report.html").read_text()
    assert "budget" not in evaluate(Doubling(), RECIPE, dataclasses.replace(options, output=options.output / "b"))


def test_samples_of_others(options, tmp_path):
    rows = [
        {"task_id": "cpp/1", "generation": " 2 ", "finish": 2, "scores": [0.5]},
        {"task_id": "python/2", "completion": "4"},
        {"task_id": "cpp/1", "generation": "3", "finish": 0},
        {"task_id": "python/2", "completion": " 4 "},
    ]
    taken = dataclasses.replace(options, sampler=None, given=write(tmp_path / "s.jsonl", *rows))
    result = evaluate(Doubling(), RECIPE, taken)
    found = [
        (row["task_id"], row["completion_id"], row["verdicts"]["strict"])
        for row in read_rows(options.output / "results.jsonl")
    ]
    expected = [("cpp/1", 0, "passed"), ("cpp/1", 1, "wrong"), ("python/2", 0, "passed")]
    assert sorted(found) == [*expected, ("python/2", 1, "wrong")]  # a completion is judged as it stands
    assert result["problems"] == {"chosen": 6, "judged": 2}
    assert result["samples"]["finish"] == {"eos": 1, "given": 2, "length": 1}

    ours = dataclasses.replace(taken, output=tmp_path / "again", given=options.output / "samples.jsonl")
    evaluate(Doubling(), RECIPE, ours)
    assert (tmp_path / "again/results.jsonl").read_bytes() == (options.output / "results.jsonl").read_bytes()


def test_directories_of_something_else(options):
    options.output.mkdir()
    for settings in ({"format": "other"}, {"format": FORMAT, "recipe": [1]}):
        (options.output / "evaluation.json").write_text(json.dumps(settings))
        with pytest.raises(UserError, match="not an evaluation's settings"):
            evaluate(Doubling(), RECIPE, options)
    (options.output / "evaluation.json").unlink()
    (options.output / "samples.jsonl").write_text("")
    with pytest.raises(UserError, match="give the file there with --samples"):
        evaluate(Doubling(), RECIPE, options)
