"""The channel of values: what is read, what is not, and which values are right."""

import functools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import inputs
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.cases import translated
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.literals import NotALiteral, value_of
from ms_codegeex.extras.evaluation.judging.values import Check, first_wrong, is_data, read_frames
from ms_codegeex.extras.evaluation.toolchains.base import INSIDE

DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda items: st.lists(items) | st.lists(items).map(tuple) | st.dictionaries(st.text(), items),
    max_leaves=20,
)


@functools.cache
def writer() -> Callable[[object], bytes]:
    source = (INSIDE / "run_python.py").read_text().rpartition("\nmain()")[0]
    names: dict = {}
    exec(compile(source, "run_python.py", "exec"), names)
    return names["said"]


def said(value: object) -> bytes:
    text = writer()(value)
    return b"%d:" % len(text) + text


@given(DATA)
def test_values_arrive_as_they_were(value: object):
    values, rest = read_frames(said(value) + said(1) + b"\nrest")
    assert values == [value, 1] and rest == b"\nrest"
    assert type(values[0]) is type(value)


@given(st.binary(max_size=60))
def test_nothing_that_a_program_writes_is_an_error(data: bytes):
    for text in (data, b"%d:" % len(data) + data, b"9:[9:" + data):
        values, rest = read_frames(text)
        assert first_wrong([Check("expected")] * len(values), values) in (0, None)
        assert text.endswith(rest)


@pytest.mark.parametrize("data", [b"2:n", b"9:n", b":n", b"-1:n", b"20000:i" + b"9" * 19998, b"\nPASS\n"])
def test_what_is_no_frame_ends_the_values(data: bytes):
    values, rest = read_frames(b"1:t" + data)
    assert values == [True] and rest == data


@pytest.mark.parametrize(
    "text",
    [
        b"", b"nn", b"x", b"[2:n", b"[9999:", b"s9:x", b"s2:\xff\xfe", b"i1.5;", b"i1;;;", b"i1_0;", b"d1_0;", b"o0:",
        b"<1:[0:", b"{1:[0:n", b"[1:o0:", b"i" + b"9" * 19998 + b";", b"[1:" * 1333 + b"n", b"<2000:" + b"n" * 2000,
    ],
)  # fmt: skip
def test_a_frame_with_no_value_is_no_data(text: bytes):
    """It is equal to nothing, and what follows is still read."""
    (first, second), rest = read_frames(b"%d:%b1:t" % (len(text), text))
    assert not is_data(first) and second is True and rest == b""
    assert not Check(None).accepts(first) and not Check([]).accepts(first)


def test_rules():
    nothing = read_frames(b"1:u3:o0:")[0]
    accepted = [
        (Check(1), [1, 1.0, True]), (Check(1, "typed"), [1]), (Check([1, (2,)], "typed"), [[1, (2,)]]),
        (Check({"a": 1}, "json"), [{"a": 1.0}]), (Check(6.0, "loose"), [6, "6.00"]), (Check(None, "json"), [None]),
        (Check(0.3, "close", 1e-6), [0.1 + 0.2]), (Check([1.0], "close", 1e-4, True), [[1.00005]]),
        (Check(1.0, "less", 0.1), [-9.0, 1.05]), (Check(None, "empty"), [[], ()]), (Check(1, "any"), [None, *nothing]),
    ]  # fmt: skip
    refused = [
        (Check(1), [2, "1", [1], None, *nothing]), (Check(1, "typed"), [1.0, True]), (Check([1], "typed"), [(1,)]),
        (Check({"a": 1, "b": 2}, "json"), [{"b": 2, "a": 1}]), (Check(False, "json"), [0, None, nothing[0]]),
        (Check(0.3, "close", 1e-6), [0.31, math.nan, "0.3", [0.3], None]), 
        (Check([1.0], "close", 1e-4), [[], [1.0, 1.0], 1.0]),
        (Check(1.0, "less", 0.1), [1.2, math.nan, "x"]), (Check(None, "empty"), [[0], None, ""]),
        (Check(6.0, "loose"), ["six", None]), (Check(None), nothing),
    ]  # fmt: skip
    for pairs, verdict in ((accepted, True), (refused, False)):
        for check, values in pairs:
            assert [check.accepts(value) for value in values] == [verdict] * len(values), check


