"""DS-1000, in both formats: a directory per problem (original, 2022), or one JSONL file (simplified, 2024)."""

from __future__ import annotations

import base64
import configparser
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.tables import ProblemFiles, values_of
from ms_codegeex.extras.evaluation.judging import python_program
from ms_codegeex.extras.evaluation.judging.python_program import PythonTask, both_verdicts, encoded, judgement
from ms_codegeex.extras.evaluation.replies import python
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest, ReplyCode
from ms_codegeex.extras.evaluation.replies.code import code_of
from ms_codegeex.extras.evaluation.sandbox import (
    Command,
    Execution,
    ResourceLimits,
    Sandbox,
    Verdict,
    published_verdict,
)
from ms_codegeex.extras.evaluation.sandbox.limits import MIB
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, SampledAnswer, TextSource
from ms_codegeex.generation import stopping

TEXTS = {"prompt": str, "code_context": str, "reference_code": str}
# in a problem's directory: what no program may see, or needs; one of Matplotlib compares its picture with ans/*.png
HIDDEN = re.compile(rf"ans/.*\.pkl|test_(code|generate_pickle)\.py|\.cfg|({'|'.join(TEXTS)})\.txt")


@dataclass(frozen=True)
class Ds1000Problem:
    """A problem in either format. `test_type` 3 also has a test of the answer's text. In the original format, `files`
    are the content of the program's directory, and `answers` those of its answers: pickles, only for a sandbox."""

    id: str
    library: str
    perturbation: str
    prompt: str
    context: str
    reference: str
    cases: int = 1
    test_type: int = 1
    test_code: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    answers: Mapping[str, bytes] = field(default_factory=dict)


FORM = "has prompt, code_context, reference_code and metadata"
KEYS = ("prompt", "code_context", "metadata")
FILES = ProblemFiles("DS-1000", ("ds1000",), KEYS, FORM, "github.com/xlang-ai/DS-1000")


def read_problems(data: Path, mode: str) -> tuple[str, list[Problem]]:
    """The format, "original" or "simplified", whose figures are not comparable, and the problems. `UserError` if there
    are none, one is damaged, or the format does not have this mode."""
    if data.is_dir() and (found := _original(data, mode)):
        return "original", found
    if mode != "completion":
        raise UserError(f"{data}: in this format are no insertion problems; give ds1000_data, or --mode completion")
    return "simplified", FILES.problems(data, _row)


def _labelled(problem: Ds1000Problem) -> Problem:
    return Problem(problem.id, {"library": problem.library, "perturbation": problem.perturbation}, problem)


def _original(root: Path, mode: str) -> list[Problem]:
    paths = [path for path in root.glob(f"*/{mode.capitalize()}/q*") if re.fullmatch(r"q\d+", path.name)]
    paths.sort(key=lambda path: (path.parts[-3], int(path.name[1:])))
    return [_labelled(_directory(path, mode)) for path in paths]


def _directory(path: Path, mode: str) -> Ds1000Problem:
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read_string((path / ".cfg").read_text("utf-8"))
        library = config["library"]["lib"]
        below = [file for file in sorted(path.rglob("*")) if file.is_file()]
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in below}
        texts = [(path / f"{name}.txt").read_text("utf-8") for name in TEXTS]
        if "[insert]" not in texts[1]:
            raise ValueError(f"{path.name}/code_context.txt has no [insert]")
        return Ds1000Problem(
            f"{library}/{mode}/{path.name[1:]}",
            library,
            config["perturbation"]["perturbation_type"],
            *texts,
            max(1, int(config["test"]["test_case_cnt"])),
            int(config["test"]["test_type"]),
            (path / "test_code.py").read_text("utf-8"),
            {"result/.keep": b"", **{name: data for name, data in files.items() if not HIDDEN.fullmatch(name)}},
            {name[4:]: data for name, data in files.items() if name.startswith("ans/")},
        )
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a problem of DS-1000 ({type(error).__name__} {error}); restore it") from None


def _row(row: Mapping[str, Any], where: str, _: int) -> Problem:
    about = row["metadata"]
    library = str(about["library"])
    texts = values_of(row, TEXTS, where, f"{FORM}; restore it")
    cases, origin = int(about["test_case_cnt"]), str(about["perturbation_type"])
    return _labelled(Ds1000Problem(f"{library}/{about['problem_id']}", library, origin, *texts, cases))


STARTS = ("BEGIN SOLUTION\n<code>", "# SOLUTION START")
ENDS = ("</code>", "# SOLUTION END", "\nEND SOLUTION", "```")
FENCE = re.compile(r"\s*```[^\n]*\n")
GIVEN = re.compile(r"<code>\n(.*?)(?:</code>|\Z)", re.DOTALL)
# a function at the end of the given code, of which there are only comments
OPEN = re.compile(r"^def (?P<name>\w+)\((?P<arguments>[^()]*)\):[ \t]*\n(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))*\Z", re.M)
WANTED = re.compile(r"^(\w+) = \.\.\. # put solution in this variable", re.MULTILINE)
FIGURE_CALLS = ("plt.show()", "plt.clf()", "plt.close()", "savefig")


def from_code(code: str, text: str) -> str:
    """What a chat model's code adds to the code of `text`, the prompt. A function left open there gets a body."""
    section = text.rpartition("\nA:\n")[2]
    given = "\n".join(GIVEN.findall(section)) or section
    code = python.beyond(code, given)
    if opened := OPEN.search(given):
        arguments = [each.partition("=")[0].partition(":")[0].strip() for each in opened["arguments"].split(",")]
        return python.nested(code, opened["name"], f"{opened['name']}({', '.join(arguments)})")
    return code


