"""Prompts of the assistant tasks against their published forms, and where answers end."""

from unittest.mock import create_autospec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language, languages
from ms_codegeex.extras.serving import prompts
from ms_codegeex.extras.serving.answering import Filters, IndentStop
from ms_codegeex.extras.serving.prompts import EXAMPLES, TASKS, Comment, CommentText, UserCode
from ms_codegeex.generation.stopping import Ending, until

CODE = "def area(r):\n    a = r * r\n    return 3 * a\n"


def source(code=CODE, language="Python", family="codegeex", locale="en"):
    return UserCode(code, find_language(language), family, locale)


def read(text_filter, text, size):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return "".join(text_filter.feed(piece) for piece in pieces) + text_filter.rest()


def test_translation_has_the_published_form():
    prompt = prompts.translation("cpp", "js", "int f() {\n  return 1;\n}\n\n")
    assert prompt.text == "code translation\nC++:\nint f() {\n  return 1;\n}\nJavaScript:\n"
    answer = "function f() {\n  return 1;\n}\n\nPython:\ndef f():"
    assert "".join(until(answer, Ending(prompt.stop))) == "function f() {\n  return 1;\n}\n"


def test_comments_have_the_form_of_the_extensions_explanation_template():
    """Example, code, heading, example with comments, heading, first line: `<INPUT>` and `<INPUT:0,1>` filled in."""
    example = EXAMPLES["Python"]
    shown = prompts.remarked(example, "#", "en")
    assert prompts.commented(source()).text == (
        f"# language: Python\n\n{example}\n\n{CODE.rstrip()}\n\n# Explain the code line by line\n{shown}\n\n"
        "# Explain the code line by line\ndef area(r):"
    )
    assert [line for line in shown.split("\n") if "# " not in line] == example.split("\n")


def test_comments_end_with_the_codes_last_line():
    prompt = prompts.commented(source())
    answer = "\n    # square it\n    a = r * r\n    # nearly pi\n    return 3 * a\n\nprint(area(1))\n"
    for size in (1, 2, 7, 1000):
        pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
        text = prompt.opening + "".join(until(pieces, Ending(prompt.stop, prompt.rule))) + prompt.closing
        assert text == "def area(r):\n    # square it\n    a = r * r\n    # nearly pi\n    return 3 * a"


def test_a_line_that_comes_twice_ends_the_second_time():
    rule = prompts.repeated(["x += 1", "y()", "x += 1"])
    assert [rule(text) for text in ("x += 1\n", "x += 1\n y()\nx += 1", "x += 1\n y()\nx += 1\n")] == [0, 0, 1]


def test_lines_that_are_repeated_are_found_over_pieces():
    text = "x += 1\n y()\nx += 1\nz"
    for size in (1, 2, 5, 100):
        scan, cut = prompts.repeated(["x += 1", "y()", "x += 1"]).scan(), None
        for start in range(0, len(text), size):
            if (cut := scan(text[start : start + size])) is not None:
                assert text[: start + cut] == "x += 1\n y()\nx += 1\n"
                break
        assert cut is not None


def test_a_line_without_an_end_is_read_once(monkeypatch):
    """Answers are read in the server's event loop, where nobody else has a turn meanwhile."""
    lines, read = prompts._LINE, list[int]()
    searched = create_autospec(lines, spec_set=True)  # the pattern itself is met by the tests above
    searched.finditer.side_effect = lambda text: read.append(len(text)) or lines.finditer(text)
    monkeypatch.setattr(prompts, "_LINE", searched)
    scan = prompts.repeated(["x"]).scan()
    assert {scan("abcd") for _ in range(1_000)} == {None} and sum(read) == 4_000


def test_a_docstring_is_put_into_the_code():
    prompt = prompts.documented(source("@cache\ndef area(\n    r,\n):\n  return r\n"))
    example = EXAMPLES["Python"].split("\n")
    assert prompt.text.startswith(f"# language: Python\n{example[0]}\n    '''\n    Returns")
    assert prompt.text.endswith("\n\n@cache\ndef area(\n    r,\n):\n  '''")
    answer = "\n  The area.\n  '''\n  return r\n"
    text = prompt.opening + "".join(until([answer], Ending(prompt.stop))) + prompt.closing
    assert text == "@cache\ndef area(\n    r,\n):\n  '''\n  The area.\n  '''\n  return r"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1", "'''About x.'''\nx = 1"),
        ("class A:\n    pass", "class A:\n    '''About x.'''\n    pass"),
        ("  def f(self):", "  def f(self):\n      '''About x.'''"),
        ("async def f():\n\treturn", "async def f():\n\t'''About x.'''\n\treturn"),
    ],
)
def test_a_docstring_has_its_place(code, expected):
    prompt = prompts.documented(source(code))
    assert prompt.opening + "About x." + prompt.closing == expected


