"""An evaluation from its settings to its report: references, samples, verdicts, tables, in one directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.evaluation import run
from ms_codegeex.evaluation.judging import references
from ms_codegeex.evaluation.judging.references import Findings
from ms_codegeex.evaluation.perplexity import report as perplexities
from ms_codegeex.evaluation.record import Record, versions
from ms_codegeex.evaluation.reports import budget, published, report
from ms_codegeex.evaluation.rows import RowFile, sole_writer
from ms_codegeex.evaluation.sampling import given
from ms_codegeex.evaluation.sampling.recipes import Recipe
from ms_codegeex.evaluation.sampling.samplers import Sampler
from ms_codegeex.evaluation.sandbox import Sandbox, open_sandbox
from ms_codegeex.evaluation.task import Problem, Task

GATED = ("humaneval-x",)  # whose references run before anything else, unasked
REFERENCES, SAMPLES, RESULTS = "references.jsonl", "samples.jsonl", "results.jsonl"


@dataclass(frozen=True)
class Options:
    """What an evaluation does and how, beside the recipe."""

    output: Path
    sampler: Callable[[], Sampler] | None = None  # made when the first sample is drawn
    model: Callable[[], Mapping[str, Any]] | None = None  # what is known of its identity without making it
    given: Path | None = None  # somebody else's samples
    limit: int | None = None  # problems (of each language)
    judge: bool = True
    references: str = "default"  # "check" whatever the task, "only" them, "skip" them
    sandbox: str = "strict"
    timeout: float | None = None
    workers: int = 1
    prompt_perplexity: bool = False
    progress: bool = True


@dataclass
class Session:
    """One evaluation under way."""

    task: Task
    recipe: Recipe
    options: Options
    record: Record
    problems: list[Problem]
    sampler: Sampler | None = None
    missing: dict[str, str] = field(default_factory=dict)  # tools that are not on this machine
    skipped: dict[str, str] = field(default_factory=dict)  # groups this machine cannot judge: what would help
    refused: dict[str, str] = field(default_factory=dict)  # groups whose references fail, or whose tools do not work
    findings: dict[str, Findings] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which samples there are."""
        return {**dataclasses.asdict(self.recipe), "limit": self.options.limit}

    def say(self, line: str) -> None:
        """A line for people."""
        if self.options.progress:
            print(line, file=sys.stderr, flush=True)

    def file(self, name: str) -> RowFile:
        """One of the directory's files of rows; of samples and results of other problems, or damaged, a `UserError`."""
        keys = run.SAMPLE if name == SAMPLES else run.JUDGEMENT
        return RowFile(self.options.output / name, run.flaws(self.task, keys))

    def open_sampler(self) -> Sampler:
        """What draws samples, made once; only where there is one."""
        if self.sampler is None:
            assert self.options.sampler is not None
            self.sampler = self.options.sampler()
        return self.sampler

    def drop(self, names: Mapping[str, str], into: dict[str, str]) -> None:
        """Leave groups of problems out."""
        into.update(names)
        self.problems = [problem for problem in self.problems if not set(names) & set(problem.labels.values())]


def evaluate(task: Task, recipe: Recipe, options: Options) -> dict[str, Any]:
    """Do what is asked and not done yet; the report. What cannot be judged here is told, never scored."""
    with sole_writer(options.output):
        return _evaluate(task, recipe, options)


