"""Examples of the web demo: JSON lines with `code` and `language`; `title` and `task` may be left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import Malformed, parse_json
from ms_codegeex.data.languages import find_language

OWN = Path(__file__).parent / "assets" / "examples.jsonl"
TASKS = ("complete", "translate", "explain")
MAX_TITLE = 60


@dataclass(frozen=True)
class DemoExample:
    """`code` for the prompt of a task, in a language of the tables."""

    task: str
    title: str
    language: str
    code: str


def load_examples(path: Path | None = None) -> list[DemoExample]:
    """The examples of a file, else our own. `UserError` for a file that has another form.

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
