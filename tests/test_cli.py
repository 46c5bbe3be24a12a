import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, command, command_here

import ms_codegeex
from ms_codegeex.cli import VERBS, build_parser, parse

HEAVY = ("mindspore", "numpy", "matplotlib", "tokenizers", "scipy", "torch")


@pytest.mark.parametrize(
    "code",
    [
        "import ms_codegeex",
        "from ms_codegeex.cli import build_parser; build_parser().format_help()",
        "from ms_codegeex.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_help_imports_nothing_heavy(code):
    code += f"\nimport sys; found = [m for m in {HEAVY} if m in sys.modules]; sys.exit(str(found) if found else 0)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_that_parse(verb):
    result = command_here(verb, "--help")
    assert result.returncode == 0
    examples = [
        line.split("  #")[0].strip() for line in result.stdout.split("examples:")[1].splitlines() if line.strip()
    ]
    assert len(examples) >= 2
    for line in examples:
        words = shlex.split(re.split(" (?:<|>>) ", line)[0])  # without the shell's part
        assert words[0] == "ms-codegeex"
        build_parser().parse_args(words[1:])


def test_version_and_unknown_verb():
    assert command("--version").stdout == f"ms-codegeex {ms_codegeex.__version__}\n"
    result = command("fly")
    assert result.returncode == 2 and "fly" in result.stderr


def test_a_reader_that_goes_away_is_no_error():
    line = f"{sys.executable} -m ms_codegeex.cli --help | head -1"
    result = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in result.stderr


def test_overrides_may_stand_anywhere():
    words = ["train", "--config", "c.yaml", "a=1", "--devices", "2", "b.c=2", "--json", "d=3"]
    arguments = parse(words)
    assert arguments.overrides == ["a=1", "b.c=2", "d=3"] and arguments.devices == 2
    with pytest.raises(SystemExit):
        parse([*words, "--no-such-flag"])
    with pytest.raises(SystemExit):
        parse(["generate", "--model", "m", "a=1"])
