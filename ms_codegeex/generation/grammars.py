"""Checks and prepares JSON schemas and grammars for llguidance, which is imported on first use. Clients send them, so
their size and the work per token are limited. `constraints.py` applies them to answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from types import ModuleType
from typing import Any

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.generation.sampling import SamplingSettings

MAX_GRAMMAR_CHARACTERS = 16384
# llguidance's limits: about 20 ms for the start and 4 ms per token at most; lexer states take 1 to 2 kB each
LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 50_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
MAX_VALUES = 8  # values separated by `between` in one answer
ONE = ("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
       "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
SEVERAL, NAMED = ("allOf", "anyOf", "oneOf", "prefixItems", "items"), ("properties", "patternProperties", "$defs",
          "definitions", "dependentSchemas", "dependencies")  # fmt: skip
OF_ARRAYS, OF_OBJECTS = ("contains", "maxContains", "minContains", "unevaluatedItems", "uniqueItems"), (
    "dependencies", "dependentRequired", "dependentSchemas", "propertyNames", "unevaluatedProperties")  # fmt: skip
ANYTHING = (True, {})
FORMATS = (  # formats of the JSON Schema standard; any other is a mere annotation
    *("date", "date-time", "duration", "email", "hostname", "idn-email", "idn-hostname", "ipv4", "ipv6", "iri"),
    *("iri-reference", "json-pointer", "regex", "relative-json-pointer", "time", "uri", "uri-reference"),
    *("uri-template", "uuid"),
)
SPACE = r" ?|\n{1,2}[ \t]{0,20}"  # white space in JSON is bounded: otherwise a model might generate it endlessly


def library() -> ModuleType:
    """Import and return llguidance. Raises `UserError` if it is not installed."""
    try:
        import llguidance.gbnf_to_lark
    except ModuleNotFoundError:
        raise UserError("needs the package llguidance; run `pip install llguidance` where the server runs") from None
    return llguidance


def prepared(settings: SamplingSettings) -> str:
    """Check the schema or grammar of `settings` and return it in llguidance's own format. This may take a second; call
    it in a thread. Raises `UserError` for an invalid one; the message starts with the setting's name."""
    if settings.grammar:
        return _checked(settings.grammar, "grammar")[0]
    found, text = _checked(settings.json_schema, "json_schema")
    if not (settings.between or settings.calls):
        return found
    between, texts = json.dumps(settings.between), {"value": text}
    start = f"value ({between} value){{0,{MAX_VALUES - 1}}}" if settings.between else "value"
    if settings.calls:
        opening, calls, closing = settings.calls
        texts = {"answer": text, "value": _checked(calls, "tools")[1]}
        start = f"answer | {json.dumps(opening)} {start} {json.dumps(closing)}"
    rules = [f"start: {start}"]
    for name, schema in texts.items():
        rules.append(f"{name}: %json {json.dumps({'x-guidance': {'whitespace_pattern': SPACE}, **parse_json(schema)})}")
    return library().LLMatcher.grammar_from_lark("\n".join(rules))


def _checked(text: str, field: str) -> tuple[str, str]:
    try:
        guidance = library()
        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise UserError(f"{len(text)} characters; give {MAX_GRAMMAR_CHARACTERS} at most")
        if field == "grammar":
            found = guidance.LLMatcher.grammar_from_lark(guidance.gbnf_to_lark.any_to_lark(text))
        else:
            schema = demanding(parse_json(text))
            text = json.dumps(schema)
            if _endless(schema, text):
                raise UserError("$ref: every value has to hold another one without end; let one be left out")
            found = guidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": SPACE})
        limits = guidance.LLParserLimits(**LIMITS)
        wrong, messages = guidance.LLMatcher.validate_grammar_with_warnings(found, limits=limits)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
    except Exception as error:  # llguidance's converter raises many kinds, including RecursionError
        wrong, messages = True, [first_line(error)]
    if wrong:
        raise UserError(f"{field}: cannot be used ({_in_words(first_line(messages[0]))[:200]}); correct it")
    return found, text


