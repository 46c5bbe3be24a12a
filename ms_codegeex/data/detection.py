"""How a file's language is detected: by its name, and by its first bytes where the name is ambiguous."""

from __future__ import annotations

import re
from pathlib import PurePath

from ms_codegeex.data.languages import ALL_LANGUAGES, Language, find_language
from ms_codegeex.data.languages_codegeex2 import AMBIGUOUS_FURTHER

HEAD_BYTES = 16_384
"""The bytes of a file that `detect` reads: the first declaration comes after the licence header, which may be long."""

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

_EXTENSIONS = {extension: language for language in ALL_LANGUAGES for extension in language.extensions}
_FILENAMES = {filename: language for language in ALL_LANGUAGES for filename in language.filenames}
_INTERPRETERS = {program: language for language in ALL_LANGUAGES for program in language.interpreters}


def needs_head(path: PurePath | str) -> bool:
    """Whether `detect` needs the file's first bytes: the extension is ambiguous or missing."""
    path = PurePath(path)
    if path.name.lower() in _FILENAMES:
        return False
    suffix = path.suffix
    return suffix.lower() in AMBIGUOUS and suffix not in _EXTENSIONS if suffix else True


def detect(path: PurePath | str, head: bytes = b"") -> Language | None:
    """The language of a file, or None if it is not one of the 96. Only the last part of `path` counts. `head` is the
    file's first bytes (up to `HEAD_BYTES`), for ambiguous extensions and `#!` lines."""
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