def _evaluate(task: Task, recipe: Recipe, options: Options) -> dict[str, Any]:
    problems = list(selected(task, options.limit))
    session = Session(task, recipe, options, Record(options.output), problems)
    if options.given is None and options.references != "only":
        session.record.compare("recipe", session.settings, growing=("n", "limit"))
    values = {"name": task.name, "problems": fingerprint(task.problems), "count": len(task.problems)}
    session.record.settle("data", {**values, "provenance": getattr(task, "provenance", {})}, free=("path",))
    sandbox = None
    if options.judge or options.references in ("check", "only"):
        sandbox = open_sandbox(options.sandbox)
        prepare_judging(session, sandbox)
    if options.references != "only":
        obtain_samples(session)
        if options.judge:
            session.record.settle("judging", {"sandbox": options.sandbox, "timeout": options.timeout})
            judge_samples(session, sandbox)
        if options.prompt_perplexity:
            generator = getattr(session.open_sampler(), "generator", None)
            samples = session.file(SAMPLES).rows
            perplexities.measure_prompts(task, generator, samples, options.output, options.progress)
    session.record.write("run", {"limit": options.limit, "references": options.references})
    result = finish(session)
    if session.refused:
        why = "; ".join(f"{name}: {reason[:300]}" for name, reason in session.refused.items())
        raise RunFailure(
            f"not judged: {why}; see {options.output / 'report.html'}, mend the tool chain, or take --skip-references "
            "if only references fail"
        )
    return result


def selected(task: Task, limit: int | None) -> Iterator[Problem]:
    """The first problems, of each language where there are several."""
    seen: Counter[str] = Counter()
    for problem in task.problems:
        name = problem.labels.get("language", "")
        if limit is None or seen[name] < limit:
            seen[name] += 1
            yield problem


def fingerprint(problems: Sequence[Problem]) -> str:
    """What the problems are, whichever files they came from."""

    def plain(value: Any) -> Any:
        return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else repr(value)

    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.id, problem.data], sort_keys=True, default=plain).encode())
    return digest.hexdigest()


def prepare_judging(session: Session, sandbox: Sandbox) -> None:
    """Leave out what this machine has no tools for, then what it has unsound ones for."""
    task, options = session.task, session.options
    labels = {value for problem in session.problems for value in problem.labels.values()}
    missing = session.missing = dict(task.missing())
    for name, line in missing.items():
        session.say(f"{name}: {'left out, its tools are' if name in labels else 'is'} not on this machine; {line}")
    session.drop({name: line for name, line in missing.items() if name in labels}, session.skipped)
    # a single problem that needs what is missing, such as a package
    alone = {each: why for each, why in task.known_defects().items() if any(name in why for name in missing)}
    session.skipped |= {problem.id: alone[problem.id] for problem in session.problems if problem.id in alone}
    session.problems = [problem for problem in session.problems if problem.id not in alone]
    broken = dict(task.prepare(session.problems))
    for name, why in broken.items():
        session.say(f"{name}: left out, its tools do not work; {why}")
    session.drop(broken, session.refused)
    if not session.problems:
        raise UserError("nothing can be judged on this machine; " + "; ".join([*missing.values(), *broken.values()]))
    machine = {"tools": dict(task.tools()), "sandbox": describe(sandbox), "timeout": options.timeout}
    session.record.write("machine", machine)
    gated = session.recipe.task in GATED
    if options.references in ("check", "only") or (options.references == "default" and gated):
        check_references(session, sandbox, machine, gated or options.references == "only")


def describe(sandbox: Sandbox) -> dict[str, str]:
    """The sandbox's layers and their states."""
    return dict(getattr(sandbox, "layers", None) or {})


def check_references(session: Session, sandbox: Sandbox, machine: Mapping[str, Any], binding: bool) -> None:
    """Judge the canonical solutions, unless they passed on this machine before; `binding`: refuse what fails."""
    rows = session.file(REFERENCES)
    if session.record.values.get("references") != json.loads(json.dumps(machine)):
        rows.replace([])
        session.record.write("references", machine)
    options = session.options
    found = references.check(session.task, session.problems, sandbox, rows, options.workers, options.progress)
    session.task.calibrate(run.judgement_from(row) for row in rows.rows)
    for name, findings in found.items():
        for line in references.told(name, findings):
            session.say(line)
    session.findings = found
    if binding:
        bad = {name: "references fail: " + ", ".join(each.failing) for name, each in found.items() if not each.sound}
        if "all" in bad:
            session.refused, session.problems = bad, []
        session.drop(bad, session.refused)


