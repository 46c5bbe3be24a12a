"""Comparisons of evaluations: their figures are recomputed here, and the command is run as a user runs it."""

import itertools
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import command_here
from fake_task import Doubling
from scipy import stats

from ms_codegeex.cli import main
from ms_codegeex.extras.evaluation.jsonl import encode, read_rows
from ms_codegeex.extras.evaluation.reports import scores
from ms_codegeex.extras.evaluation.reports.comparison import compare, holm, lines, permutation_p, read_evaluations
from ms_codegeex.extras.evaluation.reports.comparison_page import render
from ms_codegeex.extras.evaluation.rows import fingerprint, sample_from
from ms_codegeex.extras.evaluation.task import Problem

BEFORE = {"python/0": "ffff", "python/1": "pfff", "cpp/0": "ffff", "cpp/1": "pppf", "cpp/2": "pppp"}
AFTER = {"python/0": "ppff", "python/1": "pppf", "cpp/0": "ffff", "cpp/1": "ffff", "cpp/2": "pppp", "python/2": "pppp"}


def write_evaluation(directory, verdicts, text="x = 1", task=None, **settings):
    """An evaluation's directory: a letter for each sample, p if it passes."""
    task = task or Doubling()
    samples, results = [], []
    for name, letters in verdicts.items():
        for number, letter in enumerate(letters):
            row = {"task_id": name, "completion_id": number, "prompt": "", "finish": "eos", "extra": {}}
            samples.append({**row, "generation": f"{text}  # {letter}"})
            verdict = "passed" if letter == "p" else "wrong"
            result = {key: row[key] for key in ("task_id", "completion_id", "extra")}
            judged = {"verdicts": {"strict": verdict, "published": "passed"}, "seconds": 0.5, "exit_code": 0}
            error = "" if letter == "p" else "Traceback <b>"
            results.append({**result, **judged, "stderr": error, "sample": fingerprint(sample_from(samples[-1]))})
    directory.mkdir(parents=True)
    (directory / "samples.jsonl").write_bytes(b"".join(map(encode, samples)))
    (directory / "results.jsonl").write_bytes(b"".join(map(encode, results)))
    report = scores.build(task, task.problems, samples, results) | {"settings": settings}
    (directory / "report.json").write_text(json.dumps(report))
    return directory


@pytest.fixture
def both(tmp_path):
    return [str(write_evaluation(tmp_path / name, verdicts)) for name, verdicts in (("a", BEFORE), ("b", AFTER))]


def compared(places, tmp_path, *words):
    assert main(["evaluate", "compare", *map(str, places), *words, "--output", str(tmp_path / "out")]) == 0
    return json.loads((tmp_path / "out/comparison.json").read_text()), (tmp_path / "out/comparison.html").read_text()


def rates(verdicts):
    return {name: letters.count("p") / len(letters) for name, letters in verdicts.items()}


def test_scores_are_those_of_the_common_problems(both):
    found = compare(read_evaluations(both), "strict")
    assert found["problems"] == sorted(BEFORE)
    for name, verdicts in (("a", BEFORE), ("b", AFTER)):
        own = [rates(verdicts)[problem] for problem in BEFORE]
        assert found["groups"]["all"][name]["pass_rate"]["value"] == pytest.approx(np.mean(own))
        cpp = [rates(verdicts)[problem] for problem in BEFORE if problem.startswith("cpp")]
        assert found["groups"]["language: cpp"][name]["pass_rate"]["value"] == pytest.approx(np.mean(cpp))
    easy = found["groups"]["easy (above 70%)"]["a"]
    assert (easy["problems"], easy["solved"]) == (1, 1) and found["groups"]["medium"]["a"]["problems"] == 2


def test_pairs_list_newly_solved_and_lost_problems(both):
    (pair,) = compare(read_evaluations(both), "strict")["pairs"]
    assert (pair["from"], pair["to"]) == ("a", "b")
    assert pair["solved_only_after"] == ["python/0"] and pair["solved_only_before"] == ["cpp/1"]
    differences = [rates(AFTER)[name] - rates(BEFORE)[name] for name in sorted(BEFORE)]
    assert pair["difference"]["value"] == pytest.approx(np.mean(differences))
    assert pair["difference"]["low"] < pair["difference"]["value"] < pair["difference"]["high"]
    signs = list(itertools.product((-1, 1), repeat=3))
    nonzero = [each for each in differences if each]
    sums = [abs(np.dot(each, nonzero)) for each in signs]
    assert pair["p"] == pytest.approx(np.mean([each >= abs(sum(nonzero)) - 1e-12 for each in sums]))


