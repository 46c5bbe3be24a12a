"""Judging on several nodes, with nodes that are threads of this process: verdicts, lost nodes, unequal nodes."""

import itertools
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from fake_task import Doubling, Seeded, samples_of

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.jsonl import RowFile, read_rows
from ms_codegeex.extras.evaluation.judging import engines
from ms_codegeex.extras.evaluation.judging.engines import Equipment, LocalEngine, NodeJudge, NodeLost, NodesEngine
from ms_codegeex.extras.evaluation.judging.judge import judge_samples
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.rows import problems_fingerprint, sample_from
from ms_codegeex.extras.evaluation.session import Options, evaluate
from ms_codegeex.extras.evaluation.task import Problem, Reference, Sample

CONTENT = problems_fingerprint(Doubling().problems)


class Sandbox:
    """Stands for one that works; `layers` as in the real one."""

    layers = {"namespaces": "active", "seccomp": "active"}  # noqa: RUF012


class Equipped(Doubling):
    def __init__(self, version="1", **options):
        super().__init__(**options)
        self.version, self.calibrated, self.unsound = version, [], {}

    def tools(self):
        return {"tool": self.version}

    def prepare(self, problems):
        return self.unsound

    def calibrate(self, judgements):
        self.calibrated = list(judgements)
        return {}


class FakeNode:
    """Lost when it is asked for verdict number `last`, counted from 0. The first waits for `meeting`."""

    def __init__(self, name, task=None, last=None, workers=2, meeting=None):
        self.name, self.task, self.last, self.workers, self.meeting = name, task or Equipped(), last, workers, meeting
        self.judge, self.lock, self.verdicts = NodeJudge(), threading.Lock(), 0

    def call(self, method, *arguments):
        with self.lock:
            asked, self.verdicts = self.verdicts, self.verdicts + (method == "judge")
        if method == "judge" and not asked and self.meeting:
            self.meeting.wait(60)
        if method == "judge" and self.last is not None and asked >= self.last:
            raise NodeLost("its cable was pulled")
        if method == "open":
            return self.judge.open(lambda: self.task, arguments[1])
        return getattr(self.judge, method)(*arguments)


@pytest.fixture(autouse=True)
def _no_sandbox(monkeypatch):
    monkeypatch.setattr(engines, "open_sandbox", lambda mode: Sandbox())


def engine_of(*members, content=CONTENT, said=None):
    said = [] if said is None else said
    return NodesEngine(members, Doubling, "strict", content, said.append, "the nodes")


def judged(path, samples, engine):
    rows = [sample_from(row) for row in read_rows(samples)]
    judge_samples(Doubling(), Doubling().problems, engine, rows, RowFile(path), progress=False)
    return path.read_bytes()


@pytest.fixture
def samples(tmp_path):
    samples_of(tmp_path / "s.jsonl", Seeded(), n=20)
    return tmp_path / "s.jsonl"


@pytest.fixture
def alone(tmp_path, samples):
    return judged(tmp_path / "alone.jsonl", samples, LocalEngine(Doubling(), None, 2))


def test_rows_are_those_of_one_process_and_all_nodes_work(tmp_path, samples, alone):
    meeting = threading.Barrier(2)
    members = [FakeNode("a", meeting=meeting), FakeNode("b", meeting=meeting)]
    assert judged(tmp_path / "r.jsonl", samples, engine_of(*members)) == alone
    programs = {row["sample"] for row in read_rows(samples.parent / "r.jsonl")}
    assert sum(node.verdicts for node in members) == len(programs)


def test_the_programs_of_a_lost_node_are_judged_on_the_others(tmp_path, samples, alone):
    meeting, said = threading.Barrier(2), []
    members = [FakeNode("a", last=0, meeting=meeting), FakeNode("b", meeting=meeting)]
    engine = engine_of(*members, said=said)
    assert judged(tmp_path / "r.jsonl", samples, engine) == alone
    assert [node.name for node in engine.nodes] == ["b"]
    assert said == ["node a was lost (its cable was pulled); its programs are judged on the others, of which 1 is left"]


def test_when_all_are_lost_what_was_judged_is_kept(tmp_path, samples, alone):
    with pytest.raises(UserError, match="all nodes were lost; run the same command again"):
        judged(tmp_path / "r.jsonl", samples, engine_of(FakeNode("a", last=4), FakeNode("b", last=5)))
    kept = len(read_rows(tmp_path / "r.jsonl"))
    assert kept >= 9
    again = FakeNode("a")
    assert judged(tmp_path / "r.jsonl", samples, engine_of(again)) == alone and again.verdicts <= 120 - kept


