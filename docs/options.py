"""Writes the tables of keys and options in docs/*.md from the dataclasses that declare them.

python docs/options.py            # writes them
python docs/options.py --check    # writes nothing; exit status 1 and the names of the pages that differ
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import math
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.options import declared
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.config.model import ModelConfig
from ms_codegeex.config.run import RunConfig
from ms_codegeex.extras.corpus import layouts
from ms_codegeex.extras.evaluation.benchmarks.registry import with_key
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling import foreign_samples
from ms_codegeex.generation.sampling import SamplingSettings

PAGES = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- docs/options\.py: (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def docstrings(kind: type) -> dict[str, str]:
    """The text below each field of a dataclass, also of those that it inherits."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(each):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(body, ast.ClassDef)
        for statement, following in zip(body.body, body.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(text.split())
    return found


def in_yaml(value: Any) -> str:
    """A default as users write it."""
    if value is None or value in ((), "", dataclasses.MISSING):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.frexp(value)[0] == 0.5 and value > 1 << 20:
        return f"2^{math.frexp(value)[1] - 1}"
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value).replace("'", "")


def sentence(text: str) -> str:
    """A help text as a sentence."""
    return text[0].upper() + text[1:].removesuffix(".") + "."


def choices(kind: type, name: str, text: str) -> str:
    """The values that a field may have, if its text does not name them."""
    hint = typing.get_type_hints(kind)[name]
    literals = [each for each in (hint, *typing.get_args(hint)) if typing.get_origin(each) is typing.Literal]
    values = [str(value) for each in literals for value in typing.get_args(each)]
    return (
        "" if all(f"`{value}`" in text for value in values) else f" One of {', '.join(f'`{each}`' for each in values)}."
    )


def default_of(field: dataclasses.Field) -> Any:
    """A field's default, or what its factory makes."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """In Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def keys(kind: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each key of a section, and of the sections in it."""
    texts = docstrings(kind)
    for field in dataclasses.fields(kind):
        key, section = prefix + field.name, field.default_factory
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            yield from keys(section, f"{key}.")
        elif field.name == "model":
            yield from keys(ModelConfig, "model.")
        else:
            name = f"`{'model.*' if key == 'model.sizes' else key}`"
            text = texts[field.name]
            yield name, in_yaml(default_of(field)), text + choices(kind, field.name, text)


def run() -> str:
    """Keys of a run."""
    return table(("key", "default", "meaning"), list(keys(RunConfig)))


def sampling() -> str:
    """Options of `generate` and fields of requests."""
    rows = []
    for each in declared(SamplingSettings):
        request = "" if each.option.in_requests is None else in_yaml(each.option.in_requests)
        off = "" if each.option.off is None else f" ({in_yaml(each.option.off)}: off)"
        rows.append((f"`{each.flag}`", in_yaml(each.default), request, sentence(each.option.help + off)))
    return table(("option", "default", "default in requests", "meaning"), rows)


def recipe() -> str:
    """Keys of recipes."""
    texts = docstrings(Recipe) | {each.name: sentence(each.option.help) for each in declared(Recipe)}
    rows = []
    for field in dataclasses.fields(Recipe):
        of = ", ".join(with_key(field.name)) or "all"
        text = texts[field.name]
        rows.append((f"`{field.name}`", in_yaml(default_of(field)), of, text + choices(Recipe, field.name, text)))
    return table(("key", "default", "of", "meaning"), rows)


def records() -> str:
    """Layouts of records, with what becomes of their fields."""
    rows, last, table_of_layouts = [], "", layouts.table()
    for each in (*table_of_layouts.layouts, table_of_layouts.message):
        used = "; ".join(f"{use}: {code(names)}" for use, names in each.uses.items())
        title = f"{each.name} ({each.source})"
        harmless = code(each.harmless)
        task = "a message" if each is table_of_layouts.message else each.task
        rows.append((title, task, used, "as above" if rows and harmless == last else harmless))
        last = harmless
    roles = [
        (code(role), code(" ".join(name for name, ours in table_of_layouts.roles.items() if ours == role)))
        for role in dict.fromkeys(table_of_layouts.roles.values())
    ]
    return (
        table(("layout", "task", "used", "changes nothing"), rows)
        + "\nThe roles of messages, in any case:\n\n"
        + table(("role", "names"), roles)
    )


def refused() -> str:
    """Fields with which a record is left out."""
    table_of_layouts = layouts.table()
    found = {
        (entry["fields"], str(entry.get("neutral", [])), entry["why"]): None
        for each in (*table_of_layouts.layouts, table_of_layouts.message)
        for entry in each.refused
    }
    rows = [(code(fields), in_yaml(neutral.strip("[]")), sentence(why)) for fields, neutral, why in found]
    return table(("fields", "values that change nothing", "why, and what to do"), rows)


def code(names: str) -> str:
    """Names in Markdown."""
    return " ".join(f"`{name}`" for name in names.split())


def result_files() -> str:
    """Result files of other programs that `evaluate --samples` reads."""
    kinds = shipped_table(foreign_samples.FILE)["kinds"]
    rows = [
        (
            each.name,
            code(" ".join(each.keys)) or "a list of lists",
            f"refused: {each.refused}" if each.refused else kinds[each.kind],
        )
        for each in foreign_samples.layouts()
    ]
    return table(("written by", "known by", "what becomes of a text"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "run": run,
    "sampling": sampling,
    "recipe": recipe,
    "records": records,
    "refused": refused,
    "results": result_files,
}


def written(text: str) -> str:
    """A page with its tables as they have to be."""
    return BLOCK.sub(lambda block: block[1] + TABLES[block[2]]() + block[3], text)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, name the pages that differ")
    arguments, different = parser.parse_args(words), []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = written(text)
        if new == text:
            continue
        different.append(page.name)
        if not arguments.check:
            with atomic_file(page) as path:
                path.write_text(new, encoding="utf-8")
    if different and arguments.check:
        print(f"written by hand: {', '.join(different)}; run python docs/options.py", file=sys.stderr)
    return int(bool(different) and arguments.check)


if __name__ == "__main__":
    sys.exit(main())
