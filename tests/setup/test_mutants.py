"""tests/mutants.py: which mistakes it makes, and what its report says of them."""

import os
import shutil
import subprocess
from pathlib import Path

import mutants
import pytest

CODE = """def last(values: tuple[int, 1 + 1], end=1) -> "1 < 2":
    text: int = len(values) - end
    return f"{1 + 1}" if not values else values[text]


def first(values):
    return values[0] if values and 1 < 2 <= 3 else None
"""
SMALL = """def last(values):
    return values[-1] if len(values) > 0 else 0
"""
TESTS = """from ms_codegeex.code_of import last

def test_last(): assert last([1, 2, 3]) == 3
def test_last_again(): assert last([1, 2, 3]) == 3
def test_of_none(): assert last([]) == 0
"""


def test_a_mutant_is_one_operator_or_number_and_still_python():
    found = mutants.mutants(CODE)
    texts = [(CODE.encode()[: x.begin] + x.after.encode() + CODE.encode()[x.end :]).decode() for x in found]
    assert len({*texts, CODE}) == len(found) + 1
    for text in texts:
        compile(text, "mutant", "exec")
    assert [str(x) for x in found] == [
        "line 1: 1  ->  (2)",
        "line 2: len(values) - end  ->  (len(values) + end)",
        "line 3: not values  ->  (values)",
        "line 7: 0  ->  (1)",
        "line 7: values and 1 < 2 <= 3  ->  (values or 1 < 2 <= 3)",
        "line 7: 1  ->  (2)",
        "line 7: 1 < 2 <= 3  ->  (1 < 2 < 3)",
        "line 7: 1 < 2 <= 3  ->  (1 <= 2 <= 3)",
        "line 7: 2  ->  (3)",
        "line 7: 3  ->  (4)",
    ]


def test_the_tests_of_a_module_are_those_that_import_it():
    assert "tests/base/test_files.py" in mutants.tests_of(Path("ms_codegeex/base/files.py"))
    assert mutants.tests_of(Path("ms_codegeex/base/gone.py")) == ["tests/base"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_report_says_what_no_test_notices(tmp_path, capsys, monkeypatch):
    files = {"ms_codegeex/code_of.py": SMALL, "tests/test_it.py": TESTS}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # saves time
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin")
    monkeypatch.chdir(tmp_path)
    assert mutants.main(["ms_codegeex/code_of.py", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ms_codegeex/code_of.py: 1 of 4 mutants alive; tests: tests/test_it.py",
        "  alive, line 2: 0  ->  (1)",
        "  kills nothing alone: tests/test_it.py::test_last",
        "  kills nothing alone: tests/test_it.py::test_last_again",
        "1 of 4 mutants alive",
    ]
    assert (tmp_path / "ms_codegeex/code_of.py").read_text() == SMALL
    assert {*os.listdir(tmp_path)} == {".git", "ms_codegeex", "tests"}
