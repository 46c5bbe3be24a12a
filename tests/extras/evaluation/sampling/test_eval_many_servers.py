"""Several servers: the same samples as from one, in the same order, also if one of them dies."""

import socket
import threading
from contextlib import ExitStack

import pytest
from fake_task import Doubling
from openai_server import Server
from served import served
from small_benchmarks import write_model

from ms_codegeex.base.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.cli import main
from ms_codegeex.extras.evaluation.jsonl import RowFile, read_rows
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling import samplers
from ms_codegeex.extras.evaluation.sampling.drawing import generate
from ms_codegeex.extras.evaluation.sampling.samplers import ServerSampler, open_servers

RECIPE = Recipe("humaneval", max_new_tokens=20)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(samplers, "RETRIES", 0)


def reply(body):
    return f" {body['seed'] % 1000}", "stop"


def opened(*urls, model=None, concurrency=2):
    return open_servers(urls, lambda url: ServerSampler(url, RECIPE, model, concurrency=concurrency))


def drawn(path, *urls):
    task = Doubling()
    generate(task, task.problems, 5, 1, opened(*urls), RowFile(path), progress=False)
    return path.read_bytes()


@pytest.fixture
def nowhere():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def test_two_give_the_samples_of_one_and_share_the_work(tmp_path):
    met = threading.Barrier(4, timeout=60)  # both servers have two requests at a time
    waiting = iter([met.wait] * 4)

    def together(body):
        next(waiting, lambda: None)()
        return reply(body)

    with Server(reply) as one, Server(together) as first, Server(together) as second:
        expected = drawn(tmp_path / "one", one.url)
        assert drawn(tmp_path / "two", first.url, second.url) == expected
        assert opened(first.url, second.url).identity == {"url": f"{first.url}, {second.url}", "model": "small"}
        assert min(len(first.requests), len(second.requests)) >= 2
        assert len(first.requests) + len(second.requests) == len(one.requests)


def test_one_that_dies_is_said_once_and_its_work_is_done_by_the_others(tmp_path, capsys):
    left = [3]

    def dies(body):
        left[0] -= 1
        return reply(body) if left[0] >= 0 else (500, "it\nburns")

    with Server(reply) as one, Server(dies) as first, Server(reply) as second:
        expected = drawn(tmp_path / "one", one.url)
        capsys.readouterr()
        assert drawn(tmp_path / "two", first.url, second.url) == expected
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"warning: {first.url}: it burns; the other servers do the work of {first.url}"


def test_one_that_is_not_there_at_the_beginning(tmp_path, capsys, nowhere):
    with Server(reply) as one:
        expected = drawn(tmp_path / "one", one.url)
        assert drawn(tmp_path / "two", nowhere, one.url) == expected
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {nowhere} cannot be reached (")
    assert line.endswith(f"); the other servers do the work of {nowhere}")


def test_none_that_is_there(capsys, nowhere):
    other = nowhere.replace("127.0.0.1", "localhost")
    with pytest.raises(UserError, match=f"^--url: {other} cannot be reached .*; is the server up"):
        opened(nowhere, other)
    assert capsys.readouterr().err == ""


def test_the_last_ones_error_ends_the_evaluation(tmp_path):
    with (
        Server(lambda body: (500, "one burns")) as one,
        Server(lambda body: (500, "two burns")) as two,
        pytest.raises(RunFailure, match=r"(one|two) burns; run the same command again"),
    ):
        drawn(tmp_path / "two", one.url, two.url)


def test_a_refusal_of_the_request_is_no_failure_of_the_server(capsys):
    with Server(lambda body: (400, "maximum context length is 3")) as one, Server(reply) as two:
        sampler = opened(one.url, two.url)
        for _ in range(2):
            with pytest.raises(PromptTooLong):
                sampler("p", seed=1)
    assert capsys.readouterr().err == ""


def test_servers_that_do_not_fit_together():
    with Server(reply) as one, Server(reply, models=("large",)) as two:
        with pytest.raises(UserError, match=r"have the models large, small; give those of one"):
            opened(one.url, two.url)
        with pytest.raises(UserError, match="occurs twice"):
            opened(one.url, one.url)
        assert opened(one.url, two.url, model="m").identity["model"] == "m"


@pytest.mark.slow  # starts two servers
def test_two_servers_of_ours_and_one_that_is_killed(tmp_path, capsys):
    model, data = write_model(tmp_path / "model"), tmp_path / "he.jsonl"
    problem = '{"task_id": "a/%d", "prompt": "def f%d():\\n", "test": "def check(f): pass", "entry_point": "f%d"}\n'
    data.write_text("".join(problem % (number, number, number) for number in range(6)))

    def evaluated(name, *urls):
        words = ["evaluate", "humaneval", "--data", data, "--output", tmp_path / name, "--n", 3, "--temperature", 0.8]
        words += ["--max-new-tokens", 12, "--generate-only", "--url", *urls]
        assert main([str(word) for word in words]) == 0
        return [row["generation"] for row in read_rows(tmp_path / name / "samples.jsonl")]

    with ExitStack() as stack:
        one, two = (stack.enter_context(served(model, tmp_path / f"{name}.log")) for name in ("one", "two"))
        urls = [f"{each.url.rstrip('/')}/v1" for each in (one, two)]
        expected = evaluated("alone", urls[0])
        assert len(set(expected)) > 6 and evaluated("both", *urls) == expected
        two.end()
        capsys.readouterr()
        assert evaluated("left", *urls) == expected
        assert capsys.readouterr().err.count("warning: ") == 1
