"""`chat` in a pseudo-terminal, as a user runs it, with a server of made-up answers."""

import contextlib
import io
import stat
import sys
import time

import pytest
from conftest import command_here
from fake_backend import FakeBackend, fake_model, fake_settings
from over_http import served
from pseudo_terminal import Terminal
from rich.console import Console

from ms_codegeex.extras.serving.terminal.asking import AnswerPart
from ms_codegeex.extras.serving.terminal.chat import Chat, history_path, line_history
from ms_codegeex.generation.sampling import SamplingSettings


@pytest.fixture(scope="module")
def server():
    with served(lambda: FakeBackend(fake_settings(), fake_model(context=1024), slots=2)) as serving:
        yield serving


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def chat(server, home):
    with contextlib.closing(Terminal("chat", "--url", server.url, home=home, columns=300)) as terminal:
        terminal.expect("/help: commands.")
        terminal.expect("> ")
        yield terminal
    server.backend.step_seconds = 0.0
    server.backend.asked.clear()
    server.backend.texts.clear()


def asked(server, number=-1):
    return server.backend.model.tokenizer.decode(server.backend.asked[number].ids)


def test_a_conversation_with_a_base_model(chat, server, home, tmp_path):
    assert "This is a base model: it continues text" in chat.shown.replace("\r\n", " ").replace("\n", " ")
    server.backend.texts = ["    return 1\n", "    return 2\n", "go 3\n", " It returns one.\nx\n"]
    chat.type("/language py\n")
    chat.expect("language: Python")
    chat.type("/set temperature 0.25\n/set max-new-tokens 50\n")
    chat.expect("max_new_tokens 50")
    chat.type("def one():\n")
    chat.expect("    return 1\n> ")
    assert asked(server) == "# language: Python\ndef one():"
    settings = server.backend.asked[-1].settings
    assert (settings.temperature, settings.max_new_tokens) == (0.25, 50)
    chat.type('"""\ndef two():\n  # 2\n"""\n')
    chat.expect("    return 2\n> ")
    first = "def one():    return 1\n"
    assert asked(server) == f"# language: Python\n{first}def two():\n  # 2\n"
    chat.type("/translate Python Go\n")
    chat.expect("go 3\n> ")
    assert asked(server) == "code translation\nPython:\ndef two():\n  # 2\n    return 2\nGo:\n"
    chat.type("/explain\n")
    chat.expect("It returns one.\n> ")
    assert "go 3" in asked(server) and "What the code above does" in asked(server)
    target = tmp_path / "saved.py"
    chat.type(f"/save {target}\n")
    chat.expect("characters in")
    assert target.read_text() == f"{first}def two():\n  # 2\n    return 2\n"
    chat.type(f"/save {target}\n")
    chat.expect("exists; give another name")
    chat.type("/clear\n/save\n/dance\n// not a command\n")
    for words in ("forgotten", "expected a file", "/dance is not a command", "    pass\n> "):
        chat.expect(words)
    assert asked(server) == "# language: Python\n// not a command"
    chat.type("/quit\n")
    assert chat.end() == 0
    kept = home / ".local" / "state" / "ms_codegeex" / "chat_history"
    assert kept.read_text().splitlines()[0] == "/language py" and "def one():" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_program(chat, server):
    server.backend.texts, server.backend.step_seconds = ["word = 1\n" * 200], 0.03
    cancelled = server.backend.counters.cancelled
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
    time.sleep(1.0)  # `input` of Python misses a signal that comes before it waits for the next key
    chat.type("\x03")
    chat.expect("> ")
    chat.type("\n")  # goes on with what there is
    chat.expect("y\n> ")
    kept = asked(server)
    assert kept.startswith("xword = 1\nword") and "half" not in kept and len(kept) < 900
    assert server.backend.counters.cancelled == cancelled + 1
    chat.type("\x04")
    assert chat.end() == 0


def test_an_option_that_a_conversation_does_not_have_is_refused():
    refused = command_here("chat", "--stop-at", "block")
    assert refused.returncode == 2 and "--stop-at" in refused.stderr


def test_nothing_is_kept_if_the_user_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with line_history(keep=False) as gap:
        assert gap == ""
    assert list(tmp_path.iterdir()) == []
    with line_history(keep=True):
        assert history_path().read_text() == ""


