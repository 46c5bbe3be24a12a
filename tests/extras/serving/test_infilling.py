"""Trimming what an answer repeats of the suffix, and the prompts of models with sentinels."""

import re
import sys
from collections.abc import Callable
from functools import cache, reduce
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.description import description_from
from ms_codegeex.data.infilling.sentinels import JOINED, Sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.answering import IndentStop
from ms_codegeex.extras.serving.infilling import SuffixTrimmer, overlap


def answers(alphabet: str, size: int) -> st.SearchStrategy[tuple[list[str], str]]:
    """The pieces of an answer, and a suffix."""
    text = st.text(alphabet=alphabet, max_size=size)
    return st.tuples(st.lists(text, max_size=8), text)


ANSWERS = answers("ab_ (){}\n\t;é", 24)
REPEATING = answers("=; ", 6)  # where the start of the suffix comes again in it, one may begin within one that failed


def trimmed(pieces, suffix: str) -> str:
    """The pieces of an answer without the repetition of the suffix."""
    trimming = SuffixTrimmer(suffix)
    return "".join([*map(trimming.feed, pieces), trimming.rest()])


def kept(answer: str, suffix: str) -> str:
    return answer[: len(answer) - overlap(answer, suffix)]


@pytest.mark.parametrize(
    ("answer", "suffix", "expected"),
    [
        ("x = 1\n}\n", "\n}\n", "x = 1"),  # the brace that closes the prefix's block
        ("g(x))", ")", "g(x)"),  # both brackets, the second one is the suffix's
        ("g(x)", ")", "g(x)"),  # its own bracket stays
        ('name")', '")', "name"),
        ("a, b) {\n    return a;\n}\n", ") {\n    return a;\n}\n", "a, b"),  # several lines
        ("a, b) {\n    ret", ") {\n    return a;\n}\n", "a, b"),  # the beginning of them
        ("total", "\ntotal += 1", "total"),  # the suffix's word is on another line
        ("before", "rest", "before"),  # the suffix's word ends no word of the answer
        ("return", "urn x", "ret"),  # this one does
        ("x = name", "me)", "x = na"),
        ("return x", "urn x + 1", "ret"),
        ("name", "\nme", "name"),  # another line's
        ("name", " me", "name"),
        ("x = retu", "return y", "x = "),  # the suffix's word is the longer one
        ("urn x", "urn x", ""),  # the prefix ended inside a word
        ("f()\n    return x", "\n\n    return x", "f()"),  # blank lines do not matter
        ("f()\n        return x", "\n    return x", "f()\n        return x"),  # indentation does: an inner block
        ("f()\n\n\n", "\n\ndef g():", "f()"),  # only white space at the seam
        ("f()\n", ")", "f()\n"),  # it stays where the suffix has none
        ("a) b", ")", "a) b"),  # not at the end
        ("x", "", "x"),
        ("", ")", ""),
    ],
)
def test_the_longest_repetition_is_trimmed(answer, suffix, expected):
    assert kept(answer, suffix) == expected
    assert trimmed(answer, suffix) == expected


@settings(max_examples=400)
@given(ANSWERS | REPEATING)
@example((["a ", "a", " b"], "a a b"))
@example((["ab", "ab", "a"], "ababb"))
@example((["==", "=;"], "==;"))
@example((["x\n", "\n", "  ", "a"], "\n  a b"))
def test_pieces_make_no_difference_and_only_an_end_goes(drawn):
    pieces, suffix = drawn
    answer = "".join(pieces)
    result = trimmed(pieces, suffix)
    assert result == kept(answer, suffix)
    gone = answer[len(result) :]
    assert answer.startswith(result) and suffix.lstrip().startswith(gone.strip())
    assert not gone.strip() or gone.strip() == suffix.lstrip()[: len(gone.strip())]


