"""A solution's code and its description: the parts of a HumanEval-X problem, and what a model says about the code."""

from __future__ import annotations

import re
from itertools import takewhile

from ms_codegeex.data.languages import find_language
from ms_codegeex.evaluation.benchmarks.humaneval_x.problems import HumanEvalXProblem

SIGNS = {"python": "#"}  # what begins a comment; elsewhere //
COMMENTS = {
    "python": re.compile(r"\"{3}(.*?)\"{3}|'{3}(.*?)'{3}", re.DOTALL),
    "go": re.compile(r"((?:^[ \t]*//.*\n)+)", re.MULTILINE),
}
COMMENT = re.compile(r"/\*+(.*?)\*/", re.DOTALL)
LEADING = re.compile(r"^[ \t]*(?://+|\*)?[ \t]?", re.MULTILINE)
EXAMPLE = re.compile(r">>>|(?:for )?examples?\b", re.IGNORECASE)
FORMS = ("comment", "titled")
LEAD = " Summary:"


def description(row: HumanEvalXProblem) -> str:
    """The first paragraph of the comment on the function, without examples, in one line; empty if there is none. A
    prompt with a helper function has a comment on it first, so the last one counts."""
    comments = COMMENTS.get(row.language, COMMENT).findall(row.prompt)
    if not comments:
        return ""
    last = comments[-1] if isinstance(comments[-1], str) else "".join(comments[-1])
    lines = LEADING.sub("", last).strip().splitlines()
    return joined(takewhile(lambda line: line.strip() and not EXAMPLE.match(line.strip()), lines))


def prompt(row: HumanEvalXProblem, form: str, tag: bool) -> str:
    """What a model continues with a description. `comment`: the code, and a comment that begins with `Summary:`.
    `titled`: as CodeGeeX's prompt of translations, with a summary in place of the other language."""
    language, code = find_language(row.language), f"{row.declaration}{row.solution}".strip()
    first = f"{language.tag}\n" if tag else ""
    if form == "titled":
        return f"{first}code summarization\n{language.name}:\n{code}\nSummary:\n"
    return f"{first}{code}\n\n{sign(row)}{LEAD}"


def clean(text: str, row: HumanEvalXProblem, form: str) -> str:
    """The description that a model wrote, in one line: up to a blank line, or the end of the comment."""
    first, *rest = text.strip().splitlines() or [""]
    if form == "comment":
        mark = sign(row)
        rest = [line.strip().lstrip(mark) for line in takewhile(lambda line: line.strip().startswith(mark), rest)]
    return joined([first, *takewhile(str.strip, rest)])


def sign(row: HumanEvalXProblem) -> str:
    """What begins a comment in the row's language."""
    return SIGNS.get(row.language, "//")


def joined(lines: object) -> str:
    """Lines as one, with single spaces."""
    return " ".join(" ".join(lines).split())  # type: ignore[call-overload]
