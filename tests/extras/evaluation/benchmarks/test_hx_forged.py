"""Answers that try to forge a verdict of HumanEval-X, and what the programs of its problems reveal."""

import re
from pathlib import Path

import pytest
from benchmark_data import benchmark
from broken_answers import END
from chains import answer, judge_all, open_task
from forged_answers import EXPECTED, FORGED
from forged_answers import ROWS as FORGED_ROWS
from humaneval_x_rows import ROWS, write

from ms_codegeex.extras.evaluation.benchmarks.humaneval_x import build
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import cases, problems, programs
from ms_codegeex.extras.evaluation.sandbox import Verdict

QUICK = [("python", name) for name in ("files", "frames", "list that equals all", "guessed frames", "early exit")]
QUICK += [("js", name) for name in ("functions of the tests", "own JSON", "own values", "prototypes")]
KINDS = [(language, name) for language, kinds in FORGED.items() for name in kinds]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, sandbox):
    tasks = {}

    def judge(language: str, text: str):
        if language not in tasks:
            directory = tmp_path_factory.mktemp(language)
            write(directory, language, FORGED_ROWS[language])
            tasks[language] = open_task(directory, language, timeout=10)
        task = tasks[language]
        return task.judge(task.problems[0], answer(task.problems[0], text), sandbox)

    return judge


@pytest.mark.parametrize(
    ("language", "kind"),
    [pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow, id="-".join(each)) for each in KINDS],
)
def test_no_forged_answer_passes(judged, language: str, kind: str):
    """In strict mode. Many of these passed when the tests ran inside."""
    found = judged(language, FORGED[language][kind])
    assert found.verdicts["strict"] is not Verdict.PASSED, found.stderr


def test_what_is_no_data_is_wrong_and_published_is_what_the_published_tests_say(judged):
    """They believe an object that equals everything. A wrong value is reported with the expected one."""
    found = judged("python", FORGED["python"]["object that equals all"])
    assert found.verdicts == {"strict": Verdict.WRONG, "published": Verdict.PASSED}
    assert found.stderr == "value 1 of 2: no data, expected [1719283645, 2]" and found.extra["no_data"]
    plain = judged("python", "    return [0]\n")
    assert set(plain.verdicts.values()) == {Verdict.WRONG} and "no_data" not in plain.extra


def test_equal_values_pass(judged):
    """As in the tests: a subclass is what it is derived from, NumPy's numbers are Python's, 2.0 is 2; no tuple is a
    list. What follows a wrong value does not count."""
    right = "[1719283645, 2] if number == 2 else [884736521]"
    same = (f"[float(each) for each in ({right})]", f"[np.int64(each) for each in ({right})]")
    for text in (*same, f"type('Own', (list,), {{}})({right})"):
        found = judged("python", f"    return {text}\n")
        assert set(found.verdicts.values()) == {Verdict.PASSED}, found.stderr
    texts = {f"tuple({right})": "wrong", "[0] if number == 2 else 1 / 0": "wrong"}
    texts[f"({right}) if number == 2 else 1 / 0"] = "error"
    for text, verdict in texts.items():
        assert {each.value for each in judged("python", f"    return {text}\n").verdicts.values()} == {verdict}


@pytest.mark.parametrize("language", FORGED_ROWS)
def test_the_problem_of_the_forged_answers_is_sound(judged, language: str):
    assert set(judged(language, FORGED_ROWS[language]["canonical_solution"]).verdicts.values()) == {Verdict.PASSED}
    program = programs.assemble(problems.parse(FORGED_ROWS[language], "here:1"), "ANSWER")
    assert not program.witnessed and [check.expected for check in program.checks] == list(EXPECTED.values())
    assert not any(b"1719283645" in text or b"884736521" in text for text in program.files("main", "T").values())


def test_right_values_are_all_that_counts(tmp_path: Path, sandbox):
    """An answer that writes the right values itself passes, by whatever means; with one more or one less it fails."""
    write(tmp_path, "python")
    task = open_task(tmp_path, "python")
    body = (
        "    import os\n    for n in range(3, 9):\n        try: os.write(n, @)\n        except OSError: pass\n"
        "    os._exit(0)\n"
    )
    frames = {b"3:i6;4:i-3;": Verdict.PASSED, b"3:i6;": Verdict.ERROR, b"3:i6;4:i-3;3:i6;": Verdict.ERROR}
    frames |= {b"3:i6;3:i-3;": Verdict.WRONG, b"3:i6;4:i-2;": Verdict.WRONG, b"": Verdict.ERROR}
    for data, verdict in frames.items():
        text = body.replace("@", repr(data))
        assert task.judge(task.problems[0], answer(task.problems[0], text), sandbox).verdicts["strict"] is verdict, data


VALUES = {"python": 1542, "cpp": 1448, "java": 1532, "js": 1542, "go": 1539, "rust": 1440}
SHARED = {"CPP/0", "Java/95", "Rust/2", "Rust/33", "Go/33", "Go/37"}  # several calls use the same inputs; a loop's 0


@pytest.mark.parametrize("language", ROWS)
def test_all_tests_are_translated(language: str):
    """The programs of all problems only say values, as many as ever, and contain no assertion. Beside calls the tests
    have no literals, so no expected value is left in them, as a variable or a message."""
    count, found = 0, set()
    for problem in build(benchmark(""), [language]).problems:
        program = programs.assemble(problem.data, "ANSWER")
        assert program.call == "" and not program.witnessed and program.checks, problem.id
        tests = cases.translated(problems.tests_of(problem.data)[0], language, problem.data.number)
        assert "assert" not in tests.text.replace("#include<assert.h>", ""), problem.id
        count += len(program.checks)
        left = re.sub(r"METADATA = .*", "", tests.text)
        for statement in tests.statements:
            assert statement in left
            left = left.replace(statement, "", 1)
        found |= {problem.id} if re.search(r"(?<![\w.])\d|\"[^\"]*\"|'[^']*'", left) else set()
    assert count == VALUES[language]
    assert found == {each for each in SHARED if each.startswith(problems.PREFIXES[language])}


@pytest.mark.parametrize("language", ROWS)
def test_a_program_is_the_same_whatever_its_tests_expect(language: str):
    made = []
    for value in ("6", "7"):
        row = {**ROWS[language], "test": ROWS[language]["test"].replace("6", value)}
        made.append(programs.assemble(problems.parse(row, "here:1"), "ANSWER"))
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
    write(tmp_path, language, {**ROWS[language], "test": ROWS[language]["test"].replace(*LOOPS[language])})
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
