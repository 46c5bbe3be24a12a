"""tests/seeded_faults.py: every fault still fits the code, and the report tells which were caught."""

import os
import re
import shutil
import subprocess

import pytest
import seeded_faults
from seeded_faults import Fault

FAULTS = seeded_faults.read_faults()
CODE = "def last(values):\n    return values[-1]\n\n\ndef first(values):\n    return values[0]\n"
TESTS = "from code_of import last\n\n\ndef test_last():\n    assert last([1, 2, 3]) == 3\n"
ENTRIES = """
- {name: The last is the second, file: code_of.py, before: "values[-1]", after: "values[1]", tests: [tests/test_it.py]}
- {name: The first is the second, file: code_of.py, before: "values[0]", after: "values[1]", tests: [tests/test_it.py]}
"""


@pytest.mark.parametrize("number", range(1, len(FAULTS) + 1))
def test_every_fault_fits_the_code(number):
    assert FAULTS[number - 1].problem(seeded_faults.ROOT) is None


def test_faults_are_in_all_packages():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 53
    folders = {re.sub(r"^(ms_codegeex/)?([^/]*)/.*", r"\2", fault.file) for fault in FAULTS}
    assert folders > {
        *("config", "data", "models", "training", "parallel", "planning", "rehearsal", "formats", "generation"),
        *("serving", "evaluation", "runs", "commands", "terminal", "converters"),
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"file": "gone.py"}, "gone.py does not exist"),
        ({"before": "values"}, "occurs 4 times"),
        ({"after": "values[-1]"}, "changes nothing"),
        ({"after": "values["}, "would not be Python"),
        ({"tests": ("test_gone.py",)}, "test_gone.py does not exist"),
        ({"tests": ()}, "no test"),
    ],
)
def test_a_fault_that_does_not_fit_is_named(tmp_path, changes, problem):
    (tmp_path / "code_of.py").write_text(CODE)
    fault = Fault(
        **{"name": "", "file": "code_of.py", "before": "values[-1]", "after": "x", "tests": (".",), **changes}
    )
    found = fault.problem(tmp_path)
    assert found is None if problem is None else problem in found


def test_faults_are_chosen_by_number_and_by_name():
    faults = [Fault(name, "", "", "", ()) for name in ("One loss", "Two losses", "Three")]
    assert seeded_faults.chosen(faults, []) == faults
    assert seeded_faults.chosen(faults, ["3", "LOSS"]) == faults
    assert seeded_faults.chosen(faults, ["2"]) == faults[1:2]
    for word in ("0", "4", "Four"):
        with pytest.raises(ValueError, match=f"--only {word}: no such fault"):
            seeded_faults.chosen(faults, [word])


@pytest.fixture
def checkout(tmp_path):
    """A checkout with two faults, of which its test notices one."""
    files = {"code_of.py": CODE, "tests/test_it.py": TESTS, "tests/seeded_faults.yaml": ENTRIES}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_report_says_which_faults_were_caught(checkout, capsys, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # saves time
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    assert seeded_faults.main(["--jobs", "2"], checkout) == 0  # two of all may be missed
    out = capsys.readouterr().out
    assert re.sub(r"\(\d+ s\)", "(N s)", out).splitlines() == [
        "The last is the second: caught by tests/test_it.py::test_last (N s)",
        "The first is the second: NOT CAUGHT (N s)",
        "1 of 2 caught",
    ]
    assert (checkout / "code_of.py").read_text() == CODE
    assert {*os.listdir(checkout)} == {".git", "code_of.py", "tests"}
