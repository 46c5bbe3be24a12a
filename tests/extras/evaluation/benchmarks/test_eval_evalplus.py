"""EvalPlus's files and rules, with problems of our own in its format."""

import contextlib
import importlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from benchmark_data import write

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.evaluation.benchmarks import evalplus
from ms_codegeex.extras.evaluation.benchmarks.evalplus import converted
from ms_codegeex.extras.evaluation.judging.python_program import INSIDE
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer

PASSED, WRONG, ERROR = Verdict.PASSED, Verdict.WRONG, Verdict.ERROR
HALVES = {
    "task_id": "HumanEval/900",
    "prompt": '\ndef halves(xs):\n    """Half of each number."""\n',
    "entry_point": "halves",
    "canonical_solution": "    return [x / 2 for x in xs]\n",
    "base_input": [[[1, 2]], [[]]],
    "plus_input": [[[0.3, -4]], [[10**30]]],
    "atol": 0,
}
SHARED = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function that returns what two tuples share.\nassert shared((1, 2), (2,)) == (2,)\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(one, other):\n    return tuple(set(one) & set(other))\n",
    "base_input": [[[1, 2, 3], [3, 1]]],
    "plus_input": [[[], [1]]],
    "atol": 0,
}

# The same problem as on Hugging Face. The test is a program, of which only the arguments and the last line are read.
HUB_TEST = """import numpy as np
from math import inf

def is_floats(x) -> bool:
    return isinstance(x, float)

def assertion(out, exp, atol):
    raise NotImplementedError("no code of this file may run")

inputs = [[(1, 2, 3), (3, 1)], [(), (1,)], [({1, 2}, set(), -inf, 2.5), (1 + 2j, None, 'inf\\n')]]
results = [(1, 3), (), ()]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(similar_elements(*inp), exp, 0)
"""
HUB = {
    "task_id": 2,
    "code": SHARED["canonical_solution"],
    "prompt": "Write a function that returns what two tuples share.",
    "source_file": "own",
    "test_imports": [],
    "test_list": ["assert shared((1, 2), (2,)) == (2,)"],
    "test": HUB_TEST,
}


def hub(old, new):
    return {**HUB, "test": HUB_TEST.replace(old, new)}


@pytest.fixture
def compare_calls(monkeypatch):
    monkeypatch.syspath_prepend(str(INSIDE))
    return importlib.import_module("compare_calls")


def verdicts(task, sandbox, problem, program):
    """Strict, published and base."""
    found = task.judge(problem, Sample(problem.id, 0, "", program, "eos"), sandbox)
    return tuple(found.verdicts[mode] for mode in task.modes)


ANSWERS = [
    ("def halves(xs):\n    xs.reverse()\n    return [x / 2 for x in xs[::-1]]", (PASSED, PASSED, PASSED)),
    ("def halves(xs):\n    return [x / 2 for x in xs if x < 4]", (WRONG, WRONG, PASSED)),
    ("def halves(xs):\n    return [x / 2 if x > 0 else 1 / 0 for x in xs]", (ERROR, ERROR, PASSED)),
    ("def others(xs):\n    pass", (ERROR, ERROR, ERROR)),
    ("def halves(xs:", (Verdict.COMPILE_ERROR,) * 3),
    # whatever equals everything, or writes the results itself, is not plain data and knows no values
    ("class Any(list):\n    __eq__ = lambda *_: True\ndef halves(xs):\n    return Any()", (ERROR, ERROR, ERROR)),
    ("import os\ndef halves(xs):\n    open('returned', 'wb').write(b'')\n    os._exit(0)", (ERROR, ERROR, ERROR)),
]  # fmt: skip
FORGED = r"""
import sys
class Pickler:
    def __init__(self, file, protocol): self.file = file
    def dump(self, value):
        self.file.write(b"\x80\x02ccollections\nCounter\nN}U\x06__eq__cbuiltins\nstr\ns\x86b)R.")
sys.modules["plain"].Pickler = Pickler
def halves(xs): return None
"""  # an instance of a class whose `__eq__` is `str`
MORE_ANSWERS = [
    (FORGED, (WRONG, WRONG, WRONG)),
    ("def halves(xs):\n    return (x / 2 for x in xs)", (WRONG, WRONG, WRONG)),
    ("def halves(xs):\n    return [x / 2 for x in xs]", (PASSED, PASSED, PASSED)),
    ("def halves(xs):\n    return [x * 0.5 + 1e-9 for x in xs]", (PASSED, PASSED, PASSED)),
    ("import atexit, os\natexit.register(os._exit, 1)\ndef halves(xs):\n    return [x / 2 for x in xs]", (ERROR,) * 3),
    ("def halves(xs):\n    return [x / 2 if x < 9e9 else int('x') for x in xs]", (ERROR, ERROR, PASSED)),
    ("def halves(xs):\n    assert False", (ERROR, ERROR, ERROR)),
    ("import sys\nsys.stdin.read = None\ndef halves(xs):\n    sys.exit(0)", (ERROR, ERROR, ERROR)),
    ("if __name__ == '__main__':\n    exit(1)\ndef halves(xs):\n    return [x / 2 for x in xs]", (PASSED,) * 3),
]  # fmt: skip


