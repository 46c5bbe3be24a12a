"""The routes of the web demo: the page at `/`, its assets, its examples.

A model can write hostile text, which the page shows only as text nodes. As a second defence, the browser may load
scripts and styles from this server only, runs no inline scripts, and sends requests to no other server.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.exceptions import HTTPException

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.data.languages import find_language

ASSETS = Path(__file__).parent / "assets"
OWN = ASSETS / "examples.jsonl"
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


@dataclass(frozen=True)
class DemoExample:
    """`code` for the prompt of a task, in a language of the tables."""

    task: str
    title: str
    language: str
    code: str


def load_examples(path: Path | None = None) -> list[DemoExample]:
    """The examples of a file, else our own: JSON lines with `code` and `language`; `title` and `task` may be left out.
    `UserError` for a file that has another form.

    The release of CodeGeeX2 spells the language's key `langauge`; both spellings are read.
    """
    path = path or OWN
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
    language = _language(_text(row, "language" if "language" in row else "langauge", where), where)
    task = row.get("task", TASKS[0])
    if task not in TASKS:
        raise UserError(f"--example-path: {where}: task {task!r} is unknown; give one of {', '.join(TASKS)}")
    return DemoExample(task, str(row.get("title") or _title(code)), language, code)


def _language(name: str, where: str) -> str:
    try:
        return find_language(name).name
    except UserError as error:
        raise UserError(f"--example-path: {where}: {error}") from None


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        name = "language" if key == "langauge" else key
        raise UserError(f"--example-path: {where} has no text `{name}`; expected `code` and `language`")
    return value


def _title(code: str) -> str:
    first = next((line.strip() for line in code.splitlines() if line.strip()), code)
    return first if len(first) <= MAX_TITLE else first[: MAX_TITLE - 1] + "…"


def assets() -> dict[str, Response]:
    """The responses with the assets, by file name."""
    return {
        path.name: Response(path.read_bytes(), media_type=TYPES[path.suffix], headers=HEADERS)
        for path in ASSETS.iterdir()
        if path.suffix in TYPES
    }


def router(examples: Sequence[DemoExample]) -> APIRouter:
    """The routes of the page, its assets and these examples."""
    routes = APIRouter(include_in_schema=False)
    files, shown = assets(), [asdict(example) for example in examples]

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return files["index.html"]

    @routes.api_route("/demo/assets/{name}", methods=["GET", "HEAD"])
    async def asset(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no asset {name!r}")
        return files[name]

    @routes.get("/demo/examples")
    async def the_examples() -> list[dict[str, str]]:
        return shown

    return routes
