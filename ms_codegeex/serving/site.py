"""What `serve` answers with: the API, and the pages that people look at.

`/docs` is the description of the API, made from `/openapi.json`. It is in the API's origin, so it loads nothing from
elsewhere, and it has no script: it works offline, and a hostile name of a model can do nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from ms_codegeex.base.webpage import note, page, table, text
from ms_codegeex.serving.app import create_app
from ms_codegeex.serving.backend import Backend
from ms_codegeex.serving.demo.router import HEADERS, load_examples, router
from ms_codegeex.serving.settings import ServeSettings

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
INTRODUCTION = (
    "Requests and answers are JSON. Errors have the form of <a href='#ErrorAnswer'>ErrorAnswer</a>. The same "
    "description for programs: <a href='openapi.json'>openapi.json</a>. Explanations and examples: docs/serve.md."
)
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


def create_site(settings: ServeSettings, backend: Backend) -> FastAPI:
    """The API that answers from `backend`, its description at `/docs`, and the web demo at `/` if it is wanted."""
    app = create_app(settings, backend)
    if settings.demo:
        app.include_router(router(load_examples(settings.example_path)))

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(described(app.openapi()), headers={**HEADERS, "Content-Security-Policy": POLICY})

    return app


def described(api: Schema) -> str:
    """The page about an OpenAPI description."""
    info, schemas = api["info"], api["components"]["schemas"]
    sections, bodies = [("About", f"<p>{text(info['description'])}</p>{note(INTRODUCTION)}")], set[str]()
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            bodies.add(_name(_content(operation.get("requestBody", {}))))
            sections.append((f"<code>{text(method.upper())} {text(path)}</code>", _operation(operation, schemas)))
    for name, schema in schemas.items():
        if name not in bodies:
            sections.append((f'<a id="{text(name)}">{text(name)}</a>', _fields(schema)))
    return page(f"{text(info['title'])} {text(info['version'])}", sections)


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
    own, foreign = [], []
    for name, field in properties.items():
        mark = " (required)" * (name in required)
        rows = foreign if field.get("description", "").startswith("no effect") else own
        rows.append([f"<code>{text(name)}</code>{mark}", _kind(field), _about(field)])
    parts = [table(("field", "type", ""), own) if own else ""]
    if foreign:
        words = "Fields of other servers that are accepted"
        parts.append(f"<details><summary>{words}</summary>{table(('field', 'values', ''), foreign)}</details>")
    return "".join(parts)


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
