"""Answers that try to forge a verdict of HumanEval-X, and what the programs of its problems reveal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_data import benchmark
from broken_answers import END
from chains import answer, judge_all, open_task
from forged_answers import FORGED
from humaneval_x_rows import ROWS, write

from ms_codegeex.evaluation.benchmarks.humaneval_x import cases, defects, problems, programs
from ms_codegeex.evaluation.benchmarks.humaneval_x.task import build
from ms_codegeex.evaluation.sandbox import Verdict

COMPILED = [pytest.param(name, marks=pytest.mark.slow) for name in ("cpp", "java", "go", "rust")]


@pytest.mark.parametrize("language", ["python", "js", *COMPILED])
def test_no_forged_answer_passes(tmp_path: Path, sandbox, language: str):
    """In strict mode; the reference passes, so the problem is sound."""
    write(tmp_path, language)
    task = open_task(tmp_path, language, timeout=10)
    problem, forged = task.problems[0], FORGED[language]
    reference = task.judge(problem, task.reference(problem), sandbox)
    assert reference.verdicts["strict"] is Verdict.PASSED, reference.stderr
    assert task.program(problem, task.reference(problem)).witnessed is False
    samples = [(problem, answer(problem, text)) for text in forged.values()]
    found = dict(zip(forged, judge_all(task, sandbox, samples), strict=True))
    assert not [name for name, each in found.items() if each.verdicts["strict"] is Verdict.PASSED]


@pytest.mark.parametrize("language", ["python"])
def test_right_values_are_all_that_counts(tmp_path: Path, sandbox, language: str):
    """Whoever writes the right values passes, however it writes them; one value more or less does not."""
    write(tmp_path, language)
    task = open_task(tmp_path, language)
    body = (
        "    import os\n    for n in range(3, 9):\n        try: os.write(n, @)\n        except OSError: pass\n"
        "    os._exit(0)\n"
    )
    frames = {b"3:i6;4:i-3;": Verdict.PASSED, b"3:i6;": Verdict.ERROR, b"3:i6;4:i-3;3:i6;": Verdict.ERROR}
    frames |= {b"3:i6;3:i-3;": Verdict.WRONG, b"3:i6;4:i-2;": Verdict.WRONG, b"": Verdict.ERROR}
    for data, verdict in frames.items():
        text = body.replace("@", repr(data))
        assert task.judge(task.problems[0], answer(task.problems[0], text), sandbox).verdicts["strict"] is verdict, data


@pytest.mark.parametrize("language", ROWS)
def test_all_tests_are_translated(language: str):
    """The programs of all problems only say values, and contain no assertion."""
    for problem in build(benchmark(""), [language]).problems:
        program = programs.assemble(problem.data, "ANSWER")
        assert program.call == "" and not program.witnessed and program.checks, problem.id
        tests = cases.translated(defects.tests(problem.data)[0], language, problem.data.number)
        assert "assert" not in tests.text.replace("#include<assert.h>", ""), problem.id


@pytest.mark.parametrize("language", ROWS)
def test_a_program_is_the_same_whatever_its_tests_expect(language: str):
    """Only the checks, which stay in our process, differ."""
    made = []
    for value in ("6", "7"):
        row = {**ROWS[language], "test": ROWS[language]["test"].replace("6", value)}
        made.append(programs.assemble(problems.parse(json.dumps(row).encode(), "here:1"), "ANSWER"))
    first, second = made
    assert first.files("main", "T") == second.files("main", "T")
    assert [check.expected for check in first.checks] == [6, -3] != [check.expected for check in second.checks]
    assert first.fingerprint != second.fingerprint


LOOPS = {  # the second assertion of `triple`, in a loop
    "python": ("    assert triple(-1) == -3", "    for x in [-1]:\n        assert triple(x) == 3 * x"),
    "js": ("  console.assert(triple(-1) === -3)", "  for (const x of [-1]) { console.assert(triple(x) === 3 * x) }"),
    "cpp": ("    assert (triple(-1) == -3);", "    for (int x=-1;x<0;x++) assert (triple(x) == 3*x);"),
}


@pytest.mark.parametrize("language", LOOPS)
def test_values_and_assertions_in_one_program(tmp_path: Path, sandbox, language: str):
    """Both must be right, and all of both must be there."""
    row = {**ROWS[language], "test": ROWS[language]["test"].replace(*LOOPS[language])}
    write(tmp_path, language, row)
    task = open_task(tmp_path, language, timeout=10)
    problem = task.problems[0]
    program = task.program(problem, task.reference(problem))
    assert program.witnessed and len(program.checks) == 1
    solution, end = problem.data.solution, END[language]
    wrong, leaves = {
        "python": ("    return number + 4\n", "    import os\n    if number < 0: os._exit(0)\n"),
        "js": ("  return number + 4\n", "  if (number < 0) process.exit(0)\n"),
        "cpp": ("    return number + 4;\n", "    if (number < 0) exit(0);\n"),
    }[language]
    texts = [solution, wrong + end, wrong.replace("number", "0") + end, leaves + solution]
    found = judge_all(task, sandbox, [(problem, answer(problem, text)) for text in texts])
    verdicts = [each.verdicts["strict"] for each in found]
    assert verdicts == [Verdict.PASSED, Verdict.WRONG, Verdict.WRONG, Verdict.ERROR]


def test_forty_kinds():
    assert sum(map(len, FORGED.values())) >= 40 and set(FORGED) == set(ROWS)