def obtain_samples(session: Session) -> None:
    """Draw what is missing, or take over what was given."""
    task, recipe, options = session.task, session.recipe, session.options
    samples = session.file(SAMPLES)
    if options.given is not None:
        taken = [dataclasses.asdict(each) for each in given.read_samples(options.given, task, session.problems)]
        if not taken and session.problems:
            raise UserError(f"{options.given}: no samples of the problems that are evaluated")
        session.record.settle("model", given.identity(options.given), free=("samples",))
        samples.replace(taken)
        return
    wanted = run.wanted(task, session.problems, recipe.n)
    if not wanted.keys() - {run.key(row) for row in samples.rows}:
        if options.model is not None:
            known = {**session.record.values.get("model", {}), **options.model()}
            session.record.compare("model", known, free=("path", "url"))
        session.record.write("recipe", session.settings)
        return
    if options.sampler is None:
        if options.judge and samples.rows:
            return  # what there is will be judged
        raise UserError(f"{samples.path}: samples are missing; say with --model or --url what draws them")
    sampler = session.open_sampler()
    session.record.settle("model", sampler.identity, free=("path", "url"))
    session.record.write("recipe", session.settings)
    session.record.write("versions", versions())
    run.generate(task, session.problems, recipe.n, recipe.seed, sampler, samples, options.progress)
    unread = sum(row["finish"] == run.UNREAD for row in samples.rows)
    if unread:
        session.say(f"{unread} of {len(samples.rows)} prompts leave the model no room; they count as not passed")


def judge_samples(session: Session, sandbox: Sandbox) -> None:
    """Verdicts of all samples of the problems that are left."""
    chosen = {problem.id for problem in session.problems}
    samples = [run.sample_from(row) for row in session.file(SAMPLES).rows if row["task_id"] in chosen]
    task, options = session.task, session.options
    results = session.file(RESULTS)
    run.judge(task, session.problems, sandbox, samples, results, options.workers, options.progress)


def finish(session: Session) -> dict[str, Any]:
    """`report.json` and `report.html` of what there is."""
    samples = session.file(SAMPLES).rows
    results = run.judged(samples, session.file(RESULTS).rows)
    result = report.build(session.task, session.problems, samples, results)
    result |= {
        "output": str(session.options.output),
        "settings": {key: value for key, value in session.record.values.items() if key not in ("format", "references")},
        "missing": session.missing,
        "skipped": session.skipped,
        "refused": session.refused,
        "references": {name: dataclasses.asdict(each) for name, each in session.findings.items()},
        "known_defects": dict(session.task.known_defects()),
        "published": published.tables(session.recipe) if whole(session, result) else [],
    }
    if session.recipe.task == "humaneval-x" and session.recipe.translate_from is None:
        result["budget"] = budget.table(solve_counts(result["by_problem"]))
    if scores := perplexities.recorded(session.options.output):
        result["perplexity"] = perplexities.beside(scores, results)
        for problem in result["by_problem"]:
            problem["prompt_perplexity"] = scores[problem["task_id"]].perplexity
    perplexities.write_report(session.options.output, result)
    return result


def whole(session: Session, result: Mapping[str, Any]) -> bool:
    """Whether each language that is judged is judged whole: only then do published figures compare."""
    judged = {row["task_id"] for row in result["by_problem"]}
    groups = {references.group(problem) for problem in session.task.problems if problem.id in judged}
    absent = {problem.id for problem in session.task.problems if references.group(problem) in groups} - judged
    return bool(judged) and absent <= session.skipped.keys()


def solve_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, tuple[int, int]]]:
    """Language -> number of a problem -> samples and how many passed, strictly; numbers align across languages."""
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for row in rows:
        number = int(row["task_id"].rpartition("/")[2])
        counts.setdefault(row["labels"]["language"], {})[number] = (row["samples"], row["passed"]["strict"])
    return counts
