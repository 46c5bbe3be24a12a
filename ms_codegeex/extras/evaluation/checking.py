"""Check a directory of problems before use: their form, that the references pass, and that wrong answers do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.evaluation.benchmarks import own_problems as own
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x import HumanEvalX
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems as humaneval_x
from ms_codegeex.extras.evaluation.benchmarks.own_problems import OwnProblems
from ms_codegeex.extras.evaluation.benchmarks.tables import parsed_rows
from ms_codegeex.extras.evaluation.jsonl import numbered_rows, record_files, stem
from ms_codegeex.extras.evaluation.judging.reasons import reason
from ms_codegeex.extras.evaluation.progress import in_parallel
from ms_codegeex.extras.evaluation.sandbox import Sandbox, Verdict, open_sandbox
from ms_codegeex.extras.evaluation.task import Problem, Sample, Task


@dataclass(frozen=True)
class Fault:
    """A fault: `FILE:LINE`, the problem's id if it is known, and a description."""

    place: str
    problem: str
    what: str


@dataclass(frozen=True)
class _Answer:
    """An answer to a problem, and whether it has to pass; `name` describes it."""

    problem: Problem
    place: str
    name: str
    text: str | None  # None for the reference


def check_problems(
    data: Path, sandbox: str = "strict", workers: int = 1, timeout: float | None = None
) -> dict[str, Any]:
    """Check a directory with described languages, with files of HumanEval-X's six, or with both. Return the numbers of
    `problems` and `answers` judged, the `faults` (see `Fault`), and `left_out`: for each language whose problems were
    only read, what is wrong with its tools. Raises `UserError` if there are no problems."""
    faults: list[Fault] = []
    described = own.described_files(data)
    for file in described:
        faults += _form(file)
    published = _published(data)
    for language, path in published.items():
        rows = parsed_rows(path, humaneval_x.MAX_BYTES, partial(humaneval_x.parse, wanted=language))
        faults += (_fault(f"{path}:{line}", row) for line, row in rows if isinstance(row, UserError))
    if not described and not published:
        raise UserError(f"{data}: no problems; expected files such as perl.yaml with perl.jsonl, or python.jsonl")
    result: dict[str, Any] = {"problems": 0, "answers": 0, "left_out": {}}
    if not faults:  # programs of a faulty file would only repeat its faults
        opened = open_sandbox(sandbox)
        if described:
            faults += _judged(task := OwnProblems(data, timeout=timeout), _own(task), opened, workers, result)
        if published:
            six = HumanEvalX(data, list(published), timeout=timeout)
            faults += _judged(six, _of_humaneval_x(six, published.values()), opened, workers, result)
    return {**result, "faults": [asdict(fault) for fault in faults]}


def _form(file: own.DescribedFile) -> Iterator[Fault]:
    for line, row in own.rows(file):
        place = f"{file.path}:{line}"
        if isinstance(row, UserError):
            yield _fault(place, row)
            continue
        if not row.broken:
            yield Fault(place, row.id, f"{own.BROKEN} is missing; give at least one wrong solution that the tests find")
        if row.prompt.strip() == row.declaration.strip():
            yield Fault(place, row.id, "the prompt is the declaration, without words that say what to write")
        if row.solution.strip() in row.prompt:
            yield Fault(place, row.id, "the prompt contains the solution")


def _fault(place: str, error: UserError) -> Fault:
    return Fault(place, "", str(error).removeprefix(f"{place}: "))


def _published(data: Path) -> dict[str, Path]:
    files = record_files(data) if data.is_dir() else ()
    return {stem(path): path for path in files if path.parent == data and stem(path) in humaneval_x.PREFIXES}


def _own(task: OwnProblems) -> Iterator[_Answer]:
    for problem in task.problems:
        language, place = task.languages[problem.data.language], task.places[problem.id]
        yield _Answer(problem, place, "the reference", None)
        yield _Answer(problem, place, "an empty answer", language.empty)
        if language.exit:
            yield _Answer(problem, place, "an answer that ends the program", language.exit)
        for number, text in enumerate(problem.data.broken, 1):
            yield _Answer(problem, place, f"broken solution {number}", text)


def _of_humaneval_x(task: HumanEvalX, files: Iterable[Path]) -> Iterator[_Answer]:
    rows = ((f"{path}:{line}", row) for path in files for line, row in numbered_rows(path, humaneval_x.MAX_BYTES))
    given = {row["task_id"]: (place, row.get(own.BROKEN) or []) for place, row in rows}
    for problem in task.problems:
        place, broken = given[problem.id]
        yield _Answer(problem, place, "the reference", None)
        yield _Answer(problem, place, "an empty answer", "")
        for number, text in enumerate(broken, 1):
            yield _Answer(problem, place, f"broken solution {number}", str(text))


def _judged(
    task: Task, answers: Iterable[_Answer], sandbox: Sandbox, workers: int, result: dict[str, Any]
) -> list[Fault]:
    missing, known = task.missing(), task.known_defects()
    languages = {problem.labels["language"] for problem in task.problems}
    there = [problem for problem in task.problems if problem.labels["language"] not in missing]
    left_out = {name: why for name, why in {**missing, **task.prepare(there)}.items() if name in languages}
    result["left_out"] |= left_out
    work = [each for each in answers if each.problem.labels["language"] not in left_out]

    def fault_of(answer: _Answer) -> str:
        reference = task.reference(answer.problem)
        assert reference is not None
        given = Sample(reference.task_id, 0, reference.prompt, answer.text or "", "eos")
        judgement = task.judge(answer.problem, reference if answer.text is None else given, sandbox)
        strict = judgement.verdicts["strict"]
        if answer.text is not None:
            return "passes the tests" if strict is Verdict.PASSED else ""
        if all(verdict is Verdict.PASSED for verdict in judgement.verdicts.values()) or answer.problem.id in known:
            return ""
        verdicts = {mode: verdict.value for mode, verdict in judgement.verdicts.items()}
        return f"fails: {reason(verdicts, judgement.stderr)}"

    found = {id(answer): what for answer, what in in_parallel(work, fault_of, workers, "answers", True)}
    result["problems"] += len({answer.problem.id for answer in work})
    result["answers"] += len(work)
    wrong = ((answer, what) for answer in work if (what := found[id(answer)]))
    return [Fault(answer.place, answer.problem.id, f"{answer.name} {what}") for answer, what in wrong]


def raise_for_faults(data: Path, result: Mapping[str, Any]) -> None:
    """Raise `RunFailure` if a directory of problems has faults, or a language was not checked."""
    if result["faults"]:
        raise RunFailure(f"{data}: {len(result['faults'])} faults; fix them before a model is measured")
    if left_out := ", ".join(result["left_out"]):
        raise RunFailure(f"{data}: not checked in {left_out}; install its tools, or check it elsewhere")


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield a summary for people, with a line for each fault."""
    for fault in result["faults"]:
        yield f"{fault['place']}: {fault['problem'] + ': ' if fault['problem'] else ''}{fault['what']}"
    for name, remedy in result["left_out"].items():
        yield f"{name}: nothing was run, its tools are missing or do not work; {remedy}"
    yield f"{result['problems']} problems, {result['answers']} answers judged, {len(result['faults'])} faults"