@pytest.mark.parametrize("answers", [ANSWERS, pytest.param(MORE_ANSWERS, marks=pytest.mark.slow)], ids=["few", "more"])
def test_verdicts_of_answers(tmp_path, sandbox, answers):
    task = evalplus.build(write(tmp_path / "HumanEvalPlus.jsonl", HALVES), timeout=30)
    (problem,) = task.problems
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda row: verdicts(task, sandbox, problem, row[0]), answers))
    assert [pair for pair in zip(answers, found, strict=True) if pair[0][1] != pair[1]] == []


def test_both_files_of_a_directory(tmp_path, sandbox):
    write(tmp_path / "HumanEvalPlus-v0.1.10.jsonl.gz", HALVES)
    write(tmp_path / "MbppPlus.jsonl", SHARED, {**SHARED, "task_id": "Mbpp/901", "plus_input": {}})
    task = evalplus.build(tmp_path, timeout=30)
    assert [(p.id, p.labels["dataset"]) for p in task.problems] == [
        ("HumanEval/900", "humaneval"), ("Mbpp/2", "mbpp"), ("Mbpp/901", "mbpp"),
    ]  # fmt: skip
    _, shared, only_base = task.problems
    assert shared.data.base == [[(1, 2, 3), (3, 1)]] and only_base.data.base == [[[1, 2, 3], [3, 1]]]
    found = task.judge(only_base, task.reference(only_base), sandbox)
    assert set(found.verdicts.values()) == {PASSED}, found.stderr
    lists = "def similar_elements(one, other):\n    return [x for x in one + one if x in other]"
    assert verdicts(task, sandbox, shared, lists) == (PASSED, PASSED, PASSED)


def test_the_form_of_hugging_face_is_read_as_evalplus_own(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (own,) = evalplus.build(write(tmp_path / "own.jsonl", SHARED)).problems
    (found,) = evalplus.build(write(tmp_path / "hub.jsonl", HUB)).problems
    place = tmp_path / "mbppplus" / "data"
    place.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist([HUB]), place / "test-00000-of-00001-d5781c9c51e02795.parquet")
    assert [problem.data for problem in evalplus.build(tmp_path / "mbppplus").problems] == [found.data]
    assert (found.id, found.labels, found.data.prompt) == (own.id, own.labels, own.data.prompt)
    assert (found.data.entry_point, found.data.tolerance, found.data.base) == ("similar_elements", 0.0, own.data.base)
    assert repr(found.data.plus) == "[[(), (1,)], [({1, 2}, set(), -inf, 2.5), ((1+2j), None, 'inf\\n')]]"
    reference = write(tmp_path / "crosscheck.jsonl", hub("exp, 0)", "ref_func(*inp), 1e-06)"))
    assert evalplus.build(reference).problems[0].data.tolerance == 1e-6


INTERRUPTED = """
from signal import ITIMER_REAL, getitimer, setitimer

def halves(xs):
    assert 900 < getitimer(ITIMER_REAL)[0] <= 1000  # each call has its own seconds, whatever the one before left
    setitimer(ITIMER_REAL, 0.01 if 0.3 in xs else 500)
    while 0.3 in xs:
        pass
    return [x / 2 for x in xs]
"""


