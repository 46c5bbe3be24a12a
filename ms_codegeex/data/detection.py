"""How a file's language is detected: by its name, and by its first bytes where the name is ambiguous."""

from __future__ import annotations

import functools
import re
from pathlib import Path, PurePath

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.data.languages import Language, find_language, languages

HEAD_BYTES = 16_384
"""The bytes of a file that `detect` reads: the first declaration comes after the licence header, which may be long."""

_C_LIKE = frozenset((".h", ".inc"))
# Comments and strings contain "class" and "this::that" in every language.
_C_PROSE = re.compile(rb"/\*.*?(?:\*/|\Z)|//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)

# Part of a C header that only C++ compilers see, up to the next condition.
_CPP_PART = re.compile(
    rb"(?m)^[ \t]*#[ \t]*if(?:def[ \t]+|[ \t]+defined[ \t]*\(?[ \t]*)__cplusplus\b[ \t]*\)?[ \t]*(?:&&[^|\n]*)?$"
    rb"(?:\n(?![ \t]*#[ \t]*(?:if|el|endif))[^\n]*)*"
)

_SHEBANG = re.compile(rb"\A#![ \t]*(\S+)(?:[ \t]+(?:-\S+[ \t]+)*(\S+))?")


@functools.cache
def _by(kind: str) -> dict[str, Language]:
    """The languages by their `extensions`, `filenames` or `interpreters`."""
    return {name: language for language in languages() for name in getattr(language, kind)}


@functools.cache
def _ambiguous() -> dict[str, list[tuple[str | None, re.Pattern[bytes]]]]:
    """What decides in the heads of files with the extensions of several languages."""
    table = shipped_table(Path(__file__).with_name("endings.yaml"))
    pairs = {extension: [(name, "".join(parts)) for name, parts in rows] for extension, rows in table.items()}
    return {key: [(name, re.compile(pattern.encode())) for name, pattern in rows] for key, rows in pairs.items()}


def needs_head(path: PurePath | str) -> bool:
    """Whether `detect` needs the file's first bytes: the extension is ambiguous or missing."""
    path = PurePath(path)
    if path.name.lower() in _by("filenames"):
        return False
    suffix = path.suffix
    return suffix.lower() in _ambiguous() and suffix not in _by("extensions") if suffix else True


def detect(path: PurePath | str, head: bytes = b"") -> Language | None:
    """The language of a file, or None if it is not one of the 96. Only the last part of `path` counts. `head` is the
    file's first bytes (up to `HEAD_BYTES`), for ambiguous extensions and `#!` lines."""
    path = PurePath(path)
    if path.name.lower() in _by("filenames"):
        return _by("filenames")[path.name.lower()]
    suffix = path.suffix
    if not suffix:
        return _by_shebang(head)
    if suffix in _by("extensions"):
        return _by("extensions")[suffix]
    suffix = suffix.lower()
    if suffix in _C_LIKE:
        head = _C_PROSE.sub(b" ", head)
        if b"__cplusplus" in head:
            shared = _CPP_PART.sub(b"", head)
            head = head if b";" in head and b";" not in shared else shared  # the rest may declare nothing
    for name, pattern in _ambiguous().get(suffix, ()):
        if name == "Objective-C" and not any(part in head for part in (b"@", b"import", b"NS_ASSUME_NONNULL")):
            continue  # ten times as fast as a search that finds nothing
        if pattern.search(head):
            return None if name is None else find_language(name)
    return _by("extensions").get(suffix)


def _by_shebang(head: bytes) -> Language | None:
    match = _SHEBANG.match(head)
    if match is None:
        return None
    program = match[1].rsplit(b"/", 1)[-1]
    if program == b"env" and match[2]:
        program = match[2].rsplit(b"/", 1)[-1]
    name = re.sub(r"[\d.]+\Z", "", program.decode("ascii", "replace").lower())
    return _by("interpreters").get(name)