def test_the_permutation_test_of_single_samples_is_the_sign_test():
    for gained, lost in ((0, 0), (1, 0), (5, 0), (7, 3), (30, 10), (60, 20)):
        differences = np.array([1.0] * gained + [-1.0] * lost + [0.0] * 50)
        exact = stats.binomtest(gained, gained + lost).pvalue if gained else 1.0
        assert permutation_p(differences) == pytest.approx(exact, abs=0.012), (gained, lost)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


LANGUAGES = ("python", "cpp", "java", "js", "go")


class Translation(Doubling):
    """Problems in all languages but the one that is translated from."""

    def __init__(self, source, targets=LANGUAGES, count=4):
        super().__init__()
        names = [(language, f"{language}/{number}") for language in targets for number in range(count)]
        data = self.problems[0].data
        self.problems = [Problem(name, {"language": language}, data) for language, name in names if language != source]


def write_translation(root, model, source, rng, **options):
    task = Translation(source, **options)
    letters = {problem.id: "".join(rng.choice(list("pf"), 2)) for problem in task.problems}
    settings = {"recipe": {"translate_from": source}, "model": {"path": model}}
    return str(write_evaluation(root / f"{model}-{source}", letters, task=task, **settings)), letters


def test_the_papers_table_of_twenty_directions(tmp_path):
    """From each of five languages to the four others: no problem is in all evaluations, and none gets lost."""
    rng, places, written = np.random.default_rng(3), [], {}
    for model in ("m1", "m2"):
        for source in LANGUAGES:
            place, written[f"{model}-{source}"] = write_translation(tmp_path, model, source, rng)
            places.append(place)
    found = compare(read_evaluations(places), "strict")
    for model in ("m1", "m2"):
        matrix = found["translation"][model]
        pairs = {(source, target) for source in matrix for target in matrix[source]}
        assert pairs == set(itertools.permutations(LANGUAGES, 2))
        for source, target in itertools.permutations(LANGUAGES, 2):
            own = {name: text for name, text in written[f"{model}-{source}"].items() if name.startswith(f"{target}/")}
            expected = np.mean(list(rates(own).values()))
            assert matrix[source][target]["pass_rate"]["value"] == pytest.approx(expected)
            group = found["groups"][f"{source} → {target}"]
            assert group[f"{model}-{source}"]["pass_rate"]["value"] == pytest.approx(expected)
            assert group[f"{model}-{source}"]["problems"] == 4 and len(group) == 2
    assert all(score["problems"] == 16 for score in found["groups"]["all"].values()) and len(found["problems"]) == 20
    assert [(pair["from"], pair["to"]) for pair in found["pairs"]] == [(f"m1-{s}", f"m2-{s}") for s in LANGUAGES]
    twice = compare(read_evaluations([places[0], f"again={places[0]}"]), "strict")["translation"]
    assert list(twice) == ["m1", "m1 (again)"]
    assert not found["other_files"] and render(found, read_evaluations(places), 1)
    table = [line.split() for line in lines(found) if line.split()[0] in LANGUAGES]
    table = [row for row in table if row[1] not in LANGUAGES]  # without the heads
    assert [row[0] for row in table] == [*LANGUAGES] * 2 and all(row.count("-") == 1 for row in table)


def test_opposite_directions_are_in_one_comparison(tmp_path):
    """Python to JavaScript and back have no problem in common."""
    rng, both = np.random.default_rng(3), ("python", "js")
    places = [write_translation(tmp_path, "m", source, rng, targets=both)[0] for source in both]
    found = compare(read_evaluations(places), "strict")
    directions = {source: list(row) for source, row in found["translation"]["m"].items()}
    assert directions == {"python": ["js"], "js": ["python"]}
    assert found["pairs"] == [] and list(found["groups"]) == ["all", "python → js", "js → python"]


