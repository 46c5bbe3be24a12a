"""MTPB as a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.evaluation.benchmarks.mtpb import judges, turns
from ms_codegeex.evaluation.benchmarks.mtpb.problems import MtpbProblem, provenance, read_problems
from ms_codegeex.evaluation.benchmarks.python_task import PythonTask, judgement
from ms_codegeex.evaluation.judging.python_program import ProgramReport
from ms_codegeex.evaluation.sandbox import ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.task import UNREAD, Complete, Judgement, Problem, Sample

SECONDS = 20.0  # per program, as published: then it is interrupted, and what it has printed counts
GRACE = 5.0  # extra seconds until it is killed: for imports, and for programs that cannot be interrupted
LIBRARIES = {"numpy": "numpy", "pandas": "pandas", "sklearn": "scikit-learn"}  # module named in prompts -> package
DATA = "its prompts read a file of ./datasets that the benchmark does not contain"
DEFECTS = {
    "23": "cases 0 to 3 expect percentiles of random numbers to the last digit",
    "31": "case 0 expects (17, 2) of edges 8 and 9, but its prompts ask for (16, 2)",
    "38": DATA,
    "41": "null is expected in cases 1 and 4, which the published judge never accepts; the strict one does",
    "46": DATA,
    "89": "dictionaries are expected in all 5 cases, which the published judge never accepts; the strict one does",
    "94": "case 1 expects 55, but the sum it asks for is 339, as case 3 (start at the next number) shows",
}


class Mtpb(PythonTask):
    """Problems of several turns. Sample i of a problem is sample i // cases of its test case i % cases, so a larger
    n only adds samples.

    Args:
        data: CodeGen's mtpb.jsonl, or its directory.
        turns: "multi" or "single".
        python: the interpreter of the programs; None: this process's.
    """

    packages = tuple(LIBRARIES.values())

    def __init__(self, data: Path, turns: str = "multi", python: Path | None = None):
        super().__init__(read_problems(data), python)
        self.multi, self.name = turns == "multi", "mtpb" if turns == "multi" else "mtpb-single-turn"
        self._cases = {problem.id: len(problem.data.cases) for problem in self.problems}
        self.provenance = provenance(data)
        self.limits = ResourceLimits(wall=SECONDS + GRACE)

    def samples_per_problem(self, n: int) -> int:
        """n for each test case. A problem with fewer cases than another gets more samples of some cases."""
        return n * max(self._cases.values())

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """All turns of one test case. `PromptTooLong` if not even the first one fits the model."""
        mtpb: MtpbProblem = problem.data
        number = completion_id % len(mtpb.cases)
        case, multi = mtpb.cases[number], self.multi
        try:
            made = (turns.multi_turn if multi else turns.single_turn)(case.prompts, mtpb.max_gen_length, seed, complete)
        except PromptTooLong as error:
            raise PromptTooLong(
                f"MTPB problem {problem.id}, case {number}: {error}; the benchmark is for models that read 2048 tokens"
            ) from None
        parts = turns.parts(made, multi)
        program = turns.HISTORY + "".join(map("".join, parts))
        extra = {"case": number, "turns": made}
        if all(turn.get("lacking") for turn in made):
            extra["lacking"] = made[-1]["lacking"]
        return Sample(problem.id, completion_id, turns.HISTORY + parts[0][0], program, made[-1]["finish"], extra)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """One run serves both judges: the printed value comes out, the expected one never goes in."""
        case = sample.extra["case"]
        gold = problem.data.cases[case].gold
        kind = "none" if gold is None else type(gold).__name__
        report = self.run(sample.generation, sandbox, gold_type=kind, seconds=SECONDS)
        verdicts = {"strict": strict(report, gold), "published": published(report, gold)}
        return judgement(sample, verdicts, [report.execution], case=case)

    def trial(self, problem: Problem) -> Sample:
        """A program that prints what the first case expects, with the import of every program."""
        program = f"{turns.HISTORY}print({problem.data.cases[0].gold!r})\n"
        return Sample(problem.id, 0, turns.HISTORY, program, "eos", {"case": 0})

    def flaw(self, sample: Sample) -> str:
        """A sample must name a case of its problem and have valid turns."""
        if sample.finish == UNREAD:
            return ""
        count = self._cases[sample.task_id]
        case, made = sample.extra.get("case"), sample.extra.get("turns", [])
        if not isinstance(case, int) or isinstance(case, bool) or not 0 <= case < count:
            return f"extra.case is {str(case)[:60]}, expected one of 0 to {count - 1}"
        sound = isinstance(made, list) and all(
            isinstance(turn, dict) and isinstance(turn.get("prompt"), str) and isinstance(turn.get("text"), str)
            for turn in made
        )
        return "" if sound else "extra.turns: expected a list of objects with prompt and text"

    def segments(self, problem: Problem, sample: Sample) -> list[tuple[str, bool]]:
        """For prompt perplexity: the program in parts, with prompts scored; nothing for a sample that was never
        drawn."""
        made = sample.extra.get("turns")
        if not made:
            return []
        parts = [(turns.HISTORY, False)]
        for prompt, text in turns.parts(made, self.multi):
            parts += [(prompt, True), (text, False)]
        return parts[:-1]

    def known_defects(self) -> Mapping[str, str]:
        """Defects of the published file: 7 cases that the published judge cannot accept (41, 89), and those
        that we found: 10 without their data (38, 46), 4 that are random (23), 2 with a wrong value (31, 94;
        there may be more)."""
        ids = {problem.id for problem in self.problems}
        return {key: reason for key, reason in DEFECTS.items() if self.provenance["known"] and key in ids}

    def missing(self) -> Mapping[str, str]:
        """Package -> the command that installs it, for the libraries that some programs import."""
        return {LIBRARIES[name]: f"pip install {LIBRARIES[name]}" for name in self.runner.interpreter.lacks(LIBRARIES)}


def published(report: ProgramReport, gold: Any) -> Verdict:
    """The right value passes whatever the program did afterwards, except for exiting, which ends the published
    judge."""
    right = report.ended != "exit" and judges.right(judges.published, report.printed, gold)
    return Verdict.PASSED if right else report.verdict


def strict(report: ProgramReport, gold: Any) -> Verdict:
    """The right value passes if the program also reached its end."""
    return Verdict.PASSED if report.finished and judges.right(judges.strict, report.printed, gold) else report.verdict


build = Mtpb
