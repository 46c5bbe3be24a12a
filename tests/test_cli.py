import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT, command, command_here

import ms_codegeex
from ms_codegeex import cli
from ms_codegeex.base import extras
from ms_codegeex.cli import GROUPS, VERBS, build_parser, parse
from ms_codegeex.commands import convert

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
    imports_none_of(HEAVY, code)


def imports_none_of(modules, code):
    code += f"\nimport sys; sys.exit(str([m for m in {modules} if m in sys.modules] or ''))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.strip() == ""


def test_commands_that_start_runs_import_no_engine():
    """They stay as long as the run, on every server, and its ranks load the CUDA libraries before the engine."""
    names = ("runs.training_job", "runs.files.run_description", "runs.rank.__main__", "runs.rank.weights")
    imports = "".join(f"import ms_codegeex.{name}\n" for name in names)
    imports_none_of(["mindspore"], imports)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser, those of its verbs and those of their actions."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from parsers(verb)


def test_each_verb_that_takes_a_model_takes_a_checkpoint_of_it():
    options = [parser._option_string_actions for parser in parsers(build_parser())]
    with_model = [each for each in options if "--model" in each]
    assert len(with_model) > 15 and all(
        each["--checkpoint"].metavar == "last|best|N" for each in with_model if each["--model"].type is not str
    )


def texts(parser: argparse.ArgumentParser) -> Iterator[str | None]:
    """Everything that a help says in words, except its examples; None where it says nothing of an argument."""
    yield parser.description
    for group in parser._action_groups:
        yield from (text for text in (group.title, group.description) if text)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (verb.help for verb in action._choices_actions)
        elif action.help is not argparse.SUPPRESS:
            yield action.help


PROPER_NOUNS = ("Ray", "Megatron", "Ascend", "Python")


def test_texts_of_every_help_follow_one_rule():
    """Lower-case start unless the first word is a name (a capital or a digit inside tells most of them), no full stop,
    `(default: X)`."""
    for parser in parsers(build_parser()):
        for text in texts(parser):
            where = f"{parser.prog}: {text}"
            assert text, where
            first = text.split()[0].strip(",:;")
            assert not first[0].isupper() or first in PROPER_NOUNS or re.search(r"[A-Z0-9]", first[1:]), where
            assert not text.endswith("."), where
            assert not re.search(r"\(default[^:]|^default|repeatable", text), where


@pytest.mark.parametrize("columns", [80, 120, 300])
def test_no_line_of_a_help_is_wider_than_the_terminal_or_120(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for parser in parsers(build_parser()):
        for line in parser.format_help().splitlines():
            assert len(line) <= min(columns, 120), f"{parser.prog}: {line}"


def test_names_of_verbs_and_their_summaries_share_a_line():
    lines = build_parser().format_help().splitlines()
    for verb in VERBS:
        assert any(re.match(rf" +{verb} +\w", line) for line in lines), verb


def test_a_usage_names_only_what_is_needed_where_there_are_many_options():
    error = command_here("evaluate", "humaneval").stderr
    assert error.startswith("usage: ms-codegeex evaluate humaneval [options] --output DIR\n")
    assert len(error.splitlines()) == 2
    assert "[-h] [--json] DIR" in command_here("checkpoint", "list").stderr


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_that_parse(verb, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = command_here(verb, "--help", status=0)
    text = result.stdout.split("examples:")[1].replace("\\\n", "")  # lines as the shell joins them
    examples = [line.split("  #")[0].strip() for line in text.splitlines() if not re.match(r" *(#|$)", line)]
    assert len(examples) >= 2
    for line in examples:
        words = shlex.split(re.split(" (?:<|>>) ", line)[0])  # without the shell's part
        assert words[0] == "ms-codegeex"
        parse(words[1:])


def choices(*words):
    (verbs,) = [action for action in parse(words).parser._actions if action.dest == "verb"]
    return tuple(verbs.choices)


def test_a_command_builds_the_options_of_its_verb_only():
    """Those of all verbs take three times as long as the rest of a start."""
    assert choices("inspect", "somewhere") == ("inspect",)
    assert choices("completion", "bash") == tuple(VERBS)


def test_version():
    assert command("--version").stdout == f"ms-codegeex {ms_codegeex.__version__}\n"


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "a verb is missing; `ms-codegeex --help` lists them and says where to begin"),
        (["fly"], "fly: no VERB of ms-codegeex; `ms-codegeex --help` lists them"),
        (["trian"], "trian: no VERB of ms-codegeex; did you mean 'train'?"),
        (["checkpoint", "lst"], "lst: no ACTION of ms-codegeex checkpoint; did you mean 'list'?"),
        (["train", "--confg", "x"], "--confg: train has no such option; did you mean '--config'?"),
        (["train", "--confg=x"], "--confg: train has no such option; did you mean '--config'?"),
        (["train", "--zzz"], "--zzz: train has no such option; `ms-codegeex train --help` lists them"),
    ],
)
def test_a_name_that_is_not_there_has_a_suggestion(words, message):
    result = command_here(*words)
    assert (result.returncode, result.stderr) == (2, f"ms-codegeex: {message}\n")


