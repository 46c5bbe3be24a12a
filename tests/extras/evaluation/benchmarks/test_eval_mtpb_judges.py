"""What the published judge of MTPB makes of odd programs, and what ours does; programs run in the sandbox."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from benchmark_data import write

from ms_codegeex.extras.evaluation.benchmarks import mtpb
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample

PASSED, WRONG, ERROR, SYNTAX = Verdict.PASSED, Verdict.WRONG, Verdict.ERROR, Verdict.COMPILE_ERROR
TIMEOUT = Verdict.TIMEOUT
GOLD = {
    "int": 7,
    "str": "ab",
    "float": 0.3,
    "bool": True,
    "none": None,
    "list": [1, 2],
    "pairs": [["a", 1], ["b", 2]],
    "floats": [0.3, [1.5]],
    "dict": {"1": ["a"], "2": []},
    "text": "True",
    "empty": "",
}
# expected value, program, published verdict, strict verdict
PROGRAMS = [
    # what happens after the right print
    ("int", "print(7)", PASSED, PASSED),
    ("int", "print(7)\n1 / 0", PASSED, ERROR),
    ("int", "print(7)\nimport sys\nsys.exit()", ERROR, ERROR),
    ("int", "print(7)\nexit()", PASSED, ERROR),
    ("int", "print(7)\nimport os\nos._exit(0)", ERROR, ERROR),
    ("int", "print(7)\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", ERROR, ERROR),
    ("int", "print(7)\nraise KeyboardInterrupt", PASSED, ERROR),
    ("int", "print(7)\nimport os\nif os.fork() == 0:\n    print(8)", PASSED, PASSED),
    ("int", "import atexit, os\natexit.register(os._exit, 3)\nprint(7)", PASSED, ERROR),
    ("int", "print(7", SYNTAX, SYNTAX),
    ("int", "", WRONG, WRONG),
    # which print counts
    ("int", "print(1)\nprint(7)", PASSED, PASSED),
    ("int", "print(7)\nprint(1)", WRONG, WRONG),
    ("int", "print(7, 'apples')", PASSED, WRONG),
    ("int", "print('apples', 7)", WRONG, WRONG),
    ("int", "print()", WRONG, WRONG),
    ("int", "import sys\nprint(7, file=sys.stderr)", PASSED, WRONG),
    ("int", "def f():\n    print(7)\nf()", WRONG, PASSED),  # the published rewriting prints f's None after it
    ("int", "x = 7\nx", PASSED, PASSED),
    ("int", "import sys\nsys.stdout.write('7\\n')", WRONG, WRONG),
    ("list", "x = [1, 2]\nprint(x)\nx.append(3)\ny = 1", WRONG, PASSED),  # the same list, later
    ("empty", "print()", WRONG, PASSED),
    # types
    ("int", "print('7')", PASSED, PASSED),
    ("int", "print(7.9)", PASSED, WRONG),
    ("int", "print(7.0)", PASSED, PASSED),
    ("int", "print('7 ')", PASSED, WRONG),
    ("str", "print(['a', 'b'])", WRONG, WRONG),
    ("list", "print('12')", WRONG, WRONG),
    ("list", "print({1, 2})", PASSED, WRONG),
    ("list", "print((1, 2))", PASSED, PASSED),
    ("list", "print(range(1, 3))", PASSED, WRONG),
    ("list", "import numpy\nprint(numpy.array([1, 2]))", PASSED, PASSED),
    ("list", "import numpy\nprint([numpy.int64(1), numpy.float32(2)])", PASSED, PASSED),
    ("list", "import numpy\nprint([numpy.array([1]), numpy.array([2])])", WRONG, WRONG),
    ("pairs", "print([('a', 1), ('b', 2)])", PASSED, PASSED),
    ("pairs", "print((('a', 1), ('b', 2)))", WRONG, PASSED),
    ("float", "print(0.1 + 0.2)", PASSED, PASSED),
    ("float", "print(0.301)", WRONG, WRONG),
    ("float", "print('0.3')", PASSED, PASSED),
    ("float", "print(float('nan'))", WRONG, WRONG),
    ("floats", "print([0.1 + 0.2, [1.5]])", WRONG, PASSED),
    ("floats", "print([0.3, [1.6]])", WRONG, WRONG),
    ("bool", "print(True)", PASSED, PASSED),
    ("bool", "print('True')", PASSED, PASSED),
    ("bool", "print(1)", WRONG, WRONG),
    ("text", "print(True)", PASSED, PASSED),
    # what the published judge never accepts
    ("none", "print(None)", WRONG, PASSED),
    ("none", "print(0)", WRONG, WRONG),
    ("none", "x = 1", WRONG, WRONG),
    ("dict", "print({1: ['a'], 2: []})", WRONG, PASSED),
    ("dict", "print({'2': (), '1': ['a']})", WRONG, PASSED),
    ("dict", "print({1: ['a']})", WRONG, WRONG),
    # what is meant to deceive
    ("int", "class C:\n    __eq__ = lambda *_: True\n    __hash__ = None\nprint(C())", WRONG, WRONG),
    ("int", "class C(int):\n    __eq__ = lambda *_: True\n    __hash__ = None\nprint(C(8))", WRONG, WRONG),
    ("int", "import os, json\nfor d in range(9):\n    try:\n        os.write(d, b'passed\\n')\n    except OSError:\n"
            "        pass\nos._exit(0)", ERROR, ERROR),
    ("int", "import sys\nprint(8)\nsys.modules['__main__'].__dict__.update(secret=7, gold=8)", WRONG, WRONG),
    ("int", "x = [7]\nx.append(x)\nprint(x)", WRONG, WRONG),
    ("int", "print(10 ** 5000)", ERROR, ERROR),
    ("str", "print('\\ud800')", WRONG, WRONG),
]  # fmt: skip


@pytest.fixture
def task(tmp_path):
    common = {"category": "array", "prompts": ["Print."], "inputs": [{}]}
    rows = [{**common, "id": key, "name": key, "outputs": [value]} for key, value in GOLD.items()]
    return mtpb.build(write(tmp_path / "m.jsonl", *rows))


def judged(task, sandbox, number, text):
    problem = next(problem for problem in task.problems if problem.id == number)
    found = task.judge(problem, Sample(number, 0, "", text, "eos", {"case": 0}), sandbox)
    return found, (found.verdicts["published"], found.verdicts["strict"])


def test_verdicts_of_both_judges(task, sandbox):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda row: judged(task, sandbox, *row[:2])[1], PROGRAMS))
    assert [(row, now) for row, now in zip(PROGRAMS, found, strict=True) if now != row[2:]] == []
    for problem in task.problems[3:9:2]:  # a bool, a list, lists in a list
        assert task.judge(problem, task.trial(problem), sandbox).verdicts["strict"] is PASSED


ENDLESS = [
    ("print(7)\nwhile True: pass", PASSED, TIMEOUT),
    ("print(8)\nwhile True: pass", TIMEOUT, TIMEOUT),
    # not to be interrupted: there is no report
    ("import time\nprint(7)\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass", TIMEOUT, TIMEOUT),
    # its end is reported, but its process goes on
    ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\nprint(7)", PASSED, TIMEOUT),
]


@pytest.mark.slow  # it waits for ten seconds, as that of HumanEval does
def test_time_is_up(tmp_path, task, sandbox, monkeypatch):
    monkeypatch.setattr(mtpb, "SECONDS", 2.0)
    monkeypatch.setattr(mtpb, "GRACE", 8.0)
    task = mtpb.build(tmp_path / "m.jsonl")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: judged(task, sandbox, "int", row[0]), ENDLESS))
    assert [verdicts for _, verdicts in found] == [tuple(row[1:]) for row in ENDLESS]
    assert found[0][0].seconds >= 2 and "time is up" in found[0][0].stderr


def test_what_a_program_prints_and_reads_goes_nowhere(task, sandbox):
    text = "import os, sys\nos.write(1, b'x' * 9_000_000)\nprint(sys.stdin.read() == '' and sys.argv)"
    found, verdicts = judged(task, sandbox, "int", text)
    assert verdicts == (WRONG, WRONG) and found.exit_code == 0


def test_the_judge_cannot_be_replaced_and_the_secret_is_not_there(task, sandbox):
    text = (
        "import glob\nfound = glob.glob('/judge/*')\nwritten = []\n"
        "for name in found:\n"
        "    try:\n        open(name, 'w')\n        written.append(name)\n    except OSError:\n        pass\n"
        "text = ''.join(map(str, [open('program.py').read(), vars()]))\n"
        "print(7 if found and not written and 'witness-' not in text.replace(\"'witness-'\", '') else 8)"
    )
    assert judged(task, sandbox, "int", text)[1] == (PASSED, PASSED)


def test_the_order_of_a_set_is_always_the_same(task, sandbox):
    text = "raise ValueError(''.join({'alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta'}))"
    reported = {judged(task, sandbox, "str", text)[0].stderr for _ in range(3)}
    assert len(reported) == 1 and "epsilon" in reported.pop()


@pytest.mark.parametrize(
    "printed",
    [
        {"calls": 1, "value": "7", "type": "int", "strict": {"value": 7, "text": "7"}},
        {"value": ["int", "x"], "type": "int", "strict": {"value": ["int", 7]}},
        {"value": ["list", 7], "type": "list", "strict": 7},
        {"value": ["float", None], "type": [], "strict": {}},
    ],
)
def test_a_report_that_was_tampered_with_is_no_answer(printed):
    for gold in (7, [7], 7.0, "7 "):
        assert not mtpb.right(mtpb.published, printed, gold)
        assert gold == 7 or not mtpb.right(mtpb.strict, printed, gold)


@pytest.mark.parametrize(
    ("value", "gold", "same"),
    [
        ([1, (2.0000001, 3)], [1, [2, 3]], True),
        ([1, 2, 3], [1, 2], False),
        (10**400, 1.0, False),
        (1e15 + 1, 10**15, True),
        (10**15 + 1, 10**15, False),
        (True, 1, False),
        (1, True, False),
        ({"a": {"b": 1}}, {"a": {"b": 1.0}}, True),
        ({"a": 1}, {"b": 1}, False),
        ("1", 1, False),
        ([], {}, False),
    ],
)
def test_structural_equality(value, gold, same):
    assert mtpb.equal(value, gold) is same