def test_calls_are_interrupted_one_by_one(tmp_path, sandbox):
    """The program itself shortens its time, so that nothing depends on how fast the machine is."""
    task = evalplus.build(write(tmp_path / "h.jsonl", HALVES), timeout=1000)
    assert verdicts(task, sandbox, task.problems[0], INTERRUPTED) == (Verdict.TIMEOUT, Verdict.TIMEOUT, PASSED)


def test_a_reference_that_fails_ends_the_evaluation(tmp_path, sandbox):
    row = {**HALVES, "canonical_solution": "    import no_such_module\n"}
    task = evalplus.build(write(tmp_path / "h.jsonl", row))
    with pytest.raises(RunFailure, match=r"HumanEval/900: its canonical solution .*no_such_module.*--python"):
        verdicts(task, sandbox, task.problems[0], "")


RULES = [
    # entry point, dataset, tolerance, arguments, returned, expected, right (or what the comparison raises)
    ("f", "mbpp", 0, [1], 2, 2, True),
    ("f", "mbpp", 0, [1], True, 1, True),
    ("f", "mbpp", 0, [1], 2.0000001, 2, False),
    ("f", "mbpp", 0, [1], 2.0000001, 2.0, True),
    ("f", "mbpp", 0, [1], 2.00001, 2.0, False),
    ("f", "mbpp", 0, [1], 2, 2.0, True),
    ("f", "mbpp", 0, [1], (1.0, 2.0), [1.0, 2.0], False),
    ("f", "mbpp", 0, [1], [1.0, 2.0000001], [1.0, 2.0], True),
    ("f", "mbpp", 0, [1], [1.0], [1.0, 2.0], False),
    ("f", "mbpp", 0.5, [1], 3.4, 3.0, True),
    ("f", "mbpp", 0.5, [1], 3, 3.0, True),
    ("f", "mbpp", 0.5, [1], 2, 3.0, False),  # of another type
    ("f", "mbpp", 0.5, [1], "3", "4", False),
    ("f", "mbpp", 0.5, [1], float("nan"), float("nan"), False),
    ("f", "mbpp", 0.5, [1], float("inf"), float("inf"), True),
    ("f", "mbpp", 0, [1], [], [], True),
    ("similar_elements", "mbpp", 0, [[1], [1]], [2, 1, 1], (1, 2), True),
    ("similar_elements", "humaneval", 0, [[1], [1]], [2, 1], (1, 2), False),
    ("similar_elements", "mbpp", 0, [[1], [1]], [[1]], (1,), TypeError),  # a list is in no set
    ("check_str", "mbpp", 0, ["a"], "anything", True, True),
    ("check_str", "mbpp", 0, ["a"], None, True, False),
    ("check_str", "mbpp", 0, ["a"], False, True, False),
    ("check_str", "mbpp", 0, ["a"], None, False, True),
    ("are_equivalent", "mbpp", 0, [1, 2], "x", True, True),
    ("sum_div", "mbpp", 0, [8], 0, 7, True),
    ("sum_div", "mbpp", 0, [8], 1, 7, False),
    ("surface_Area", "mbpp", 0, [6, 4], 96, 84, True),  # 36 + 4 triangles of base 6 and slant height 5
    ("surface_Area", "mbpp", 0, [6, 4], 95, 84, False),
    ("surface_Area", "mbpp", 0, [6, 4], None, 84, TypeError),
    ("digit_distance_nums", "mbpp", 0, [23, 9], 8, 5, True),  # 2 - 0 and 9 - 3
    ("digit_distance_nums", "mbpp", 0, [23, 9], 7, 5, False),
    ("find_zero", "humaneval", 1e-4, [[-4, 0, 1]], -2.0, 2.0, True),
    ("find_zero", "humaneval", 1e-4, [[-4, 0, 1]], 2.1, 2.1, False),
    ("find_zero", "humaneval", 1e-4, [[-4, 0, 1]], "2", 2.0, TypeError),
    ("find_zero", "mbpp", 1e-4, [[-4, 0, 1]], -2.0, 2.0, False),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule[0]}-{rule[1]}-{rule[4]!r}-{rule[5]!r}")
def test_rules(compare_calls, rule):
    name, dataset, tolerance, arguments, returned, expected, right = rule
    given = {"entry_point": name, "dataset": dataset, "tolerance": tolerance}
    raising = pytest.raises(right) if isinstance(right, type) else contextlib.nullcontext()
    with raising:
        assert compare_calls.right_calls(given, [arguments], [returned], [expected]) == right


