"""tests/seeded_faults.py: every fault still fits the code, and the report tells which were caught."""

import os
import re
import shutil
import subprocess

import pytest
import seeded_faults
from seeded_faults import Fault

FAULTS = seeded_faults.read_faults()
CODE = """def last(values):
    return values[-1]


def first(values):
    return values[0]


values = [1]


class Rows:
    only = values[-1]

    def last(values):
        return values[-1]
"""
TESTS = "from ms_codegeex.code_of import last\n\n\ndef test_last():\n    assert last([1, 2, 3]) == 3\n"
ENTRIES = """
- {name: The last is the second, where: code_of.last, before: "return  values[-1]", after: "return values[1]",
   tests: [test_it]}
- {name: The first is the second, where: code_of.first, before: "values[0]", after: "values[1]", tests: [test_it]}
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with two faults, of which its test notices one."""
    files = {
        "ms_codegeex/code_of.py": CODE,
        "ms_codegeex/further/part.py": CODE,
        "tests/test_it.py": TESTS,
        "tests/seeded_faults.yaml": ENTRIES,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize("number", range(1, len(FAULTS) + 1))
def test_every_fault_fits_the_code(number):
    assert FAULTS[number - 1].problem(seeded_faults.ROOT) is None


def test_faults_are_in_all_packages():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 63
    files = [str(fault.changed(seeded_faults.ROOT)[0].relative_to(seeded_faults.ROOT)) for fault in FAULTS]
    folders = {re.sub(r"^(?:ms_codegeex/)?((?:extras/)?[^/]*)/.*", r"\1", file) for file in files}
    assert folders > {
        *("config", "data", "models", "training", "parallel", "planning", "formats", "generation", "runs"),
        *("commands", "extras/cluster", "extras/serving", "extras/evaluation", "converters"),
    }


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"where": "gone"}, "gone: 0 definitions, expected one"),
        ({"where": "code_of.Rows.only"}, None),
        ({"where": "Rows.only"}, "Rows.only: 2 definitions"),
        ({"where": "code_of"}, "code_of: 3 places"),
        ({"before": "values"}, "code_of.last: 2 places"),
        ({"after": "values[-1]"}, "changes nothing"),
        ({"after": "values["}, "would not be Python"),
        ({"tests": ("test_gone",)}, "test_gone: 0 tests, expected one"),
        ({"tests": ()}, None),  # those of the folder
        ({"tests": (), "where": "further.part.last"}, "further.part.last: 0 tests"),
    ],
)
def test_a_fault_that_does_not_fit_is_named(checkout, changes, problem):
    fault = Fault(
        **{"name": "", "where": "code_of.last", "before": "values[-1]", "after": "x", "tests": ("test_it",), **changes}
    )
    found = fault.problem(checkout)
    assert found is None if problem is None else problem in found


def test_faults_are_chosen_by_number_and_by_name():
    faults = [Fault(name, "", "", "") for name in ("One loss", "Two losses", "Three")]
    assert seeded_faults.chosen(faults, []) == faults
    assert seeded_faults.chosen(faults, ["3", "LOSS"]) == faults
    assert seeded_faults.chosen(faults, ["2"]) == faults[1:2]
    for word in ("0", "4", "Four"):
        with pytest.raises(ValueError, match=f"--only {word}: no such fault"):
            seeded_faults.chosen(faults, [word])


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
    assert (checkout / "ms_codegeex/code_of.py").read_text() == CODE
    assert {*os.listdir(checkout)} == {".git", "ms_codegeex", "tests"}