def test_the_command_writes_a_page_that_has_everything_and_escapes_it(both, tmp_path, capsys):
    hostile = write_evaluation(tmp_path / "c", AFTER, text="print('<script>')\n\u202e")
    places = [*both, f"<i>={hostile}"]
    found, page = compared(places, tmp_path)
    printed = capsys.readouterr().out
    assert "b - a: " in printed and "solves 1 more problems and 1 no longer" in printed
    assert len(found["pairs"]) == 3
    for expected in ("&lt;i&gt;", "\\u202e", "Traceback &lt;b&gt;", "newly solved", "3 times", 'class="mi"'):
        assert expected in page, expected
    assert "<title>doubling: a, b, &lt;i&gt;</title>" in page
    assert "<script" not in page and "\u202e" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert len(list(ElementTree.fromstring(page.split("\n", 1)[1]).iter("details"))) == len(BEFORE)
    assert compared(places, tmp_path, "--json") == (found, page)
    assert json.loads(capsys.readouterr().out) == found


ROWS = """
Big model:
  source: Somebody (2024), table 3
  pass@1: 35.0
  pass@10: 90
  "language: cpp": {pass rate: 20}
Small model: {source: the same table, pass@1: 99.5, pass@4: 60.0}
"""


def test_published_rows_are_set_against_each_evaluation(both, tmp_path, capsys):
    path = tmp_path / "rows.yaml"
    path.write_text(ROWS)
    found, page = compared(both, tmp_path, "--published", str(path))
    printed = capsys.readouterr().out
    assert found["published_rows"]["Big model"]["rates"]["language: cpp"] == {"1": 0.2}
    by = {(each["evaluation"], each["row"], each["group"], each["k"]): each for each in found["against_published"]}
    # with four samples of a problem there is no pass@10, and pass@4 is not shown
    assert set(by) == {
        (name, row, group, 1)
        for name in ("a", "b")
        for row, group in (("Big model", "all"), ("Big model", "language: cpp"), ("Small model", "all"))
    }
    for name, verdicts in (("a", BEFORE), ("b", AFTER)):
        mean = np.mean([rates(verdicts)[problem] for problem in BEFORE])
        assert by[name, "Big model", "all", 1]["difference"]["value"] == pytest.approx(mean - 0.35)
        cpp = np.mean([rates(verdicts)[problem] for problem in BEFORE if problem.startswith("cpp")])
        assert by[name, "Big model", "language: cpp", 1]["difference"]["value"] == pytest.approx(cpp - 0.2)
        assert not by[name, "Big model", "all", 1]["outside"] and by[name, "Small model", "all", 1]["outside"]
    assert "Big model: pass@10 (all) in none of the evaluations\n" in printed
    assert "a - Big model, pass@1: " in printed and "published 99.50 % is outside of the interval" in printed
    for expected in ("all: Big model (published)", "35.00 %", "b minus Small model", "Somebody (2024), table 3"):
        assert expected in page, expected


def test_checkpoints_of_one_run_are_a_line_by_step(tmp_path):
    checkpoints = {"late": ("runs/one", 200), "early": ("runs/one", 100), "other": ("runs/two", 100)}
    places = []
    for name, (run, step) in checkpoints.items():
        model, letters = {"path": f"{run}/checkpoints/step-{step:08d}"}, AFTER if name == "late" else BEFORE
        places.append(write_evaluation(tmp_path / name, letters, model=model))
    found, page = compared(places, tmp_path)
    steps = {run: [(row["step"], row["name"]) for row in rows] for run, rows in found["steps"].items()}
    assert steps == {"runs/one": [(100, "early"), (200, "late")]}
    common = [rates(AFTER)[problem] for problem in BEFORE]
    assert found["steps"]["runs/one"][1]["value"] == pytest.approx(np.mean(common))
    assert "Checkpoints of one run" in page


def test_other_problems_of_the_same_names_are_noted(tmp_path, capsys):
    marks = {"lr=1": "x", "b": "y"}
    places = [write_evaluation(tmp_path / name, BEFORE, data={"problems": mark}) for name, mark in marks.items()]
    _, page = compared(places, tmp_path)
    assert capsys.readouterr().out.startswith("note: the problems of b are not all those of lr=1")
    assert "not all those of lr=1" in page


