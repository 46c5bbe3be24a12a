"""Python replies become programs. The oracle runs them, and calls the function."""

import pytest
from python_replies import LACKING, PROMPT, RIGHT, WRONG

from ms_codegeex.evaluation.benchmarks.humaneval.task import STOPS
from ms_codegeex.evaluation.replies.blocks import Asked
from ms_codegeex.evaluation.replies.code import code_of
from ms_codegeex.evaluation.stop_rules import cut

ASKED = Asked("python", PROMPT, "add")


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


@pytest.mark.parametrize("name", WRONG)
def test_wrong_replies(name):
    assert not adds(WRONG[name]), code_of(WRONG[name], ASKED)


@pytest.mark.parametrize("reply", LACKING)
def test_replies_without_code(reply):
    assert code_of(reply, ASKED).lacking == LACKING[reply]
