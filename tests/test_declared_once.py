"""A setting is declared in one place and reaches every surface from there."""

import argparse
import runpy
from dataclasses import dataclass, fields

import pytest
from conftest import ROOT

from ms_codegeex.cli import build_parser
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.serving.routes.llama_cpp import InfillRequest
from ms_codegeex.extras.serving.schemas import ChatRequest, CompletionRequest
from ms_codegeex.extras.terminal.chat import SETTINGS
from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.generation.sampling import Drawing, SamplingSettings, request_fields, unusual

NAMES = [each.name for each in request_fields()]


def flags(verb, *actions):
    parser = build_parser([verb])
    for name in (verb, *actions):
        (choices,) = (each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction))
        parser = choices[name]
    return {flag for action in parser._actions for flag in action.option_strings}


def test_what_draws_a_token_is_a_setting_a_request_field_and_a_column():
    names = [each.name for each in fields(Drawing)]
    assert set(names) <= set(NAMES)
    choice = TokenChoice(**{name: 0.25 + number for number, name in enumerate(names)}, uniform=0.9)
    assert choice.row(50) == [*(0.25 + number for number in range(len(names))), 0.9, -1, 50]


@pytest.mark.parametrize("name", NAMES)
def test_every_surface_has_it(name):
    flag = "--" + name.replace("_", "-")
    assert all(flag in flags(verb) for verb in ("generate", "complete", "chat"))
    for body in (CompletionRequest, ChatRequest, InfillRequest):
        assert name in body.model_fields and body.model_fields[name].description
    assert name in SETTINGS
    if name in Drawing.__dataclass_fields__:
        assert name in Recipe.__dataclass_fields__ and flag in flags("evaluate", "humaneval")


def test_what_differs_from_openais_defaults_is_sent():
    assert unusual(SamplingSettings(temperature=1.0, top_p=1.0)) == {}
    assert unusual(Drawing(top_k=3)) == {"temperature": 0.0, "top_k": 3}
    found = unusual(SamplingSettings(presence_penalty=0.5))
    assert found == {"temperature": 0.8, "top_p": 0.95, "presence_penalty": 0.5}


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "options.py"))


def test_tables_of_the_pages_are_what_the_dataclasses_declare(script, capsys):
    assert script["main"](["--check"]) == 0, capsys.readouterr().err


def test_a_table_written_by_hand_is_replaced(script):
    page = (ROOT / "docs" / "generate.md").read_text()
    other = page.replace("| `--min-p` | 0 |", "| `--min-p` | 1 |")
    assert other != page and script["written"](other) == page


def test_the_text_below_a_field_is_its_meaning(script):
    assert script["docstrings"](Nested) == {"depth": "How deep it is, in metres.", "width": "How wide."}


@dataclass(frozen=True)
class Flat:
    """A base class."""

    width: int = 1
    """How wide."""


@dataclass(frozen=True)
class Nested(Flat):
    """With a field that has no text."""

    depth: int = 2
    """How deep it is,
    in metres."""
    height: int = 3
