"""What is printed: untrusted control sequences have no effect, on a terminal or in a pipe."""

import ast
import contextlib
import errno
import json
import os
import sys

import pytest
from conftest import ROOT
from terminal_stream import Stream, is_harmless

from ms_codegeex.base import printing
from ms_codegeex.base.errors import RunFailure, UserError, escaped
from ms_codegeex.cli import main

HOSTILE = {
    "title": "\x1b]0;owned\x07",
    "clipboard": "\x1b]52;c;cm0gLXJmIH4=\x07",
    "cursor": "\x1b[1A\x1b[2K",
    "one byte": "\x9b31m\x9d0;x\x9c",
    "carriage return": "sound\rDAMAGED",
    "backspace": "a\b\b\x7f",
    "null": "\x00",
    "device control": "\x90q\x9c",
    "reversed": "\u202egpj.exe\u2066x\u2069",
    "marks": "\u200e\u200f\u061c\ufeff\u200b\u00ad",
    "separators": "\u2028\u2029\x85\x0b\x0c",
    "half a character": "\ud83d",
    "tags": "\U000e0041",
    "unassigned": "\U000e0fff\uffff",
}
PRINTS = {  # files that may print without `printing`, and why
    "printing.py": "the one place that prints",
    "base/cuda/driver.py": "JSON for the process that started this one",
    "base/cuda/probe.py": "JSON for the process that started this one",
    "generation/devices/process.py": "a traceback in the log of a process",
    "extras/serving/records.py": "JSON in ASCII",
    "commands/monitor.py": "rich: each text goes through `escaped`",
}
STREAMS = {f"sys.{name}" for name in ("stdout", "stderr", "__stdout__", "__stderr__", "stdout.buffer", "stderr.buffer")}
OF_CONSOLE = {"Console()", "console", "self.console", "self._console"}
OF_CONSOLE |= {"console.file", "self._console.file", "self._file"}


