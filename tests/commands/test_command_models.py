"""Every verb that takes `--model` refuses a wrong one before it imports MindSpore, which takes seconds."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import small_benchmarks
from conftest import ROOT

from ms_codegeex.cli import build_parser, main
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS

COMMANDS = {
    "generate": "generate --prompt x --model MODEL",
    "complete": "complete x --model MODEL",
    "chat": "chat --model MODEL",
    "serve": "serve --model MODEL",
    "quantize": "quantize --bits 8 --output PLACE/out --model MODEL",
    "finetune": "finetune --data docs --model MODEL",
    "convert": "convert --to hf --output PLACE/out --model MODEL",
    "adapter merge": "adapter merge --adapter MODEL --output PLACE/out --model MODEL",
    "adapter unmerge": "adapter unmerge --adapter MODEL --output PLACE/out --model MODEL",
    "evaluate perplexity": "evaluate perplexity --data docs --output PLACE/out --model MODEL",
    "evaluate infilling": "evaluate infilling --data docs --output PLACE/out --model MODEL",
    "evaluate humaneval": "evaluate humaneval --data PROBLEMS --output PLACE/out --model MODEL",
    "evaluate reproduce": "evaluate reproduce codegen --data PROBLEMS --output PLACE/out --model MODEL",
}
CHILD = """
import contextlib, io, json, sys
from ms_codegeex.cli import main
found = {}
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main(words)
    found[" ".join(words)] = status, said.getvalue(), "mindspore" in sys.modules
print(json.dumps(found))
"""


def parsers(parser: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All parsers that have no further verbs or actions, by their words."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not actions:
        yield name, parser
    for action in actions:
        for word, inner in action.choices.items():
            yield from parsers(inner, f"{name} {word}".strip())


def test_every_verb_with_a_model_is_among_them():
    """Of the benchmarks, which share all but their data, one."""
    others = {f"evaluate {name}" for name in BENCHMARKS} - {"evaluate humaneval"}
    with_model = {name for name, parser in parsers(build_parser()) if "--model" in parser._option_string_actions}
    assert with_model - others == set(COMMANDS)


LINES = (
    *("inspect LONG", "generate --prompt x --model LONG", "convert --to hf --output out --model LONG"),
    *("monitor --once LONG", "checkpoint list LONG", "adapter list LONG", "train --dry-run --config LONG"),
    *("train --dry-run --config base.yaml", "evaluate humaneval --output out --model m --data LONG"),
)


@pytest.mark.parametrize("line", LINES)
def test_a_name_that_no_file_can_have_is_an_error_in_one_line(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(f"base: {'n' * 300}\n")
    assert main(line.replace("LONG", "n" * 300).split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "n" * 300 in error, error


def test_a_prompt_is_not_read_without_end(capsys):
    for words in (["generate", "--model", "m", "--prompt-file"], ["complete", "--model", "m", "--file"]):
        assert main([*words, "/dev/zero"]) == 2
        assert "/dev/zero" in capsys.readouterr().err


def test_a_wrong_model_is_refused_before_mindspore_is_imported(tmp_path):
    places = {"nothing": tmp_path / "missing", "folder": tmp_path / "empty", "page": tmp_path / "page.pt"}
    places["folder"].mkdir()
    places["page"].write_text("<html>not found</html>")
    problems, commands = str(small_benchmarks.humaneval(tmp_path)), []
    for model in map(str, places.values()):
        for number, line in enumerate(COMMANDS.values()):
            line = line.replace("MODEL", model).replace("PROBLEMS", problems).replace("PLACE", f"{tmp_path}/{number}")
            commands.append(line.split())
    child = [sys.executable, "-c", CHILD, json.dumps(commands)]
    result = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found) == len(places) * len(COMMANDS)
    for line, (status, said, imported) in found.items():
        named = [str(place) for place in places.values() if str(place) in said]
        assert status == 2 and named and named[0] in line, (line, said)
        assert said.count("\n") == 1 and not imported, (line, said)
