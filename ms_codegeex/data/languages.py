"""Languages: their names and tag lines. `detection.py` finds the language of a file.

The 23 training languages of CodeGeeX (paper, section 3.1) and 73 more that CodeGeeX2 knows; both models share the tags
of the 23. Tags are exact, even `!language: Fortran` without a space: these are the lines the released models saw.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages_codegeex2 import FURTHER


@dataclass(frozen=True)
class Language:
    """One language: its name as the paper writes it; the line before a document, without its newline; file extensions
    that suffice (case matters only for `.C` and `.H`); further lower-case names for `find_language`; names in a `#!`
    line; and lower-case names of files, which take precedence over the extension."""

    name: str
    tag: str
    extensions: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    filenames: tuple[str, ...] = ()


LANGUAGES: tuple[Language, ...] = (
    Language(
        "C++",
        "// language: C++",
        (".cpp", ".cc", ".cxx", ".c++", ".C", ".H", ".hpp", ".hh", ".hxx", ".h++", ".ipp", ".inl", ".tpp", ".txx"),
        ("cpp",),
    ),
    Language("Python", "# language: Python", (".py", ".pyi", ".pyw"), ("py",), ("python", "pypy")),
    Language("Java", "// language: Java", (".java",)),
    Language("JavaScript", "// language: JavaScript", (".js", ".mjs", ".cjs", ".jsx"), ("js",), ("node",)),
    Language("C", "// language: C", (".c",)),
    Language("Go", "// language: Go", (".go",), ("golang",)),
    Language("HTML", "<!--language: HTML-->", (".html", ".htm", ".xhtml")),
    Language(
        "Shell",
        "# language: Shell",
        (".sh", ".bash", ".zsh", ".ksh"),
        ("sh", "bash"),
        ("sh", "bash", "zsh", "ksh", "dash", "ash"),
    ),
    Language("PHP", "// language: PHP", (".php", ".phtml", ".php5", ".php7"), (), ("php",)),
    Language("CSS", "/* language: CSS */", (".css",)),
    Language("TypeScript", "// language: TypeScript", (".tsx", ".mts", ".cts"), ("typescript", "ts")),
    Language("SQL", "-- language: SQL", (".sql",)),
    Language("TeX", "% language: TeX", (".tex", ".ltx", ".sty", ".dtx"), ("latex",)),
    Language("Rust", "// language: Rust", (".rs",)),
    Language("Objective-C", "// language: Objective-C", (), ("objc",)),
    Language("Scala", "// language: Scala", (".scala", ".sc"), (), ("scala",)),
    Language("Kotlin", "// language: Kotlin", (".kt", ".kts")),
    Language("Pascal", "// language: Pascal", (".pas", ".dpr", ".lpr")),
    Language("Fortran", "!language: Fortran", (".f90", ".f95", ".f03", ".f08", ".for", ".f77", ".ftn")),
    Language("R", "# language: R", (".r",), (), ("rscript",)),
    Language("Cuda", "// language: Cuda", (".cu", ".cuh")),
    Language("C#", "// language: C#", (".cs", ".csx"), ("csharp",)),
    Language("Objective-C++", "// language: Objective-C++", (), ("objective-cpp",)),
)
"""The training languages of CodeGeeX, by their share of its corpus."""

ALL_LANGUAGES: tuple[Language, ...] = (*LANGUAGES, *(Language(*row) for row in FURTHER))
"""The 96 languages of CodeGeeX2; the first 23 are `LANGUAGES`."""

PLACE = "{language}"  # the placeholder for a language's name in a custom tag line
SCHEMES: dict[str, tuple[Language, ...]] = {"codegeex": LANGUAGES, "codegeex2": ALL_LANGUAGES, "none": ALL_LANGUAGES}
"""The languages that have a tag line, by scheme; `none`: all, without tag lines."""

_FILLER = re.compile(r"[\s_-]+(?=\w)")


def _key(name: str) -> str:
    """`Objective-C`, `objective c` and `objectivec` are the same; a final sign, as in `C--`, makes a difference."""
    return _FILLER.sub("", name.strip().lower())


_KEYS = {_key(key): language for language in ALL_LANGUAGES for key in (language.name, *language.aliases)}


def lookup(name: str) -> Language | None:
    """The language called `name`, or None. Case, spaces, `-` and `_` do not matter; aliases such as `js` are known."""
    return _KEYS.get(_key(name))


def find_language(name: str) -> Language:
    """The language called `name`, as in `lookup`; an unknown one is a `UserError` with a suggestion."""
    language = lookup(name)
    if language is not None:
        return language
    near = difflib.get_close_matches(_key(name), _KEYS, n=1, cutoff=0.5)
    hint = f"did you mean {_KEYS[near[0]].name}? " if near else ""
    known = ", ".join(item.name for item in LANGUAGES)
    raise UserError(f"unknown language {name!r}: {hint}known are {known} and {len(FURTHER)} more of CodeGeeX2")


def canonical_languages(names: Sequence[str]) -> tuple[str, ...]:
    """Canonical names without duplicates, in the order of `ALL_LANGUAGES`; an unknown one is a `UserError`; empty:
    `LANGUAGES`."""
    chosen = {find_language(name).name for name in names} or {language.name for language in LANGUAGES}
    return tuple(language.name for language in ALL_LANGUAGES if language.name in chosen)


def tag_text(language: str, scheme: str = "codegeex") -> str:
    """The tag line, without its newline, of a canonical name in a scheme or in a line with the placeholder
    `{language}`. Empty for no name, for the scheme `none`, and for a language that the scheme's models have not seen.
    """
    check_scheme(scheme)
    if not language or scheme == "none":
        return ""
    if PLACE in scheme:
        return scheme.replace(PLACE, language)
    entry = find_language(language)
    return entry.tag if entry in SCHEMES[scheme] else ""


@functools.cache
def tag_prefix(language: str, scheme: str) -> bytes:
    """The tag line with its newline, before the text of a document; empty where `tag_text` is."""
    tag = tag_text(language, scheme)
    return f"{tag}\n".encode() if tag else b""


def tag_line(family: str, language: str) -> str:
    """The tag line, with its newline, that a family's models have seen before text of a language. Empty if they have
    seen none, like CodeGen's models. `UserError` for an unknown language."""
    return tag_prefix(find_language(language).name, family if family in SCHEMES else "none").decode()


def check_scheme(scheme: str) -> None:
    """`UserError` for what is neither a scheme of tag lines nor a line with `{language}` in it."""
    if scheme not in SCHEMES and (PLACE not in scheme or scheme.splitlines() != [scheme]):
        line = f"one line with {PLACE} in it, such as '# {PLACE}'"
        raise UserError(f"tags {scheme!r}: expected one of {', '.join(SCHEMES)}, or {line}")
