"""Python replies become programs. The oracle runs them, and calls the function."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from python_replies import CUT_OFF, HOSTILE, LACKING, OTHER_PROMPTS, PROMPT, RIGHT, WRONG

from ms_codegeex.extras.evaluation.benchmarks.humaneval import STOPS
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.replies.code import code_of
from ms_codegeex.extras.evaluation.replies.python import MAX_PARSED_CHARACTERS
from ms_codegeex.extras.evaluation.stop_rules import cut

ASKED = CodeRequest("python", PROMPT, "add")


@pytest.fixture(autouse=True)
def recursion_limit() -> Iterator[None]:
    """Python's limit as it was: a reply raises it for good, and `json` of a later test would overflow the stack."""
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


def adds(reply, asked=ASKED):
    """Whether the function of a reply adds. The replies are this folder's own."""
    code = code_of(reply, asked)
    program, space = code.text if code.whole else asked.prompt + cut(code.text, STOPS), {}
    try:
        exec(program, space)
        return [space["add"](1, 2), space["add"](4, 4), space["add"](0, 0)] == [3, 8, 0] and space["double"](2) == 4
    except (Exception, SystemExit):
        return False


@pytest.mark.parametrize("name", RIGHT)
def test_right_replies(name):
    assert adds(RIGHT[name]), code_of(RIGHT[name], ASKED)


@pytest.mark.parametrize("number", range(len(OTHER_PROMPTS)))
def test_other_prompts(number):
    prompt, entry_point, reply, test = OTHER_PROMPTS[number]
    code, space = code_of(reply, CodeRequest("python", prompt, entry_point)), {}
    exec(f"{code.text if code.whole else prompt + code.text}\n{test}", space)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_replies(name):
    assert not adds(WRONG[name]), code_of(WRONG[name], ASKED)


@pytest.mark.parametrize("reply", [*LACKING, *CUT_OFF])
def test_replies_without_code(reply):
    assert code_of(reply, replace(ASKED, finished=reply in LACKING)).lacking == (LACKING | CUT_OFF)[reply]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_replies_are_parsed_within_limits(name, monkeypatch):
    parsed, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda code: parsed.append(len(code)) or parse(code))
    assert not adds(HOSTILE[name])
    assert sum(parsed) <= 3 * MAX_PARSED_CHARACTERS  # two tries, and the result