class Deadly(Equipped):
    def judge(self, problem, sample, sandbox):
        if (sample.task_id, sample.completion_id) == ("cpp/1", 0):
            raise NodeLost("its memory ran out")
        return super().judge(problem, sample, sandbox)


def test_a_sample_that_costs_two_nodes_is_named(tmp_path, samples):
    members = [FakeNode(name, Deadly(), workers=1) for name in "abcd"]
    said = []
    engine = engine_of(*members, said=said)
    with pytest.raises(RunFailure) as caught:
        judged(tmp_path / "r.jsonl", samples, engine)
    first, second = (line.split()[1] for line in said)
    assert {node.name for node in engine.nodes} == set("abcd") - {first, second}
    start = f"judging: nodes {first} and {second} were lost while they ran sample 0 of cpp/1; run the same command"
    assert str(caught.value).startswith(start) and "remove its row in samples.jsonl" in str(caught.value)


def test_a_sample_that_costs_the_last_two_nodes_is_named():
    engine = engine_of(FakeNode("a", Deadly()), FakeNode("b", Deadly()))
    problem = Doubling().problems[4]
    with pytest.raises(UserError, match=r"all nodes were lost; .*; the last two were running sample 0 of cpp/1$"):
        engine.judge(problem, Sample("cpp/1", 0, "", "2", "eos"))


def test_a_reference_that_costs_two_nodes_is_named():
    class AllDeadly(Equipped):
        def judge(self, problem, sample, sandbox):
            raise NodeLost("its memory ran out")

    engine = engine_of(*(FakeNode(name, AllDeadly()) for name in "abc"))
    with pytest.raises(RunFailure, match=r"ran the reference of cpp/1; .* pass --skip-references"):
        engine.judge(Doubling().problems[4], Reference("cpp/1", 0, "", "2", "reference"))


def test_programs_of_lost_nodes_run_again_one_at_a_time():
    """Otherwise a second loss would not tell which of them is the reason."""
    together = threading.Barrier(4)

    class Slow(Equipped):
        def __init__(self):
            super().__init__()
            self.running, self.maximum = 0, 0

        def judge(self, problem, sample, sandbox):
            with self.lock:
                self.running += 1
                self.maximum = max(self.maximum, self.running)
            time.sleep(0.02)
            with self.lock:
                self.running -= 1
            return super().judge(problem, sample, sandbox)

    class Failing(Equipped):
        def judge(self, problem, sample, sandbox):
            together.wait(60)
            raise NodeLost("its cable was pulled")

    slow = Slow()
    engine = engine_of(FakeNode("a", Failing(), workers=9), FakeNode("b", slow, workers=3))

    problems = Doubling().problems[:4]
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(engine.judge, problems, map(Doubling().reference, problems), timeout=60))) == 4
    assert slow.maximum == 1


def test_there_is_a_thread_for_each_program_up_to_a_limit():
    assert engine_of(FakeNode("a", workers=600), FakeNode("b", workers=400)).workers == 1000
    assert engine_of(FakeNode("a", workers=600), FakeNode("b", workers=600)).workers == engines.MAX_THREADS == 1024


def refusal(*members, **options):
    with pytest.raises((UserError, RunFailure)) as caught:
        engine_of(*members, **options).prepare(Doubling().problems)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "2"}, "tools: tool: 2, but on node a tool: 1; install the same on all nodes"),
        ({"lacking": {"go": "apt-get install go"}}, "missing: go: apt-get install go, but on node a go: none"),
        ({"unsound": {"cpp": "no compiler"}}, "tools: cpp: broken, but on node a cpp: working"),
        ({"problems": Doubling(2).problems}, "its --data has other problems than here"),
    ],
)
def test_nodes_that_would_judge_differently_are_refused(change, message):
    other = Equipped()
    vars(other).update(change)
    assert f"node b: {message}" in refusal(FakeNode("a"), FakeNode("b", other))


def test_a_node_without_a_sandbox_is_an_error_with_its_name(monkeypatch):
    def refuse(mode):
        raise UserError("sandbox: layers are missing (namespaces: denied)")

    monkeypatch.setattr(engines, "open_sandbox", refuse)
    assert refusal(FakeNode("b")) == "node b: sandbox: layers are missing (namespaces: denied)"


def test_an_error_of_one_node_does_not_wait_for_the_others():
    begun, released, ended, daemons = threading.Event(), threading.Event(), threading.Event(), []

    class Silent(FakeNode):
        def call(self, method, *arguments):
            daemons.append(threading.current_thread().daemon)
            begun.set()
            released.wait(60)
            ended.set()
            raise NodeLost("nobody waits for this")

    class BadInput(FakeNode):
        def call(self, method, *arguments):
            begun.wait(60)
            raise RunFailure("its disk is full")

    try:
        assert refusal(Silent("a"), BadInput("b")) == "node b: its disk is full"
        assert not ended.is_set() and daemons == [True]  # it cannot hold up the exit of the command either
    finally:
        released.set()


