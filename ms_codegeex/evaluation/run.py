"""The steps of an evaluation, each over a file of rows that goes on where it was after a kill.

What a step makes is a pure function of its inputs: a sample of (seed, problem, number), a verdict of the sample. The
order in which threads come to them shows only until the step ends and sorts its file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from ms_codegeex.errors import PromptTooLong
from ms_codegeex.evaluation.rows import RowFile
from ms_codegeex.evaluation.sampling.samplers import Sampler
from ms_codegeex.evaluation.sandbox import Sandbox, Verdict
from ms_codegeex.evaluation.task import UNREAD, Judgement, Problem, Sample, Task

Work, Result = TypeVar("Work"), TypeVar("Result")
Key = tuple[str, int]
PATIENCE = 5.0  # seconds that an interrupt waits for what runs
MODES = ("strict", "published")
NOTES = ("raw", "turns", "reason")  # keys of `extra` that tell how a text came about and do not bear on its verdict


def sample_seed(seed: int, task_id: str, completion_id: int) -> int:
    """31 bits (what every server takes) for one sample, whatever else is sampled and in which order."""
    digest = hashlib.sha256(json.dumps([seed, task_id, completion_id]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def key(row: Mapping[str, Any]) -> Key:
    """What a row is about."""
    return row["task_id"], row["completion_id"]


KINDS: dict[str, tuple[type, ...]] = {
    "task_id": (str,),
    "completion_id": (int,),
    "prompt": (str,),
    "generation": (str,),
    "finish": (str,),
    "extra": (dict,),
    "verdicts": (dict,),
    "seconds": (int, float),
    "exit_code": (int, type(None)),
    "stderr": (str,),
    "sample": (str,),
}
SAMPLE = ("task_id", "completion_id", "prompt", "generation", "finish", "extra")
JUDGEMENT = ("task_id", "completion_id", "verdicts", "seconds", "exit_code", "stderr", "extra", "sample")


def flaws(task: Task, keys: Sequence[str]) -> Callable[[Mapping[str, Any]], str]:
    """What says why a row with these keys is none about the task; "" for one that is."""
    known = {problem.id for problem in task.problems}

    def flaw(row: Mapping[str, Any]) -> str:
        for name in keys:
            value = row.get(name)
            if name not in row or not isinstance(value, KINDS[name]) or isinstance(value, bool):
                kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in KINDS[name])
                return f"{name} is {json.dumps(value)[:60] if name in row else 'missing'}, expected {kinds}"
        if row["task_id"] not in known:
            return f"task_id {row['task_id'][:60]!r} is no problem of {task.name}"
        if row["completion_id"] < 0:
            return f"completion_id is {row['completion_id']}, expected 0 or more"
        return _flaw_of_verdicts(row) if "verdicts" in keys else task.flaw(sample_from(row))

    return flaw


def _flaw_of_verdicts(row: Mapping[str, Any]) -> str:
    known = [verdict.value for verdict in Verdict]
    for mode, verdict in row["verdicts"].items():
        if mode not in MODES or verdict not in known:
            return f"verdicts has {mode[:60]} {json.dumps(verdict)[:60]}, expected one of {', '.join(known)}"
    if set(row["verdicts"]) != set(MODES):
        return f"verdicts is of {', '.join(row['verdicts']) or 'nothing'}, expected {', '.join(MODES)}"
    return "" if 0 <= row["seconds"] < float("inf") else f"seconds is {row['seconds']}, expected 0 or more"


def judged(samples: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The results that are about these samples, as their texts are now."""
    prints = {key(row): fingerprint(sample_from(row)) for row in samples}
    return [row for row in results if prints.get(key(row)) == row["sample"]]


def sample_from(row: Mapping[str, Any]) -> Sample:
    """The sample in a row of `samples.jsonl`."""
    return Sample(**{name: row[name] for name in SAMPLE})


def judgement_row(judgement: Judgement, sample: Sample) -> dict[str, Any]:
    """A row of `results.jsonl`; `sample` says which text it is about, should the samples change."""
    verdicts = {mode: verdict.value for mode, verdict in judgement.verdicts.items()}
    return {**asdict(judgement), "verdicts": verdicts, "extra": dict(judgement.extra), "sample": fingerprint(sample)}


def judgement_from(row: Mapping[str, Any]) -> Judgement:
    """The judgement in a row of `results.jsonl`."""
    verdicts = {mode: Verdict(value) for mode, value in row["verdicts"].items()}
    fields = ("task_id", "completion_id", "seconds", "exit_code", "stderr", "extra")
    return Judgement(verdicts=verdicts, **{name: row[name] for name in fields})


def fingerprint(sample: Sample) -> str:
    """Which program a sample is: samples of a problem with the same one have the same verdict."""
    extra = {name: value for name, value in sample.extra.items() if name not in NOTES}
    program = json.dumps(
        [sample.task_id, sample.prompt, sample.generation, sample.finish == UNREAD, extra], sort_keys=True
    )
    return hashlib.sha256(program.encode()).hexdigest()[:32]


def wanted(task: Task, problems: Sequence[Problem], n: int) -> dict[Key, Problem]:
    """All samples of an evaluation in their order, problem by problem, so that a model reads each prompt once."""
    count = task.samples_per_problem(n)
    return {(problem.id, number): problem for problem in problems for number in range(count)}


