"""The terminal and the web demo in docs/clients.md: their commands run, their tables are complete."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_backend import fake_model
from over_http import served

from ms_codegeex.cli import parse
from ms_codegeex.extras.serving.app import load_examples
from ms_codegeex.extras.serving.commands.serve import REPLACED
from ms_codegeex.extras.terminal.chat import COMMANDS, HELP, SETTINGS

URL = "http://127.0.0.1:8000"


def page(name):
    """The section of that heading."""
    return (ROOT / "docs" / "clients.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_commands_of_the_terminal_page_run(tmp_path):
    """In a shell, as the page has them, except for the server's port."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    keys = tmp_path / "key.txt"
    keys.write_text("correct-horse-battery\n")
    keys.chmod(0o600)
    for name in ("start.py", "before.py", "after.py"):
        (tmp_path / name).write_text("def add(first, second):\n")
    subprocess.run(["git", "add", "start.py"], check=True, cwd=tmp_path)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
    lines = [
        line for block in blocks("In the terminal", "bash") for line in block.splitlines() if "--model" not in line
    ]
    assert len(lines) == 6
    with served(model=fake_model(context=512), slots=3) as server:
        for line in lines:
            elsewhere = re.sub(r"(complete|chat)", rf"\1 --url {server.url}", line, count=1)
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line.replace(URL, server.url) if URL in line else elsewhere],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env=environment,
                input="",
                timeout=300,
            )
            assert (done.returncode, done.stderr) == (0, ""), line
            assert done.stdout or ">" in line, line
    assert (tmp_path / "start.py").read_text().startswith("def add(first, second):\n    return first + second")
    assert (tmp_path / "middle.py").read_text()


def test_the_commands_parse():
    for name in ("In the terminal", "The web demo"):
        for line in "".join(blocks(name, "bash")).splitlines():
            words = shlex.split(line.split(" > ")[0].split(" >> ")[0].rpartition("| ")[2])
            assert words[0] == "ms-codegeex" and parse(words[1:])


def test_the_tables_have_every_command_and_every_flag():
    described = {*re.findall(r"`(/[a-z]+)", page("In the terminal"))}
    assert described == {*COMMANDS} == {*re.findall(r"^/[a-z]+", HELP, re.MULTILINE)}
    assert "temperature" in SETTINGS
    table = page("The web demo").split("### Flags of CodeGeeX2")[1]
    refused = re.findall(r"^\| (.*) \| refused", table, re.MULTILINE)
    assert {flag for cell in refused for flag in re.findall(r"--[a-z-]+", cell)} == {*REPLACED}
    taken = re.findall(r"^\| (.*) \| (?:the same|accepted)", table, re.MULTILINE)
    for flag in re.findall(r"--[a-z-]+", " ".join(taken)):
        value = [] if flag == "--cpu" else ["8"]
        arguments = vars(parse(["serve", "--model", "m", flag, *value]))
        assert not any(arguments[name[2:].replace("-", "_")] for name in REPLACED)


def test_the_example_file_is_read(tmp_path):
    (block,) = blocks("The web demo", "json")
    path = tmp_path / "examples.jsonl"
    path.write_text(block)
    assert [(one.task, one.language) for one in load_examples(path)] == [("complete", "Java"), ("translate", "Python")]
