"""Summaries of HumanEval-X's solutions: prompts, clean-up, and the measures."""

import math

import pytest
from benchmark_data import benchmark

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import humaneval_x_summary as descriptions
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.problems import HumanEvalXProblem

PROMPTS = {
    "python": 'def f(x):\n    """ Add one\n    to x.\n    >>> f(1)\n    2\n    """\n',
    "cpp": "/*\nAdd one\nto x.\n>>> f(1)\n2\n*/\nint f(int x){\n",
    "java": "class Solution {\n    /**\n    * Add one\n    * to x.\n    Example: 2\n     */\n    public int f() {\n",
    "js": "/* Add one\n  to x.\n  For example f(1) is 2.\n  */\nconst f = (x) => {\n",
    "go": "// Add one\n// to x.\n// >>> F(1)\n// 2\nfunc F(x int) int {\n",
    "rust": "\n/*\n Add one\n    to x.\n    \n*/\n",
}


def row(language, prompt=""):
    return HumanEvalXProblem(language, 0, prompt, "head\n", "    body\n", "")


@pytest.mark.parametrize("language", PROMPTS)
def test_a_description_is_the_first_paragraph_of_the_comment(language):
    assert descriptions.description(row(language, PROMPTS[language])) == "Add one to x."


def test_of_two_functions_the_last_ones_description_counts():
    helper = 'def helper(x):\n    """Something else."""\n    return x\n\n\n'
    assert descriptions.description(row("python", helper + PROMPTS["python"])) == "Add one to x."


def test_prompts():
    assert descriptions.prompt_of(row("python"), "comment", True) == "# language: Python\nhead\n    body\n\n# Summary:"
    assert descriptions.prompt_of(row("cpp"), "comment", False) == "head\n    body\n\n// Summary:"
    titled = "code summarization\nC++:\nhead\n    body\nSummary:\n"
    assert descriptions.prompt_of(row("cpp"), "titled", False) == titled


def test_a_summary_ends_with_its_comment_or_paragraph():
    assert descriptions.clean(" Adds one\n// to x.\nint main() {\n", row("go"), "comment") == "Adds one to x."
    assert descriptions.clean("Adds one\nto x.\n\nMore", row("go"), "titled") == "Adds one to x."
    assert descriptions.clean("", row("go"), "comment") == ""


def test_every_published_problem_but_one_has_a_description():
    files = problems.read(benchmark("humaneval-x"))
    lacking = [f"{name}/{row.number}" for name, file in files.items() for row in file.rows if not _described(row)]
    assert lacking == ["cpp/50"]


def _described(row):
    text = descriptions.description(row)
    assert '"""' not in text and "*/" not in text and "\n" not in text and not text.startswith("//")
    return text


def test_bleu_by_hand():
    pytest.importorskip("sacrebleu")
    # "the cat sat on a mat" against "the cat sat on the mat": of 6 words 5 match, of 5 pairs 3, of 4 triples 2, of 3
    # fours 1; one is added to the last three
    by_hand = math.exp(sum(map(math.log, (5 / 6, 4 / 6, 3 / 5, 2 / 4))) / 4)
    found = descriptions.similarity("The cat sat on a mat", "the cat sat on the mat")
    assert found["BLEU-4"] == pytest.approx(by_hand)
    # "ab" against "abc": characters 2 of 2 and 2 of 3, pairs 1 of 1 and 1 of 2; F with beta 2 of the averages
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    by_hand = 5 * precision * recall / (4 * precision + recall)
    assert descriptions.similarity("ab", "abc")["chrF"] == pytest.approx(by_hand)


def test_the_same_text_is_1_and_nothing_is_0():
    pytest.importorskip("sacrebleu")
    same = descriptions.similarity("Return the sum of all numbers.", "Return the sum of all numbers.")
    assert same == pytest.approx({"BLEU-4": 1.0, "chrF": 1.0})
    assert descriptions.similarity("", "Return the sum.") == {"BLEU-4": 0.0, "chrF": 0.0}


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu.metrics", None)
    descriptions.metrics.cache_clear()
    with pytest.raises(UserError, match=r"sacrebleu.metrics, which compares .*not installed.*ms-codegeex\[summaries\]"):
        descriptions.metrics()
    descriptions.metrics.cache_clear()
