"""Described languages: their files, their programs, and where an answer ends."""

import json

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_directory
from ms_codegeex.extras.evaluation.benchmarks import own_problems as problems
from ms_codegeex.extras.evaluation.benchmarks.own_problems import LanguageDescription, read_language

PERL = shipped_directory("evaluation") / "perl"
END = 'print "witness-{token}-", scalar(<STDIN>), "100 %"'


def described(**more):
    return LanguageDescription("Perl", "p.pl", ("perl", "p.pl"), END, "apt-get install perl", **more)


def test_a_program_has_all_parts_and_a_call_with_the_token():
    program = described(program="{prompt}{answer}!{end}?{test}").assemble("{answer}", "{test}{end}", "t")
    # texts that look like places stay as they are
    assert program.source("abc").decode() == '{answer}{test}{end}!print "witness-abc-", scalar(<STDIN>), "100 %"?t'


@pytest.mark.parametrize(
    "how, text, answer",
    [
        ({"block": "braces"}, "    { }\n}\nsub g;", "    { }\n}"),
        ({"block": "indentation"}, "    x\n\n    y\nz", "    x\n\n    y\n"),
        ({"block": "none", "stops": ("\nfoo",)}, "  a\nfoo b", "  a"),
        ({"block": "braces", "stops": ("\nsub ",)}, "    a\nsub g {\n}\n}", "    a"),
        ({}, "all\nof it", "all\nof it"),
    ],
)
def test_where_an_answer_ends(how, text, answer):
    language = described(**how)
    assert language.clean(text) == answer
    assert (language.stop() is None) == (how == {})
    assert language.stop() is None or language.stop()(text)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"colour": 1}, "colour: unknown key"),
        ({"file": None}, "file: missing"),
        ({"file": "../x"}, "file: '../x' is not a name"),
        ({"run": []}, "run: found nothing"),
        ({"run": ["/bin/sh"]}, "run: '/bin/sh' is not a name in PATH"),
        ({"run": ["./p"]}, "run: './p' is not a name in PATH"),
        ({"compile": ["../cc"]}, "compile: '../cc' is not a name in PATH"),
        ({"program": "{prompt}{answer}{test}"}, "program: expected each of {prompt}, {answer}, {test}, {end} once"),
        ({"end": "print 1"}, "end: expected a statement that prints witness-{token}-"),
        ({"block": "lines"}, "block"),
        ({"seconds": -1}, "seconds: found -1"),
    ],
)
def test_a_wrong_description_names_file_and_key(tmp_path, change, message):
    values = {"name": "Perl", "file": "p.pl", "run": ["perl", "p.pl"], "end": END, "install": "apt-get install perl"}
    values = {key: value for key, value in {**values, **change}.items() if value is not None}
    (tmp_path / "perl.yaml").write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        read_language(tmp_path / "perl.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/perl.yaml: ") and message in str(caught.value)


def test_a_description_needs_problems_and_a_name_of_its_own(tmp_path, capsys):
    text = (PERL / "perl.yaml").read_text()
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=r"no a\.jsonl beside it"):
        problems.described_files(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"a\.jsonl: no problems"):
        problems.OwnProblems(tmp_path)
    row = (PERL / "perl.jsonl").read_text().splitlines()[0].partition(', "broken"')[0]
    (tmp_path / "a.jsonl").write_text(row + ', "broken": null}\r\n\r\n')
    (tmp_path / "ruby.jsonl.gz").write_text("")
    assert len(problems.OwnProblems(tmp_path).problems) == 1
    assert "passed over, without a description: ruby.jsonl.gz" in capsys.readouterr().err
    (tmp_path / "b.yml").write_text(text)
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(UserError, match="Perl occurs twice"):
        problems.described_files(tmp_path)
    (tmp_path / "b.json").write_text("")
    with pytest.raises(UserError, match=r"are in b\.json and b\.jsonl; keep one"):
        problems.described_files(tmp_path)


def test_the_shipped_problems_have_the_numbers_of_humaneval_x():
    (file,) = problems.described_files(PERL)
    rows = [row for _, row in problems.rows(file)]
    assert [row.number for row in rows] == [2, 13, 23, 28, 53]
    assert all(row.prompt.endswith(row.declaration) and len(row.broken) == 2 for row in rows)