def test_the_tolerance_of_floats_stays(compare_calls):
    given = {"entry_point": "f", "dataset": "mbpp", "tolerance": 0}
    assert compare_calls.right_calls(given, [[1], [2]], [1.5, 2 + 1e-7], [1.5, 2]) == 1  # of another type
    near = ([[1], [2]], [1.5, [2.0 + 1e-7, 1]], [1.5, [2.0, 1]])
    assert compare_calls.right_calls(given, *near) == 2
    assert compare_calls.right_calls(given, *(each[::-1] for each in near)) == 0


def test_tolerances_are_those_of_numpy(compare_calls):
    numbers = (0.0, 1e-7, 9e-7, 1.1e-6, 1.0, 1.0 + 9e-7, 1.0 + 1.2e-6, 1e9, 1e9 + 99, 1e9 + 101, -1.0, float("inf"))
    for one, other in itertools.product(numbers, repeat=2):
        expected = bool(np.allclose([[one, 2]], [[other, 2]], rtol=1e-7, atol=1e-6))
        assert compare_calls.near([[one, 2]], [(other, 2)], 1e-6) == expected, (one, other)
    assert compare_calls.near(np.array([1.0]), [1.0 + 1e-8], 0) and not compare_calls.near({1}, {1}, 1)


def test_arguments_that_json_cannot_express():
    assert converted("Mbpp/120", [[[1, 2], [3, 4]]]) == [[(1, 2), (3, 4)]]
    assert converted("Mbpp/115", [[[1], [], {}, 3]]) == [[{1}, {}, {}, 3]]
    assert converted("Mbpp/124", ["1", "2+3j"]) == [1.0, 2 + 3j]
    assert converted("Mbpp/307", [["a", 1], [], 3]) == [("a", 1), [], 3]
    assert converted("Mbpp/259", [[[1, 2]], [[3]]]) == [((1, 2),), ((3,),)]
    assert converted("Mbpp/278", [[1, [2]]]) == [(1, (2,))]
    assert converted("Mbpp/791", [[1, [2, [3]]]]) == [(1, (2, (3,)))]
    assert converted("Mbpp/722", [{"a": [1, 2]}, 3, [4]]) == [{"a": (1, 2)}, 3, [4]]
    assert converted("Mbpp/750", [[1], [2, 3]]) == [[1], (2, 3)]
    assert converted("HumanEval/2", [[1]]) == [[1]]


def test_prompts_and_stop_words(tmp_path):
    task = evalplus.build(write(tmp_path / "m.jsonl", HALVES, SHARED))
    text = '    return 1\nx = 2\n"""\n\ndef more():\n    pass\nassert x\n'
    prompts, kept = [], []
    for problem in task.problems:

        def complete(prompt, *, seed, stop, max_new_tokens=None):
            prompts.append(prompt)
            assert stop(text) and not stop("    return 1\n")
            return SampledAnswer(text, "stop")

        kept.append(task.produce(problem, 0, 0, complete).generation)
    assert prompts == [HALVES["prompt"].strip() + "\n", SHARED["prompt"]]
    assert kept == ['    return 1\nx = 2\n"""\n', "    return 1\nx = 2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**HUB, "code": None}], r"m\.jsonl:1: code is NoneType; a row on Hugging Face has task_id"),
        ([{**HUB, "task_id": "2"}], "task_id is str; a row on Hugging Face"),
        ([{**HUB, "test_list": []}], "test_list is not a list of assertions"),
        ([{**HUB, "test": "assert True"}], r"test has another form than MBPP.* or with ref_func\(\*inp\) instead"),
        ([hub("inputs = [", "inputs = [open('x'), ")], "of test are not plain"),
        ([hub("inputs = [", "inputs = [3, ")], "of test are not a list of calls"),
        ([hub("inputs = [", "inputs = [1 +, ")], "the inputs of test are not plain values"),
        ([hub("exp, 0", "exp, -1")], "atol is -1"),
        ([HUB, SHARED], "task_id Mbpp/2 occurs twice"),
    ],
)
def test_damage_is_reported(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        evalplus.build(write(tmp_path / "m.jsonl", *rows))
