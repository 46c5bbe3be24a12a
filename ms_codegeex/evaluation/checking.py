"""Check a directory of problems before models are measured on it: their form, that the references pass, and that wrong
answers do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.humaneval_x import problems as humaneval_x
from ms_codegeex.evaluation.benchmarks.humaneval_x.task import HumanEvalX
from ms_codegeex.evaluation.benchmarks.own_problems import task as own
from ms_codegeex.evaluation.benchmarks.own_problems.task import OwnProblems
from ms_codegeex.evaluation.jsonl import entries, numbered_rows, record_files, stem
from ms_codegeex.evaluation.sandbox import Sandbox, Verdict, open_sandbox
from ms_codegeex.evaluation.task import Problem, Sample, Task
from ms_codegeex.evaluation.threads import in_parallel

MAXIMUM = 200  # characters of a program's last line that are shown


@dataclass(frozen=True)
class Fault:
    """Something wrong: `FILE:LINE`, the problem's id if it is known, and what is wrong, in words."""

    place: str
    problem: str
    what: str


@dataclass(frozen=True)
class _Answer:
    """An answer to a problem, and whether it has to pass; `name`: in words."""

    problem: Problem
    place: str
    name: str
    text: str | None  # None: the reference


def check_problems(
    data: Path, sandbox: str = "strict", workers: int = 1, timeout: float | None = None
) -> dict[str, Any]:
    """Check a directory with described languages, with files of HumanEval-X's six, or with both.

    Returns:
        `problems` and `answers`: how many were judged. `faults`: see `Fault`. `left_out`: language -> what is wrong
        with its tools, such as the command that installs them; its problems were only read.

    Raises:
        UserError: there are no problems, or a layer of the sandbox is missing.
    """
    faults: list[Fault] = []
    described = own.described_files(data)
    for file in described:
        faults += _form(file)
    published = _published(data)
    for path in published.values():
        faults += _published_form(path)
    if not described and not published:
        raise UserError(f"{data}: no problems; expected such as perl.yaml with perl.jsonl, or python.jsonl")
    result: dict[str, Any] = {"problems": 0, "answers": 0, "left_out": {}}
    if not faults:  # programs of a wrong file would only repeat what is wrong with it
        opened = open_sandbox(sandbox)
        if described:
            faults += _judged(task := OwnProblems(data, timeout=timeout), _own(task), opened, workers, result)
        if published:
            six = HumanEvalX(data, list(published), timeout=timeout)
            faults += _judged(six, _of_humaneval_x(six, published), opened, workers, result)
    return {**result, "faults": [asdict(fault) for fault in faults]}


def _form(file: own.DescribedFile) -> Iterator[Fault]:
    """What is wrong with the lines of a described language."""
    count = 0
    for line, row in own.rows(file):
        place, count = f"{file.path}:{line}", count + 1
        if isinstance(row, UserError):
            yield Fault(place, "", str(row).removeprefix(f"{place}: "))
            continue
        name = f"{row.language}/{row.number}"
        if not row.broken:
            yield Fault(place, name, f"{own.BROKEN} is missing; give at least one wrong solution that the tests find")
        if row.prompt.strip() == row.declaration.strip():
            yield Fault(place, name, "the prompt is the declaration, without words that say what to write")
        if row.solution.strip() in row.prompt:
            yield Fault(place, name, "the prompt contains the solution")
    if not count:
        yield Fault(str(file.path), "", "no problems; expected one JSON object a line")


def _published(data: Path) -> dict[str, Path]:
    """Language -> file in the directory itself, of HumanEval-X's six."""
    files = record_files(data) if data.is_dir() else ()
    return {stem(path): path for path in files if path.parent == data and stem(path) in humaneval_x.PREFIXES}


