"""A few NumPy problems in both of DS-1000's formats, written for the tests."""

import gzip
import json
import pickle
from pathlib import Path

import numpy as np

PROGRAM = """import argparse
import os
import pickle

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--test_case", type=int, default=1)
args = parser.parse_args()
x = pickle.load(open(f"input/input{args.test_case}.pkl", "rb"))
[insert]
os.makedirs("result", exist_ok=True)
with open(f"result/result_{args.test_case}.pkl", "wb") as f:
    pickle.dump(y, f)
"""
TEST = """import numpy as np


def test(result, ans):
    try:
        np.testing.assert_allclose(result, ans)
        return 1
    except AssertionError:
        return 0


def stringTest(solution):
    return int("for" not in solution and "print" not in solution)
"""
PICTURE = """import pickle

import numpy as np

x = np.arange(6.0)
[insert]
if y.tobytes() == open("ans/oracle_plot.png", "rb").read():
    with open("result/result_1.pkl", "wb") as f:
        pickle.dump(True, f)
assert "late" not in globals()
"""
TEST_OF_PICTURES = "def test(result, ans=None):\n    return 1\n"
INPUTS = (np.arange(6.0), np.array([-2.0, 5.0, 1.0]))
PROMPT = "Double x.\nA:\n<code>\nx = load()\n</code>\ny = ... # put solution in this variable\nBEGIN SOLUTION\n<code>\n"
INSERTION = "import numpy as np\nx = load()\n[insert]\nprint(y)\n"
REFERENCE = "y = 2 * x"


def write_original(root: Path) -> Path:
    """Numpy/{Completion,Insertion}/q0 (two test cases) and q1 (with a text test), Matplotlib/Completion/q0 (no test
    case, and a picture)."""
    places = [("Numpy", mode, number) for mode in ("Completion", "Insertion") for number in (0, 1)]
    for library, mode, number in [*places, ("Matplotlib", "Completion", 0)]:
        place = root / library / mode / f"q{number}"
        (place / "input").mkdir(parents=True)
        (place / "ans").mkdir()
        kind, origin = (3, "Surface") if number else (1, "Origin")
        picture = library == "Matplotlib"
        (place / ".cfg").write_text(
            f"[library]\nlib = {library}\n[test]\ntest_type = {kind}\ntest_case_cnt = {0 if picture else 2}\n"
            f"[perturbation]\nperturbation_type = {origin}\nperturbation_origin_id = 0\n"
        )
        (place / "prompt.txt").write_text(PROMPT if mode == "Completion" else INSERTION)
        (place / "code_context.txt").write_text(PICTURE if picture else PROGRAM)
        (place / "reference_code.txt").write_text(REFERENCE)
        (place / "test_code.py").write_text(TEST_OF_PICTURES if picture else TEST)
        (place / "test_generate_pickle.py").write_text("")
        for case, value in enumerate(INPUTS, 1):
            (place / "input" / f"input{case}.pkl").write_bytes(pickle.dumps(value))
            (place / "ans" / f"ans{case}.pkl").write_bytes(pickle.dumps(2 * value))
        if picture:
            (place / "ans" / "oracle_plot.png").write_bytes((2 * np.arange(6.0)).tobytes())
    return root


CONTEXT = '''import copy

import numpy as np


def generate_test_case(case):
    data = np.arange(6.0) if case == 1 else np.array([-2.0, 5.0])
    return data, 2 * copy.deepcopy(data)


exec_context = """
import numpy as np
x = test_input
[insert]
"""


def test_execution(solution):
    code = exec_context.replace("[insert]", solution)
    for case in (1, 2):
        test_input, expected = generate_test_case(case)
        environment = {"test_input": test_input}
        exec(code, environment)
        np.testing.assert_allclose(environment["y"], expected)
'''
STRING_TEST = """

def test_string(solution):
    assert "for" not in solution
"""


def write_simplified(path: Path) -> Path:
    """Two problems, the second with a text test."""
    with gzip.open(path, "wt") as stream:
        for number, kind in enumerate(("Origin", "Surface")):
            about = {"problem_id": 300 + number, "library_problem_id": number, "library": "Numpy", "test_case_cnt": 2}
            about |= {"perturbation_type": kind, "perturbation_origin_id": 0}
            row = {"prompt": PROMPT, "reference_code": REFERENCE, "metadata": about}
            stream.write(json.dumps({**row, "code_context": CONTEXT + STRING_TEST * number}) + "\n")
    return path
