"""One evaluation, from its settings to its report: references, samples, verdicts and tables in one directory."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.evaluation import rows
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS
from ms_codegeex.extras.evaluation.jsonl import RowFile, readable_again
from ms_codegeex.extras.evaluation.judging import judge
from ms_codegeex.extras.evaluation.judging.engines import HERE, Equipment, JudgeEngine, LocalEngine, sandbox_for
from ms_codegeex.extras.evaluation.judging.judge import Findings
from ms_codegeex.extras.evaluation.judging.reasons import remedy
from ms_codegeex.extras.evaluation.output_directory import RecordedSettings, sole_writer, versions
from ms_codegeex.extras.evaluation.perplexity import prompts as prompt_perplexity
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.reports import budget, page, published, scores
from ms_codegeex.extras.evaluation.sampling import drawing, foreign_samples
from ms_codegeex.extras.evaluation.sampling.samplers import Sampler
from ms_codegeex.extras.evaluation.task import UNREAD, Problem, Task

REFERENCES, SAMPLES, RESULTS = "references.jsonl", "samples.jsonl", "results.jsonl"


@dataclass(frozen=True)
class Options:
    """The options of an evaluation, in addition to the recipe."""

    output: Path
    sampler: Callable[[], Sampler] | None = None  # called when the first sample is drawn
    model: Callable[[], Mapping[str, Any]] | None = None  # its identity, as far as known without loading it
    given: Path | None = None  # samples from elsewhere: a file or directory
    first: int | None = None  # the number of the problem that its first row answers, if the rows do not say
    export: foreign_samples.Export | None = None  # also write the samples as another program does
    limit: int | None = None  # problems (of each language)
    judge: bool = True
    references: str = "default"  # "check": for any task; "only": nothing else; "skip"
    sandbox: str = "strict"
    timeout: float | None = None
    workers: int = 1
    # Called with a hash of the problems and a function that prints a line; None: this machine judges.
    engine: Callable[[str, Callable[[str], None]], AbstractContextManager[JudgeEngine]] | None = None
    prompt_perplexity: bool = False
    progress: bool = True


@dataclass
class Session:
    """An evaluation in progress."""

    task: Task
    recipe: Recipe
    options: Options
    record: RecordedSettings
    problems: list[Problem]
    sampler: Sampler | None = None
    missing: dict[str, str] = field(default_factory=dict)  # tool -> the command that installs it
    skipped: dict[str, str] = field(default_factory=dict)  # group or problem -> what would help
    refused: dict[str, str] = field(default_factory=dict)  # group -> reason: references fail, or tools do not work
    remedy: str = "fix the tool chain"  # for what is refused
    findings: dict[str, Findings] = field(default_factory=dict)
    equipment: Equipment | None = None  # None while nothing is judged

    @property
    def settings(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.recipe), "limit": self.options.limit}

    def say(self, line: str) -> None:
        if self.options.progress:
            print_error(line)

    def file(self, name: str) -> RowFile:
        """One of the directory's row files. A damaged file, or one with rows of other problems, is a `UserError`."""
        keys = rows.SAMPLE if name == SAMPLES else rows.JUDGEMENT
        return RowFile(self.options.output / name, rows.flaws(self.task, keys))

    def open_sampler(self) -> Sampler:
        """The sampler, made on first use; `options.sampler` must be set."""
        if self.sampler is None:
            assert self.options.sampler is not None
            self.sampler = self.options.sampler()
        return self.sampler

    def drop(self, names: Mapping[str, str], into: dict[str, str]) -> None:
        into.update(names)
        self.problems = [problem for problem in self.problems if not set(names) & set(problem.labels.values())]


def evaluate(task: Task, recipe: Recipe, options: Options) -> dict[str, Any]:
    """Do the work that is not done yet; return the report. Problems that cannot be judged are reported, not scored."""
    with sole_writer(options.output):
        record = RecordedSettings(options.output)
        return _evaluate(Session(task, recipe, options, record, list(selected(task, options.limit))))


def _evaluate(session: Session) -> dict[str, Any]:
    task, options = session.task, session.options
    if options.given is None and options.references != "only":
        session.record.compare("recipe", session.settings, growing=("n", "limit"))
    content = rows.problems_fingerprint(task.problems)
    values = {"name": task.name, "problems": content, "count": len(task.problems)}
    session.record.settle("data", {**values, "provenance": getattr(task, "provenance", {})}, free=("path",))
    if options.judge or options.references in ("check", "only"):
        # where samples are judged; an engine compares the problems of its machines with these
        if options.engine is not None:
            opened = options.engine(content, session.say)
        else:
            opened = nullcontext(LocalEngine(task, sandbox_for(task, options.sandbox), options.workers))
        with opened as engine:
            prepare_judging(session, engine)
            if options.references != "only":
                obtain_samples(session)
                if options.judge:
                    session.record.settle("judging", {"sandbox": options.sandbox, "timeout": options.timeout})
                    judge_session(session, engine)
    else:
        obtain_samples(session)
    if options.export is not None and (drawn := session.file(SAMPLES).rows):
        session.say(f"written: {foreign_samples.export(options.export, task, drawn, options.output)}")
    if options.prompt_perplexity and options.references != "only":
        generator = getattr(session.open_sampler(), "generator", None)
        prompt_perplexity.measure(task, generator, session.file(SAMPLES).rows, options.output, options.progress)
    session.record.write("run", {"limit": options.limit, "references": options.references})
    return finish(session)


