"""The names that users' commands, files and clients rely on are those of surface.yaml."""

import argparse
import dataclasses
import re
import typing
from pathlib import Path

import yaml
from all_routes import routes

from ms_codegeex.cli import build_parser
from ms_codegeex.config.run import RunConfig

SURFACE = yaml.safe_load(Path(__file__).with_name("surface.yaml").read_text(encoding="utf-8"))
MOST_OPTIONS = 220  # different names; a verb uses another one's name where it means the same


def options(parser, verb=""):
    """`VERB OPTION` of each option; the actions of a verb share its names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, each in action.choices.items():
                yield from options(each, verb or name)
        elif action.help is not argparse.SUPPRESS:
            yield from (f"{verb} {name}".strip() for name in action.option_strings if name.startswith("--"))


def keys(of, before=""):
    """The dotted key of each field of a configuration."""
    kinds = typing.get_type_hints(of)
    for field in dataclasses.fields(of):
        kind = kinds[field.name]
        inner = keys(kind, f"{before}{field.name}.") if dataclasses.is_dataclass(kind) else [before + field.name]
        yield from inner


def listed(kind, mark):
    """The names of surface.yaml, old and new; `mark`: what new ones of this kind begin with."""
    old = {f"{group} {name}".strip() for group, names in SURFACE[kind].items() for name in names.split()}
    return old | {name for name in SURFACE["new"] if re.match(rf"\S+ {mark}", name)}


def test_options_are_the_listed_ones():
    found = set(options(build_parser())) - {name for name in options(build_parser()) if name.endswith("--help")}
    assert found == listed("options", "--"), (
        "list a new option under `new` with its reason, and a removed one in CHANGELOG.md"
    )
    assert len({name.rpartition(" ")[2] for name in found}) <= MOST_OPTIONS


def test_keys_are_the_listed_ones():
    found = {f"{key.rpartition('.')[0] or 'run'} {key.rpartition('.')[2]}" for key in keys(RunConfig)}
    assert found == listed("keys", "[a-z]")


def test_routes_are_the_listed_ones():
    assert {f"{method} {path}" for method, path in routes()} == listed("routes", "/")


def test_new_names_have_reasons():
    assert all(isinstance(reason, str) and len(reason.split()) > 3 for reason in SURFACE["new"].values())