def test_help_is_a_word_too_and_says_where_to_begin():
    found = command_here("help").stdout
    assert found == command_here("--help").stdout and all(f"\n  {heading}:\n" in found for heading in GROUPS.values())
    assert command_here("help", "train").stdout == command_here("train", "--help").stdout
    begin = found.partition("begin here:\n")[2].partition("\n\n")[0].splitlines()
    assert len(begin) == 4
    for line in begin:
        parse(shlex.split(line, comments=True)[1:])


def test_a_reader_that_goes_away_is_no_error():
    line = f"{sys.executable} -m ms_codegeex.cli --help | head -1"
    result = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in result.stderr


def test_overrides_may_stand_anywhere():
    words = ["train", "--config", "c.yaml", "a=1", "--devices", "2", "b.c=2", "--json", "d=3"]
    arguments = parse(words)
    assert arguments.overrides == ["a=1", "b.c=2", "d=3"] and arguments.devices == 2
    with pytest.raises(SystemExit):
        parse(["generate", "--model", "m", "a=1"])


INSTALL = "pip install 'ms-codegeex[serving]'"


@pytest.fixture
def without_serving(monkeypatch):
    """As where the packages of `serve` are not installed."""
    monkeypatch.setattr(cli, "missing_packages", lambda name: ["fastapi", "uvicorn"] if name == "serving" else [])


@pytest.mark.parametrize("columns", ["60", "80", "200"])
@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["help", "serve"]], ids=" ".join)
def test_help_says_how_to_install_what_a_verb_needs(without_serving, monkeypatch, capsys, words, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        parse(words)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 0 and lines.count(f"not installed: {INSTALL}") == 1


@pytest.mark.parametrize("words", [["serve"], ["serve", "--model", "m"], ["serve", "--no-such-option"]], ids=" ".join)
def test_a_verb_whose_packages_are_missing_says_how_to_install_them(without_serving, capsys, words):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"ms-codegeex: fastapi and 1 more package are not installed; run `{INSTALL}`\n")


def test_a_missing_package_of_an_option_is_one_line(monkeypatch, capsys):
    def failing(arguments):
        raise ModuleNotFoundError("No module named 'gguf'", name="gguf")

    monkeypatch.setattr(convert, "run", failing)
    monkeypatch.setattr(extras, "_required", lambda: ['gguf<1; extra == "exchange"'])
    assert cli.main(["convert", "--model", "m", "--to", "gguf", "--output", "o"]) == 2
    said = "ms-codegeex convert: gguf is not installed; run `pip install 'ms-codegeex[exchange]'`\n"
    assert capsys.readouterr() == ("", said)
