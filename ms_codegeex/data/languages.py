"""Languages: names, tag lines, and how a file's language is detected.

The 23 training languages of CodeGeeX (paper, section 3.1) and 73 more that CodeGeeX2 knows; both models share the tags
of the 23. Tags are exact, even `!language: Fortran` without a space: these are the lines the released models saw.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages_codegeex2 import AMBIGUOUS_FURTHER, FURTHER

HEAD_BYTES = 16_384
"""The bytes of a file that `detect` reads: the first declaration comes after the licence header, which may be long."""


@dataclass(frozen=True)
class Language:
    """One language: its name as the paper writes it, for example `C++`; the line before a document, without its
    newline; file extensions that suffice (`.C` differs from `.c`, otherwise case is ignored); further lower-case names
    for `find_language`; names in the `#!` line of a file without an extension; and names of files in lower case, which
    take precedence over the extension."""

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

# Space before a word is `[ \t]*`: `\s*` crosses lines, so the search would restart on every blank line.
_OBJECTIVE_C = (
    rb"(?m)^[ \t]*(?:@(?:interface|implementation|protocol|class|import|end)\b|#[ \t]*import\b)|"
    rb"\bNS_ASSUME_NONNULL"
)
# What C refuses. In C, `class`, `private` and `operator` may be names of variables and fields, and the width of a field
# may follow the colon. Each branch of `_CPP_WORDS` begins with a letter or a sign, since `\b` makes it twice as slow.
_CPP_LINES = (
    rb"(?m)^[ \t]*(?:(?:class|namespace|template|using|constexpr|inline[ \t]+namespace|virtual|typename)\b"
    rb"(?![ \t]*(?:[-+=;,.)]|\[[^\[]))|(?:public|private|protected)[ \t]*:(?![ \t]*\d)|#[ \t]*include[ \t]*<[a-z_]+>|"
    rb"~\w+\([ \t]*\)[ \t]*[;{=]|friend[ \t]+(?:class|struct)\b|explicit[ \t]+\w+[ \t]*\()"
)
_CPP_WORDS = (
    rb"::(?<=\w::)\w|nullptr\b(?<!\wnullptr)(?<!define NULL nullptr)|noexcept\b(?<!\wnoexcept)|"
    rb"operator(?<!\woperator)\s*(?:[-+*/%&|^~!=<>]{1,3}|\[\]|\(\))\s*\(|decltype(?<!\wdecltype)[ \t]*\(|"
    rb"static_cast[ \t]*<|const_cast[ \t]*<|dynamic_cast[ \t]*<|reinterpret_cast[ \t]*<|"
    rb"enum(?<!\wenum)[ \t]+(?:class|struct)[ \t]+\w+\s*[:{]|"
    rb"struct(?<!\wstruct)[ \t]+\w+[ \t]*(?:final[ \t]*)?:[^;:{}()]{1,200}\{|"
    rb"\)[ \t]*(?:(?:const[ \t]*)?=[ \t]*(?:delete|default)[ \t]*;|const[ \t]*(?:[{;]|override\b|final\b))|"
    rb"const(?<!\wconst)[ \t]+\w+[ \t]*&[ \t]*\w+[ \t]*[,)]|"
    rb"(?:bool|char|double|float|int|long|short|unsigned|size_t|u?int(?:8|16|32|64)_t)[ \t]*&[ \t]*\w+[ \t]*[,)]|"
    rb"= new[ \t]+\w+[ \t]*[\[({<]|return new[ \t]+\w+[ \t]*[\[({<]"
)

AMBIGUOUS: dict[str, tuple[tuple[bytes, str | None], ...]] = {
    # extension -> (pattern in the head, language); the first match decides, an empty pattern always matches,
    # None means "not one of ours".
    ".h": (
        (_OBJECTIVE_C, "Objective-C"),
        (rb"\b__(?:global|device|host)__\b", "Cuda"),
        (_CPP_LINES, "C++"),
        (_CPP_WORDS, "C++"),
        (b"", "C"),
    ),
    ".m": (
        (_OBJECTIVE_C, "Objective-C"),
        (rb"\A\s*\(\*", "Mathematica"),
        (rb"(?m)^\s*(?:%|function\b|classdef\b|clear\b|clc\b)", "Matlab"),
        (b"", None),
    ),
    ".mm": ((rb"\A\s*<", None), (rb"(?m)\A[.'][A-Za-z\\]", None), (b"", "Objective-C++")),  # mind maps, troff macros
    ".inc": (
        (rb"<\?php", "PHP"),
        (rb"(?im)^\s*(?:\{\$|unit\s+\w+;|procedure\s+\w+|implementation\b)", "Pascal"),
        (rb"(?im)^\s+(?:subroutine|common\s*/|integer\b.*::|real\b.*::)", "Fortran"),
        (_CPP_LINES, "C++"),
        (_CPP_WORDS, "C++"),
        (rb"(?m)^\s*#\s*(?:include|define|if)\b|^\s*(?:static|const|typedef|struct)\s", "C"),
        (b"", None),
    ),
    ".ts": (
        (rb"\A\s*(?:<\?xml|<!DOCTYPE TS|<TS)", None),
        (rb"\x00|\A\x47[\x40-\x5f]", None),  # Qt translations, video
        (b"", "TypeScript"),
    ),
    ".pp": (
        (rb"(?im)^\s*(?:unit|program|library)\s+\w+\s*;|^\s*(?:interface|implementation)\s*$", "Pascal"),
        (b"", None),
    ),  # otherwise Puppet
    ".f": ((rb"(?m)^: \S+ ", None), (b"", "Fortran")),  # otherwise Forth
    ".cls": (
        (rb"\\(?:NeedsTeXFormat|ProvidesClass|documentclass|LoadClass)", "TeX"),
        (rb"\AVERSION 1\.0 CLASS", "Visual Basic"),
        (b"", None),
    ),
    **AMBIGUOUS_FURTHER,
}

_C_LIKE = frozenset((".h", ".inc"))
# Comments and strings contain "class" and "this::that" in every language.
_C_PROSE = re.compile(rb"/\*.*?(?:\*/|\Z)|//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)

# Part of a C header that only C++ compilers see, up to the next condition.
_CPP_PART = re.compile(
    rb"(?m)^[ \t]*#[ \t]*if(?:def[ \t]+|[ \t]+defined[ \t]*\(?[ \t]*)__cplusplus\b[ \t]*\)?[ \t]*(?:&&[^|\n]*)?$"
    rb"(?:\n(?![ \t]*#[ \t]*(?:if|el|endif))[^\n]*)*"
)

_SHEBANG = re.compile(rb"\A#![ \t]*(\S+)(?:[ \t]+(?:-\S+[ \t]+)*(\S+))?")


_FILLER = re.compile(r"[\s_-]+(?=\w)")


def _key(name: str) -> str:
    """`Objective-C`, `objective c` and `objectivec` are the same; a final sign, as in `C--`, makes a difference."""
    return _FILLER.sub("", name.strip().lower())


_KEYS = {_key(key): language for language in ALL_LANGUAGES for key in (language.name, *language.aliases)}
_EXTENSIONS = {extension: language for language in ALL_LANGUAGES for extension in language.extensions}
_FILENAMES = {filename: language for language in ALL_LANGUAGES for filename in language.filenames}
_INTERPRETERS = {program: language for language in ALL_LANGUAGES for program in language.interpreters}


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
    raise UserError(
        f"unknown language {name!r}: {hint}known are {', '.join(item.name for item in LANGUAGES)} "
        f"and {len(FURTHER)} more of CodeGeeX2"
    )


def canonical_languages(names: Sequence[str], scheme: str = "codegeex") -> tuple[str, ...]:
    """Canonical names without duplicates, in the order of `ALL_LANGUAGES`, of names or aliases (an unknown one is a
    `UserError`); empty: all languages of the scheme. A language outside of it is allowed; its documents have no tag
    line.
    """
    check_scheme(scheme)
    every = SCHEMES.get(scheme, ALL_LANGUAGES)
    chosen = {find_language(name).name for name in names} or {language.name for language in every}
    return tuple(language.name for language in ALL_LANGUAGES if language.name in chosen)


def tag_text(language: str, scheme: str = "codegeex") -> str:
    """The tag line of a canonical name, without its newline.

    Empty for an empty name, for the scheme `none`, and for a language that the scheme's models have not seen. A scheme
    may also be a line with the placeholder `{language}` for the name.
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
        raise UserError(
            f"tags {scheme!r}: expected one of {', '.join(SCHEMES)}, or one line with {PLACE} in it, such as "
            f"'# {PLACE}'"
        )