def _published_form(path: Path) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for line, content in entries(path, humaneval_x.LARGEST):
        place = f"{path}:{line}"
        try:
            if isinstance(content, UserError):
                raise content
            row = humaneval_x.parse(content, place)
        except UserError as error:
            yield Fault(place, "", str(error).removeprefix(f"{place}: "))
            continue
        name = f"{humaneval_x.PREFIXES[row.language]}/{row.number}"
        if row.language != path.name.partition(".")[0]:
            yield Fault(place, name, f"a problem in {row.language} in {path.name}")
        if seen.setdefault(name, line) != line:
            yield Fault(place, name, f"is also in line {seen[name]}")


def _own(task: OwnProblems) -> Iterator[_Answer]:
    for problem in task.problems:
        language, place = task.languages[problem.data.language], task.places[problem.id]
        yield _Answer(problem, place, "the reference", None)
        yield _Answer(problem, place, "an empty answer", language.empty)
        if language.exit:
            yield _Answer(problem, place, "an answer that ends the program", language.exit)
        for number, text in enumerate(problem.data.broken, 1):
            yield _Answer(problem, place, f"broken solution {number}", text)


def _of_humaneval_x(task: HumanEvalX, files: dict[str, Path]) -> Iterator[_Answer]:
    places, broken = {}, {}
    for path in files.values():
        for line, row in numbered_rows(path, humaneval_x.LARGEST):
            places[row["task_id"]], broken[row["task_id"]] = f"{path}:{line}", row.get(own.BROKEN) or []
    for problem in task.problems:
        place = places[problem.id]
        yield _Answer(problem, place, "the reference", None)
        yield _Answer(problem, place, "an empty answer", "")
        for number, text in enumerate(broken[problem.id], 1):
            yield _Answer(problem, place, f"broken solution {number}", str(text))


def _judged(
    task: Task, answers: Iterable[_Answer], sandbox: Sandbox, workers: int, result: dict[str, Any]
) -> list[Fault]:
    """The answers with a wrong verdict, in the order of the files; counts are added to `result`."""
    missing = task.missing()
    languages = {problem.labels["language"] for problem in task.problems}
    there = [problem for problem in task.problems if problem.labels["language"] not in missing]
    left_out = {name: why for name, why in {**missing, **task.prepare(there)}.items() if name in languages}
    result["left_out"] |= left_out
    known = task.known_defects()
    work = [each for each in answers if each.problem.labels["language"] not in left_out]

    def judge(answer: _Answer) -> str:
        reference = task.reference(answer.problem)
        assert reference is not None
        sample = reference if answer.text is None else _sample(reference, answer.text)
        judgement = task.judge(answer.problem, sample, sandbox)
        strict = judgement.verdicts["strict"]
        if answer.text is not None:
            return "passes the tests" if strict is Verdict.PASSED else ""
        if all(verdict is Verdict.PASSED for verdict in judgement.verdicts.values()) or answer.problem.id in known:
            return ""
        verdicts = ", ".join(f"{mode} {verdict.value}" for mode, verdict in judgement.verdicts.items())
        lines = [line.strip() for line in judgement.stderr.splitlines() if line.strip()]
        return f"fails: {verdicts}" + (f": {lines[-1][:MAXIMUM]}" if lines else "")

    found = {id(answer): what for answer, what in in_parallel(work, judge, workers, "answers", True)}
    result["problems"] += len({answer.problem.id for answer in work})
    result["answers"] += len(work)
    return [
        Fault(answer.place, answer.problem.id, f"{answer.name} {found[id(answer)]}")
        for answer in work
        if found[id(answer)]
    ]


def _sample(reference: Sample, text: str) -> Sample:
    return Sample(reference.task_id, 0, reference.prompt, text, "eos")


def lines(result: dict[str, Any]) -> Iterator[str]:
    """What was found, a line for each fault."""
    for fault in result["faults"]:
        yield f"{fault['place']}: {fault['problem'] + ': ' if fault['problem'] else ''}{fault['what']}"
    for name, remedy in result["left_out"].items():
        yield f"{name}: nothing was run, its tools are missing or do not work; {remedy}"
    yield f"{result['problems']} problems, {result['answers']} answers judged, {len(result['faults'])} faults"
