"""The checker of problems: what it finds, and that it names the line."""

import json
import shutil

import pytest
import small_benchmarks

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_directory
from ms_codegeex.extras.evaluation import checking
from ms_codegeex.extras.evaluation.checking import check_problems, lines

PERL = shipped_directory("evaluation") / "perl"
needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="needs perl")


@pytest.fixture
def perl(tmp_path):
    """A copy of the shipped problems, with changes to rows by their position."""

    def write(changes):
        shutil.copytree(PERL, tmp_path / "perl", dirs_exist_ok=True)
        rows = [json.loads(line) for line in (PERL / "perl.jsonl").read_text().splitlines()]
        for number, change in changes.items():
            rows[number] = {**rows[number], **change}
        (tmp_path / "perl" / "perl.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "perl"

    return write


def found(result):
    return [(fault["place"].rpartition(":")[2], fault["problem"], fault["what"]) for fault in result["faults"]]


@needs_perl
@pytest.mark.strict_sandbox
def test_the_shipped_problems_are_sound():
    result = check_problems(PERL, workers=2)
    # of each: the reference, an empty answer, one that ends the program, two broken ones
    assert result == {"problems": 5, "answers": 25, "left_out": {}, "faults": []}


@needs_perl
@pytest.mark.strict_sandbox
def test_a_wrong_reference_and_tests_that_find_nothing(perl):
    wrong = "    return 0;\n}\n"
    data = perl({1: {"canonical_solution": wrong}, 2: {"test": "1;\n"}, 4: {"broken": ["    return $y + $x;\n}\n"]}})
    (place, name, what), *rest = found(check_problems(data, workers=2))
    assert (place, name) == ("2", "Perl/13")
    assert what.startswith("the reference fails: strict wrong, published wrong: test failed: 0 is not 1 at program.pl")
    assert rest == [
        ("3", "Perl/23", "an empty answer passes the tests"),
        ("3", "Perl/23", "an answer that ends the program passes the tests"),
        ("3", "Perl/23", "broken solution 1 passes the tests"),
        ("3", "Perl/23", "broken solution 2 passes the tests"),
        ("5", "Perl/53", "broken solution 1 passes the tests"),
    ]


def test_wrong_lines_are_named_and_nothing_runs(perl, monkeypatch):
    monkeypatch.setattr(checking, "open_sandbox", lambda mode: pytest.fail("a program ran"))
    row = json.loads((PERL / "perl.jsonl").read_text().splitlines()[0])
    data = perl(
        {
            0: {"broken": []},
            1: {"task_id": "Perl/2", "colour": 1},
            2: {"prompt": row["declaration"], "declaration": row["declaration"]},
            3: {"test": ""},
            4: {"task_id": "Perl/2"},
        }
    )
    with (data / "perl.jsonl").open("a") as stream:
        stream.write("{\n")
    reported = found(check_problems(data))
    assert [(line, name) for line, name, _ in reported] == [
        ("1", "Perl/2"), ("2", ""), ("3", "Perl/23"), ("4", ""), ("5", ""), ("6", ""),
    ]  # fmt: skip
    words = ["broken is missing", "colour: unknown key", "without words", "test is missing", "also in line 1", "JSON"]
    assert all(word in what for word, (_, _, what) in zip(words, reported, strict=True))


@pytest.mark.strict_sandbox
def test_problems_added_to_one_of_the_six_languages(tmp_path):
    data = small_benchmarks.humaneval_x(tmp_path)
    (data / "js.jsonl").unlink()
    rows = [json.loads(line) for line in (data / "python.jsonl").read_text().splitlines()]
    rows[0]["broken"] = ["    return x\n"]
    rows[1]["broken"] = ["    return x + x\n"]
    small_benchmarks.write_rows(data / "python.jsonl", rows)
    result = check_problems(data, workers=2)
    assert found(result) == [("2", "Python/1", "broken solution 1 passes the tests")]
    assert (result["problems"], result["answers"]) == (2, 6)
    assert next(lines(result)).startswith(f"{data}/python.jsonl:2: Python/1: broken")


def test_a_language_that_is_not_here_is_left_out(perl, monkeypatch):
    monkeypatch.setattr(checking, "open_sandbox", lambda mode: None)
    data = perl({})
    text = (data / "perl.yaml").read_text().replace("run: [perl,", "run: [perl-that-is-nowhere,")
    (data / "perl.yaml").write_text(text)
    result = check_problems(data)
    assert result["left_out"] == {"Perl": "apt-get install perl"} and result["answers"] == 0
    assert "Perl: nothing was run, its tools are missing" in "\n".join(lines(result))


@pytest.mark.strict_sandbox
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_language_that_is_compiled(tmp_path):
    """C: a percent sign in `end` stays one, and a solution that does not compile is named."""
    language = {
        "name": "C",
        "comment": "//",
        "file": "main.c",
        "compile": ["gcc", "-o", "main", "main.c"],
        "run": ["./main"],
        "install": "apt-get install gcc",
        "block": "braces",
        "program": "#include <stdio.h>\n#include <stdlib.h>\n{prompt}{answer}\nint main(void) {\n{test}\n{end}\n}\n",
        "end": 'char line[99]; printf("\\nwitness-{token}-%s", fgets(line, 99, stdin)); return 0;',
        "empty": "}\n",
        "exit": "    exit(0);\n}\n",
    }
    (tmp_path / "c.yaml").write_text(json.dumps(language))
    head = "int twice(int x) {\n"
    row = {"prompt": f"// Double.\n{head}", "declaration": head, "test": "if (twice(3) != 6) abort();"}
    row |= {"canonical_solution": "    return 2 * x;\n}\n", "broken": ["    return 6 + x;\n}\n"]}
    rows = [{"task_id": "C/0", **row}, {"task_id": "C/1", **row, **{"canonical_solution": "    return 2 * y;\n}\n"}}]
    small_benchmarks.write_rows(tmp_path / "c.jsonl", rows)
    ((line, name, what),) = found(check_problems(tmp_path, workers=2))
    assert (line, name) == ("2", "C/1") and what.startswith("the reference fails: strict compile error")


@needs_perl
@pytest.mark.strict_sandbox
def test_untrusted_words_run_in_the_sandbox_only(perl, tmp_path):
    data, trace = perl({}), tmp_path / "trace"
    text = (data / "perl.yaml").read_text() + f"version: [sh, -c, 'touch {trace}; echo 1']\n"
    (data / "perl.yaml").write_text(text)
    assert check_problems(data, workers=2)["faults"] == [] and not trace.exists()


def test_a_directory_without_problems(tmp_path):
    with pytest.raises(UserError, match="no problems; expected files such as"):
        check_problems(tmp_path)
