"""Rules that end a text read each character once, and say what they say of the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.evaluation.benchmarks import truncation
from ms_codegeex.evaluation.benchmarks.ds1000 import answers
from ms_codegeex.evaluation.benchmarks.humaneval_x import rules
from ms_codegeex.evaluation.sampling import stops

RULES = {
    "words": stops.words(["\ndef", "aba", "{"]),
    "no words": stops.words([]),
    "closed": stops.closed,
    "python": rules.stop("python", "codegeex"),
    "go": rules.stop("go", "codegeex2"),
    "codegen": truncation.stop(),
    "codegen, two": truncation.stop(2),
    "ds1000": answers.ended,
    "both": stops.first_of(stops.closed, lambda text: len(text) > 40),
}
PIECES = st.lists(
    st.sampled_from(
        [
            "{",
            "}",
            "\n",
            " ",
            "\t",
            "\r",
            "a",
            "ab",
            "def",
            "print",
            "pri",
            "nt",
            "#",
            "'",
            "''",
            '"""',
            "\nfunc main(",
            "`",
            "``",
            "```python\n",
            "</co",
            "de>",
            "# SOLUTION END",
            "<|endof",
            "text|>",
            "\x0b",
            "    ",
            "class",
            "if",
            "\n\n",
        ]
    ),
    max_size=14,
)


@pytest.mark.parametrize("name", RULES)
@given(pieces=PIECES)
def test_a_scan_ends_where_the_whole_text_is_over_for_the_first_time(name: str, pieces: list[str]):
    """However the text is split into pieces."""
    rule, text = RULES[name], "".join(pieces)
    expected = next((size for size in range(1, len(text) + 1) if rule(text[:size])), None)
    for cut in (pieces, list(text), [text]):
        scan, length, found = stops.scanner(rule), 0, None
        for piece in cut:
            place = scan(piece)
            if place is not None:
                found = length + place
                break
            length += len(piece)
        assert found == expected


def test_every_rule_of_a_task_can_scan():
    """So no rule reads an answer of 64 KB 64 thousand times."""
    found = [rules.stop(language, name) for name in rules.RULES for language in ("python", "cpp", "go", "js", "rust")]
    assert all(isinstance(rule, stops.Rule) for rule in found if rule is not None)
    assert isinstance(truncation.stop(), stops.Rule) and isinstance(answers.ended, stops.Rule)
