"""A setting is declared in one place and reaches every surface from there."""

import argparse
from dataclasses import fields

import pytest

from ms_codegeex.cli import build_parser
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.generation.choice import TokenChoice
from ms_codegeex.generation.sampling import Drawing, SamplingSettings, request_fields, unusual
from ms_codegeex.serving.routes.infill import InfillRequest
from ms_codegeex.serving.schemas import ChatRequest, CompletionRequest
from ms_codegeex.terminal.chat import SETTINGS

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
    assert unusual(SamplingSettings(presence_penalty=0.5)) == {
        "temperature": 0.8,
        "top_p": 0.95,
        "presence_penalty": 0.5,
    }
