"""Rows that somebody has damaged, doubled or made up: one line that names the place, and no score of them."""

import dataclasses
import json
import threading

import benchmark_data
import pytest
from fake_task import Doubling, Seeded
from humaneval_x_rows import write

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import humaneval_x, mtpb
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.judging import engines
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sandbox import open_sandbox
from ms_codegeex.extras.evaluation.session import Options, evaluate
from ms_codegeex.extras.evaluation.task import Sample

RECIPE = Recipe("humaneval-x", n=2, temperature=0.8)


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch):
    monkeypatch.setattr(engines, "open_sandbox", lambda mode: object())


@pytest.fixture
def options(tmp_path):
    return Options(tmp_path / "out", sampler=Seeded, progress=False)


def test_two_evaluations_do_not_share_a_directory(options):
    """The second is refused while the first draws; the first is unaffected."""
    refused = []

    class Slow(Seeded):
        def __call__(self, *words, **named):
            if not refused:
                other = threading.Thread(target=attempt)
                other.start()
                other.join()
            return super().__call__(*words, **named)

    def attempt():
        try:
            evaluate(Doubling(), RECIPE, options)
        except UserError as error:
            refused.append(str(error))

    result = evaluate(Doubling(), RECIPE, dataclasses.replace(options, sampler=Slow))
    assert len(refused) == 1 and "another evaluation writes there" in refused[0] and "\n" not in refused[0]
    assert result["samples"]["drawn"] == result["samples"]["judged"] == 12
    assert not list(options.output.glob(".*"))
    evaluate(Doubling(), RECIPE, options)


def test_a_refused_evaluation_leaves_no_directory(options):
    with pytest.raises(UserError):
        evaluate(Doubling(), RECIPE, dataclasses.replace(options, sampler=None))
    made = {path.name for path in options.output.iterdir()} if options.output.exists() else set()
    assert ".lock" not in made


SAMPLE = {"task_id": "cpp/1", "completion_id": 7, "prompt": "", "generation": "2", "finish": "eos", "extra": {}}
RESULT = {key: SAMPLE[key] for key in ("task_id", "completion_id", "extra")}
RESULT |= {"verdicts": {"strict": "passed", "published": "passed"}, "seconds": 0.5, "exit_code": 0, "stderr": ""}
RESULT["sample"] = "0" * 32
CHANGES = [
    ("completion_id", None, "completion_id is null, expected int"),
    ("completion_id", "7", 'completion_id is "7", expected int'),
    ("completion_id", True, "completion_id is true, expected int"),
    ("completion_id", -1, "completion_id is -1, expected 0 or more"),
    ("completion_id", ..., "completion_id is missing, expected int"),
    ("task_id", ["cpp/1"], 'task_id is ["cpp/1"], expected str'),
    ("task_id", "java/1", "task_id 'java/1' is not a problem of doubling"),
    ("extra", ..., "extra is missing, expected dict"),
    ("extra", None, "extra is null, expected dict"),
    ("prompt", ..., "prompt is missing"),
    ("generation", 3, "generation is 3, expected str"),
    ("finish", {}, "finish is {}, expected str"),
    ("sample", ..., "sample is missing, expected str"),
    ("verdicts", [], "verdicts is [], expected dict"),
    ("verdicts", {"strict": "passed", "published": "splendid"}, 'verdicts has published "splendid", expected one of'),
    ("verdicts", {"strict": "passed", "published": []}, "verdicts has published [], expected one of"),
    ("verdicts", {"strict": "passed"}, "verdicts is of strict, expected strict, published"),
    ("seconds", None, "seconds is null, expected int or float"),
    ("seconds", float("nan"), "seconds is nan, expected 0 or more"),
    ("exit_code", "0", 'exit_code is "0", expected int or null'),
    ("stderr", None, "stderr is null, expected str"),
]
FILES = {"samples.jsonl": SAMPLE, "results.jsonl": RESULT, "references.jsonl": RESULT}


@pytest.mark.parametrize("name", FILES)
def test_a_row_that_is_damaged_or_there_twice_is_one_line(options, name):
    evaluate(Doubling(), RECIPE, options)
    path = options.output / name
    lines = path.read_text().splitlines(keepends=True)
    added = {lines[1]: " is also in line 2; remove one of them"}
    for key, value, words in CHANGES:
        row = {**FILES[name], key: value}
        if value is ...:
            del row[key]
        added |= {json.dumps(row) + "\n": f": {words}"} if key in FILES[name] else {}
    for line, words in added.items():
        path.write_text("".join([*lines, line]))
        with pytest.raises(UserError) as caught:
            evaluate(Doubling(), RECIPE, options)
        found = str(caught.value)
        assert f"{name}:{len(lines) + 1}:" in found and words in found and "\n" not in found, (line, found)


@pytest.mark.parametrize("row", [RESULT, {**RESULT, "completion_id": 0}], ids=["no sample", "another text"])
def test_a_verdict_about_no_sample_is_not_believed(options, row):
    evaluate(Doubling(), RECIPE, options)
    path = options.output / "results.jsonl"
    rows = [each for each in read_rows(path) if (each["task_id"], each["completion_id"]) != ("cpp/1", 0)]
    path.write_text("".join(json.dumps(each) + "\n" for each in [*rows, row]))
    result = evaluate(Doubling(), RECIPE, options)
    assert result["samples"] == {"drawn": 12, "judged": 12, "finish": {"eos": 12}}
    assert {each["samples"] for each in result["by_problem"]} == {2}


def test_a_sample_does_not_get_the_time_of_a_reference_by_saying_so(tmp_path):
    task = humaneval_x.build(write(tmp_path, "python"), cache=tmp_path / "cache")
    problem, sandbox = task.problems[0], open_sandbox()
    reference = task.reference(problem)
    claims = Sample(problem.id, 0, reference.prompt, reference.generation, "eos", {"reference": True})
    assert task.judge(problem, reference, sandbox).extra["limit"] == 60
    assert task.judge(problem, claims, sandbox).extra["limit"] == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": 3}, "prompt is 3, expected str"),
        ({"task_id": ["x"]}, "task_id is ['x'], expected the id of a problem"),
        # MTPB's samples are about a test case
        ({"extra": {"case": 99}}, "extra.case is 99, expected one of 0 to 1"),
        ({"extra": {"case": -1}}, "extra.case is -1, expected"),
        ({"extra": {"case": "0"}}, "extra.case is 0, expected"),
        ({"extra": {}}, "extra.case is None, expected"),
        ({"extra": {"case": 0, "turns": [{}]}}, "extra.turns: expected a list"),
    ],
    ids=str,
)
def test_a_sample_of_others_is_read_as_carefully(tmp_path, options, change, words):
    row = {"id": "1", "name": "sum", "category": "math", "prompts": ["Print {a}."]}
    row |= {"inputs": [{"a": 1}, {"a": 2}], "outputs": [1, 2]}
    task = mtpb.build(benchmark_data.write(tmp_path / "mtpb.jsonl", row))
    path = tmp_path / "given.jsonl"
    path.write_text(json.dumps({**SAMPLE, "task_id": "1", "generation": "print(1)", **change}) + "\n")
    with pytest.raises(UserError) as caught:
        evaluate(task, Recipe("mtpb"), dataclasses.replace(options, sampler=None, given=path, references="skip"))
    assert f"given.jsonl:1: {words}" in str(caught.value)
