"""HumanEval-X as a task: generation, or translation from one language, in up to six languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import translation_prompt
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems, programs
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.problems import HumanEvalXProblem
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.sandbox import Sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Reference, Sample, TextSource
from ms_codegeex.extras.evaluation.toolchains import TOOL_CHAINS, Program
from ms_codegeex.extras.evaluation.toolchains.base import REFERENCE_SECONDS, ToolChainTask
from ms_codegeex.extras.evaluation.toolchains.javascript import MD5, MD5_INSTALL, JavaScript

PUBLISHED_SECONDS = 5.0  # the published time limit of a run
FACTOR = 5.0  # a limit is at least this many times the slowest reference


class HumanEvalX(ToolChainTask):
    """`timeouts` holds the seconds of a run by language: the release's, until `calibrate` or the user changes them.

    Args:
        languages: of python, cpp, java, js, go, rust; none: those that have a file.
        translate_from: the language to translate from; the problems are those of the other languages.
        tag: put CodeGeeX's tag line before the prompt; without it the prompt is stripped, as CodeGeeX2's was.
        rules: where an answer ends, "codegeex" or "codegeex2"; None: the former with the tag, the latter without.
        cache: where prepared tool chains are kept; None: the user's cache directory.
    """

    name = "humaneval-x"

    def __init__(
        self,
        data: Path,
        languages: Sequence[str] = (),
        translate_from: str | None = None,
        tag: bool = False,
        rules: str | None = None,
        timeout: float | None = None,
        cache: Path | None = None,
    ) -> None:
        targets = [name for name in languages if name != translate_from]
        if languages and not targets:
            raise UserError(f"languages: translation from {translate_from} needs another language to translate to")
        self._files, self._sources = problems.read(data, targets), None
        if translate_from is not None:
            if data.is_file():
                raise UserError(f"{data}: translation needs two languages; give the directory with both files")
            self._files.pop(translate_from, None)
            (source,) = problems.read(data, [translate_from]).values()
            self._sources = {row.number: row for row in source.rows}
        super().__init__({name: TOOL_CHAINS[name](cache) for name in self._files}, timeout)
        self._tag, self._rules = tag, rules or ("codegeex" if tag else "codegeex2")
        self.timeouts = {name: timeout or PUBLISHED_SECONDS for name in self._files}
        rows = (row for file in self._files.values() for row in file.rows)
        labels = {} if translate_from is None else {"source": translate_from}
        kept = (row for row in rows if self._sources is None or row.number in self._sources)
        self.problems = [Problem(row.id, {"language": row.language, **labels}, row) for row in kept]
        self.provenance = problems.provenance(self._files)

    def prompt(self, row: HumanEvalXProblem) -> str:
        """The model's prompt: CodeGeeX's with the tag line, or CodeGeeX2's, without it and stripped at both ends. For
        a translation it is CodeGeeX's: declaration and solution in one language, the declaration in the other."""
        if self._sources is None:
            return f"{find_language(row.language).tag}\n{row.prompt}" if self._tag else row.prompt.strip()
        source = self._sources[row.number]
        names = (find_language(each.language).name for each in (source, row))
        return translation_prompt(*names, f"{source.declaration}\n{source.solution}") + row.declaration

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        row, prompt = problem.data, self.prompt(problem.data)
        done = complete(prompt, seed=seed, stop=stop_rules.codegeex_stop(row.language, self._rules))
        return self.sample(problem, completion_id, prompt, done, stop_rules.CLEAN_UPS[self._rules][row.language])

    def code_request(self, problem: Problem, prompt: str) -> CodeRequest:
        return programs.code_request(problem.data)

    def reference(self, problem: Problem) -> Sample:
        return Reference(problem.id, 0, self.prompt(problem.data), problem.data.solution, "eos", {"reference": True})

    def program(self, problem: Problem, sample: Sample) -> Program:
        return programs.assemble(problem.data, sample.generation, whole=sample.whole)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program. If a value is not data, only the tests unchanged give the published verdict."""
        program = self.program(problem, sample)
        wall = self.wall(sample, self.timeouts[problem.labels["language"]])
        judgement = self.judge_program(problem, sample, program, sandbox, wall)
        if judgement.extra.get("no_data") and not program.only_compiles:
            as_published = programs.assemble(problem.data, sample.generation, translate=False, whole=sample.whole)
            again = self.judge_program(problem, sample, as_published, sandbox, wall)
            judgement = replace(judgement, verdicts={**judgement.verdicts, "published": again.verdicts["published"]})
        return replace(judgement, extra={**judgement.extra, "limit": wall, "program": program.fingerprint[:32]})

    def calibrate(self, judgements: Iterable[Judgement]) -> Mapping[str, float]:
        """Set the time limits of this machine: `FACTOR` times the slowest reference that passed, at least the published
        5 s. A limit that the user has set stays."""
        slowest: dict[str, float] = {}
        languages = {problem.id: problem.labels["language"] for problem in self.problems}
        for each in judgements:
            if each.task_id in languages and each.verdicts["strict"].value == "passed":
                name, spent = languages[each.task_id], each.extra.get("run_seconds")
                known = isinstance(spent, int | float) and 0 <= spent <= REFERENCE_SECONDS
                slowest[name] = max(slowest.get(name, 0.0), float(spent) if known else 0.0)
        if self._timeout is None:
            self.timeouts |= {name: max(PUBLISHED_SECONDS, FACTOR * each) for name, each in slowest.items()}
        return dict(self.timeouts)

    def known_defects(self) -> Mapping[str, str]:
        """The defects of the published files, and the problem that needs js-md5 if that is missing."""
        reasons = problems.known_defects(self._files)
        if "js" in self._files and not self._has_md5():
            reasons["JavaScript/162"] = f"{MD5} is not on this machine; {MD5_INSTALL}"
        return reasons

    def missing(self) -> Mapping[str, str]:
        commands = dict(super().missing())
        if "js" in self._files and "js" not in commands and not self._has_md5():
            commands[MD5] = MD5_INSTALL
        return commands

    def _has_md5(self) -> bool:
        chain = self._chains["js"]
        return not isinstance(chain, JavaScript) or chain.md5 is not None


build = HumanEvalX