@pytest.mark.parametrize(
    ("language", "text", "value"),
    [
        ("cpp", '{1, -2, 3 + 5 * 2}', [1, -2, 13]), ("cpp", '"a\\n" "b"', "a\nb"), ("cpp", "{{'r', 1}}", [["r", 1]]),
        ("cpp", "vector<string>{}", []), ("cpp", "7 / 2", 3), ("cpp", "2.0 / 4", 0.5), ("cpp", 'string("x")', "x"),
        ("java", "Arrays.asList(1, 2.5, true)", [1, 2.5, True]), ("java", "new ArrayList<>(List.of(\"a\"))", ["a"]),
        ("java", "Optional.of(3)", (3,)), ("java", "125411328000L", 125411328000), ("js", "[1, null]", [1.0, None]),
        ("js", "{ r: 1, 't': 2 }", {"r": 1, "t": 2}), ("js", "(0, 1)", 1),
        ("js", "'it\\'s'", "it's"), ("js", "7 / 2", 3.5),
        ("go", "[]float64{1, 2}", [1.0, 2.0]), ("go", "map[rune]int{'a': 2}", {97: 2}), 
        ("go", "[2]interface{}{nil, 1}", [None, 1]),
        ("rust", "vec![vec![1_000i32]]", [[1000]]), ("rust", '(String::from("a"), true)', ("a", True)),
        ("rust", '["a".to_string(), "b".to_owned()]', ["a", "b"]), ("rust", "HashMap::from([('a', 1)])", {"a": 1}),
        ("rust", "(3)", 3), ("rust", "None", None),
    ],
)  # fmt: skip
def test_literals(language: str, text: str, value: object):
    assert repr(value_of(text, language)) == repr(value) or value_of(text, language) == value


@pytest.mark.parametrize("text", ["f(1)", "x", "{1", "1 2", "'", 'system("x")', "1 / 0", "[1]", "", "1 + {2}"])
def test_what_is_no_literal(text: str):
    with pytest.raises(NotALiteral):
        value_of(text, "cpp")


def test_an_assertion_that_runs_in_a_loop_or_compares_no_literal_stays():
    """Its values cannot be foreseen, so the program keeps its witness."""
    text = (
        "int main(){\n    assert (f(1) == 2); // it is 2\n    for (int x=0;x<3;x++) assert (f(x) == 1);\n"
        "    for (int x=0;x<3;x++)\n        { assert (f(x) == 2); }\n    assert (f(2) == g(3));\n}\n"
    )
    cases = translated(text, "cpp")
    assert [check.expected for check in cases.checks] == [2] and not cases.complete
    assert cases.text == text.replace("assert (f(1) == 2); // it is 2", "ms_codegeex::say(f(1)); ")
    python = translated(
        "def check(f):\n    assert f(1) == 2, '2'\n    for x in [1]:\n        assert f(x) == x\n", "python"
    )
    assert len(python.checks) == 1 and not python.complete and "'2'" not in python.text


@pytest.mark.parametrize("language", ["python", "cpp", "java", "js", "go", "rust"])
def test_drawn_inputs_are_the_same_in_every_language(language: str):
    """Calls and what they must return, for a problem whose tests draw numbers; and for the one with polynomials."""
    name = "Add" if language == "go" else "add"
    _, calls = inputs.calls(53, language, f"{name}(x, y)")
    numbers = [[int(each) for each in call.partition("(")[2][:-1].split(", ")] for call, _ in calls]
    assert [check.expected for _, check in calls] == [x + y for x, y in numbers] and len(calls) == 100
    generator = random.Random(53)
    assert numbers == [[generator.randint(0, 1000) for _ in range(2)] for _ in range(100)]
    assert inputs.calls(53, language, "other(x, y)") is None and inputs.calls(7, language, f"{name}(x, y)") is None


def test_roots_and_codes():
    check = Check([-6, 11, -6, 1], "root", 1e-4)
    assert [check.accepts(value) for value in (1, 2.0, 3.00001, 4, math.nan, "1", None)] == [True] * 3 + [False] * 4
    assert inputs.cyclic("abcdefgh") == "bcaefdgh" and inputs.shifted("aez") == "fje"
