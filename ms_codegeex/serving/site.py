"""What `serve` answers with: the API, and the pages that people look at.

`/docs` is the description of the API, made from `/openapi.json`. It is in the API's origin, so it loads nothing from
elsewhere, and it has no script: it works offline, and a hostile name of a model can do nothing in it.

The web demo at `/` shows what a model writes, which may be hostile, only as text nodes. As a second defence, the
browser may load scripts and styles from this server only, runs no inline scripts, and sends requests to no other one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.base.webpage import note, page, table, text
from ms_codegeex.data.languages import find_language
from ms_codegeex.serving.app import create_app
from ms_codegeex.serving.backend import Backend
from ms_codegeex.serving.settings import ServeSettings

ASSETS = Path(__file__).parent / "demo" / "assets"
TASKS = ("complete", "translate", "explain")
MAX_TITLE = 60
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
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
        _add_demo(app, load_examples(settings.example_path))

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(described(app.openapi()), headers={**HEADERS, "Content-Security-Policy": POLICY})

    return app


def _add_demo(app: FastAPI, examples: Sequence[DemoExample]) -> None:
    """The routes of the demo's page, its assets and these examples."""
    files = {
        path.name: Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=HEADERS)
        for path in ASSETS.iterdir()
        if path.suffix in TYPES
    }

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        return files["index.html"]

    @app.api_route("/demo/assets/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no asset {name!r}")
        return files[name]

    @app.get("/demo/examples", include_in_schema=False)
    async def the_examples() -> Sequence[DemoExample]:
        return examples


@dataclass(frozen=True)
class DemoExample:
    """`code` for the prompt of a task, in a language of the tables."""

    task: str
    title: str
    language: str
    code: str


def load_examples(path: Path | None = None) -> list[DemoExample]:
    """The examples of a file, else our own: JSON lines with `code` and `language`; `title` and `task` may be left out.
    `UserError` for a file that has another form. The release of CodeGeeX2 spells the language's key `langauge`; both
    spellings are read."""
    path = path or ASSETS / "examples.jsonl"
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--example-path: {path} cannot be read as text ({error})") from None
    return [_example(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]


def _example(line: str, where: str) -> DemoExample:
    try:
        row = parse_json(line)
    except Malformed as error:
        raise UserError(f"--example-path: {where} is not JSON ({error}); expected one object in each line") from None
    if not isinstance(row, dict):
        raise UserError(f"--example-path: {where} is not a JSON object; expected one with `code` and `language`")
    code = _text(row, "code", where)
    name = _text(row, "language" if "language" in row else "langauge", where)
    try:
        language = find_language(name).name
    except UserError as error:
        raise UserError(f"--example-path: {where}: {error}") from None
    task = row.get("task", TASKS[0])
    if task not in TASKS:
        raise UserError(f"--example-path: {where}: task {task!r} is unknown; give one of {', '.join(TASKS)}")
    first = next((line.strip() for line in code.splitlines() if line.strip()), code)
    title = first if len(first) <= MAX_TITLE else first[: MAX_TITLE - 1] + "…"
    return DemoExample(task, str(row.get("title") or title), language, code)


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        name = "language" if key == "langauge" else key
        raise UserError(f"--example-path: {where} has no text `{name}`; expected `code` and `language`")
    return value


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
