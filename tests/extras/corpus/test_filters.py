import dataclasses
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.extras.corpus import filters
from ms_codegeex.extras.corpus.filters import Rules, preset, rejection, size_rejection

GOOD = b"def function(argument):\n    return argument\n"
OFF = Rules(max_mean_line=None, min_alphabetic=0.0, generated=True)


CASES = {
    None: [GOOD, b"\xef\xbb\xbf" + GOOD, "# 你好世界\n变量 = 函数 + 1\n".encode(), "你好世界 123456\n".encode() * 20],
    "binary": [GOOD + b"\0"],
    "not UTF-8": [b"# caf\xe9\nx = 1\n", b"# \xed\xa0\x80\n" + GOOD],
    "empty": [b" \n\t\n", "\u3000\u00a0 \n".encode(), b"\x0b\x0c\x1c\x1d\x1e\x1f", b""],
    "long lines": [b"a" * 202 + b"\n", b"a" * 101 + b"\n", b"a" * 101, (b"a" * 100 + b"\n") * 5 + b"a" * 101],
    "few letters": [b"1, 2, 3, 4\n" * 20, b"abcd 1234567\n" * 20, "你好世界 1234567\n".encode() * 20],
}
CASES[None] += [b"aaaa" * 24 + b"\n", b"a" * 100 + b"\n", "é".encode() * 100, b"abcd 123456\n" * 20]
CASES[None] += [b"                abcd 123456\n" * 20]
CASES["few letters"] += ["。。。。 123456\n".encode() * 20]


@pytest.mark.parametrize("data, reason", [(data, reason) for reason, texts in CASES.items() for data in texts])
def test_default_rules(data, reason):
    assert rejection(data, Rules()) == reason


def test_sizes():
    rules = Rules(min_bytes=10, max_file_bytes=100)
    expected = ["empty", "too small", None, None, "too large"]
    assert [size_rejection(size, rules) for size in (0, 9, 10, 100, 101)] == expected


class TestPresets:
    def test_codegeex(self):
        rules = preset("codegeex")
        sizes = {1023: "too small", 1024: None, 102_400: None, 102_401: "too large"}
        assert {size: size_rejection(size, rules) for size in sizes} == sizes
        assert rejection(b"ab 123\n" * 9, rules) is None and rejection(b"ab 1234\n" * 9, rules) == "few letters"
        assert rejection(b"a" * 101, rules) == "long lines" and not rules.generated

    @pytest.mark.parametrize(
        "data, reason",
        [
            (b"x" * 99, None),
            (b"x" * 100, "long lines"),  # below 100, while CodeGeeX allows 100
            (b"x" * 1000 + b"\n" + b"y\n" * 50, None),
            (b"x" * 1001 + b"\n" + b"y\n" * 50, "long lines"),
            ("é".encode() * 1000 + b"\n" + b"y\n" * 50, None),
            ("é".encode() * 1001 + b"\n" + b"y\n" * 50, "long lines"),
            (b"0123456789abcdefABCD x,\n" * 3, "many digits"),  # 20 of 22
            (b"123abcDEF x\n" * 9, None),  # 9 of 10
            (b"1234abcDEF x\n" * 9, "many digits"),  # 10 of 11
            (b"{}[]();;::" * 9, None),  # no rule about letters
        ],
    )
    def test_codegen(self, data, reason):
        assert rejection(data, preset("codegen")) == reason and preset("codegen").generated

    def test_none_keeps_all_text(self):
        rules = preset("none")
        assert rejection(b"1" * 10_000 + b"\n# @generated", rules) is None and size_rejection(10**10, rules) is None
        assert rejection(b"\0", rules) == "binary" and rejection(b"\xff", rules) == "not UTF-8"

    def test_default_is_the_default(self):
        assert preset("default") == Rules()


# Characters where counting bytes could go wrong: kinds of white space, letters and digits of other scripts, limits of
# the encoding's lengths.
_CHARACTERS = st.sampled_from(
    string.ascii_letters
    + string.digits
    + " \t\n\r\x0b\x0c\x1b\x1c\x1f\x01@[`{/:_\x7f\x80\x85\xa0é²ªß\u3000\u2028你٣\U0001d4b3😀\uffff"
)


@given(st.text(_CHARACTERS | st.characters(exclude_categories=["Cs"]), max_size=200), st.floats(0.05, 1))
def test_shares_agree_with_counting_characters(text, share):
    data, shown = text.encode(), [char for char in text if not char.isspace()]
    letters = sum(char.isalpha() for char in shown)
    digits = sum(char in "0123456789abcdefABCDEF" for char in shown)
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    if "\0" in text or not shown:
        assert rejection(data, OFF) == ("binary" if "\0" in text else "empty")
        return

    def verdict(**rules):
        return rejection(data, dataclasses.replace(OFF, **rules)) is not None

    assert verdict(min_alphabetic=share) == (letters < share * len(shown))
    assert verdict(max_digits=share) == (digits > share * len(shown) and share < 1)
    assert verdict(max_line=20) == any(len(line) > 20 for line in lines)
    assert verdict(max_mean_line=10.5) == (sum(map(len, lines)) > 10.5 * len(lines))


@given(st.binary(max_size=60))
def test_utf8_is_judged_as_python_does(data):
    try:
        valid = bool(data.decode().strip())
    except UnicodeDecodeError:
        valid = False
    assert (rejection(data, OFF) is None) == (valid and b"\0" not in data)


@given(
    text=st.text(st.sampled_from("aZ[@`{1 \t\n\x1fé你\u3000"), max_size=40),
    minimum=st.sampled_from([0.0, 0.25, 0.4, 0.5, 1.0]),
    mean=st.sampled_from([None, 1.0, 3.0, 10.0]),
)
def test_the_first_glance_decides_nothing_on_its_own(text, minimum, mean):
    rules, data = Rules(min_alphabetic=minimum, max_mean_line=mean), text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "_is_ordinary", lambda data, rules: False)
        exact = rejection(data, rules)
    assert rejection(data, rules) == exact
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "_SMALL", 0)  # counted as in larger texts
        assert rejection(data, rules) == exact


def test_the_first_glance_is_enough_for_source_code_and_closer_rules_need_more():
    code = b"def f(x):\n    return x\n"
    assert filters._is_ordinary(code, Rules()) and not filters._is_ordinary("# é\n".encode(), Rules())
    assert filters._is_ordinary(code + "# é\n".encode(), Rules()) and not filters._is_ordinary(code + b"\xe9", Rules())
    assert not any(filters._is_ordinary(code, rules) for rules in (Rules(max_line=1000), Rules(max_digits=0.9)))
