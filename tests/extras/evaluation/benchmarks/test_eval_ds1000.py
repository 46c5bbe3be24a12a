"""DS-1000 in both formats, over a few problems of our own."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from ds1000_data import INSERTION, PROMPT, write_original, write_simplified

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import ds1000
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer

PASSED, WRONG, ERROR, SYNTAX = Verdict.PASSED, Verdict.WRONG, Verdict.ERROR, Verdict.COMPILE_ERROR
DUMP = "import os, pickle\nos.makedirs('result', exist_ok=True)\nfor i in (1, 2):\n    x = pickle.load(open(f'input/input{i}.pkl', 'rb'))\n    pickle.dump(2 * x, open(f'result/result_{i}.pkl', 'wb'))\n"  # noqa: E501
CHEAT = "import builtins, pickle\nclass Same:\n    def __eq__(self, other): return True\n    def __reduce__(self): return (exec, ('import os; os._exit(0)',))\ny = Same()"  # noqa: E501


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("ds") / "ds1000_data")


def verdicts(task, sandbox, programs, number=0):
    """(published, strict) of each program as the answer to a problem."""
    problem = task.problems[number]

    def one(text):
        found = task.judge(problem, Sample(problem.id, 0, "", text, "eos"), sandbox).verdicts
        return found["published"], found["strict"]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, programs))


def test_problems_of_the_original_format(root):
    task = ds1000.build(root)
    assert [p.id for p in task.problems] == ["Matplotlib/completion/0", "Numpy/completion/0", "Numpy/completion/1"]
    assert task.problems[2].labels == {"library": "Numpy", "perturbation": "Surface"}
    assert task.name == "ds1000-original-completion" and task.problems[1].data.prompt == PROMPT
    assert [p.id for p in ds1000.build(root, "insertion").problems] == ["Numpy/insertion/0", "Numpy/insertion/1"]
    data = task.problems[1].data
    assert set(data.files) == {"result/.keep", "input/input1.pkl", "input/input2.pkl"}
    assert set(data.answers) == {"ans1.pkl", "ans2.pkl"}


def test_problems_of_the_simplified_format(tmp_path):
    path = write_simplified(tmp_path / "ds1000.jsonl.gz")
    for place in (path, tmp_path):
        task = ds1000.build(place)
        assert [p.id for p in task.problems] == ["Numpy/300", "Numpy/301"] and task.samples_per_problem(7) == 7
        assert task.problems[1].labels == {"library": "Numpy", "perturbation": "Surface"}
        assert task.name == "ds1000-simplified-completion"
    with pytest.raises(UserError, match="no insertion problems"):
        ds1000.build(path, "insertion")


def test_a_damaged_directory(tmp_path, root):
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy/Numpy/Completion/q1/code_context.txt").write_text("nothing to insert at")
    with pytest.raises(UserError, match=r"q1: not a problem .*no \[insert\]"):
        ds1000.build(tmp_path / "copy")


@pytest.mark.parametrize(
    ("text", "library", "code"),
    [
        ("y = 2 * x\n</code>\nmore", "Numpy", "y = 2 * x\n"),
        ("y = 1\n# SOLUTION END\nx", "Numpy", "y = 1\n"),
        ("y = 1\nEND SOLUTION", "Numpy", "y = 1"),
        ("<code>\ny = 1  ### END SOLUTION\n", "Numpy", "\ny = 1  ### END SOLUTION\n"),
        ("```python\ny = 1\n```\nIt works", "Numpy", "y = 1\n"),
        ("Sure.\nBEGIN SOLUTION\n<code>\ny = 1\n</code>", "Numpy", "\ny = 1\n"),
        ("plt.plot(x)\nplt.show()\n  plt.savefig('a')\nplt.close()", "Matplotlib", "plt.plot(x)\n"),
        ("plt.show()\n", "Numpy", "plt.show()\n"),
        ("    y = 1\n", "Numpy", "    y = 1\n"),
    ],
)
def test_answers_are_cleaned(text, library, code):
    assert ds1000.cleaned(text, library) == code


def test_decoding_ends_with_the_answer():
    for text in ("", "y = 1\n", "``", "```python", "```python\ny = 1\n"):
        assert not ds1000.ended(text), text
    for text in ("y = 1\n</code>", "y\n# SOLUTION END", "```\ny = 1\n```", "y = 1\n```"):
        assert ds1000.ended(text), text


def test_prompts_keep_their_last_line_break_and_insertion_gives_what_is_before(root):
    seen = []

    def complete(prompt, *, seed, stop, max_new_tokens=None):
        seen.append(prompt)
        assert stop("</code>")
        return SampledAnswer("y = 2 * x\n</code>", "stop")

    for mode in ("completion", "insertion"):
        task = ds1000.build(root, mode)
        sample = task.produce(task.problems[1], 3, 0, complete)
        assert (sample.generation, sample.completion_id, sample.finish) == ("y = 2 * x\n", 3, "stop")
    assert seen == [PROMPT, INSERTION.split("[insert]")[0]]


ORIGINAL = [
    ("y = 2 * x", PASSED, PASSED),
    ("y = x + x\nprint(y)", PASSED, PASSED),
    ("y = 3 * x", WRONG, WRONG),
    ("y = x ** 2 if len(x) == 3 else 2 * x", WRONG, WRONG),  # only the first test case
    ("", ERROR, ERROR),
    ("y = (", SYNTAX, SYNTAX),
    (DUMP + "raise SystemExit", PASSED, ERROR),  # writes its results and leaves
    (DUMP + "import os\nos._exit(0)", PASSED, ERROR),
    ("import os\nos._exit(0)", ERROR, ERROR),
    ("import sys\nprint('passed')\nsys.exit(0)", ERROR, ERROR),
    (DUMP.replace("2 * x", "3 * x") + "raise SystemExit", ERROR, ERROR),
    ("y = pickle.load(open(f'ans/ans{args.test_case}.pkl', 'rb'))", ERROR, ERROR),  # is not there yet
    ("open('test_code.py', 'w').write('def test(a, b): return 1')\ny = 0", WRONG, WRONG),
    ("os.makedirs('ans', exist_ok=True)\npickle.dump(0, open(f'ans/ans{args.test_case}.pkl', 'wb'))\ny = 0",
     WRONG, WRONG),
    ("os.makedirs('ans', exist_ok=True)\ny = 2 * x", PASSED, PASSED),
    (CHEAT, WRONG, WRONG),
]  # fmt: skip


@pytest.mark.slow  # the simplified format's verdicts are tested by default
def test_verdicts_of_the_original_format(root, sandbox):
    for mode in ("completion", "insertion"):
        task = ds1000.build(root, mode)
        number = next(n for n, p in enumerate(task.problems) if p.labels["library"] == "Numpy")
        programs = ORIGINAL if mode == "completion" else ORIGINAL[1:3]
        found = verdicts(task, sandbox, [text for text, *_ in programs], number)
        assert [pair for pair in zip(programs, found, strict=True) if pair[0][1:] != pair[1]] == []


def test_a_test_of_words(root, sandbox):
    """It sees the answer's text, comments included, without lines that print; of two in a row, one stays."""
    task = ds1000.build(root)
    loop = "y = x * 0\nfor i in range(len(x)):\n    y[i] = 2 * x[i]"
    programs = ["y = 2 * x\nprint(y)", loop, "y = 2 * x  # for all", "y = 2 * x\nprint(y)\nprint(y)"]
    assert verdicts(task, sandbox, programs, 2) == [(PASSED, PASSED), *[(WRONG, WRONG)] * 3]


