"""DS-1000 as a task, in both formats."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.evaluation.benchmarks.ds1000 import answers
from ms_codegeex.evaluation.benchmarks.ds1000.problems import Ds1000Problem, read_problems
from ms_codegeex.evaluation.benchmarks.python_task import PythonTask, both_verdicts, encoded, judgement
from ms_codegeex.evaluation.judging import verdicts as judging
from ms_codegeex.evaluation.judging.python_program import read_report
from ms_codegeex.evaluation.replies.blocks import Asked, ReplyCode
from ms_codegeex.evaluation.replies.code import code_of
from ms_codegeex.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict
from ms_codegeex.evaluation.sandbox.limits import MIB
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Sample, SampledAnswer

SECONDS = {"original": 60.0, "simplified": 120.0}  # per test case, per problem: fixed by the formats
MEMORY = 4096 * MIB  # importing TensorFlow or PyTorch takes a gigabyte
MODULES = {
    "matplotlib": ("matplotlib", "numpy", "pandas", "seaborn"),
    "numpy": ("numpy", "pandas", "scipy"),
    "pandas": ("pandas", "numpy"),
    "pytorch": ("torch", "numpy", "pandas"),
    "scipy": ("scipy", "numpy"),
    "sklearn": ("sklearn", "numpy", "pandas"),
    "tensorflow": ("tensorflow", "numpy"),
}
PACKAGES = {"sklearn": "scikit-learn"}  # module -> package, where they differ


class Ds1000(PythonTask):
    """The problems of one format and mode.

    Args:
        data: the original ds1000_data directory, or a ds1000.jsonl(.gz) file or its directory.
        mode: "completion" or "insertion".
        python: the interpreter that has the libraries; None: this process's.
    """

    def __init__(self, data: Path, mode: str = "completion", python: Path | None = None):
        self.format, problems = read_problems(data, mode)
        super().__init__(problems, python)
        self.mode = mode
        self.name = f"ds1000-{self.format}-{mode}"
        self.limits = ResourceLimits(wall=SECONDS[self.format], memory=MEMORY)
        libraries = dict.fromkeys(problem.data.library.lower() for problem in problems)
        modules = (name for library in libraries for name in MODULES.get(library, ()))
        self.packages = list(dict.fromkeys(PACKAGES.get(name, name) for name in modules))

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One answer, cleaned up."""
        ds: Ds1000Problem = problem.data
        prompt = answers.prompt(ds.prompt, self.mode)
        answer = complete(prompt, seed=seed, stop=answers.ended)
        return self.sample(problem, completion_id, prompt, answer, partial(answers.cleaned, library=ds.library))

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        """The code of a reply that goes beyond the given code, which the test runs before it."""
        code = code_of(done.text, Asked("python", "", finished=done.finish != "length"))
        return code if code.lacking else ReplyCode(answers.from_code(code.text, prompt), False)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Run and compare, both in the sandbox."""
        judged = self._original if self.format == "original" else self._simplified
        return judged(problem.data, sample, sandbox)

    def _simplified(self, ds: Ds1000Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Passes if there is no exception. The problem's own functions run the answer, in one process."""
        calls = ["test_execution(code)"] + ["test_string(code)"] * ("def test_string(" in ds.context)
        report = self.run("\n".join([ds.context, f"code = {sample.generation!r}", *calls, ""]), sandbox)
        # for the published script too, a program that exits early without an exception has failed: it printed nothing
        return judgement(sample, both_verdicts(report), [report.execution])

    def _original(self, ds: Ds1000Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Each test case is a run that leaves a pickle. The pickles are then opened, and then compared.

        The expected results and the function that compares enter the sandbox only at that point. Published: the
        pickles decide. Strict: every run also reached its end.
        """
        program = encoded(ds.context.replace("[insert]", sample.generation))
        secrets = [judging.witness() for _ in range(ds.cases + 1)]
        commands = [
            self.runner.command(secret, self.limits, "program.py", "--test_case", str(case))
            for case, secret in enumerate(secrets[:-1], 1)
        ]
        commands += [
            self.script("open_results.py", b"", self.limits, str(ds.cases)),
            self._comparison(ds, sample.generation, secrets[-1]),
        ]
        executions = sandbox.run(commands, {**ds.files, "program.py": program}, self.runner.readable)
        reports = [read_report(*pair) for pair in zip(executions[: ds.cases], secrets, strict=False)]
        right = len(executions) == len(commands) and _right(executions[-1], secrets[-1])
        failed = next((report.verdict for report in reports if not report.finished), Verdict.WRONG)
        if len(executions) == len(commands) and not executions[-1].succeeded:
            failed = judging.published(executions)
        strict = right and all(report.finished for report in reports)
        verdicts = {"strict": Verdict.PASSED if strict else failed, "published": Verdict.PASSED if right else failed}
        return judgement(sample, verdicts, executions)

    def _comparison(self, ds: Ds1000Problem, answer: str, secret: str) -> Command:
        given = {
            "test_code": ds.test_code,
            "answers": {name: base64.b64encode(content).decode() for name, content in ds.answers.items()},
            "solution": answer if ds.test_type == 3 else None,
            "secret": secret,
        }
        return self.script("compare.py", json.dumps(given).encode("ascii") + b"\n", self.limits, str(ds.cases))

    def reference(self, problem: Problem) -> Sample | None:
        """The benchmark's own code."""
        return Sample(problem.id, 0, "", problem.data.reference, "eos")

    def missing(self) -> Mapping[str, str]:
        """Library (as in the problems' label) -> the command that installs it, for those that the interpreter
        lacks."""
        result = {}
        for library in dict.fromkeys(problem.data.library for problem in self.problems):
            if lacks := self.runner.interpreter.lacks(MODULES.get(library.lower(), ())):
                result[library] = f"pip install {' '.join(PACKAGES.get(name, name) for name in lacks)}"
        return result


def _right(execution: Execution, secret: str) -> bool:
    """Whether the comparison says that everything is as expected."""
    lines = execution.stdout.rstrip(b"\n").split(b"\n")
    if not execution.succeeded or len(lines) < 2 or lines[-1] != secret.encode("ascii"):
        return False
    report = parse_json(lines[-2], data=True)
    return bool(report["results"]) and all(report["results"]) and report["string"] in (None, 1)


build = Ds1000
