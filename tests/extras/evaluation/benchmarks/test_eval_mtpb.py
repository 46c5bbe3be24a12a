"""MTPB: its file, its turns, and both judges over programs written by hand."""

import json

import pytest
from benchmark_data import benchmark, write
from mtpb_programs import ANSWERS

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.extras.evaluation.benchmarks import mtpb
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer

CASES = 5
ROW = {
    "id": "7",
    "name": "Sum",
    "category": "math",
    "prompts": ["Assign {a} to x.", "Print x."],
    "inputs": [{"a": 1}, {"a": [2]}],
    "outputs": [1, [2]],
    "max_gen_length": 9,
}


@pytest.fixture(scope="module")
def task():
    return mtpb.build(benchmark("mtpb"))


class Scripted:
    def __init__(self, answers, room=10**6):
        self.answers, self.room, self.calls = iter(answers), room, []

    def __call__(self, prompt, *, seed, stop=None, max_new_tokens=None):
        if len(prompt) > self.room:
            raise PromptTooLong(f"prompt: {len(prompt)} tokens")
        self.calls.append((prompt, seed, max_new_tokens))
        return SampledAnswer(next(self.answers), "stop")


def problem_of(task, number):
    return next(problem for problem in task.problems if problem.id == number)


def handwritten(task, number, case):
    problem = problem_of(task, number)
    values = problem.data.cases[case].inputs
    answers = [answer.format(**values) + "\n# and so on" for answer in ANSWERS[number].turns]
    return task.produce(problem, case, 1, Scripted(answers))


def verdicts(task, sandbox, sample):
    judgement = task.judge(problem_of(task, sample.task_id), sample, sandbox)
    return judgement.verdicts["published"], judgement.verdicts["strict"]


def program(number, case, text):
    return Sample(number, case, "", text, "eos", {"case": case})


def test_the_published_file(task):
    assert len(task.problems) == 115 and sum(len(p.data.cases) for p in task.problems) == 575
    assert sum(len(p.data.cases[0].prompts) for p in task.problems) == 514
    lengths = [p.data.max_gen_length for p in task.problems]
    assert {n: lengths.count(n) for n in lengths} == {128: 88, 256: 19 + 7, 512: 1}
    assert [p.labels["category"] for p in task.problems].count("data science") == 23
    assert len(problem_of(task, "57").data.cases) == 5  # one output more than inputs
    first, _, _, _, fifth = problem_of(task, "10").data.cases
    assert fifth.inputs == {"a1": "0xAA"} and first.gold == 255  # twice the same input: two cases
    assert task.samples_per_problem(40) == 200 and task.provenance["known"]
    assert set(task.known_defects()) == {"23", "31", "38", "41", "46", "89", "94"}
    assert task.reference(task.problems[0]) is None


def test_unreachable_gold_values_are_the_seven_of_the_facts(task):
    cases = [(problem.id, n, case.gold) for problem in task.problems for n, case in enumerate(problem.data.cases)]
    found = [(name, n) for name, n, gold in cases if gold is None or type(gold) is dict]
    assert found == [("41", 1), ("41", 4), *(("89", n) for n in range(5))]


def test_another_file_is_read_and_has_no_known_defects(tmp_path):
    row = {key: value for key, value in ROW.items() if key != "max_gen_length"}
    found = mtpb.build(write(tmp_path / "mtpb.jsonl", {**row, "id": "89"}))
    assert found.problems[0].data.max_gen_length == 256 and not found.known_defects() and not found.provenance["known"]
    assert found.problems[0].data.cases[1].prompts == ("Assign [2] to x.", "Print x.")


def test_turns_share_one_growing_context(tmp_path):
    found = mtpb.build(write(tmp_path / "m.jsonl", ROW))
    model = Scripted(["x = 1\nprint(x)\nprint(x)", "print(x)\n# more"])
    sample = found.produce(found.problems[0], 2, 5, model)  # sample 1 of case 0
    start = "# Import libraries.\n\nimport numpy as np\n\n# Assign 1 to x.\n"
    second = start + "x = 1\nprint(x)\n\n\n# Print x.\n"
    assert [call[0] for call in model.calls] == [start, second] and [call[2] for call in model.calls] == [9, 9]
    assert sample.generation == second + "print(x)\n\n\n" and sample.prompt == start
    assert sample.completion_id == 2 and sample.extra["case"] == 0 and sample.finish == "stop"
    assert [turn["text"] for turn in sample.extra["turns"]] == ["x = 1\nprint(x)\n", "print(x)\n"]
    assert json.loads(json.dumps(sample.extra)) == sample.extra
    assert "Assign [2] to x." in found.produce(found.problems[0], 1, 5, Scripted("ab")).generation