def test_a_picture_is_compared_by_the_program_and_no_result_is_none(root, sandbox):
    programs = ["y = 2 * x", "y = x", "late = y = 2 * x"]  # the last one fails after its result was written
    assert verdicts(ds1000.build(root), sandbox, programs) == [(PASSED, PASSED), (WRONG, WRONG), (PASSED, WRONG)]


def test_a_missing_result_and_a_case_that_takes_too_long(root, sandbox, monkeypatch):
    task = ds1000.build(root)
    task.limits = replace(task.limits, wall=0.5)
    (found,) = verdicts(task, sandbox, ["while True: pass"], 1)
    assert found == (Verdict.TIMEOUT, Verdict.TIMEOUT)


SIMPLIFIED = [
    ("y = 2 * x", PASSED, PASSED),
    ("y = x + x\nprint(y)", PASSED, PASSED),
    ("y = 3 * x", WRONG, WRONG),
    ("", ERROR, ERROR),
    ("import sys\nsys.exit(0)", ERROR, ERROR),
    ("import os\nprint('passed')\nos._exit(0)", ERROR, ERROR),
    ("import atexit, os\natexit.register(os._exit, 4)\ny = 2 * x", PASSED, ERROR),
    ("y = 2 * x  # \"\"\" ''' \\", PASSED, PASSED),
]


def test_verdicts_of_the_simplified_format(tmp_path, sandbox):
    task = ds1000.build(write_simplified(tmp_path / "ds1000.jsonl.gz"))
    found = verdicts(task, sandbox, [text for text, *_ in SIMPLIFIED])
    assert [pair for pair in zip(SIMPLIFIED, found, strict=True) if pair[0][1:] != pair[1]] == []
    words = ["y = 2 * x", "y = x * 0\nfor i in range(len(x)):\n    y[i] = 2 * x[i]"]
    assert verdicts(task, sandbox, words) == [(PASSED, PASSED)] * 2
    assert verdicts(task, sandbox, words, 1) == [(PASSED, PASSED), (WRONG, WRONG)]


def test_references_pass(root, tmp_path, sandbox):
    for task in (ds1000.build(root), ds1000.build(write_simplified(tmp_path / "ds1000.jsonl.gz"))):
        for problem in task.problems:
            verdict = task.judge(problem, task.reference(problem), sandbox).verdicts
            assert set(verdict.values()) == {PASSED}, problem.id


def test_libraries_that_are_missing_are_named_by_the_problems_label(root, monkeypatch):
    task = ds1000.build(root)
    monkeypatch.setattr(
        type(task.runner.interpreter), "lacks", lambda self, names: [n for n in names if n in ("seaborn", "sklearn")]
    )
    assert task.missing() == {"Matplotlib": "pip install seaborn"}
