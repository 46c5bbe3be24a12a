"""Where samples are judged: in threads of this process, or on several machines, or nodes, each with its own task, tool
chains and sandbox, which must be those of the first. Others judge the programs of a machine that is lost."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ms_codegeex.base.errors import RunFailure, UserError, first_line
from ms_codegeex.extras.evaluation.rows import problems_fingerprint
from ms_codegeex.extras.evaluation.sandbox import Sandbox, open_sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Reference, Sample, Task

HERE = "this machine"
MAX_DIFFERENCE = 300  # characters in an error message
MAX_THREADS = 1024  # one for each program on all nodes: a thread of this process waits for each


@dataclass(frozen=True)
class Equipment:
    """What a machine has to judge with."""

    missing: Mapping[str, str]  # tool chain or library that it lacks -> the command that installs it
    defects: Mapping[str, str]  # problem id -> why its reference cannot pass there
    tools: Mapping[str, str]  # tool chain or interpreter -> version
    layers: Mapping[str, str]  # layer of the sandbox -> "active", or "missing: " with the reason

    @classmethod
    def of(cls, task: Task, sandbox: Sandbox | None) -> Equipment:
        layers = dict(getattr(sandbox, "layers", None) or {})
        return cls(dict(task.missing()), dict(task.known_defects()), dict(task.tools()), layers)


def sandbox_for(task: Task, mode: str) -> Sandbox | None:
    """This machine's sandbox (`mode` as in `open_sandbox`); None for a task that runs no programs."""
    return open_sandbox(mode) if task.runs_programs else None