def test_a_layer_that_one_node_lacks_is_missing_from_the_whole(monkeypatch):
    lacking = Sandbox()
    lacking.layers = {**Sandbox.layers, "seccomp": "missing: old kernel"}
    found = iter([Sandbox(), lacking])
    lock = threading.Lock()

    def open_next(mode):
        with lock:
            return next(found)

    monkeypatch.setattr(engines, "open_sandbox", open_next)
    layers = engine_of(FakeNode("a"), FakeNode("b")).equipment.layers
    assert layers["namespaces"] == "active" and layers["seccomp"].startswith("missing: old kernel")


@pytest.mark.parametrize(
    ("states", "merged"),
    [
        ({"a": "missing: x", "b": "missing: y", "c": "active"}, "missing: x (on node a)"),
        ({"a": "active", "b": "missing: y", "c": "missing: x"}, "missing: y (on node b)"),
        ({"a": "missing: x", "b": "missing: x", "c": "missing: x"}, "missing: x"),
        ({"a": "active", "b": "active", "c": "active"}, "active"),
    ],
)
def test_what_is_recorded_does_not_depend_on_the_order_of_the_nodes(states, merged):
    for order in itertools.permutations("abc"):
        found = [(FakeNode(name), Equipment({}, {}, {}, {"seccomp": states[name]})) for name in order]
        assert engines.common(found).layers == {"seccomp": merged}


@pytest.mark.parametrize(
    "error, line",
    [
        (RunFailure("the reference fails"), "node b: the reference fails"),
        (OSError(28, "No space left on device", "x"), "node b: OSError: [Errno 28] No space left on device: 'x'"),
        (ValueError("one line\nand another"), "node b: ValueError: one line"),
    ],
)
def test_a_failure_on_a_node_has_its_name(error, line):
    class Failing(Equipped):
        def judge(self, problem, sample, sandbox):
            raise error

        def prepare(self, problems):
            raise error

    engine, problem = engine_of(FakeNode("b", Failing())), Doubling().problems[0]
    for call in (lambda: engine.judge(problem, Doubling().reference(problem)), lambda: engine.prepare([problem])):
        with pytest.raises(RunFailure) as caught:
            call()
        assert str(caught.value) == line


def test_an_evaluation_on_nodes_is_the_same_as_here(tmp_path):
    members = [FakeNode("a"), FakeNode("b", last=5)]
    recipe = Recipe("humaneval-x", n=4, temperature=0.8)
    options = {"sampler": Seeded, "workers": 2, "progress": False}
    evaluate(Equipped(), recipe, Options(tmp_path / "here", **options))

    def engine(content, say):
        return nullcontext(NodesEngine(members, Equipped, "strict", content, say, "the nodes"))

    evaluate(Equipped(), recipe, Options(tmp_path / "there", engine=engine, **options))
    for name in ("samples.jsonl", "results.jsonl", "references.jsonl"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert len(members[0].task.calibrated) == 6  # references, wherever they were judged
    recorded = read_json(tmp_path / "there" / "evaluation.json")["machine"]
    assert recorded == {"tools": {"tool": "1"}, "sandbox": Sandbox.layers, "timeout": None, "engine": "the nodes"}
    # and it goes on in either place
    evaluate(Equipped(), recipe, Options(tmp_path / "there", **options))


def test_problems_have_the_same_hash_in_every_process():
    script = (
        "from ms_codegeex.extras.evaluation.rows import problems_fingerprint as f\n"
        "from ms_codegeex.extras.evaluation.task import Problem\n"
        "words = {'one', 'two', 'three', 'four', 'five'}\n"
        "print(f([Problem('a', {}, {'x': words, 'y': frozenset(words), 'z': {(1, frozenset(words)), (2,)}})]))"
    )
    words, found = [sys.executable, "-c", script], set()
    for seed in "123":
        environment = {"PYTHONHASHSEED": seed, "PATH": ""}
        found.add(subprocess.run(words, env=environment, capture_output=True, text=True).stdout)
    assert len(found) == 1 and len(found.pop().strip()) == 64
    different = [{1}, {2}, {(1,)}, frozenset({1}), set(), frozenset(), "{1}x"]
    assert len({problems_fingerprint([Problem("a", {}, value)]) for value in different}) == len(different)