@given(ANSWERS, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["\n", "\r\n", "\r"]))
@example((["x\n", "\n", "  ", "a"], "\n  a b"), "\r\n", "\n")
@example((["x\n", "}"], "\n}"), "\n", "\r\n")
def test_lines_may_end_in_any_way(drawn, end, other):
    """An answer's own ends of lines are kept, also where a piece ends in the middle of one."""
    pieces, suffix = drawn
    whole = "".join(pieces).replace("\n", end)
    assert trimmed([*whole], suffix.replace("\n", other)) == trimmed(pieces, suffix).replace("\n", end)


@given(ANSWERS)
def test_what_cannot_be_trimmed_is_not_held_back(drawn):
    pieces, suffix = drawn
    trimming, said = SuffixTrimmer(suffix), ""
    for place, piece in enumerate(pieces):
        said += trimming.feed(piece)
        text = "".join(pieces[: place + 1])
        assert text.startswith(said)
        held = text[len(said) :].strip()
        assert suffix.lstrip().startswith(held)


def defined(answer: str, suffix: str) -> int:
    """`overlap` as its docstring has it, which tries every length and reads all brackets each time."""

    def deeper(depth: int, character: str) -> int:
        return max(depth + (character in "([{") - (character in ")]}"), 0)

    text, body = answer.rstrip(), suffix.lstrip()
    lead = suffix[: len(suffix) - len(body)]
    for length in range(min(len(text), len(body)), 0, -1):
        before, repeated = text[: len(text) - length], text[len(text) - length :]
        rest = before.rstrip()
        space, opened = before[len(rest) :], reduce(deeper, before, 0)
        alike = bool(space) if lead else True
        if "\n" in space + lead and lead:
            alike = "\n" in space and "\n" in lead and space.rpartition("\n")[2] == lead.rpartition("\n")[2]
        if (
            repeated == body[:length]
            and alike
            and (
                re.fullmatch(r"\w\w", before[-1:] + body[0]) is None
                or (not lead and re.match(r"\w*", body).end() <= length)
            )
            and min(accumulate(repeated, deeper, initial=opened)) >= opened
        ):
            return len(answer) - len(rest if lead else before)
    return len(answer) - len(text) if lead else 0


@settings(max_examples=200)
@given(st.text(alphabet="a({)} \n", max_size=10), st.text(alphabet="a({)} \n", max_size=10), st.data())
@example("", "))", None)
@example("f((", ")", None)
@example("(a\n ", "\n a)", None)
def test_the_repetition_is_the_one_of_the_definition(start, suffix, data):
    answer = start
    if data is not None:
        body = suffix.lstrip()
        shown, space = data.draw(st.integers(0, len(body))), data.draw(st.text(alphabet=" \n", max_size=2))
        answer = start + data.draw(st.sampled_from(["", suffix[: len(suffix) - len(body)]])) + body[:shown] + space
    assert overlap(answer, suffix) == defined(answer, suffix)


def steps(work: Callable[[], object]) -> int:
    """The number of lines that Python runs for `work`."""
    count, usual = 0, sys.gettrace()

    def tracer(frame, event, argument):
        nonlocal count
        count += event == "line"
        return tracer

    sys.settrace(tracer)
    try:
        work()
    finally:
        sys.settrace(usual)
    return count


@pytest.mark.parametrize(
    ("answer", "suffix"),
    [
        ("(" * 101 + ")---" * 100, ")---" * 100),  # each repetition closes a bracket of the answer
        ("b" + "a" * 400, "a" * 400),  # each starts inside a word
        ("(" * 41 + ")" * 40, ")" * 40),
        (";\t" + "; " * 200, " \n" + "; " * 200),  # none after such white space
    ],
)
def test_repetitions_that_all_fail_cost_as_much_as_the_answer_is_long(answer, suffix):
    assert overlap(answer, suffix) == defined(answer, suffix)
    assert steps(lambda: overlap(answer, suffix)) < 30 * len(answer)


class Copied(str):
    """A text that counts the characters which adding to it, or it to others, copies."""

    copied = 0

    def __add__(self, other):
        Copied.copied += len(self) + len(other)
        return Copied(str(self) + str(other))

    def __radd__(self, other):
        return Copied(other) + self

    def __iter__(self):
        return map(Copied, super().__iter__())