def demanding(schema: Any) -> Any:
    """Return a JSON schema without the keywords that have no effect. llguidance rejects some keywords by name even
    then: `not: false`, `uniqueItems: false`, or `propertyNames` with the type `array`."""
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if not _idle(name, value, schema)}
    for name, value in kept.items():
        if name in NAMED and isinstance(value, dict):
            kept[name] = {key: demanding(each) for key, each in value.items()}
        elif name in SEVERAL and isinstance(value, list):
            kept[name] = [demanding(each) for each in value]
        elif name in ONE:
            kept[name] = demanding(value)
    return kept


def _endless(schema: Any, text: str) -> bool:
    references, ending, before = re.findall(r'"\$ref": "(#[^"]*)"', text), set[str](), -1
    while before < (before := len(ending)):
        references.reverse()  # a chain of references, in either order, then takes only two rounds
        for each in references:
            if each not in ending and _ends(_target(schema, each), ending):
                ending.add(each)
    return not _ends(schema, ending)


def _target(schema: Any, reference: str) -> Any:
    for name in reference.split("/")[1:]:
        schema = schema.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(schema, dict) else None
    return schema


def _ends(part: Any, ending: Set[str]) -> bool:
    if not isinstance(part, dict):
        return True
    reference, required, least = part.get("$ref"), part.get("required"), part.get("minItems")
    every = [part["properties"].get(name) for name in required] if _names(part, required) else []
    every += part["allOf"] if isinstance(part.get("allOf"), list) else []
    every += [part.get("items")] if isinstance(least, int) and least and "prefixItems" not in part else []
    either = [part[name] for name in ("anyOf", "oneOf") if isinstance(part.get(name), list) and part[name]]
    if isinstance(reference, str) and reference.startswith("#") and reference not in ending:
        return False
    some = all(any(_ends(each, ending) for each in several) for several in either)
    return some and all(_ends(each, ending) for each in every)


def _names(part: Mapping[str, Any], required: Any) -> bool:
    listed = isinstance(required, list) and all(isinstance(name, str) for name in required)
    return listed and isinstance(part.get("properties"), dict)


def _idle(name: str, value: Any, schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    for names, kind in ((OF_ARRAYS, "array"), (OF_OBJECTS, "object")):
        if name in names and kinds is not None and kind not in (kinds if isinstance(kinds, list) else [kinds]):
            return True
    match name:
        case "x-guidance" | "$recursiveAnchor" | "$dynamicAnchor":  # llguidance's own options, and mere names
            return True
        case "not":
            return value is False
        case "uniqueItems":
            return value is False or schema.get("maxItems") in (0, 1)
        case "contains":
            return schema.get("minContains") == 0 and "maxContains" not in schema
        case "minContains" | "maxContains":
            return "contains" not in schema or _idle("contains", schema["contains"], schema)
        case "if":
            return all(schema.get(each, True) in ANYTHING for each in ("then", "else"))
        case "then" | "else":
            return value in ANYTHING or "if" not in schema
        case "propertyNames":
            return value in (*ANYTHING, {"type": "string"})
        case "unevaluatedItems" | "unevaluatedProperties":
            return value in ANYTHING
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return isinstance(value, dict) and all(each in (*ANYTHING, []) for each in value.values())
        case "format":
            return isinstance(value, str) and value not in FORMATS
    return False


def _in_words(message: str) -> str:
    if match := re.match(r"Unimplemented keys: \[(.*)\]", message):
        return f"keywords that are not supported: {match[1].replace(chr(34), '')}"
    if "in a registry" in message:
        return "a $ref to another document is not supported"
    if message.startswith("circular references"):
        return "a $ref leads to itself"
    if message.startswith("Failed to generate regex for"):
        return "a number's minimum or maximum is out of range"
    if message == "invalid multiple of":
        return "multipleOf is not a positive number"
    if "coerce_one_of" in message:
        return "oneOf is supported where its alternatives exclude each other by type or a const; use anyOf"
    if message.startswith("regex parse error"):
        return "a pattern is not a regular expression that is supported"
    return re.sub(r"[.;]? *(Enable|Set|Use) [^.;]*\boption\b[^.;]*", "", message)
