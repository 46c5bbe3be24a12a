"""Options of the command line from dataclasses."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, add_options, check_ranges, declared, given, option, refuse


@dataclass(frozen=True)
class Settings:
    needed: Path = option("where to", "DIR", REQUIRED)
    count: int = option("how many", "N", 3, ge=1)
    share: float = option("a part", "P", 1.0, gt=0, le=1, off=1)
    bonus: float = option("more", "X", 0.5, ge=-5, lt=5, off=0)
    limit: int | None = option("at most", "N", ge=1)
    fast: bool = option("quicker", default=False)
    tag: bool | None = option("with a tag")
    kind: Literal["one", "two"] = option("which", default="one")
    names: tuple[str, ...] = option("some", "NAME", ())
    fields: tuple[str, ...] = option("each", "NAME=VALUE", (), repeated=True, words=("--field",))
    left: bool = option("go left", default=False, either="side")
    right: bool = option("go right", default=False, either="side")
    ours: int = 7  # no option


def parsed(*words, **options):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Settings, **options)
    return parser.parse_args(words), parser


def test_words_become_the_dataclass_and_what_is_not_given_keeps_its_default():
    arguments, _ = parsed("--needed", "a")
    assert given(Settings, arguments) == Settings(Path("a"))
    words = "--needed a --count 5 --share 0.5 --limit 2 --fast --no-tag --kind two --names x y --field a=1 --fields b=2"
    arguments, _ = parsed(*words.split(), "--left")
    wanted = Settings(Path("a"), 5, 0.5, 0.5, 2, True, False, "two", ("x", "y"), ("a=1", "b=2"), left=True, ours=9)
    assert given(Settings, arguments, ours=9) == wanted


@drawn(st.integers(1, 10**9), st.floats(0.001, 1), st.sampled_from(["one", "two"]), st.booleans())
def test_any_values_come_back(count, share, kind, fast):
    words = ["--needed", "a", f"--count={count}", f"--share={share!r}", f"--kind={kind}", *(["--fast"] if fast else [])]
    assert given(Settings, parsed(*words)[0]) == Settings(Path("a"), count, share, kind=kind, fast=fast)


@dataclass(frozen=True)
class Words:
    left: Path = option("from", "DIR", REQUIRED, positional=True)
    ids: tuple[int, int] | None = option("two numbers", "FIRST SECOND")
    bits: Literal[8, 4] | None = option("how many bits")
    more: tuple[str, ...] = option("others", "NAME", (), extended=True)
    last: tuple[str, ...] = option("the last ones count", "NAME", ())
    rest: tuple[str, ...] = option("whatever follows", "key=value", (), positional=True)


def test_positions_pairs_and_repetitions():
    parser = argparse.ArgumentParser()
    add_options(parser, Words)
    words = "a b=1 c=2 --ids 3 4 --bits 8 --more x --more y z --last x --last y"
    wanted = Words(Path("a"), (3, 4), 8, ("x", "y", "z"), ("y",), ("b=1", "c=2"))
    assert given(Words, parser.parse_args(words.split())) == wanted
    assert given(Words, parser.parse_args(["a"])) == Words(Path("a"))
    usage = " ".join(parser.format_usage().split())
    assert "[--ids FIRST SECOND] [--bits {8,4}]" in usage and usage.endswith("DIR [key=value ...]")


@pytest.mark.parametrize("over", [False, True])
def test_an_option_is_refused_only_if_it_is_given(over):
    for words, default in ((["--count", "3"], True), (["--count", "4"], False), (["--fast"], False), ([], None)):
        arguments, _ = parsed("--needed", "a", *words, over=over)
        if default is None or (default and not over):
            refuse(arguments, Settings, "not now", ("count", "fast"), over)
            continue
        with pytest.raises(UserError, match=f"{words[0]}: not now; leave it out"):
            refuse(arguments, Settings, "not now", ("count", "fast"), over)


def test_over_values_from_elsewhere_nothing_has_a_default():
    arguments, parser = parsed("--share", "0.5", over=True)
    assert {name: value for name, value in vars(arguments).items() if value} == {"share": 0.5}
    assert "default" not in parser.format_help()


def test_help_names_defaults_and_what_turns_an_option_off():
    lines = " ".join(parsed("--needed", "a")[1].format_help().split())
    for words in (
        "--count N how many (default: 3)",
        "--share P a part (default: 1, off)",
        "--bonus X more (default: 0.5; 0: off)",
        "--limit N at most --fast quicker --tag, --no-tag with a tag --kind {one,two} which (default: one)",
        "--field NAME=VALUE each",
        "[--left | --right]",
    ):
        assert words in lines, words
    assert "--ours" not in lines
    assert [each.flag for each in declared(Settings, ["tag", "count"])] == ["--count", "--tag"]


@pytest.mark.parametrize("words", [["--left", "--right"], ["--kind", "three"], ["--count", "x"], []])
def test_wrong_words_are_refused(words):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parsed(*(["--needed", "a"] if words else []), *words)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", 0, "count: 0 is out of range; give 1 or more"),
        ("share", 0.0, "share: 0.0 is out of range; give above 0 and at most 1 (1: off)"),
        ("share", float("nan"), "share: nan is out of range"),
        ("bonus", 5.0, "bonus: 5.0 is out of range; give -5 to less than 5 (0: off)"),
        ("limit", -1, "limit: -1 is out of range"),
    ],
)
def test_ranges(name, value, words):
    check_ranges(Settings(Path("a")))
    with pytest.raises(UserError) as caught:
        check_ranges(Settings(**{"needed": Path("a"), name: value}))
    assert words in str(caught.value)