def test_each_turn_has_its_own_seed_that_the_samples_seed_decides(tmp_path):
    found = mtpb.build(write(tmp_path / "m.jsonl", ROW))

    def seeds(seed):
        model = Scripted("ab")
        found.produce(found.problems[0], 0, seed, model)
        return [call[1] for call in model.calls]

    assert seeds(3) == seeds(3) == [mtpb.turn_seed(3, 0), mtpb.turn_seed(3, 1)]
    assert len({*seeds(3), *seeds(4)}) == 4 and all(0 <= seed < 2**31 for seed in seeds(3))


def test_a_single_specification(tmp_path):
    found = mtpb.build(write(tmp_path / "m.jsonl", ROW), "single")
    model = Scripted(["x = 1\nprint(0)\nprint(x)\nprint(2)\n"])
    sample = found.produce(found.problems[0], 0, 5, model)
    (call,) = model.calls
    start = "# Import libraries.\n\nimport numpy as np\n\n"
    assert call[0] == start + "# Assign 1 to x.\n# Print x.\n" and call[2] == 18
    assert sample.generation == call[0] + "x = 1\nprint(0)\nprint(x)\n\n\n"  # a line of print for each turn


def test_a_context_without_room(tmp_path):
    found = mtpb.build(write(tmp_path / "m.jsonl", ROW))
    with pytest.raises(PromptTooLong, match=r"MTPB problem 7, case 0: .*2048"):
        found.produce(found.problems[0], 0, 1, Scripted("ab", room=5))
    sample = found.produce(found.problems[0], 0, 1, Scripted(["y" * 99], room=70))
    assert "turn 2 of 2: prompt" in sample.extra["turns"][1]["reason"] and sample.finish == "length"
    assert sample.generation.endswith("# Print x.\n\n\n")


def check_programs(task, sandbox, number, cases):
    """The right program passes (in published mode if that accepts any), unless the benchmark is wrong."""
    for case in cases:
        sample = handwritten(task, number, case)
        published, strict = verdicts(task, sandbox, sample)
        gold = problem_of(task, number).data.cases[case].gold
        assert (strict is Verdict.PASSED) is (case not in ANSWERS[number].wrong), sample.generation
        reachable = gold is not None and not isinstance(gold, dict)
        assert (published is Verdict.PASSED) is (reachable and strict is Verdict.PASSED), sample.generation


def check_mutants(task, sandbox, number, mutants):
    case = ANSWERS[number].case
    text = handwritten(task, number, case).generation
    programs = [text.replace(*mutant) for mutant in mutants]
    assert text not in programs
    for mutant in programs:
        assert Verdict.PASSED not in verdicts(task, sandbox, program(number, case, mutant)), mutant


@pytest.mark.parametrize("number", ANSWERS)
def test_programs_written_by_hand_pass_and_a_mutant_of_each_fails(task, sandbox, number):
    check_programs(task, sandbox, number, [ANSWERS[number].case])
    check_mutants(task, sandbox, number, ANSWERS[number].mutants[:1])


@pytest.mark.slow
@pytest.mark.parametrize("number", ANSWERS)
def test_all_cases_and_mutants(task, sandbox, number):
    check_programs(task, sandbox, number, range(CASES))
    check_mutants(task, sandbox, number, ANSWERS[number].mutants)


PANDAS = """import pandas as pd
df = pd.DataFrame({{"Yes": [50, 21], "No": [131, 2]}})
means = df.mean()
print({0})"""


@pytest.mark.parametrize(("shown", "right"), [("means", True), ("means.to_numpy()", True), ("means * 2", False)])
def test_series_are_lists(task, sandbox, shown, right):
    pytest.importorskip("pandas")
    found = verdicts(task, sandbox, program("6", 0, PANDAS.format(shown)))
    assert found == ((Verdict.PASSED,) * 2 if right else (Verdict.WRONG,) * 2)


def test_a_library_that_is_missing_is_named(task, monkeypatch):
    asked = []
    monkeypatch.setattr(
        type(task.runner.interpreter), "lacks", lambda self, names: asked.extend(names) or ["sklearn", "pandas"]
    )
    assert task.missing() == {"scikit-learn": "pip install scikit-learn", "pandas": "pip install pandas"}
    assert asked == ["numpy", "pandas", "sklearn"]