def generate(
    task: Task, problems: Sequence[Problem], n: int, seed: int, sampler: Sampler, samples: RowFile, progress: bool
) -> None:
    """Draw the samples that `samples` does not have yet. What it has beside the wanted ones stays, behind them."""
    keys = wanted(task, problems, n)
    present = {key(row) for row in samples.rows}
    missing = [each for each in keys if each not in present]

    def draw(each: Key) -> Sample:
        try:
            return task.produce(keys[each], each[1], sample_seed(seed, *each), sampler)
        except PromptTooLong as error:
            return Sample(*each, "", "", UNREAD, {"reason": str(error)})

    done = len(keys) - len(missing)
    for _, sample in in_parallel(missing, draw, sampler.concurrency, "samples", progress, done):
        samples.append([asdict(sample)])
    samples.replace(_sorted(samples.rows, keys))


def judge(
    task: Task,
    problems: Sequence[Problem],
    sandbox: Sandbox,
    samples: Sequence[Sample],
    results: RowFile,
    workers: int,
    progress: bool,
    name: str = "judged",
) -> None:
    """Judge the samples that `results` does not know yet, each program of a problem once. What it knows beside these
    samples stays, behind them."""
    by_id = {problem.id: problem for problem in problems}
    prints = {(sample.task_id, sample.completion_id): fingerprint(sample) for sample in samples}
    valid = [row for row in results.rows if prints.get(key(row), row["sample"]) == row["sample"]]
    known = {row["sample"]: row for row in valid}
    judged = {key(row) for row in valid}
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        if (sample.task_id, sample.completion_id) not in judged:
            groups.setdefault(prints[sample.task_id, sample.completion_id], []).append(sample)
    results.replace(valid)
    results.append(_copy(known[program], one) for program, group in groups.items() if program in known for one in group)
    waiting = [group for program, group in groups.items() if program not in known]

    def decide(group: list[Sample]) -> dict[str, Any]:
        first = group[0]
        if first.finish == UNREAD:
            reason = str(first.extra.get("reason", ""))
            nothing = Judgement(*key(asdict(first)), dict.fromkeys(MODES, Verdict.ERROR), 0.0, None, reason)
            return judgement_row(nothing, first)
        return judgement_row(task.judge(by_id[first.task_id], first, sandbox), first)

    for group, row in in_parallel(waiting, decide, workers, name, progress, len(groups) - len(waiting)):
        results.append(_copy(row, sample) for sample in group)
    results.replace(_sorted(results.rows, dict.fromkeys(prints)))


def _copy(row: Mapping[str, Any], sample: Sample) -> dict[str, Any]:
    return {**row, "task_id": sample.task_id, "completion_id": sample.completion_id}


def _sorted(rows: Iterable[dict[str, Any]], order: Iterable[Key]) -> list[dict[str, Any]]:
    places = {each: place for place, each in enumerate(order)}
    return sorted(rows, key=lambda row: (places.get(key(row), len(places)), *key(row)))


def in_parallel(
    work: Sequence[Work], do: Callable[[Work], Result], workers: int, name: str, progress: bool, done: int = 0
) -> Iterator[tuple[Work, Result]]:
    """Results of `do` as they come, from that many threads; one thread is the caller's own.

    After an error nothing new is started, the results of what runs come first, then the error. An interrupt waits for
    them no longer than `PATIENCE`.
    """
    with _bar(len(work) + done, name, progress and bool(work), done) as bar:
        if workers == 1:
            for each in work:
                yield each, do(each)
                bar.update()
            return
        crew = _Crew(work, do, workers)
        for each, result in crew.results():
            yield each, result
            bar.update()


class _Crew(Generic[Work, Result]):
    """Threads that share a list of work. They are daemons: one that waits for a server keeps nobody from leaving."""

    def __init__(self, work: Sequence[Work], do: Callable[[Work], Result], workers: int):
        self._do, self._todo, self._lock = do, iter(work), threading.Lock()
        self._done: queue.SimpleQueue[tuple[Work, Result] | BaseException | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._running = min(workers, len(work))

    def _next(self) -> tuple[Work, ...]:
        with self._lock:
            return tuple(itertools.islice(self._todo, 0 if self._stopped.is_set() else 1))

    def _work(self) -> None:
        try:
            while next_one := self._next():
                self._done.put((next_one[0], self._do(next_one[0])))
        except BaseException as error:
            self._stopped.set()
            self._done.put(error)
        finally:
            self._done.put(None)

    def results(self) -> Iterator[tuple[Work, Result]]:
        """See `in_parallel`."""
        for _ in range(self._running):
            threading.Thread(target=self._work, daemon=True).start()
        failure: BaseException | None = None
        deadline: float | None = None
        try:
            while self._running:
                try:
                    left = None if deadline is None else max(0.0, deadline - time.monotonic())
                    found = self._done.get(timeout=left)
                except queue.Empty:
                    break
                except (KeyboardInterrupt, SystemExit) as interrupt:
                    if isinstance(failure, KeyboardInterrupt | SystemExit):
                        raise
                    self._stopped.set()
                    failure, deadline = interrupt, time.monotonic() + PATIENCE
                    continue
                if found is None:
                    self._running -= 1
                elif isinstance(found, BaseException):
                    failure = failure or found
                else:
                    yield found
        finally:
            self._stopped.set()
        if failure is not None:
            raise failure


def _bar(total: int, name: str, enabled: bool, done: int) -> Any:
    from tqdm import tqdm

    terminal = enabled and sys.stderr.isatty()
    width, height = shutil.get_terminal_size()
    return tqdm(total=total, initial=done, desc=name, ncols=width, nrows=height, disable=not terminal, file=sys.stderr)
