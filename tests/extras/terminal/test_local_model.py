"""`complete` and `chat` without a server, with a real model that knows one line by heart."""

import json

import pytest
from conftest import command_here
from recited_model import POSITIONS, save_recited

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.terminal.local import TerminalModel
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings

LINE = "total := 5"  # follows any line break
GREEDY = SamplingSettings(32, temperature=0.0)
X = {"prompt": "x\n"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    directory = save_recited(tmp_path_factory.mktemp("models") / "line", "Go:\n", LINE)
    template = {"user": "U: {content}\n", "assistant": "A:\n{content}\n"}
    (directory / "serving.json").write_text(json.dumps({"chat": template}))
    return directory


@pytest.fixture(scope="module")
def model(path):
    return TerminalModel(path, slots=2, threads=1)


def whole(pieces):
    """Texts and ends of the answers, by number."""
    found = {}
    for piece in pieces:
        text, finish = found.get(piece.index, ("", None))
        assert finish is None
        found[piece.index] = text + piece.text, piece.finish
    return found


def test_several_answers_come_one_after_the_other(model):
    settings = SamplingSettings(32, temperature=0.1, n=3)
    assert whole(model.complete(settings, X)) == dict.fromkeys(range(3), (LINE, "stop"))


def test_length_stop_text_and_what_follows_the_gap(model):
    assert whole(model.complete(SamplingSettings(1, temperature=0.0), X))[0] == ("total", "length")
    settings = SamplingSettings(32, temperature=0.0, stop=(" 5",))
    assert whole(model.complete(settings, X))[0] == ("total :=", "stop")
    assert whole(model.complete(GREEDY, {**X, "suffix": " := 5\n"}))[0] == ("total", "stop")


def test_a_long_text_is_refused_or_cut(model):
    long = {"prompt": "word " * POSITIONS + "\n"}
    with pytest.raises(UserError, match=str(POSITIONS)):
        whole(model.complete(GREEDY, long))
    assert whole(model.complete(GREEDY, {**long, "truncate_prompt": True}))[0] == (LINE, "stop")


def test_before_a_gap_a_prompt_has_the_room_that_it_has_elsewhere(model):
    settings = SamplingSettings(POSITIONS - 8, temperature=0.0)
    prompt = {"prompt": "x = 1\n" * 4}
    assert len(model._model.encode(prompt["prompt"])) > 8
    assert whole(model.complete(settings, prompt))[0] == (LINE, "stop")
    assert whole(model.complete(settings, {**prompt, "suffix": " := 5\n"}))[0] == ("total", "stop")
    long = {"prompt": "word " * POSITIONS + "\n"}
    with pytest.raises(UserError, match="--cut-prompt"):
        model.complete(GREEDY, {**long, "suffix": "\n"})
    assert whole(model.complete(GREEDY, {**long, "suffix": " := 5\n", "truncate_prompt": True}))[0] == ("total", "stop")


def test_conversations(model):
    assert model.chat and whole(model.converse(GREEDY, [("user", "hello")]))[0] == (LINE, "stop")
    with pytest.raises(UserError, match=r"^messages: .*begin a new conversation"):
        whole(model.converse(GREEDY, [("user", "x = 1\n" * POSITIONS)]))


def test_an_answer_that_is_given_up_is_computed_no_further(model, monkeypatch):
    requests, begin = [], Generator.request

    def request(*arguments):
        requests.append(begin(*arguments))
        return requests[-1]

    monkeypatch.setattr(Generator, "request", request)
    pieces = model.complete(SamplingSettings(32, temperature=0.0, n=2), X)
    assert next(pieces).text == "total"
    pieces.close()
    assert len(requests) == 2 and all(one.cancelled for one in requests)
    assert whole(model.complete(GREEDY, X))[0] == (LINE, "stop")


def test_the_command(path):
    result = command_here("complete", "--model", path, "--greedy", "--threads", 1, "Go:\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, LINE, "")
    refused = command_here("complete", "--model", path, "--threads", -1, "x")
    assert refused.returncode == 2 and "--threads" in refused.stderr
    assert command_here("complete", "--model", path, "--url", "http://127.0.0.1:9", "x").returncode == 2


@pytest.mark.parametrize("option", ["--name", "--api-key-file", "--threads"])
def test_an_option_of_the_other_kind_of_model_is_refused(option):
    where = [] if option == "--threads" else ["--model", "nothing-is-read"]
    refused = command_here("complete", *where, option, "1", "x")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"{option}: " in refused.stderr and "leave it out" in refused.stderr