@pytest.mark.parametrize("through", [IndentStop(4), SuffixTrimmer("-" + " " * 1000)])
def test_white_space_that_waits_is_not_copied_with_each_piece(through, monkeypatch):
    monkeypatch.setattr(Copied, "copied", 0)
    pieces = [Copied(text) for text in ["-", "\n", *[" " * 4] * 200, "x"]]
    said = "".join(map(through.feed, pieces)) + through.rest()
    assert said == "".join(map(str, pieces))
    assert Copied.copied < 20 * len(said)


def test_a_long_suffix_is_read_only_as_far_as_needed():
    trimming, said = SuffixTrimmer("\n" + "a" * 1_000_000), list[str]()
    assert steps(lambda: said.extend([trimming.feed("b a"), trimming.rest()])) < 200
    assert "".join(said) == "b a"


def test_a_repetition_that_fails_at_every_place_delays_nobody():
    trimming, text, said = SuffixTrimmer("a" * 2_000 + "b"), "a" * 4 * 500 + "c", list[str]()
    pieces = [text[place : place + 4] for place in range(0, len(text), 4)]
    assert steps(lambda: said.extend(map(trimming.feed, pieces))) < 30 * len(text)
    assert "".join(said) == text


MARKS = {"prefix": "<P>", "suffix": "<S>", "middle": "<M>"}
SENTINELS = Sentinels(**MARKS)


@cache
def tokenizer():
    return load_tokenizer("codegen-multi")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (("prefix", "suffix", "middle"), "<P>a = <S>\nb<M>"),
        (("suffix", "prefix", "middle"), "<S>\nb<P>a = <M>"),
        (JOINED, "<S>\nb<M><P>a = "),
    ],
)
def test_sentinels_stand_in_the_models_order(order, expected):
    ids, _ = Sentinels("<P>", "<S>", "<M>", order).prompt(tokenizer(), "a = ", "\nb", 100)
    assert tokenizer().decode(ids) == expected


def test_a_special_token_in_the_users_text_is_text():
    end = "<|endoftext|>"
    ids, _ = Sentinels(end, "<S>", "<M>").prompt(tokenizer(), f"a{end}", "", 100)
    assert ids.count(tokenizer().eos_id) == 1 and tokenizer().decode(ids) == f"{end}a{end}<S><M>"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(20, 60))
def test_a_prompt_fits_and_keeps_what_is_next_to_the_gap(prefix, suffix, room):
    before, after = "".join(f" p{n}" for n in range(prefix)), "".join(f" s{n}" for n in range(suffix))
    ids, cut = SENTINELS.prompt(tokenizer(), before, after, room)
    text = tokenizer().decode(ids)
    assert len(ids) <= room
    left, _, right = text.removeprefix("<P>").removesuffix("<M>").partition("<S>")
    assert before.endswith(left) and after.startswith(right)
    assert cut == (sum(len(tokenizer().encode(part)) for part in ("<P>", before, "<S>", after, "<M>")) > room)
    assert cut == ((left, right) != (before, after))
    assert bool(left) >= bool(before) and bool(right) >= bool(after)


def test_no_room_for_sentinels():
    with pytest.raises(UserError, match="shorter answer"):
        SENTINELS.prompt(tokenizer(), "a", "b", 5)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"prefix": "<P>", "suffix": "<S>"},
        *({**MARKS, "prefix": mark} for mark in ("<S>", "", -1, True)),
        *({**MARKS, "order": order} for order in (["middle", "prefix", "suffix"], ["prefix", "middle"], "psm")),
        {**MARKS, "end": "x"},
        {**MARKS, "more": 1},
    ],
)
def test_a_malformed_setting_is_refused(value):
    with pytest.raises(UserError, match=r"serving\.json: infill"):
        description_from({"infill": value}, "serving.json")
