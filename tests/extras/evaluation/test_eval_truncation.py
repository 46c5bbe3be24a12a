"""Where CodeGen's rule cuts an answer, against the rule written down step by step."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.extras.evaluation.stop_rules import codegen_cut as cut
from ms_codegeex.extras.evaluation.stop_rules import codegen_stop as stop
from ms_codegeex.extras.evaluation.stop_rules import codegen_truncated as truncated

PIECES = ["print(x)\n", "  print(1)\n", "def f():\n", "# so\n", "x # so\n", "'''", '"""', "\n", "\n\n", " ", "\t"]
PIECES += ["x = 1\n", "<|endoftext|>", "<|endof", "printer\n", "class A:\n", "pri", "de", "y"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


def by_the_rules(text, limit=1):
    """One rule after the other, as in the release's script."""
    for word in ("print", "def"):
        lines = text.split("\n")
        places = [number for number, line in enumerate(lines) if line.startswith(word)]
        if len(places) > limit:
            text = "".join(line + "\n" for line in lines[: places[limit]])
    endings = [r"^#", re.escape("<|endoftext|>"), "^'''", '^"""', "\n\n\n"]
    found = [match.start() for match in (re.search(ending, text, re.M) for ending in endings) if match]
    return text[: min(found)] if found else text


@given(TEXTS, st.sampled_from([1, 2, 3]))
def test_the_rule(text, limit):
    assert truncated(text, limit) == by_the_rules(text, limit)


@given(TEXTS, TEXTS)
def test_what_follows_a_cut_does_not_move_it(text, more):
    if stop()(text):
        assert cut(text + more) == cut(text)
    else:
        assert truncated(text) == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x = 1\n# more\n", "x = 1\n"),
        ("print(1)\nprint(2)\n", "print(1)\n"),
        ("def f():\n    pass\n\ndef g():\n", "def f():\n    pass\n\n"),
        ("def f():\n    print(1)\nprint(2)\n", "def f():\n    print(1)\nprint(2)\n"),
        ("# at once", ""),
        ("a\n\n\nb", "a"),
        ("a<|endoftext|>b", "a"),
        ("    # inside\n    x", "    # inside\n    x"),
    ],
)
def test_examples(text, kept):
    assert truncated(text) == kept