def needs_head(path: PurePath | str) -> bool:
    """Whether `detect` needs the file's first bytes: the extension is ambiguous or missing."""
    path = PurePath(path)
    if path.name.lower() in _FILENAMES:
        return False
    suffix = path.suffix
    return suffix.lower() in AMBIGUOUS and suffix not in _EXTENSIONS if suffix else True


def detect(path: PurePath | str, head: bytes = b"") -> Language | None:
    """The language of a file, or None if it is not one of the 96.

    Args:
        path: file name; only its last part counts.
        head: the first bytes of the file (up to `HEAD_BYTES`), for ambiguous extensions and `#!` lines.
    """
    path = PurePath(path)
    if path.name.lower() in _FILENAMES:
        return _FILENAMES[path.name.lower()]
    suffix = path.suffix
    if not suffix:
        return _by_shebang(head)
    if suffix in _EXTENSIONS:
        return _EXTENSIONS[suffix]
    suffix = suffix.lower()
    if suffix in _C_LIKE:
        head = _C_PROSE.sub(b" ", head)
        if b"__cplusplus" in head:
            shared = _CPP_PART.sub(b"", head)
            head = head if b";" in head and b";" not in shared else shared  # the rest may declare nothing
    for pattern, name in AMBIGUOUS.get(suffix, ()):
        if pattern is _OBJECTIVE_C and not any(part in head for part in (b"@", b"import", b"NS_ASSUME_NONNULL")):
            continue  # ten times as fast as a search that finds nothing
        if re.search(pattern, head):
            return None if name is None else find_language(name)
    return _EXTENSIONS.get(suffix)


def _by_shebang(head: bytes) -> Language | None:
    match = _SHEBANG.match(head)
    if match is None:
        return None
    program = match[1].rsplit(b"/", 1)[-1]
    if program == b"env" and match[2]:
        program = match[2].rsplit(b"/", 1)[-1]
    name = re.sub(r"[\d.]+\Z", "", program.decode("ascii", "replace").lower())
    return _INTERPRETERS.get(name)
