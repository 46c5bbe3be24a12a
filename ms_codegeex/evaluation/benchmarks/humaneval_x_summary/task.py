"""Summaries of HumanEval-X's solutions as a task. No program runs: an answer is compared with the published
description."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ms_codegeex.evaluation import stop_rules
from ms_codegeex.evaluation.benchmarks.humaneval_x import problems
from ms_codegeex.evaluation.benchmarks.humaneval_x_summary import descriptions
from ms_codegeex.evaluation.benchmarks.humaneval_x_summary.similarity import metrics, similarity
from ms_codegeex.evaluation.replies.blocks import ReplyCode, without_thoughts
from ms_codegeex.evaluation.sandbox import Sandbox
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Reference, Sample, SampledAnswer, Task


class HumanEvalXSummary(Task):
    """The problems that have a description: all but one of C++. `data` and `languages` as in `HumanEvalX`; `tag`: put
    CodeGeeX's tag line before the prompt; `form`: see `descriptions.prompt`, None: `comment`."""

    name = "humaneval-x-summary"
    modes = ()
    measures = ("BLEU-4", "chrF")
    runs_programs = False

    def __init__(self, data: Path, languages: Sequence[str] = (), tag: bool = False, form: str | None = None) -> None:
        metrics()  # an installation without them is refused before a model writes
        self._tag, self._form = tag, form or descriptions.FORMS[0]
        files = problems.read(data, languages)
        rows = [(name, row) for name, file in files.items() for row in file.rows if descriptions.description(row)]
        self.problems = [
            Problem(f"{problems.PREFIXES[name]}/{row.number}", {"language": name}, row) for name, row in rows
        ]
        self.provenance = {
            name: {"path": str(file.path), "sha256": file.sha256, "version": file.version}
            for name, file in files.items()
        }

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One summary; the raw text is kept if it differs."""
        prompt = descriptions.prompt(problem.data, self._form, self._tag)
        done = complete(prompt, seed=seed, stop=stop_rules.words(["\n\n"]))
        return self.sample(
            problem, completion_id, prompt, done, lambda text: descriptions.clean(text, problem.data, self._form)
        )

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        """A chat model's reply is the summary."""
        return ReplyCode(without_thoughts(done.text).strip(), False)

    def reference(self, problem: Problem) -> Sample:
        """The published description."""
        prompt = descriptions.prompt(problem.data, self._form, self._tag)
        return Reference(problem.id, 0, prompt, descriptions.description(problem.data), "eos")

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox | None) -> Judgement:
        """Both measures; there is no verdict."""
        measured = similarity(sample.generation, descriptions.description(problem.data))
        return Judgement(sample.task_id, sample.completion_id, {}, 0.0, None, "", measured)


build = HumanEvalXSummary