def prints(tree):
    """The calls of a module that print."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = ast.unparse(node.func)
        owner, _, method = function.rpartition(".")
        arguments = [ast.unparse(argument) for argument in node.args]
        if (
            function == "print"
            or (owner in STREAMS and method.startswith("write"))
            or (owner in OF_CONSOLE and method in ("print", "write", "out", "log", "print_json", "rule"))
            or (function == "os.write" and arguments[0] in ("1", "2"))
            or (function == "tqdm.write" and not arguments[0].startswith("visible("))
            or method in ("print_exc", "print_exception", "showwarning")
        ):
            found.append(node)
    return found


def test_everything_is_printed_in_one_place():
    package, found = ROOT / "ms_codegeex", {}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if "/inside/" not in name and not name.startswith("extras/evaluation/toolchains/inside"):  # run in the sandbox
            calls = prints(ast.parse(path.read_text(encoding="utf-8")))
            if calls:
                found[name] = [f"{name}:{call.lineno}: {ast.unparse(call)}" for call in calls]
    assert [line for name, lines in found.items() if name not in PRINTS for line in lines] == []
    assert found.keys() | {"printing.py"} == PRINTS.keys()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_control_sequences_are_spelled_out(capsys, text):
    around = f"before\t{text}\nafter"
    printing.print_out(around)
    printing.print_error(around)
    printing.print_lines([around, "next"])
    printing.print_json({around: [text]})
    out, err = capsys.readouterr()
    assert is_harmless(out) and is_harmless(err)
    assert err == f"before\t{escaped(text)}\nafter\n"
    first, after, line, following, of_json = out.splitlines()
    assert (first + "\n" + after + "\n", following) == (err, "next")
    assert line == f"before\\t{escaped(text)}\\nafter"
    assert json.loads(of_json) == {around: [text]}


def test_what_people_write_stays_as_it_is(capsys):
    text = "def f():\n\treturn '\u4ee3\u7801 \u00fc \u2026 \U0001f600 \u0627\u0644\u0639'"
    printing.print_out(text)
    printing.print_json(text)
    assert capsys.readouterr().out == f"{text}\n{json.dumps(text, ensure_ascii=False)}\n"


@pytest.mark.parametrize("kind", [UserError, RunFailure])
def test_errors_are_spelled_out(capsys, monkeypatch, kind):
    def fail(*_):
        raise kind("bad \x1b]0;x\x07\u202e name")

    monkeypatch.setattr("ms_codegeex.commands.doctor.run", fail)
    assert main(["doctor"]) == (2 if kind is UserError else 1)
    assert capsys.readouterr().err == "ms-codegeex doctor: bad \\x1b]0;x\\x07\\u202e name\n"


@pytest.fixture
def ended(monkeypatch):
    """What a command ends with that runs a function."""

    def ended(run):
        monkeypatch.setattr("ms_codegeex.commands.doctor.run", lambda *_: run())
        return main(["doctor"])

    return ended


FULL = "standard output: No space left on device; free some space, or give another path"


@pytest.mark.parametrize(
    ("name", "status", "message"), [("stdout", 1, f"ms-codegeex doctor: {FULL}\n"), ("stderr", 2, "")]
)
def test_a_full_stream_is_one_line_at_most(ended, monkeypatch, capsys, name, status, message):
    def show():
        printing.print_out("shown")
        raise UserError("bad")

    with open("/dev/full", "w", encoding="utf-8") as full:  # that it closes without an error is part of the test
        monkeypatch.setattr(sys, name, full)
        assert ended(show) == status
        monkeypatch.undo()
    assert capsys.readouterr().err == message


def test_closed_streams_change_no_status(ended, monkeypatch):
    def fail():
        raise UserError("bad")

    def show():
        printing.print_progress("half")
        printing.print_content("answer")
        printing.print_json([])

    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert (ended(show), ended(fail)) == (0, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOTCONN])
def test_an_error_of_a_file_without_a_name(ended, capsys, number):
    def fail():
        raise OSError(number, os.strerror(number))

    if number == errno.ENOSPC:
        assert ended(fail) == 1
        assert "doctor: standard output or a file: No space left on device; free some" in capsys.readouterr().err
    else:
        with pytest.raises(OSError, match="not connected"):  # nobody knows where
            ended(fail)


def test_names_of_files_in_a_command_line_are_spelled_out(capsys):
    for words in (["inspect", "a", "b\x1b[31m\u202e"], ["\x1b]0;x\x07"], ["convert", "--to", "\x1b[1A"]):
        with contextlib.suppress(SystemExit):
            assert main(words) == 2
        err = capsys.readouterr().err
        assert is_harmless(err) and err


def test_json_has_no_number_that_other_programs_cannot_read(capsys):
    printing.print_json({"nan": float("nan"), "list": [float("inf"), -float("inf"), 1.5], "text": "NaN"})
    assert capsys.readouterr().out == '{"nan": null, "list": [null, null, 1.5], "text": "NaN"}\n'


def test_content_is_exact_in_a_pipe_and_visible_on_a_terminal(monkeypatch):
    text = "\x1b[31mred\r\n\u202e\t\x00"
    for terminal, expected in ((False, text), (True, "\\x1b[31mred\\r\n\\u202e\t\\x00")):
        monkeypatch.setattr(sys, "stdout", stream := Stream(terminal))
        printing.print_content(text)
        assert stream.getvalue() == expected


def test_a_locale_without_all_characters_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream := Stream(encoding="ascii"))
    printing.print_out("caf\u00e9 \u2026")
    printing.print_json(["caf\u00e9"])
    assert stream.getvalue() == 'caf\\xe9 \\u2026\n["caf\\u00e9"]\n'


def test_progress_is_for_terminals(monkeypatch):
    for terminal, expected in ((False, ""), (True, "\r\x1b[K100 plans \\x1b")):
        monkeypatch.setattr(sys, "stderr", stream := Stream(terminal))
        printing.print_progress("100 plans \x1b")
        assert stream.getvalue() == expected
