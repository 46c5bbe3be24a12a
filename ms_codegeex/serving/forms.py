"""The form of an answer: `response_format` of OpenAI's API, `grammar` and `json_schema` of llama.cpp's server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.grammars import prepared
from ms_codegeex.generation.sampling import SamplingSettings

ANY_OBJECT = {"type": "object"}
ASIDE = {"name", "description", "strict"}  # of a named schema; schemas are always followed strictly


def requested_form(body: Any) -> dict[str, str]:
    """The settings `json_schema` and `grammar` of a request's body. `UserError` names the field."""
    requested = getattr(body, "response_format", None)
    field = "json_schema" if requested is None else "response_format"
    schema = getattr(body, field, None) if requested is None else _schema_of(requested)
    try:
        text = "" if schema is None else json.dumps(schema)
    except RecursionError:  # what Python can just about read, it may not be able to write
        raise UserError(f"{field}: nested too deep; give a schema of fewer levels") from None
    return {"json_schema": text, "grammar": getattr(body, "grammar", None) or ""}


def _schema_of(requested: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that a `response_format` asks for; None for plain text."""
    rest = {name: value for name, value in requested.items() if name != "type" and value is not None}
    match requested.get("type"):
        case "text" if not rest:
            return None
        case "json_object" if not rest:
            return ANY_OBJECT
        case "json_schema" if rest.keys() == {"json_schema"}:
            named = rest["json_schema"]
            if isinstance(named, dict) and named.keys() <= {"schema", *ASIDE}:
                schema = ANY_OBJECT if named.get("schema") is None else named["schema"]
                if isinstance(schema, dict):
                    return schema
    expected = 'a type "text", "json_object", or "json_schema" with json_schema, an object'
    raise UserError(f"response_format: expected {expected} of schema, {', '.join(sorted(ASIDE))}")


async def check_form(settings: SamplingSettings, field: str) -> None:
    """`UserError` if the form that a request asks for cannot be followed. `field`: its field for a schema."""
    if not settings.formed:
        return
    try:
        await run_in_threadpool(prepared, settings)
    except UserError as error:
        raise UserError(str(error).replace("json_schema:", f"{field}:", 1)) from None
