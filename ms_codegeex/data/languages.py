"""Languages, of `languages.txt`: their names and tag lines. `extras/corpus/detection.py` finds that of a file.

The 23 training languages of CodeGeeX and 73 more that CodeGeeX2 knows; both models share the tags of the 23."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError


@dataclass(frozen=True)
class Language:
    """A row of `languages.txt`, which describes the columns; without a tag one of the languages beyond the 96."""

    name: str
    tag: str
    aliases: tuple[str, ...] = ()


PLACE = "{language}"  # the placeholder for a language's name in a custom tag line
TAG_SCHEMES = ("codegeex", "codegeex2", "none")


@functools.cache
def languages(scheme: str = "codegeex2") -> tuple[Language, ...]:
    """The languages that have a tag line in a scheme: the 23 of `codegeex`, or the 96 of `codegeex2`, of which these
    are the first; `none`: all, without tag lines."""
    _, first, further = Path(__file__).with_name("languages.txt").read_text(encoding="utf-8").split("\n\n")
    rows = (line.split(" | ") for line in (first if scheme == "codegeex" else f"{first}\n{further}").splitlines())
    return tuple(Language(name, tag, *(tuple(it.split(", ")) for it in aliases)) for name, tag, *aliases in rows)


_FILLER = re.compile(r"[\s_-]+(?=\w)")


def _key(name: str) -> str:
    return _FILLER.sub("", name.strip().lower())


@functools.cache
def _keys() -> dict[str, Language]:
    pairs = [(name, language) for language in languages() for name in (language.name, *language.aliases)]
    return {**dict(pairs), **{_key(name): language for name, language in pairs}}


def lookup(name: str) -> Language | None:
    """The language called `name`, or None. Case, spaces, `-` and `_` do not matter; aliases such as `js` are known."""
    return _keys().get(name) or _keys().get(_key(name))


def find_language(name: str) -> Language:
    """The language called `name`, as in `lookup`; an unknown one is a `UserError` with a suggestion."""
    language = lookup(name)
    if language is not None:
        return language
    near = difflib.get_close_matches(_key(name), _keys(), n=1, cutoff=0.5)
    hint = f"did you mean {_keys()[near[0]].name}? " if near else ""
    first, more = languages("codegeex"), len(languages()) - len(languages("codegeex"))
    known = ", ".join(item.name for item in first)
    raise UserError(f"unknown language {name!r}: {hint}known are {known} and {more} more of CodeGeeX2")


def canonical_languages(names: Sequence[str]) -> tuple[str, ...]:
    """Canonical names, each once, in the order of `languages()`; of none: the 23. `UserError` for an unknown one."""
    chosen = {find_language(name).name for name in names} or {language.name for language in languages("codegeex")}
    return tuple(language.name for language in languages() if language.name in chosen)


def tag_text(language: str, scheme: str = "codegeex") -> str:
    """The tag line, without its newline, of a canonical name in a scheme or in a line with the placeholder
    `{language}`. Empty for no name, for the scheme `none`, and for a language that is not in the scheme."""
    check_scheme(scheme)
    if not language or scheme == "none":
        return ""
    if PLACE in scheme:
        return scheme.replace(PLACE, language)
    entry = find_language(language)
    return entry.tag if entry in languages(scheme) else ""


@functools.cache
def tag_prefix(language: str, scheme: str) -> bytes:
    tag = tag_text(language, scheme)
    return f"{tag}\n".encode() if tag else b""


def tag_line(scheme: str, language: str) -> str:
    """The tag line, with its newline, that models have seen before text of a language. `scheme`: of their lines, or
    their family; empty if they have seen none, like CodeGen's models. `UserError` for an unknown language."""
    known = scheme in TAG_SCHEMES or PLACE in scheme
    return tag_prefix(find_language(language).name, scheme if known else "none").decode()


def check_scheme(scheme: str) -> None:
    """`UserError` for what is neither a scheme of tag lines nor a line with `{language}` in it."""
    if scheme not in TAG_SCHEMES and (PLACE not in scheme or scheme.splitlines() != [scheme]):
        line = f"one line with {PLACE} in it, such as '# {PLACE}'"
        raise UserError(f"tags {scheme!r}: expected one of {', '.join(TAG_SCHEMES)}, or {line}")
