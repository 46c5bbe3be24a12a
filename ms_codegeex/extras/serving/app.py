"""The web application of `serve`: the API with its routes, errors and guards, and the HTML pages.

`/docs` describes the API and is made from `/openapi.json`. It shares the API's origin, so it loads nothing from
elsewhere and has no scripts: it works offline, and a malicious model name can do no harm.

The web demo at `/` shows a model's output, which may be malicious, only as text nodes. As a second defence, the page's
policy allows scripts and styles from this server only, no inline scripts, and no requests to other servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import HTMLResponse

import ms_codegeex
from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import given_text
from ms_codegeex.base.webpage import Html, element, joined, note, page, table, text
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.serving import errors
from ms_codegeex.extras.serving.backend import Backend
from ms_codegeex.extras.serving.guards import BodyLimit, Guard, RequestRecorder
from ms_codegeex.extras.serving.keys import Keys
from ms_codegeex.extras.serving.origins import Cors, Origins
from ms_codegeex.extras.serving.records import AccessLog, Metrics
from ms_codegeex.extras.serving.routes import completions, embeddings, llama_cpp, responses, status, tasks, tokens
from ms_codegeex.extras.serving.schemas import ErrorAnswer
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.extras.serving.tools import UNUSED

ASSETS = Path(__file__).parent / "demo" / "assets"
TASKS = ("complete", "translate", "explain")
MAX_TITLE = 60
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
INTRODUCTION = Html(
    "Requests and answers are JSON. Errors have the form of <a href='#ErrorAnswer'>ErrorAnswer</a>. The same "
    "description for programs: <a href='openapi.json'>openapi.json</a>. Explanations and examples: docs/serve.md."
)
UNLIMITED_CHARACTERS = 1 << 30  # a larger `maxLength` means no limit
SCHEMAS = "#/components/schemas/"
SCHEMA_LIMITS = {  # JSON Schema keyword: its description
    "minimum": "{} or more",
    "maximum": "{} or less",
    "exclusiveMaximum": "less than {}",
    "minItems": "{} or more entries",
    "maxItems": "at most {} entries",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
}

Schema = Mapping[str, Any]


def create_app(settings: ServeSettings, backend: Backend) -> FastAPI:
    """Create the API that answers from `backend`, its description at `/docs` and, if requested, the demo at `/`."""
    app = FastAPI(
        title="ms-codegeex",
        version=ms_codegeex.__version__,
        redirect_slashes=False,  # behind a proxy, the redirect's address would be wrong
        docs_url=None,  # FastAPI's pages load their scripts from other servers
        redoc_url=None,
        description=f"{backend.model.name}: completions for code, in the shape of OpenAI's API.",
        responses={
            "4XX": {"model": ErrorAnswer, "description": "a request that is wrong, not allowed, or one too many"},
            "5XX": {"model": ErrorAnswer, "description": "the server cannot answer at present"},
        },
    )
    errors.install(app)
    keys = None if settings.api_key_file is None else Keys(settings.api_key_file)
    origins = Origins(settings.cors, keys is not None)
    metrics = Metrics(backend)
    for module in (completions, responses, embeddings, tasks, llama_cpp, tokens):
        app.include_router(module.router(backend))
    app.include_router(status.router(backend, metrics))
    log = None
    if settings.access_log is not None:
        log = AccessLog(settings.access_log, backend.model.tokenizer.decode if settings.log_prompts else None)
    # the middleware that is added last is the outermost
    app.add_middleware(BodyLimit, maximum=settings.max_body)
    app.add_middleware(Guard, settings=settings, origins=origins, admission=backend, keys=keys)
    if settings.cors:
        app.add_middleware(Cors, origins=origins, expose_headers=["X-Request-Id", "Retry-After", *UNUSED])
    app.add_middleware(RequestRecorder, metrics=metrics, log=log)
    app.state.reload = partial(_reload, [one for one in (keys and keys.reload, log and log.reopen) if one])
    if settings.demo:
        _add_demo(app, load_examples(settings.example_path))

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(described(app.openapi()), headers={**HEADERS, "Content-Security-Policy": POLICY})

    return app


def _reload(reloads: Sequence[Callable[[], object]]) -> None:
    for reload in reloads:
        try:
            reload()
        except UserError as error:
            print_error(f"SIGHUP: {error}; the old one stays in use")


def _add_demo(app: FastAPI, examples: Sequence[DemoExample]) -> None:
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
    """An example of the demo: `code` for the prompt of a task, in a supported language."""

    task: str
    title: str
    language: str
    code: str


def load_examples(path: Path | None = None) -> list[DemoExample]:
    """Read the examples from a file of JSON lines, by default the package's own. Each has `code` and `language`, and
    optionally `title` and `task`. `langauge`, the spelling in CodeGeeX2's release, is accepted too. Raises `UserError`
    for a file of another form."""
    path, found = path or ASSETS / "examples.jsonl", list[DemoExample]()
    for number, line in enumerate(given_text(str(path), "--example-path").split("\n"), 1):
        with located(f"--example-path: {path}:{number}"):
            found += [_example(line)] if line.strip() else []
    return found


def _example(line: str) -> DemoExample:
    try:
        row = parse_json(line)
    except MalformedText as error:
        raise UserError(f"not JSON ({error}); expected one object in each line") from None
    if not isinstance(row, dict):
        raise UserError("not a JSON object; expected one with `code` and `language`")
    code, name = row.get("code"), row.get("language", row.get("langauge"))
    for key, value in (("code", code), ("language", name)):
        if not isinstance(value, str) or not value:
            raise UserError(f"no text `{key}`; expected `code` and `language`")
    language, task = find_language(name).name, row.get("task", TASKS[0])
    if task not in TASKS:
        raise UserError(f"task {task!r} is unknown; give one of {', '.join(TASKS)}")
    first = next((line.strip() for line in code.splitlines() if line.strip()), code)
    title = first if len(first) <= MAX_TITLE else first[: MAX_TITLE - 1] + "…"
    return DemoExample(task, str(row.get("title") or title), language, code)


def described(api: Schema) -> str:
    """Return an HTML page that shows an OpenAPI description."""
    info, schemas = api["info"], api["components"]["schemas"]
    sections, bodies = [("About", element("p", info["description"]), note(INTRODUCTION))], set[str]()
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            bodies.add(_name(_content(operation.get("requestBody", {}))))
            sections.append((element("code", f"{method.upper()} {path}"), *_operation(operation, schemas)))
    for name, schema in schemas.items():
        if name not in bodies:
            sections.append((element("a", name, id=name), *_fields(schema)))
    return page(f"{info['title']} {info['version']}", sections)


def _content(part: Schema) -> Schema:
    return part.get("content", {}).get("application/json", {}).get("schema", {})


def _name(schema: Schema) -> str:
    return schema.get("$ref", "").removeprefix(SCHEMAS)


def _operation(operation: Schema, schemas: Mapping[str, Schema]) -> Iterator[Html]:
    yield element("p", operation.get("description", operation.get("summary", "")))
    if "requestBody" in operation:
        schema = _content(operation["requestBody"])
        yield from _fields(schemas.get(_name(schema), schema))
    if answer := _content(operation["responses"].get("200", {})):
        yield element("p", "Answer: ", _kind(answer))


def _fields(schema: Schema) -> Iterator[Html]:
    properties, required = schema.get("properties", {}), set(schema.get("required", ()))
    own, foreign = [], []
    for name, field in properties.items():
        mark = " (required)" * (name in required)
        rows = foreign if field.get("description", "").startswith("no effect") else own
        rows.append([joined(element("code", name), mark), _kind(field), _about(field)])
    yield table(("field", "type", ""), own)
    if foreign:
        summary = element("summary", "Fields of other servers that are accepted")
        yield element("details", summary, table(("field", "values", ""), foreign))


def _about(field: Schema) -> str:
    parts = [field["description"]] if "description" in field else []
    for schema in (field, *field.get("anyOf", ())):
        for name, words in SCHEMA_LIMITS.items():
            limit = schema.get(name)
            if limit is not None and not (name == "maxLength" and limit > UNLIMITED_CHARACTERS):
                parts.append(words.format(f"{limit:g}" if limit < 1e9 else f"{limit:.3g}"))
    return "; ".join(parts)


def _kind(schema: Schema) -> Html:
    if "$ref" in schema:
        name = _name(schema)
        return element("a", name, href=f"#{name}")
    kinds = [_kind(each) for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    values = schema.get("enum", [schema["const"]] if "const" in schema else ())
    kinds += [element("code", value) for value in values if value is not None]
    if kinds:
        return Html(" or ".join(dict.fromkeys(kinds)))
    kind = schema.get("type")
    if kind == "array":
        return joined("list of ", _kind(schema.get("items", {})))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return joined("object of ", _kind(schema["additionalProperties"]))
    return text({"string": "text", "integer": "whole number", None: "anything"}.get(kind, kind))
