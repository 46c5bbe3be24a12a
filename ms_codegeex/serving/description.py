"""`/docs`: the description of the API as a page, made from `/openapi.json`.

The page is in the API's origin, so it loads nothing from elsewhere, and it has no script: it works offline, and a
hostile name of a model can do nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

from ms_codegeex.base.webpage import note, page, table, text

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
LONGEST = 1 << 30  # characters of a text; higher limits are none
SCHEMAS = "#/components/schemas/"
LIMITS = {  # of a JSON schema, in words
    "minimum": "{} or more",
    "maximum": "{} or less",
    "exclusiveMaximum": "less than {}",
    "minItems": "{} or more entries",
    "maxItems": "at most {} entries",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
}

Schema = Mapping[str, Any]


def router(app: FastAPI) -> APIRouter:
    """The route of the page about `app`."""
    found = APIRouter(include_in_schema=False)

    @found.api_route("/docs", methods=["GET", "HEAD"])
    async def docs() -> HTMLResponse:
        return HTMLResponse(described(app.openapi()), headers=HEADERS)

    return found


def described(api: Schema) -> str:
    """The page about an OpenAPI description."""
    info, schemas = api["info"], api["components"]["schemas"]
    sections = [("About", f"<p>{text(info['description'])}</p>{_introduction()}")]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            sections.append((f"<code>{text(method.upper())} {text(path)}</code>", _operation(operation, schemas)))
    bodies = {_name(_content(each["requestBody"])) for each in _operations(api) if "requestBody" in each}
    for name, schema in schemas.items():
        if name not in bodies:
            sections.append((f'<a id="{text(name)}">{text(name)}</a>', _fields(schema)))
    return page(f"{text(info['title'])} {text(info['version'])}", sections)


def _introduction() -> str:
    return note(
        "Requests and answers are JSON. Errors have the form of <a href='#ErrorAnswer'>ErrorAnswer</a>. The same "
        "description for programs: <a href='openapi.json'>openapi.json</a>. Explanations and examples: docs/serve.md."
    )


def _operations(api: Schema) -> Iterator[Schema]:
    for methods in api["paths"].values():
        yield from methods.values()


def _content(part: Schema) -> Schema:
    """The schema of a body's JSON."""
    return part.get("content", {}).get("application/json", {}).get("schema", {})


def _name(schema: Schema) -> str:
    return schema.get("$ref", "").removeprefix(SCHEMAS)


def _operation(operation: Schema, schemas: Mapping[str, Schema]) -> str:
    parts = [f"<p>{text(operation.get('description', operation.get('summary', '')))}</p>"]
    if "requestBody" in operation:
        schema = _content(operation["requestBody"])
        parts.append(_fields(schemas.get(_name(schema), schema)))
    if answer := _content(operation["responses"].get("200", {})):
        parts.append(f"<p>Answer: {_kind(answer)}</p>")
    return "".join(parts)


def _fields(schema: Schema) -> str:
    """A table of an object's fields: those with a type, then those that are accepted without an effect."""
    properties, required = schema.get("properties", {}), set(schema.get("required", ()))
    own = {name: field for name, field in properties.items() if not _without_effect(field)}
    rows = [
        [f"<code>{text(name)}</code>{' (required)' * (name in required)}", _kind(field), _about(field)]
        for name, field in own.items()
    ]
    parts = [table(("field", "type", ""), rows) if rows else ""]
    if foreign := {name: field for name, field in properties.items() if name not in own}:
        rows = [[f"<code>{text(name)}</code>", _kind(field), _about(field)] for name, field in foreign.items()]
        words = "Fields of other servers that are accepted"
        parts.append(f"<details><summary>{words}</summary>{table(('field', 'values', ''), rows)}</details>")
    return "".join(parts)


def _without_effect(field: Schema) -> bool:
    return field.get("description", "").startswith("no effect")


def _about(field: Schema) -> str:
    """A field's description and its limits."""
    parts = [field["description"]] if "description" in field else []
    for schema in (field, *field.get("anyOf", ())):
        for name, words in LIMITS.items():
            limit = schema.get(name)
            if limit is not None and not (name == "maxLength" and limit > LONGEST):
                parts.append(words.format(f"{limit:g}" if limit < 1e9 else f"{limit:.3g}"))
    return text("; ".join(parts))


def _kind(schema: Schema) -> str:
    """The values that a schema allows, as finished HTML. Null stands for a field's absence and is not mentioned."""
    if "$ref" in schema:
        name = text(_name(schema))
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        kinds = dict.fromkeys(_kind(each) for each in schema["anyOf"] if each.get("type") != "null")
        return " or ".join(kinds)
    for values in (schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if values is not None:
            return " or ".join(f"<code>{text(value)}</code>" for value in values if value is not None)
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_kind(schema['additionalProperties'])}"
    return text({"string": "text", "integer": "whole number", None: "anything"}.get(kind, kind))