@dataclass(frozen=True)
class LocalEngine:
    """Judges samples in this process, with one sandbox, `workers` at once. Safe to share between threads."""

    task: Task
    sandbox: Sandbox | None
    workers: int = 1
    place: str = HERE  # in words

    @property
    def equipment(self) -> Equipment:
        return Equipment.of(self.task, self.sandbox)

    def prepare(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        return self.task.prepare(problems)

    def calibrate(self, judgements: Sequence[Judgement]) -> None:
        self.task.calibrate(judgements)

    def judge(self, problem: Problem, sample: Sample) -> Judgement:
        return self.task.judge(problem, sample, self.sandbox)


class NodeLost(Exception):
    """A node does not answer any more. The message says why."""


class JudgeNode(Protocol):
    """A machine that a `NodeJudge` runs on."""

    name: str
    workers: int  # programs at once

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the node's `NodeJudge`; raises what that raises, or `NodeLost` if there is no answer, in
        which case the method may have run or not."""


class NodeJudge:
    """What runs on a node. `open` comes first; `judge` may then be called by several threads."""

    def open(self, build: Callable[[], Task], mode: str) -> tuple[str, Equipment]:
        """Build the task and this machine's sandbox (`mode` as in `open_sandbox`). Returns a hash of the problems and
        the equipment. `UserError` if a layer of the sandbox is missing, or the task's files are not here."""
        task = build()
        self.engine = LocalEngine(task, sandbox_for(task, mode))
        self.problems = {problem.id: problem for problem in task.problems}
        return problems_fingerprint(task.problems), self.engine.equipment

    def prepare(self, ids: Sequence[str]) -> dict[str, str]:
        return dict(self.engine.prepare([self.problems[name] for name in ids]))

    def calibrate(self, judgements: Sequence[Judgement]) -> None:
        self.engine.calibrate(judgements)

    def judge(self, sample: Sample) -> Judgement:
        return self.engine.judge(self.problems[sample.task_id], sample)


class NodesEngine:
    """Judges samples on nodes, as `LocalEngine` does in this process. `UserError` if a node lacks a layer of the
    sandbox or the task's files, or has other problems or other tools than the first one."""

    def __init__(
        self,
        nodes: Sequence[JudgeNode],  # at least one, with different names; those that are lost leave the list
        build: Callable[[], Task],  # builds the task on a node, where its files have the same paths
        mode: str,  # the sandboxes' mode, as in `open_sandbox`
        content: str,  # a hash of the problems that `build` must return
        say: Callable[[str], None],  # prints a line for the user
        place: str,  # what the nodes are, in words
    ) -> None:
        self.nodes, self.place = list(nodes), place
        self._say, self._turn = say, threading.Condition()
        # Of the programs whose node was lost, one at a time runs again: if it takes a second node with it, no other
        # program was running on both.
        self._again = threading.Lock()
        self._suspect: tuple[JudgeNode, Sample] | None = None  # the one that runs now
        self._hint = ""  # what was running when the last node was lost
        self._free = {node.name: node.workers for node in nodes}
        opened = self._on_all("open", build, mode)
        for node, (digest, _) in opened:
            if digest != content:
                raise UserError(f"node {node.name}: its --data has other problems than here; copy the same files to it")
        # a layer of the sandbox that some nodes lack is missing, with the name of one of them
        self.equipment = common([(node, equipment) for node, (_, equipment) in opened])
        self.workers = min(MAX_THREADS, sum(node.workers for node in self.nodes))

    def prepare(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """See `Task.prepare`. UserError if tools work on some nodes and not on others."""
        answers = self._on_all("prepare", [problem.id for problem in problems])
        check_same("tools", [(node, dict.fromkeys(broken, "broken")) for node, broken in answers], "working")
        return answers[0][1]

    def calibrate(self, judgements: Sequence[Judgement]) -> None:
        self._on_all("calibrate", list(judgements))

    def judge(self, problem: Problem, sample: Sample) -> Judgement:
        """See `Task.judge`. A sample whose node is lost is judged on another; `RunFailure` if that is lost, too."""
        try:
            return self._judge_on_node(sample)
        except NodeLost as first:
            with self._again:
                try:
                    return self._judge_on_node(sample, again=True)
                except NodeLost as second:  # the exceptions have the nodes' names
                    name, remedy = described(sample)
                    lost = f"nodes {first} and {second} were lost while they ran {name}"
                    again = "run the same command again (what is judged is kept), with fewer --workers"
                    remedies = f"{again} if memory ran out, or {remedy} if its program ends the nodes"
                    raise RunFailure(f"judging: {lost}; {remedies}") from None

    def _judge_on_node(self, sample: Sample, again: bool = False) -> Judgement:
        node = self._take()
        if again:
            self._suspect = (node, sample)
        try:
            return called(node, "judge", sample)
        except NodeLost as lost:
            self._lose(node, lost)
            self._check_any()
            raise NodeLost(node.name) from None
        finally:
            if again:
                self._suspect = None
            with self._turn:
                self._free[node.name] += 1
                self._turn.notify()

    def _on_all(self, method: str, *arguments: Any) -> list[tuple[JudgeNode, Any]]:
        """The answers of the nodes that are not lost. All are called at once. After an error of one of them, or an
        interrupt, the others are not waited for: their threads are daemons."""
        done: queue.SimpleQueue[tuple[JudgeNode, Any, BaseException | None]] = queue.SimpleQueue()

        def ask(node: JudgeNode) -> None:
            try:
                done.put((node, called(node, method, *arguments), None))
            except NodeLost as lost:
                self._lose(node, lost)
                done.put((node, None, None))
            except BaseException as error:
                done.put((node, None, error))

        nodes, answers = list(self.nodes), dict[str, Any]()
        for node in nodes:
            threading.Thread(target=ask, args=(node,), daemon=True).start()
        for _ in nodes:
            node, answers[node.name], error = done.get()
            if error is not None:
                raise error
        with self._turn:
            self._check_any()
            return [(node, answers[node.name]) for node in nodes if node in self.nodes]

    def _take(self) -> JudgeNode:
        with self._turn:
            while True:
                self._check_any()
                node = max(self.nodes, key=lambda node: self._free[node.name])
                if self._free[node.name] > 0:
                    self._free[node.name] -= 1
                    return node
                self._turn.wait()

    def _lose(self, node: JudgeNode, lost: NodeLost) -> None:
        with self._turn:
            if node not in self.nodes:
                return
            self.nodes.remove(node)
            self._turn.notify_all()
            left = len(self.nodes)
            if not left and self._suspect and self._suspect[0] is node:
                self._hint = f"; the last two were running {described(self._suspect[1])[0]}"
        rest = f"its programs are judged on the others, of which {left} {'is' if left == 1 else 'are'} left"
        self._say(f"node {node.name} was lost ({lost}); {rest}")

    def _check_any(self) -> None:
        if not self.nodes:
            remedy = "run the same command again when they are back (what is judged is kept)"
            raise UserError(f"judging: all nodes were lost; {remedy}{self._hint}")


JudgeEngine = LocalEngine | NodesEngine


def described(sample: Sample) -> tuple[str, str]:
    """What a sample is, and how an evaluation leaves it out."""
    if isinstance(sample, Reference):
        return f"the reference of {sample.task_id}", "pass --skip-references"
    return f"sample {sample.completion_id} of {sample.task_id}", "remove its row in samples.jsonl and add --judge-only"


def common(answers: Sequence[tuple[JudgeNode, Equipment]]) -> Equipment:
    """What all nodes have. UserError if tools differ; a layer of the sandbox that a node lacks is missing."""
    for kind in ("missing", "defects", "tools"):
        check_same(kind, [(node, dict(getattr(equipment, kind))) for node, equipment in answers], "none")
    first, layers = answers[0][1], {}
    for name, state in first.layers.items():
        # in the order of the names: Ray's differs from run to run, and this text is recorded
        states = sorted((node.name, equipment.layers[name]) for node, equipment in answers)
        lacking = [f"{problem} (on node {node})" for node, problem in states if problem.startswith("missing: ")]
        layers[name] = lacking[0] if len({each for _, each in states}) > 1 else state
    return replace(first, layers=layers)


def check_same(kind: str, answers: Sequence[tuple[JudgeNode, Mapping[str, str]]], absent: str) -> None:
    """UserError if a node differs from the first: verdicts would depend on the node. `absent`: text for no entry."""
    first, expected = answers[0]
    for node, values in answers:
        if names := sorted(name for name in {*values, *expected} if values.get(name) != expected.get(name)):
            lists = [[f"{name}: {each.get(name, absent)}" for name in names] for each in (values, expected)]
            here, there = (", ".join(each)[:MAX_DIFFERENCE] for each in lists)
            differs = f"{kind}: {here}, but on node {first.name} {there}"
            raise UserError(f"node {node.name}: {differs}; install the same on all nodes")


def called(node: JudgeNode, method: str, *arguments: Any) -> Any:
    """The answer of a node. Our own errors get the node's name; any other, such as a full disk, is a RunFailure."""
    try:
        return node.call(method, *arguments)
    except (UserError, RunFailure) as error:
        kind = UserError if isinstance(error, UserError) else RunFailure
        raise kind(f"node {node.name}: {error}") from None
    except NodeLost:
        raise
    except Exception as error:
        raise RunFailure(f"node {node.name}: {type(error).__name__}: {first_line(error)}") from error
