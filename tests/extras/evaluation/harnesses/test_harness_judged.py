"""A benchmark of ours for other harnesses: the same prompts and verdicts as `evaluate`."""

import pytest
import small_benchmarks

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.harnesses.judged import JudgedBenchmark, opened


@pytest.mark.strict_sandbox
def test_prompts_and_verdicts(tmp_path):
    judge = opened({"benchmark": "humaneval", "data": str(small_benchmarks.humaneval(tmp_path))})
    first, _ = judge.rows()
    assert first == {"task_id": "HumanEval/0", "prompt": 'def f0(x):\n    """Add one."""\n'}
    assert judge.verdict("HumanEval/0", "    return x + 1\n\nprint(1 / 0)\n") == (True, "passed")
    assert judge.verdict("HumanEval/0", "    return x\n") == (False, "wrong")
    assert judge.verdict("HumanEval/1", "```\ndef f1(x):\n    return 2 * x\n```", True) == (True, "passed")


@pytest.mark.strict_sandbox
def test_a_language_of_humaneval_x(tmp_path):
    judge = JudgedBenchmark("humaneval-x", small_benchmarks.humaneval_x(tmp_path), ["py"])
    assert [row["task_id"] for row in judge.rows()] == ["Python/0", "Python/1"]
    assert judge.verdict("Python/1", "    return 2 * x\n")[0] and not judge.verdict("Python/1", "    return x\n")[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": "x"}, "benchmark: missing"),
        ({"benchmark": "humaneval"}, "data: missing"),
        ({"benchmark": "mtpb", "data": "x"}, "benchmark: mtpb is not for other harnesses"),
        ({"benchmark": "humaneval", "data": "/none"}, "/none does not exist"),
    ],
)
def test_mistakes(values, words):
    with pytest.raises(UserError, match=words):
        opened(values)
