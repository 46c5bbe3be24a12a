"""Every option of `evaluate` with every task: it has an effect there or is refused."""

import argparse
import functools

import pytest
from conftest import command_here

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import build_parser
from ms_codegeex.commands.evaluate import OF_ANSWERS, OF_MODEL, OF_URL, OPTIONS, SAMPLING, TASKS, check_options

FOR_ALL = {"help", "task", "output", "json", "compared"}


def actions():
    """The options and arguments of `evaluate` by name."""
    (verbs,) = (each for each in parser()._actions if isinstance(each, argparse._SubParsersAction))
    return {action.dest: action for action in verbs.choices["evaluate"]._actions}


@functools.cache
def parser():
    """The command line, built once: that takes longer than to parse."""
    return build_parser()


def words_of(action):
    """A use of it that argparse takes."""
    value = str(list(action.choices)[-1]) if action.choices else "1"  # not the default
    takes_none = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
    return [*action.option_strings[:1], *([] if takes_none else [value])]


def test_the_table_names_every_option():
    assert actions().keys() == FOR_ALL | OPTIONS.keys()


@pytest.mark.parametrize("task", [*TASKS, "compare"])
def test_an_option_that_the_task_does_not_have_is_refused(task):
    for name, action in actions().items():
        if name in FOR_ALL:
            continue
        source = ["--model", "m"] if name in OF_MODEL else ["--url", "u"] if name in OF_URL else []
        arguments = parser().parse_args(["evaluate", task, *source, *words_of(action), "--output", "out"])
        if task in OPTIONS[name]:
            check_options(arguments)
        else:
            with pytest.raises(UserError, match=f"{task} has no such option, only .*{OPTIONS[name][0]}"):
                check_options(arguments)


@pytest.mark.parametrize("source", ["--model", "--url", "--samples", "--judge-only", None])
def test_an_option_of_another_source_of_samples_is_refused(source):
    found = actions()
    own = {"--model": OF_MODEL + SAMPLING, "--url": OF_URL + SAMPLING, None: SAMPLING}.get(source, ())
    words = ["--judge-only"] if source == "--judge-only" else [source, "x"] if source else []
    for name in (*OF_MODEL, *OF_URL, *SAMPLING):
        arguments = parser().parse_args(["evaluate", "humaneval", "--output", "out", *words_of(found[name]), *words])
        if name in own:
            check_options(arguments)
        else:
            with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: .*leave it out"):
                check_options(arguments)


def test_what_judges_the_answers_of_two_models_has_options_of_its_task():
    found = actions()
    for name in OF_ANSWERS:
        words = ["evaluate", "perplexity", "--output", "out", *words_of(found[name])]
        check_options(parser().parse_args([*words, "--against", "other", "--answers", "problems"]))
        with pytest.raises(UserError, match="perplexity has no such option"):
            check_options(parser().parse_args(words))


def test_nothing_is_judged(tmp_path):
    """As reported: the other languages and modes were ignored, and Python was judged."""
    (tmp_path / "he.jsonl").write_text("{}\n")
    words = ["--translate-from", "python", "--turns", "single", "--mode", "insertion", "--window", "5"]
    result = command_here(
        "evaluate",
        "humaneval",
        "--data",
        tmp_path / "he.jsonl",
        "--output",
        tmp_path / "out",
        "--language",
        "rust",
        *words,
    )
    assert result.returncode == 2 and "--language: humaneval has no such option" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
