"""Schemas and grammars from clients: limits, and errors in one line."""

import json
import sys

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.grammars import LIMITS, MAX_GRAMMAR_CHARACTERS, demanding, prepared
from ms_codegeex.generation.sampling import SamplingSettings


def schema(value):
    return SamplingSettings(json_schema=json.dumps(value))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (schema({"type": "banana"}), "(Invalid type"),
        (schema({"$ref": "http://127.0.0.1:9/x.json"}), "(a $ref to another document"),
        (schema({"type": "string", "minLength": 5, "maxLength": 2}), "(Unsatisfiable"),
        (
            schema({"type": "array", "uniqueItems": True}),
            "(keywords that are not supported: un",
        ),
        (
            schema({"properties": {"a": {"not": {}}}}),
            "(keywords that are not supported: not)",
        ),
        (schema({"oneOf": [{"minimum": 1}, {"maximum": 5}]}), "(oneOf is supported where"),
        (schema({"x-guidance": {"lenient": True}, "not": {}}), "(keywords that are not"),
        (schema({"type": "string", "pattern": "(?=a)"}), "(a pattern is not"),
        (SamplingSettings(grammar='root ::= "x'), "(Unexpected end"),
        (SamplingSettings(grammar='other ::= "x"'), "(No 'root' rule"),
        (
            SamplingSettings(grammar="root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
            "(maximum",
        ),
        (SamplingSettings(json_schema="[" * 300 + "]" * 300), "("),
        (SamplingSettings(json_schema='{"enum": ["\\ud800"]}'), "("),
    ],
)
def test_bad_ones_are_refused_in_one_line(settings, words):
    pytest.importorskip("llguidance")
    with pytest.raises(UserError) as caught:
        prepared(settings)
    message, field = str(caught.value), "json_schema" if settings.json_schema else "grammar"
    assert message.startswith(f"{field}: cannot be used {words}") and "\n" not in message and len(message) < 300


@pytest.mark.parametrize(
    "idle",
    [
        {"uniqueItems": False},
        {"not": False},
        {"minContains": 2, "maxContains": 1},
        {"contains": {"type": "string"}, "minContains": 0},
        {"if": {"type": "string"}},
        {"if": {"type": "string"}, "then": True, "else": {}},
        {"then": {"type": "string"}},
        {"dependentRequired": {}, "dependentSchemas": {"a": True}, "dependencies": {"a": []}},
        {"propertyNames": {"type": "string"}, "unevaluatedProperties": True, "unevaluatedItems": {}},
        {"maxItems": 1, "uniqueItems": True},
        {"type": "string", "uniqueItems": True, "propertyNames": {"maxLength": 1}},
        {"type": "string", "format": "password"},
        {"$recursiveAnchor": True, "$dynamicAnchor": "a"},
    ],
)
def test_keywords_that_ask_for_nothing_are_left_out(idle):
    """Wherever a schema may stand, and not where a name or a value has the same text."""
    pytest.importorskip("llguidance")
    for outer in (idle, {"properties": {"a": idle}}, {"items": {"anyOf": [idle]}}, {"$defs": {"not": idle}}):
        prepared(schema(outer))
    plain = {name: value for name, value in idle.items() if name in ("type", "maxItems")}
    assert demanding({"items": idle, "const": idle, "properties": {"not": idle}}) == {
        "items": plain,
        "const": idle,
        "properties": {"not": plain},
    }
    demands = {"type": "array", "uniqueItems": True, "contains": {}, "minContains": 1, "not": {}, "format": "date"}
    assert demanding(demands) == demands


def test_the_limits_are_given_to_the_library():
    guidance = pytest.importorskip("llguidance")
    given, usual = guidance.LLParserLimits(**LIMITS), guidance.LLParserLimits()
    assert given.step_lexer_fuel < usual.step_lexer_fuel and given.max_lexer_states < usual.max_lexer_states
    prepared(schema({"enum": ["x" * (MAX_GRAMMAR_CHARACTERS - 100)]}))
    with pytest.raises(UserError, match=r"^json_schema: 2.*"):
        prepared(schema({"description": "x" * 20_000}))


def test_without_the_library_a_form_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for settings in (schema({}), SamplingSettings(grammar='root ::= "x"')):
        field = "json_schema" if settings.json_schema else "grammar"
        with pytest.raises(UserError, match=f"^{field}: needs the package llguidance; run `pip"):
            prepared(settings)
