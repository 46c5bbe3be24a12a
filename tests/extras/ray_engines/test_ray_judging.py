"""`evaluate --judge-engine ray` on clusters that really run: the verdicts are those of this machine's pool, also if a
node is lost, and no node judges without a sandbox."""

import json
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import small_benchmarks
from conftest import command
from ray_clusters import cluster, needs_ray
from strict_sandbox import refusing_filter

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.judging.engines import Equipment, NodeLost, NodesEngine
from ms_codegeex.extras.ray_engines import cluster as ray_cluster
from ms_codegeex.extras.ray_engines import judging as ray_nodes

PROBLEMS = 12
# right, wrong, no Python, an exception, a forged success
LINES = ("return n + 1", "return n", "return n +", "raise ValueError(n)", "import os; os._exit(0)")
ANSWERS = [f"    {line}\n" for line in LINES]
ENDLESS = "    while True:\n        pass\n"
SLEEP = "    import time\n    time.sleep(0.2)\n"
# A process of a node that this module starts with it is denied namespaces.
SITE = """
import ctypes
libc, code = ctypes.CDLL(None, use_errno=True), @code@
filter = ctypes.create_string_buffer(code, len(code))
program = (ctypes.c_uint64 * 2)(len(code) // 8, ctypes.addressof(filter))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("ray")
    rows = [
        {
            "task_id": f"own/{number}",
            "prompt": f"def more{number}(n):\n",
            "test": f"def check(more):\n    assert [more(n) for n in range({number + 2})][-1] == {number + 2}\n",
            "entry_point": f"more{number}",
            "canonical_solution": ANSWERS[0],
        }
        for number in range(PROBLEMS)
    ]
    samples = [{"task_id": row["task_id"], "completion": SLEEP + answer} for row in rows for answer in ANSWERS]
    samples.append({"task_id": rows[-1]["task_id"], "completion": ENDLESS})
    for name, content in (("problems", rows), ("samples", samples)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return root


def words(place, output, *options):
    data = ["--data", place / "problems.jsonl", "--samples", place / "samples.jsonl", "--check-references"]
    return ["evaluate", "humaneval", *data, "--output", place / output, *options]


def verdicts(place, output):
    """The rows without what differs from run to run."""
    rows = read_rows(place / output / "results.jsonl")
    return [{name: value for name, value in row.items() if name not in ("seconds", "stderr")} for row in rows]


@pytest.fixture(scope="module")
def alone(place):
    assert main([str(word) for word in words(place, "alone")]) == 0
    found = verdicts(place, "alone")
    kinds = [row["verdicts"]["strict"] for row in found]
    assert kinds == [*["passed", "wrong", "compile error", "error", "error"] * PROBLEMS, "timeout"]
    return found


def started(line, file, rows):
    """The command, when it has written so many rows to a file and goes on."""
    words = [sys.executable, "-m", "ms_codegeex.cli", *map(str, line)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= rows):
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read()
    return process


@pytest.mark.slow  # starts a Ray cluster four times: over a minute
@pytest.mark.strict_sandbox
@needs_ray
class TestCluster:
    def test_two_nodes_find_the_verdicts_of_the_pool_also_for_a_model_here(self, place, alone, tmp_path):
        model, data = small_benchmarks.write_model(tmp_path / "model"), small_benchmarks.humaneval(tmp_path)
        drawing = ["--model", model, "--data", data, "--max-new-tokens", 6, "--output", tmp_path / "drawn"]
        with cluster(2) as (made, _):
            there = ["--judge-engine", "ray", "--ray-address", made.address]
            done = command(*words(place, "ray", *there))
            drawn = command("evaluate", "humaneval", *drawing, *there)
        assert done.returncode == 0, done.stderr
        assert "judging on 2 nodes, 2 programs at once" in done.stderr
        assert verdicts(place, "ray") == alone
        assert drawn.returncode == 0, drawn.stderr
        assert len(read_rows(tmp_path / "drawn" / "results.jsonl")) == 2

    def test_a_lost_node_costs_only_what_it_was_judging(self, place, alone):
        with cluster(2) as (made, (node,)):
            line = words(place, "lost", "--judge-engine", "ray", "--ray-address", made.address)
            process = started(line, place / "lost" / "results.jsonl", rows=5)
            process.terminate()
            process.communicate(timeout=600)
            assert process.returncode == 128 + signal.SIGTERM
            process = started(line, place / "lost" / "results.jsonl", rows=15)
            made.remove_node(node, allow_graceful=False)
            _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        assert error.count("was lost") == 1 and "judged on the others, of which 1 is left" in error
        assert verdicts(place, "lost") == alone

    def test_an_interrupt_ends_the_command_and_no_node_is_called_lost(self, place, tmp_path):
        rows = [{"task_id": f"own/{number}", "completion": ENDLESS} for number in range(4)]
        (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with cluster(2) as (made, _):
            line = words(place, tmp_path / "o", "--judge-engine", "ray", "--ray-address", made.address)
            line += ["--samples", tmp_path / "samples.jsonl", "--timeout", "300"]
            process = started(line, tmp_path / "o" / "references.jsonl", rows=PROBLEMS)
            time.sleep(3)  # until both nodes are judging a sample that does not end
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=200)
        assert process.returncode == 130, error
        assert "judging on 2 nodes" in error and "was lost" not in error and "Traceback" not in error

    def test_a_node_without_a_sandbox_is_named_and_nothing_runs(self, place, tmp_path):
        (tmp_path / "sitecustomize.py").write_text(SITE.replace("@code@", repr(refusing_filter())))
        with cluster(2, env_vars={"PYTHONPATH": str(tmp_path)}, node_name="denied") as (made, _):
            done = command(*words(place, "denied", "--judge-engine", "ray", "--ray-address", made.address))
        assert done.returncode == 2, done.stderr
        assert "node denied: sandbox: layers are missing (namespaces: " in done.stderr
        assert not (place / "denied" / "results.jsonl").exists()


class FakeRay:
    """Ray with one actor, which does not answer `judge` until it is killed."""

    def __init__(self, failure=None):
        errors = {"RayTaskError": RayTaskError, "RayActorError": ActorError, "ActorUnschedulableError": Unschedulable}
        self.exceptions = SimpleNamespace(RayError=RayError, **errors)
        self.asked, self.killed, self.kills, self.failure = threading.Event(), threading.Event(), 0, failure
        self.alive = [("id-1", "one")]

    def get(self, answer):
        if answer == "version":
            if self.failure:
                raise self.failure
            return ray_cluster.program_version()
        if answer == "open":
            return "the problems", Equipment({}, {}, {}, {})
        self.asked.set()
        assert self.killed.wait(60)
        raise ActorError("the actor is dead\nfor good")

    def kill(self, actor):
        self.kills += 1
        self.killed.set()

    def nodes(self):
        return [{"NodeID": key, "NodeName": name, "Resources": {"CPU": 1}, "Alive": True} for key, name in self.alive]


class RayError(Exception):
    """As in `ray.exceptions`, like the next three."""


class Unschedulable(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"ray::Actor.version()\n{cause}")
        self.cause = cause


class ActorError(RayError):
    actor_init_failed = False


def ray_node(ray, name="one"):
    methods = ("version", "open", "judge")
    actor = SimpleNamespace(**{each: SimpleNamespace(remote=lambda *_, each=each: each) for each in methods})
    return ray_nodes.RayNode(ray, "id-1", name, 1, actor, ray_nodes.RayCalls())


def test_after_the_end_no_thread_reports_a_lost_node_or_asks_ray():
    ray, errors, said = FakeRay(), [], []
    node = ray_node(ray)
    engine = NodesEngine([node], lambda: None, "strict", "the problems", said.append, "the nodes")

    def judge():
        try:
            engine.judge(None, None)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=judge)
    thread.start()
    assert ray.asked.wait(60)
    ray_nodes._end(ray, [node], node.calls)
    assert not node.calls._running  # `ray.shutdown` comes next, after which Ray would connect again
    thread.join(60)
    assert said == [] and len(errors) == 1 and ray.kills == 1
    with pytest.raises(ray_nodes.JudgingEnded):
        node.call("judge")


NO_MODULE = RayTaskError(ModuleNotFoundError("No module named 'ms_codegeex'"))


@pytest.mark.parametrize(
    ("failure", "alive"),
    [
        (NO_MODULE, [("id-2", "one")]),  # the node itself is gone, and there is another with its name
        (ActorError("the actor is dead"), [("id-1", "one")]),  # Ray has not noticed yet that its node is
        (Unschedulable("its node does not exist"), [("id-1", "one")]),
    ],
)
def test_a_node_that_is_lost_before_it_begins_is_left_out(failure, alive):
    ray, said = FakeRay(failure), []
    ray.alive = alive
    assert ray_nodes._runs(ray, ray_node(ray), "version", said.append) is False
    assert len(said) == 1 and said[0].startswith("node one was lost (") and said[0].endswith(") before it began")


def test_a_node_that_lacks_the_program_is_an_error_also_if_its_namesake_is_gone():
    ray = FakeRay(NO_MODULE)
    with pytest.raises(UserError, match=r"node one \(id-1\): cannot run this program \(No module named"):
        ray_nodes._runs(ray, ray_node(ray, "one (id-1)"), "version", print)
    failed = ActorError("an error in its creation task")
    failed.actor_init_failed = True
    with pytest.raises(UserError, match="cannot run this program"):
        ray_nodes._runs(FakeRay(failed), ray_node(ray), "version", print)


def test_a_silent_actor_is_lost_and_killed():
    ray = FakeRay()
    ray.killed.set()
    with pytest.raises(NodeLost, match=r"^the actor is dead$"):
        ray_node(ray).call("judge")
    assert ray.kills == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("127.0.0.1:1", "no Ray cluster was found", marks=needs_ray),
        ("ray://node:10001", "--ray-address ray://node:10001: expected HOST:PORT"),
    ],
)
def test_without_a_cluster_one_line_says_what_is_wrong(place, tmp_path, capsys, address, message):
    line = words(place, tmp_path / "o", "--judge-engine", "ray", "--ray-address", address)
    assert main([str(word) for word in line]) == 2
    assert message in capsys.readouterr().err


def test_an_option_that_was_not_given_is_not_named(monkeypatch):
    def init(*address, **options):
        raise ConnectionError("none is running. Start one\nor not")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(UserError) as caught, ray_cluster.connected("auto", "--judge-engine ray"):
        pass
    assert str(caught.value).startswith("--judge-engine ray: no Ray cluster was found (none is running. Start one); ")


def test_without_ray_one_line_says_what_to_install(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([str(word) for word in words(place, tmp_path / "o", "--judge-engine", "ray")]) == 2
    assert "--judge-engine ray: Ray is not installed" in capsys.readouterr().err


IMPORTS = """
import os
from ms_codegeex.extras.ray_engines.cluster import PROTOBUF, import_ray
os.environ.pop(PROTOBUF, None)
import_ray("--engine ray")
from google.protobuf.internal import api_implementation
print(api_implementation.Type(), PROTOBUF in os.environ)
"""


@needs_ray
def test_mindspore_can_be_imported_after_ray():
    """It needs protobuf in Python; whoever imports protobuf first decides. `evaluate --model` imports Ray first."""
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.stdout == "python False\n", done.stderr