def test_the_number_of_answers_shown(tmp_path):
    many = {name: "p" * 9 for name in BEFORE}
    places = [write_evaluation(tmp_path / name, many) for name in ("a", "b")]
    for place in places:  # nine different answers
        rows, results = (read_rows(place / name) for name in ("samples.jsonl", "results.jsonl"))
        for row, result in zip(rows, results, strict=True):
            row["generation"] = f"answer_{row['completion_id']}"
            result["sample"] = fingerprint(sample_from(row))
        (place / "samples.jsonl").write_bytes(b"".join(map(encode, rows)))
        (place / "results.jsonl").write_bytes(b"".join(map(encode, results)))
    for maximum, last in (("2", 1), ("0", 8)):
        _, page = compared(places, tmp_path, "--most-answers", maximum)
        assert f"answer_{last}<" in page and f"answer_{last + 1}<" not in page
        assert ("7 more are not shown" in page) == (maximum == "2")


@pytest.mark.parametrize(
    "words, reason",
    [
        ("a", "expected two or more"),
        ("a missing", "missing: no report.json"),
        ("a a", "is named twice"),
        ("x=a x=b", "x is named twice"),
        ("lr=0.1=b lr=0.1=lr=2/b", "lr=0.1 is named twice"),
        ("a other", "evaluations of "),
        ("a empty", "no problem was judged"),
        ("a perplexity", "has no verdicts"),
        ("a damaged", "by_problem is damaged"),
        ("a modes", "by_problem is damaged"),
        ("a null", "null/report.json: settings is damaged; write it again with --judge-only"),
        ("a recipe", "settings is damaged"),
        ("model a", "settings is damaged"),
        ("data a", "settings is damaged"),
        ("a source", "settings is damaged"),
        ("a b --most-answers -1", "--most-answers: -1 is out of range"),
        # rows of --published
        ("[1]", "found list, expected names of rows"),
        ("{", "cannot be read"),
        ("a: 3", "a: found int, expected source, pass@1"),
        ("m: {pass@1: 3}", "m: source is missing; say where"),
        ("m: {source: x}", "m: no rates"),
        ("m: {source: x, pass@0: 3}", "pass@0: unknown key"),
        ("m: {source: x, pass@1: 101}", "pass@1 is 101, expected a number from 0 to 100"),
        ("m: {source: x, pass@1: yes}", "pass@1 is 'yes'"),
        ("a: {source: x, pass@1: 3}", "a is an evaluation's name, too"),
        ("m: {source: x, 'language: rust': {pass@1: 3}}", "has 'language: rust'; the groups here are all, lang"),
    ],
)
def test_refusals(both, tmp_path, monkeypatch, capsys, words, reason):
    other = Doubling()
    other.name = "another"
    write_evaluation(tmp_path / "other", BEFORE, task=other)
    write_evaluation(tmp_path / "empty", {"python/2": "p"})
    write_evaluation(tmp_path / "lr=2/b", BEFORE)
    report, damaged = (json.loads((tmp_path / "a/report.json").read_text()) for _ in range(2))
    damaged["by_problem"][1]["samples"] = 0
    edited = {"null": None, "source": {"recipe": {"translate_from": ["java"]}}}
    edited |= {name: {name: None} for name in ("recipe", "model", "data")}
    reports = {name: report | {"settings": settings} for name, settings in edited.items()}
    reports |= {"perplexity": {"format": scores.FORMAT, "task": "perplexity"}, "damaged": damaged}
    reports["modes"] = report | {"scores": {"strict": report["scores"]["strict"]}}
    for name, content in reports.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    (tmp_path / "rows.yaml").write_text(words)
    monkeypatch.chdir(tmp_path)
    given = ["a", "b", "--published", "rows.yaml"] if set("[{:") & set(words) else words.split()
    assert main(["evaluate", "compare", *given, "--output", "out"]) == 2
    message = capsys.readouterr().err
    assert reason in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_tasks_need_data_and_take_no_directories(tmp_path):
    words = ("evaluate", "humaneval", "--model", "m", "--output", tmp_path / "o")
    assert "--data: missing" in command_here(*words).stderr
    assert "unrecognized arguments: a" in command_here(*words, "--data", "d", "a").stderr