def _scan() -> stopping.Scanner:
    before = ""  # the text while it may still be a code fence
    inner = stop_rules.words(ENDS).scan()  # scans the rest

    def each(piece: str) -> int | None:
        nonlocal before
        if before is None:
            return inner(piece)
        length, text = len(before), before + piece
        start, fence = text.lstrip()[:3], FENCE.match(text)
        if start == "```"[: len(start)] and not fence:
            before = text
            return None
        before = None
        skipped = fence.end() if fence else 0
        end = inner(text[skipped:])
        return None if end is None else skipped + end - length

    return each


ended = stopping.scanned(_scan)  # the answer has ended; a code fence at its start does not count


def cleaned(text: str, library: str) -> str:
    """The code of an answer: after a start marker or the line of a code fence, before the first end marker. For
    Matplotlib, lines that show, clear, close or save the figure are removed, because the test inspects it."""
    for start in STARTS:
        text = text.split(start, 1)[-1]
    if fence := FENCE.match(text):
        text = text[fence.end() :]
    text = stop_rules.cut(text, ENDS).replace("<code>", "")
    if library.lower() == "matplotlib":
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if not any(call in line for call in FIGURE_CALLS))
    return text


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
    """The problems of one format and `mode`, "completion" or "insertion". `data`: the original ds1000_data directory,
    or a ds1000.jsonl(.gz) file or its directory. `python`: the interpreter that has the libraries."""

    def __init__(self, data: Path, mode: str = "completion", python: Path | None = None):
        self.format, problems = read_problems(data, mode)
        super().__init__(problems, python)
        self.mode = mode
        self.name = f"ds1000-{self.format}-{mode}"
        self.limits = ResourceLimits(wall=SECONDS[self.format], memory=MEMORY)
        libraries = dict.fromkeys(problem.data.library.lower() for problem in problems)
        modules = (name for library in libraries for name in MODULES.get(library, ()))
        self.packages = list(dict.fromkeys(PACKAGES.get(name, name) for name in modules))

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        ds: Ds1000Problem = problem.data
        # a model that only continues text cannot use the text after the insertion point
        given = ds.prompt if self.mode == "completion" else ds.prompt.partition("[insert]")[0].strip() + "\n"
        answer = complete(given, seed=seed, stop=ended)
        return self.sample(problem, completion_id, given, answer, partial(cleaned, library=ds.library))

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        """The code of a reply that goes beyond the given code, which the test runs before it."""
        variable = WANTED.search(prompt)
        request = CodeRequest("python", "", "", done.finish != "length", variable[1] if variable else "")
        code = code_of(done.text, request)
        return code if code.lacking else ReplyCode(from_code(code.text, prompt), False)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        judged = self._original if self.format == "original" else self._simplified
        return judged(problem.data, sample, sandbox)

    def _simplified(self, ds: Ds1000Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        calls = ["test_execution(code)"] + ["test_string(code)"] * ("def test_string(" in ds.context)
        program = "\n".join([ds.context, f"code = {sample.generation!r}", *calls, ""])
        report = self.run(program, sandbox, bare=True, guarded=False)
        # for the published script too, a program that exits early without an exception has failed: it printed nothing
        return judgement(sample, both_verdicts(report), [report.execution])

    def _original(self, ds: Ds1000Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        program = encoded(ds.context.replace("[insert]", sample.generation))
        secrets = [python_program.witness() for _ in range(ds.cases + 1)]
        cases = [("program.py", "--test_case", str(case)) for case in range(1, ds.cases + 1)]
        runs = zip(secrets, cases, strict=False)
        commands = [self.runner.command(secret, self.limits, *words) for secret, words in runs]
        commands.append(self.script("compare.py", b"", self.limits, "open", str(ds.cases)))
        commands.append(self._comparison(ds, sample.generation, secrets[-1]))
        executions = sandbox.run(commands, {**ds.files, "program.py": program}, self.runner.readable)
        reports = [python_program.read_report(*pair) for pair in zip(executions[: ds.cases], secrets, strict=False)]
        right = len(executions) == len(commands) and _right(executions[-1], secrets[-1])
        failed = next((report.verdict for report in reports if not report.finished), Verdict.WRONG)
        if len(executions) == len(commands) and not executions[-1].succeeded:
            failed = published_verdict(executions)
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
        stdin = json.dumps(given).encode("ascii") + b"\n"
        return self.script("compare.py", stdin, self.limits, "compare", str(ds.cases))

    def reference(self, problem: Problem) -> Sample | None:
        return Sample(problem.id, 0, "", problem.data.reference, "eos")

    def missing(self) -> Mapping[str, str]:
        """Library (as in the problems' label) -> the command that installs it, if the interpreter lacks it."""
        result = {}
        for library in dict.fromkeys(problem.data.library for problem in self.problems):
            if lacks := self.runner.interpreter.lacks(MODULES.get(library.lower(), ())):
                result[library] = f"pip install {' '.join(PACKAGES.get(name, name) for name in lacks)}"
        return result


def _right(execution: Execution, secret: str) -> bool:
    lines = execution.stdout.rstrip(b"\n").split(b"\n")
    if not execution.succeeded or len(lines) < 2 or lines[-1] != secret.encode("ascii"):
        return False
    report = parse_json(lines[-2], data=True)
    return bool(report["results"]) and all(report["results"]) and report["string"] in (None, 1)


build = Ds1000
