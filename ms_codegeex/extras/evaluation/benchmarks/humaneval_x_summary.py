"""Summaries of HumanEval-X's solutions as a task: answers are compared with the published descriptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.problems import HumanEvalXProblem
from ms_codegeex.extras.evaluation.replies.blocks import ReplyCode, without_thoughts
from ms_codegeex.extras.evaluation.sandbox import Sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Reference, Sample, SampledAnswer, Task, TextSource

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


def prompt_of(row: HumanEvalXProblem, form: str, tag: bool) -> str:
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
    return SIGNS.get(row.language, "//")


def joined(lines: object) -> str:
    return " ".join(" ".join(lines).split())  # type: ignore[call-overload]


def similarity(text: str, reference: str) -> dict[str, float]:
    """BLEU and chrF of a sentence, each from 0 to 1. BLEU: up to 4 words, with one added to the counts of two and more
    words (Lin and Och 2004), in lower case, as usual for summaries of code (CodeXGLUE 2021, whose words these are:
    mteval-13a's). chrF: up to 6 characters, beta 2 (Popović 2015)."""
    # as a corpus of one sentence: BLEU's `sentence_score` recommends to leave out the orders without a match
    bleu, chrf = (metric.corpus_score([text], [[reference]]).score / 100 for metric in metrics())
    return {"BLEU-4": bleu, "chrF": chrf}


@cache
def metrics() -> tuple[Any, Any]:
    """The package's two metrics; `UserError` if it is not installed."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ModuleNotFoundError as error:
        remedy = "run `pip install 'ms-codegeex[summaries]'`"
        raise UserError(f"{error.name}, which compares summaries, is not installed; {remedy}") from None
    return BLEU(lowercase=True, smooth_method="add-k", smooth_value=1), CHRF()


class HumanEvalXSummary(Task):
    """The problems that have a description: all but one of C++. `data` and `languages` as in `HumanEvalX`; `tag`: put
    CodeGeeX's tag line before the prompt; `form`: see `prompt_of`, None: `comment`."""

    name = "humaneval-x-summary"
    modes = ()
    measures = ("BLEU-4", "chrF")
    runs_programs = False

    def __init__(self, data: Path, languages: Sequence[str] = (), tag: bool = False, form: str | None = None) -> None:
        metrics()  # an installation without them is refused before a model writes
        self._tag, self._form = tag, form or FORMS[0]
        files = problems.read(data, languages)
        rows = (row for file in files.values() for row in file.rows if description(row))
        self.problems = [Problem(row.id, {"language": row.language}, row) for row in rows]
        self.provenance = problems.provenance(files)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        prompt = prompt_of(problem.data, self._form, self._tag)
        done = complete(prompt, seed=seed, stop=stop_rules.words(["\n\n"]))
        return self.sample(problem, completion_id, prompt, done, partial(clean, row=problem.data, form=self._form))

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        return ReplyCode(without_thoughts(done.text).strip(), False)

    def reference(self, problem: Problem) -> Sample:
        prompt = prompt_of(problem.data, self._form, self._tag)
        return Reference(problem.id, 0, prompt, description(problem.data), "eos")

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox | None) -> Judgement:
        measured = similarity(sample.generation, description(problem.data))
        return Judgement(sample.task_id, sample.completion_id, {}, 0.0, None, "", measured)


build = HumanEvalXSummary