def raise_for_refused(report: Mapping[str, Any]) -> None:
    """`RunFailure` if groups of problems were not judged, because their tools or references failed here."""
    if report["refused"]:
        why = "; ".join(f"{name}: {reason[:300]}" for name, reason in report["refused"].items())
        raise RunFailure(f"not judged: {why}; see {Path(report['output'], 'report.html')}; {report['remedy']}")


def selected(task: Task, limit: int | None) -> Iterator[Problem]:
    """The first `limit` problems of each language, or of all if there are no languages."""
    seen: Counter[str] = Counter()
    for problem in task.problems:
        name = problem.labels.get("language", "")
        if limit is None or seen[name] < limit:
            seen[name] += 1
            yield problem


def prepare_judging(session: Session, engine: JudgeEngine) -> None:
    """Leave out the problems for which the tools are missing, then those for which they are unsound."""
    options, where = session.options, engine.place
    labels = {value for problem in session.problems for value in problem.labels.values()}
    equipment = session.equipment = engine.equipment
    missing = session.missing = dict(equipment.missing)
    for name, line in missing.items():
        session.say(f"{name}: {'left out, its tools are' if name in labels else 'is'} not on {where}; {line}")
    session.drop({name: line for name, line in missing.items() if name in labels}, session.skipped)
    # single problems that need something that is missing, such as a package
    alone = {each: why for each, why in equipment.defects.items() if any(name in why for name in missing)}
    session.skipped |= {problem.id: alone[problem.id] for problem in session.problems if problem.id in alone}
    session.problems = [problem for problem in session.problems if problem.id not in alone]
    broken = dict(engine.prepare(session.problems))
    for name, why in broken.items():
        session.say(f"{name}: left out, its tools do not work; {why}")
    session.drop(broken, session.refused)
    if not session.problems:
        raise UserError(f"nothing can be judged on {where}; " + "; ".join([*missing.values(), *broken.values()]))
    if options.references != "only":
        stop_at(broken, equipment, "tools do not work", "fix that and repeat the command, or leave them out")
    machine = {"tools": equipment.tools, "sandbox": equipment.layers, "timeout": options.timeout}
    machine |= {"engine": where} if where != HERE else {}
    session.record.write("machine", machine)
    gated = BENCHMARKS[session.recipe.task].references_first
    if options.references == "skip":
        return
    file = session.file(REFERENCES)  # what passed with the same equipment before stays
    same = session.record.values.get("references") == json.loads(json.dumps(machine))
    file.replace(row for row in file.rows if same and row["verdicts"].get("strict") == "passed")
    session.record.write("references", machine)
    if options.references != "only":
        failing = judge.unjudgeable(session.task, session.problems, engine, known_defects(session), file)
        stop_at(failing, equipment, "right programs fail", remedy_for(session, failing.values()))
    if options.references != "default" or gated:
        check_references(session, engine, file, gated or options.references == "only")


def stop_at(groups: Mapping[str, str], equipment: Equipment, fault: str, way_out: str) -> None:
    """`RunFailure` if there are groups in which any model would get 0 % because of the machine."""
    tools = ", ".join(f"{tool} {version}" for tool, version in equipment.tools.items()) or "no tools"
    each = "; ".join(f"{name} ({equipment.tools.get(name, tools)}): {why}" for name, why in groups.items())
    if groups:
        raise RunFailure(f"nothing is sampled, because {fault} here: {each}; {way_out}")


def check_references(session: Session, engine: JudgeEngine, file: RowFile, binding: bool) -> None:
    """Judge the canonical solutions. If `binding`, refuse groups in which one fails."""
    defects = known_defects(session)
    groups = judge.check_references(session.task, session.problems, engine, defects, file, session.options.progress)
    engine.calibrate([rows.judgement_from(row) for row in file.rows])
    for name, findings in groups.items():
        for line in judge.summary(name, findings):
            session.say(line)
    session.findings = groups
    if binding:
        failing = {name: each.failing for name, each in groups.items() if each.failing}
        bad = {name: f"references fail: {first_with_reason(each)}" for name, each in failing.items()}
        if failing:
            session.remedy = remedy_for(session, (why for each in failing.values() for why in each.values()))
        if "all" in bad:
            session.refused, session.problems = bad, []
        session.drop(bad, session.refused)


def first_with_reason(failing: Mapping[str, str]) -> str:
    (first, why), *others = failing.items()
    return ", ".join([f"{first} ({why})", *(name for name, _ in others)])


