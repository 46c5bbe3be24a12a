"""The tool chains judge a problem of our own: its solution, six ways of breaking it, and tricks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cheating_answers
import pytest
from broken_answers import BODIES, END, KINDS, TRICKS, broken
from chains import answer, judge_all, open_task
from humaneval_x_rows import ROWS, write

from ms_codegeex.extras.evaluation.judging.python_program import witness
from ms_codegeex.extras.evaluation.sandbox import End, Execution, Verdict, published_verdict
from ms_codegeex.extras.evaluation.sandbox.outcome import FAILURES


@pytest.fixture
def task(tmp_path: Path, language: str):
    write(tmp_path, language)
    return open_task(tmp_path, language, timeout=60)


WRONG, ERROR, COMPILE = Verdict.WRONG, Verdict.ERROR, Verdict.COMPILE_ERROR
EXPECTED = {  # of `KINDS`, strict
    "python": (WRONG, WRONG, Verdict.TIMEOUT, ERROR, ERROR, ERROR),
    "cpp": (ERROR, WRONG, Verdict.TIMEOUT, ERROR, ERROR, ERROR),
    "java": (COMPILE, WRONG, Verdict.TIMEOUT, ERROR, ERROR, ERROR),
    "js": (WRONG, WRONG, Verdict.TIMEOUT, ERROR, ERROR, WRONG),
    "go": (COMPILE, WRONG, Verdict.TIMEOUT, ERROR, COMPILE, WRONG),
    "rust": (COMPILE, WRONG, Verdict.TIMEOUT, ERROR, ERROR, ERROR),
}


@pytest.mark.parametrize("language", ROWS)
def test_a_solution_passes_and_what_is_broken_does_not(task, tmp_path: Path, sandbox, language: str):
    """Verdicts are what became of the program, in both modes; the infinite loop is ended early by a limit of its own,
    while others are judged. The two modes differ where a program leaves early, except for Go and Python, whose runners
    notice."""
    problem = task.problems[0]
    reference = task.judge(problem, task.reference(problem), sandbox)
    assert reference.verdicts == {"strict": Verdict.PASSED, "published": Verdict.PASSED}, reference.stderr
    samples = {kind: answer(problem, broken(problem.data, kind)) for kind in KINDS}
    impatient = open_task(tmp_path, language, timeout=1.0)
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(impatient.judge, problem, samples.pop("loop"), sandbox)
        found = {kind: task.judge(problem, sample, sandbox) for kind, sample in samples.items()}
        found["loop"] = loop.result()
    assert tuple(found[kind].verdicts["strict"] for kind in KINDS) == EXPECTED[language]
    believed = found["exit"].verdicts["published"] is Verdict.PASSED
    assert believed == (language not in ("go", "python")), "whether the published judge believes who leaves early"


KNOWN = {"tricks": (ROWS, TRICKS), "cheats": (cheating_answers.ROWS, cheating_answers.CHEATS)}


@pytest.mark.parametrize("language", ROWS)
@pytest.mark.parametrize("kind", KNOWN)
def test_what_ends_early_or_tampers_with_the_tests_does_not_pass(tmp_path: Path, sandbox, language: str, kind: str):
    """The reference passes, so the problem is sound."""
    rows, texts = KNOWN[kind]
    write(tmp_path, language, rows[language])
    task = open_task(tmp_path, language, timeout=4)  # some never end
    problem = task.problems[0]
    reference = task.judge(problem, task.reference(problem), sandbox)
    assert set(reference.verdicts.values()) == {Verdict.PASSED}, reference.stderr
    samples = [(problem, answer(problem, text)) for text in texts[language].values()]
    found = dict(zip(texts[language], judge_all(task, sandbox, samples), strict=True))
    assert not [name for name, each in found.items() if each.verdicts["strict"] is Verdict.PASSED]


PRINTS = {  # before the solution: with or without a line break, buffered or not
    "python": "    print(number, end='')\n",
    "cpp": '    ios::sync_with_stdio(false);\n    cout << number; printf("x");\n',
    "java": '        System.out.print("x");\n',
    "go": '    fmt.Print("x")\n',
    "rust": '    print!("x");\n',
}
VERDICTS = {  # language -> answer -> the verdict in both modes
    **{name: {text + ROWS[name]["canonical_solution"]: Verdict.PASSED} for name, text in PRINTS.items()},
    # only JavaScript's runner takes what an answer prints for a failed test
    "js": {f"  console.{name}(number)\n  return 3 * number\n}}\n": WRONG for name in ("log", "error")},
}
VERDICTS["python"] |= {
    "    return bytes(1 << 40)\n": Verdict.MEMORY,
    "    return return\n": COMPILE,
    "    return int(np.sum([number] * 3))\n": Verdict.PASSED,  # NumPy is there for who names it
}
VERDICTS["cpp"] |= {  # nothing of ours includes more than the published nine headers
    f"    {kind} known;\n    return 3*number;\n}}\n": COMPILE for kind in ("map<int,int>", "set<int>", "list<int>")
}


@pytest.mark.parametrize("language", ROWS)
def test_verdicts_of_answers_by_hand(task, sandbox, language: str):
    samples = [(task.problems[0], answer(task.problems[0], text)) for text in VERDICTS[language]]
    found = judge_all(task, sandbox, samples)
    wrong = [each for each, verdict in zip(found, VERDICTS[language].values(), strict=True)
             if set(each.verdicts.values()) != {verdict}]  # fmt: skip
    assert wrong == []


def test_limits_come_from_the_references(tmp_path: Path, sandbox):
    """Five times the slowest, at least the published 5 s; a limit set by the user stays."""
    write(tmp_path, "python")
    free, fixed = (open_task(tmp_path, "python", timeout=timeout) for timeout in (None, 2.0))
    judgement = free.judge(free.problems[0], free.reference(free.problems[0]), sandbox)
    assert free.timeouts == {"python": 5.0}
    assert judgement.extra["limit"] == 60.0
    assert free.calibrate([judgement]) == {"python": 5.0}
    judgement.extra["run_seconds"] = 3.0
    assert free.calibrate([judgement]) == {"python": 15.0} == free.timeouts
    assert fixed.calibrate([judgement]) == {"python": 2.0}
    judgement.verdicts["strict"] = Verdict.WRONG
    assert free.calibrate([judgement]) == {"python": 15.0}


@pytest.mark.parametrize("language", ROWS)
def test_the_same_program_has_the_same_fingerprint(task, language: str):
    problem = task.problems[0]
    first, second = (task.program(problem, task.reference(problem)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert b"token" not in first.source("abc") or first.source("abc") != first.source("abd")
    other = task.program(problem, answer(problem, BODIES[language]["exception"] + END[language]))
    assert other.fingerprint != first.fingerprint


def test_shared_rules():
    """`published`, and whether a secret was printed: what the judges of all tasks share."""
    secret = witness()
    good = Execution(End.EXITED, 0, 0.1, f"x\n{secret}\nok\n".encode(), b"")
    assert published_verdict([good]) is Verdict.PASSED and good.printed(secret)
    assert not good.printed(witness())
    assert not Execution(End.EXITED, 0, 0.1, f"x{secret}\n".encode(), b"").printed(secret)
    failed = Execution(End.EXITED, 1, 0.1, secret.encode(), b"")
    assert published_verdict([failed], 1) is Verdict.COMPILE_ERROR
    assert published_verdict([good, failed], 1) is Verdict.ERROR
    for end, verdict in {**FAILURES, End.SIGNALLED: Verdict.ERROR}.items():
        assert published_verdict([Execution(end, -9, 0.1, secret.encode(), b"")]) is verdict
    assert published_verdict([Execution(End.TIMEOUT, -9, 9.0, b"", b"")], 1) is Verdict.TIMEOUT