@pytest.mark.parametrize(
    ("language", "answer", "expected"),
    [
        ("Go", " * The area.\n */\nfunc", "/**\n * The area.\n */\nCODE"),
        ("R", " The area.\n# Of a circle.\nCODE", "# The area.\n# Of a circle.\nCODE"),
        ("HTML", " The area. -->\n<p>", "<!-- The area. -->\nCODE"),
    ],
)
def test_a_description_stands_in_front_of_the_code(language, answer, expected):
    prompt = prompts.documented(source("CODE", language))
    for size in (1, 3, 100):
        assert prompt.opening + read(CommentText(prompt.comment), answer, size) + prompt.closing == expected


@pytest.mark.parametrize(
    ("language", "answer", "expected"),
    [
        ("Python", " It squares.\n# Then it\n#   multiplies.\n\nprint()", "It squares.\nThen it\n  multiplies."),
        ("Python", " One line", "One line"),
        ("Python", " One line\n", "One line"),
        ("Rust", " One.\n/ 2", "One."),
        ("Rust", " One.\n//", "One."),
        ("CSS", "Red * text.\n*/\np {", "Red * text.\n"),
        ("CSS", "Red *", "Red *"),
    ],
)
def test_an_explanation_is_the_comments_text(language, answer, expected):
    prompt = prompts.explained(source(language=language))
    for size in (1, 2, 5, 100):
        assert read(CommentText(prompt.comment), answer, size) == expected


@given(st.text(alphabet="#/ a\n", max_size=30), st.sampled_from(["#", "//"]), st.booleans(), st.data())
def test_pieces_of_a_comment_make_no_difference(text, sign, bare, data):
    """The oracle reads whole lines."""
    first, *lines = text.split("\n")
    expected = [first]
    for line in lines:
        if not line.startswith(sign):
            break
        expected.append(line[len(sign) :].removeprefix(" ") if bare else line)
    whole = "\n".join(expected)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    reader = CommentText(Comment(sign, bare=bare))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    said = "".join(reader.feed(piece) for piece in pieces) + reader.rest()
    if said.strip() != whole.strip():  # a last line of a sign alone may be left out
        said = said.rstrip("\n")
        assert whole.startswith(said) and whole[len(said) :].strip() == sign


def test_a_fix_ends_before_the_next_heading():
    prompt = prompts.fixed(source())
    assert prompt.text.endswith(f"# This code has a mistake\n{CODE.rstrip()}\n\n# The same code without the mistake\n")
    faulty = EXAMPLES["Python"].replace("if number > best", "if number < best")
    assert faulty != EXAMPLES["Python"] and faulty in prompt.text
    answer = "def area(r):\n    return r\n\n# This code has a mistake\ndef"
    assert "".join(until(answer, Ending(prompt.stop))) == "def area(r):\n    return r"


def test_sql_has_the_form_of_the_demos_example():
    prompt = prompts.sql(source("Count the rows of t\nwhose a is 1", "SQL", "codegeex2"))
    assert prompt.text == "-- language: SQL\n-- Count the rows of t\n-- whose a is 1\n"
    answer = "SELECT count(*)\nFROM t WHERE a = 1;\n\n-- Next"
    assert "".join(until(answer, Ending(prompt.stop))) == "SELECT count(*)\nFROM t WHERE a = 1;"


def test_every_task_has_a_prompt_in_every_language():
    for language in languages():
        for family in ("codegeex", "codegen", "codegeex2"):
            for _, prompt in TASKS.values():
                text = prompt(UserCode(CODE, language, family, "zh")).text
                assert text.startswith(language.tag) == (family == "codegeex2" or text.startswith(language.tag))
                assert "language:" not in text or family != "codegen"


def test_chinese_is_asked_for_in_chinese():
    assert "# 逐行解释代码\ndef area(r):" in prompts.commented(source(locale="zh")).text
    text = prompts.explained(source(locale="zh")).text
    assert "上面代码的作用" in text and "Returns" not in text


@pytest.mark.parametrize("make", [lambda: source(" \n"), lambda: prompts.translation("C", "Go", "\n")])
def test_empty_code_is_refused(make):
    with pytest.raises(UserError, match="code: empty"):
        make()


@pytest.mark.parametrize("size", [1, 4, 100])
def test_lines_with_less_indentation_end_a_text(size):
    assert read(IndentStop(4), "a\n    b\n\n     c\n  d\n    e", size) == "a\n    b\n\n     c"
    assert read(IndentStop(2), "a\n  ", size) == "a\n  "


def test_filters_follow_each_other():
    filters = Filters(Ending(("END",)), IndentStop(2))
    assert filters.feed("a\n  b\n  E") == "a\n  b" and not filters.ended
    assert filters.feed("N\nc") == "\n  EN" and filters.ended
    assert filters.feed("d") + filters.rest() == ""
    held = Filters(Ending(("END",)), IndentStop(2))
    assert held.feed("a\n  EN") + held.rest() == "a\n  EN"