def remedy_for(session: Session, reasons: Iterable[str]) -> str:
    """What lets references pass that failed for these reasons, or an evaluation go on without them."""
    skip = {"only": "", "check": ", or pass --skip-references without --check-references"}
    options = BENCHMARKS[session.recipe.task].options
    return remedy(reasons, options) + skip.get(session.options.references, ", or pass --skip-references")


def known_defects(session: Session) -> dict[str, str]:
    return dict(session.task.known_defects() if session.equipment is None else session.equipment.defects)


def obtain_samples(session: Session) -> None:
    """Draw the missing samples, or import the given ones."""
    task, recipe, options = session.task, session.recipe, session.options
    samples = session.file(SAMPLES)
    if options.given is not None:
        with readable_again(options.given) as given:
            read = foreign_samples.read_samples(given, task, session.problems, options.first)
            known = foreign_samples.identity(given)
        taken = [dataclasses.asdict(each) for each in read.samples]
        for remark in read.remarks:
            session.say(remark.replace(str(given), str(options.given)))
        if not taken and session.problems:
            raise UserError(f"{options.given}: no samples of chosen problems; give some, or other --limit and --data")
        session.record.settle("model", {**known, "samples": str(options.given)}, free=("samples",))
        samples.replace(taken)
        return
    wanted = drawing.wanted(task, session.problems, recipe.n)
    if not wanted.keys() - {rows.key(row) for row in samples.rows}:
        if options.model is not None:
            known = {**session.record.values.get("model", {}), **options.model()}
            session.record.compare("model", known, free=("path", "url"))
        session.record.write("recipe", session.settings)
        return
    if options.sampler is None:
        if options.judge and samples.rows:
            return  # judge the samples that exist
        raise UserError(f"{samples.path}: samples are missing; draw them with --model or --url")
    sampler = session.open_sampler()
    session.record.settle("model", sampler.identity, free=("path", "url"))
    session.record.write("recipe", session.settings)
    session.record.write("versions", versions())
    drawing.generate(task, session.problems, recipe.n, recipe.seed, sampler, samples, options.progress)
    if unread := sum(row["finish"] == UNREAD for row in samples.rows):
        session.say(f"{unread} of {len(samples.rows)} prompts leave the model no room; they count as not passed")


def judge_session(session: Session, engine: JudgeEngine) -> None:
    """Judge all samples of the remaining problems."""
    chosen = {problem.id for problem in session.problems}
    samples = [rows.sample_from(row) for row in session.file(SAMPLES).rows if row["task_id"] in chosen]
    results = session.file(RESULTS)
    judge.judge_samples(session.task, session.problems, engine, samples, results, session.options.progress)


def finish(session: Session) -> dict[str, Any]:
    """Write `report.json` and `report.html` and return the report."""
    samples = session.file(SAMPLES).rows
    results = rows.current_results(samples, session.file(RESULTS).rows)
    result = scores.build(session.task, session.problems, samples, results)
    model = session.record.values.get("model", {})
    if "url" in model and (equal := drawing.equal_answers(samples, session.recipe, model.get("fields", {}))):
        result["samples"]["equal"] = equal
        session.say(f"warning: {equal}")
    result |= {
        "output": str(session.options.output),
        "settings": {key: value for key, value in session.record.values.items() if key not in ("format", "references")},
        "missing": session.missing,
        "skipped": session.skipped,
        "refused": session.refused,
        "remedy": session.remedy if session.refused else "",
        "references": {name: dataclasses.asdict(each) for name, each in session.findings.items()},
        "known_defects": known_defects(session),
        "published": published.tables(session.recipe) if whole(session, result) else [],
    }
    if session.recipe.task == "humaneval-x" and session.recipe.translate_from is None:
        result["budget"] = budget.table(solve_counts(result["by_problem"]))
    if measured := prompt_perplexity.recorded(session.options.output):
        solved = prompt_perplexity.solved(map(rows.judgement_from, results))
        result["perplexity"] = prompt_perplexity.split(measured, solved)
        for problem in result["by_problem"]:
            problem["prompt_perplexity"] = measured[problem["task_id"]].perplexity
    page.write(session.options.output, result)
    return result


def whole(session: Session, result: Mapping[str, Any]) -> bool:
    """Whether every language that is judged is judged completely: only then are published figures comparable."""
    judged = {row["task_id"] for row in result["by_problem"]}
    groups = {judge.group(problem) for problem in session.task.problems if problem.id in judged}
    absent = {problem.id for problem in session.task.problems if judge.group(problem) in groups} - judged
    return bool(judged) and absent <= session.skipped.keys()


def solve_counts(by_problem: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, tuple[int, int]]]:
    """Language -> problem number -> (samples, samples that passed `strict`). Numbers are the same across languages."""
    counts: dict[str, dict[int, tuple[int, int]]] = {}
    for row in by_problem:
        number = int(row["task_id"].rpartition("/")[2])
        counts.setdefault(row["labels"]["language"], {})[number] = (row["samples"], row["passed"]["strict"])
    return counts
