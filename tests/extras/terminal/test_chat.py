"""`chat` in a pseudo-terminal, as a user runs it, with a server of made-up answers."""

import contextlib
import io
import stat
import sys

import pytest
from conftest import command_here
from fake_backend import fake_model
from over_http import served
from pseudo_terminal import Terminal

from ms_codegeex.extras.shared.server_answers import AnswerPart
from ms_codegeex.extras.terminal.chat import Chat, edit_lines
from ms_codegeex.generation.sampling import SamplingSettings


@pytest.fixture(scope="module")
def serving():
    with served(model=fake_model(context=1024)) as serving:
        yield serving


@pytest.fixture
def server(serving):
    yield serving
    serving.backend.asked.clear()
    serving.backend.texts.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def test_a_conversation_with_a_base_model(server, home):
    server.backend.texts = ["    return 1\n", "    return 2\n", "    pass\n"]
    words = ["chat", "--url", server.url, "--language", "py"]
    with contextlib.closing(Terminal(*words, home=home, columns=300)) as chat:
        chat.expect("a base model: it continues text")
        chat.expect("> ")
        chat.type("/set temperature 0.25\n/set max-new-tokens 50\n")
        chat.expect("max_new_tokens 50")
        chat.type("def one():\n")
        chat.expect("    return 1\n> ")
        assert server.backend.prompt() == "# language: Python\ndef one():"
        settings = server.backend.asked[-1].settings
        assert (settings.temperature, settings.max_new_tokens) == (0.25, 50)
        chat.type('"""\ndef two():\n  # 2\n"""\n')
        chat.expect("    return 2\n> ")
        assert server.backend.prompt() == "# language: Python\ndef one():    return 1\ndef two():\n  # 2\n"
        chat.type("/clear\n/quiet\n/set top_k x\n/set topk 1\n/set\n// not a command\n")
        for shown in (
            "forgotten",
            "/quiet is not a command; did you mean '/quit'?",
            "top_k takes a number, not x",
            "did you mean 'top_k'?",
            "temperature 0.25",
            "    pass\n> ",
        ):
            chat.expect(shown)
        assert server.backend.prompt() == "# language: Python\n// not a command"
        chat.type("/quit\n")
        assert chat.end() == 0
    kept = home / ".local" / "state" / "ms_codegeex" / "chat_history"
    assert kept.read_text().splitlines()[0] == "/set temperature 0.25" and "def one():" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_program(server, home):
    server.backend.texts, server.backend.step_seconds = ["word = 1\n" * 200], 0.03
    cancelled = server.backend.counters.cancelled
    with contextlib.closing(Terminal("chat", "--url", server.url, home=home, columns=300)) as chat:
        chat.expect("> ")
        chat.type("\x1b[A")
        chat.expect("/quit")  # of the session before
        chat.type("\x15/set max_new_tokens 1000\nx\n")
        chat.expect("word = 1\nword")
        chat.type("\x03")
        chat.expect("(stopped)\n> ")
        server.backend.step_seconds = 0.0
        server.backend.texts = ["y\n"]
        chat.type("half a line")
        chat.expect("half a line")
        chat.type("\x03/help\n\n")  # `input` sees a signal at the next key, if not at once: then it drops /help too
        chat.expect("y\n> ")
        kept = server.backend.prompt()
        assert kept.startswith("xword = 1\nword") and "half" not in kept and len(kept) < 900
        assert server.backend.counters.cancelled == cancelled + 1
        chat.type("\x04")
        assert chat.end() == 0
    server.backend.step_seconds = 0.0


def test_an_option_that_a_conversation_does_not_have_is_refused():
    refused = command_here("chat", "--stop-at", "block")
    assert refused.returncode == 2 and "--stop-at" in refused.stderr


@pytest.mark.parametrize("keep", [True, False])
def test_a_history_that_cannot_be_kept_is_a_line(monkeypatch, tmp_path, capsys, keep):
    (tmp_path / "ms_codegeex").write_text("a file in its place")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    edit_lines(keep)
    assert ("earlier lines are not kept: " in capsys.readouterr().out) == keep


class Tuned:
    """A model that is tuned for chat; its answers count the messages."""

    name, chat, extended = "tuned", True, True

    def __init__(self):
        self.asked = []

    def converse(self, settings, messages):
        self.asked.append(messages)
        yield AnswerPart(0, f"{len(messages)} messages", "stop")


def talk(model, *entries):
    """A conversation of these entries; an error among them is raised in place of one."""
    left = [*entries]

    def read(_):
        entry = left.pop(0) if left else EOFError()
        if isinstance(entry, BaseException):
            raise entry
        return entry

    Chat(model, SamplingSettings()).run(read)


def test_a_tuned_model_gets_messages(capsys):
    model = Tuned()
    talk(model, "one", "", "two", "/clear", "three")
    assert model.asked[-2:] == [
        [("user", "one"), ("assistant", "1 messages"), ("user", "two")],
        [("user", "three")],  # /clear forgot the others
    ]
    assert "a model tuned for conversations" in capsys.readouterr().out


@pytest.mark.parametrize(
    "entry, words",
    [
        ("h\udcff", "the entry is not UTF-8"),
        (UnicodeDecodeError("utf-8", b"h\xff", 1, 2, "invalid start byte"), "the entry is not UTF-8"),
        ("/dance", "/dance is not a command"),
    ],
)
def test_a_mistake_does_not_end_the_conversation(capsys, entry, words):
    model = Tuned()
    talk(model, "one", entry, "two")
    assert words in capsys.readouterr().out
    assert model.asked[-1] == [("user", "one"), ("assistant", "1 messages"), ("user", "two")]


def test_input_that_cannot_be_read_ends_the_conversation():
    with pytest.raises(OSError, match="gone"):
        talk(Tuned(), OSError("gone"))


def test_a_line_of_a_pipe_that_is_not_utf_8_is_left_out_alone(monkeypatch, server):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"h\xff\nx = \n"), "utf-8", "strict"))
    done = command_here("chat", "--url", server.url)
    assert done.returncode == 0 and "the entry is not UTF-8" in done.stdout and server.backend.prompt() == "x = "


def test_no_standard_input_is_a_mistake(monkeypatch, server):
    monkeypatch.setattr(sys, "stdin", None)  # as Python makes it of `<&-`
    refused = command_here("chat", "--url", server.url)
    assert refused.returncode == 2 and "there is no standard input" in refused.stderr