def test_a_history_that_cannot_be_kept_is_no_failure(monkeypatch, tmp_path):
    (tmp_path / "ms_codegeex").write_text("a file in its place")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with line_history(keep=True) as gap:
        assert gap.startswith("earlier lines are not kept: ")


class Tuned:
    """A model that is tuned for chat; its answers count the messages."""

    name, chat = "tuned", True

    def __init__(self):
        self.asked = []

    def converse(self, messages, settings):
        self.asked.append(messages)
        yield AnswerPart(0, f"{len(messages)} messages", "stop")

    def perform(self, task, settings):
        self.asked.append(task.code)
        yield AnswerPart(0, "done", "stop")


def talk(model, *entries):
    """A conversation of these entries; an error among them is raised in place of one."""
    left = [*entries]

    def read(_):
        entry = left.pop(0) if left else EOFError()
        if isinstance(entry, BaseException):
            raise entry
        return entry

    Chat(model, SamplingSettings(), Console()).run(read)


def test_a_tuned_model_gets_messages(capsys):
    model = Tuned()
    talk(model, "one", "", "two", "/clear", "three")
    assert model.asked[-2:] == [
        [("user", "one"), ("assistant", "1 messages"), ("user", "two")],
        [("user", "three")],  # /clear forgot the others
    ]
    assert "tuned for conversations" in capsys.readouterr().out


def test_a_file_of_a_task_is_read_as_other_texts_are(capsys, tmp_path):
    (tmp_path / "empty.py").write_bytes(b"\n")
    (tmp_path / "marked.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n")
    talk(model := Tuned(), *(f"/explain {tmp_path}/{name}.py" for name in ("empty", "marked")))
    assert model.asked == ["x = 1\n"] and "empty.py has no code" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    "entry, words",
    [
        ("/explain ~nosuchuser/x.py", "cannot be read as text"),
        ("/save ~nosuchuser/x", "~nosuchuser/x cannot be written"),
        ("/save " + "x" * 300, "File name too long"),
        ("/save a\0b", "cannot be written"),
        ("/explain a\0b", "cannot be read as text"),
        ("h\udcff", "the entry is not UTF-8"),
        (UnicodeDecodeError("utf-8", b"h\xff", 1, 2, "invalid start byte"), "invalid start byte"),
    ],
    ids=["home", "save home", "long", "save null", "null", "half", "bytes"],
)
def test_a_mistake_does_not_end_the_conversation(capsys, monkeypatch, tmp_path, entry, words):
    monkeypatch.chdir(tmp_path)
    model = Tuned()
    talk(model, "/language python", "one", entry, "two")
    assert words in capsys.readouterr().out.replace("\n", "")
    assert model.asked[-1] == [("user", "one"), ("assistant", "1 messages"), ("user", "two")]
    assert list(tmp_path.iterdir()) == []


class Failing(Tuned):
    """One whose files cannot be read at the second question."""

    def converse(self, messages, settings):
        if messages[-1] == ("user", "fail"):
            raise OSError(5, "Input/output error")
        yield from super().converse(messages, settings)


def test_an_error_of_the_system_ends_a_conversation_only_if_nothing_can_be_read_or_written(capsys):
    model = Failing()
    talk(model, "one", "fail", "two")
    assert "Input/output error" in capsys.readouterr().out
    assert model.asked[-1] == [("user", "one"), ("assistant", "1 messages"), ("user", "two")]
    with pytest.raises(OSError, match="gone"):
        talk(model, OSError("gone"))


def test_a_line_of_a_pipe_that_is_not_utf_8_is_left_out_alone(monkeypatch, server):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"h\xff\nx = \n"), "utf-8", "strict"))
    done = command_here("chat", "--url", server.url)
    assert done.returncode == 0 and "the entry is not UTF-8" in done.stdout and asked(server) == "x = "


def test_no_standard_input_is_a_mistake(monkeypatch, server):
    monkeypatch.setattr(sys, "stdin", None)  # as Python makes it of `<&-`
    refused = command_here("chat", "--url", server.url)
    assert refused.returncode == 2 and "there is no standard input" in refused.stderr
