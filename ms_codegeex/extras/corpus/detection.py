"""Find a file's language by the rules in `endings.yaml`: by its name, and by its first bytes where that is not enough.
Also convert texts in other encodings to UTF-8."""

from __future__ import annotations

import codecs
import contextlib
import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import add
from pathlib import Path, PurePath
from typing import Any

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.data.languages import Language, languages, lookup

_FILE = Path(__file__).with_name("endings.yaml")
_ENCODINGS_FILE = Path(__file__).with_name("encodings.yaml")
HEAD_BYTES = 16_384
"""The bytes of a file that `detect` reads: the first declaration comes after the licence header, which may be long."""

_PLAIN = "Text"  # not a language; listed to avoid reading such files
_C_LIKE = frozenset((".h", ".inc"))
_RULES_ALONE = frozenset((".h", ".ts", ".tsx"))  # their `#!` line often names another language: `#!/usr/bin/env node`
# Removed first: comments and strings contain "class" and "this::that" in every language.
_C_PROSE = re.compile(rb"/\*.*?(?:\*/|\Z)|//[^\n]*|\"(?:[^\"\\\n]|\\.)*\"", re.DOTALL)
# The part of a C header that only C++ or Objective-C compilers see, up to the next condition.
_CPP_PART = re.compile(
    rb"(?m)^[ \t]*#[ \t]*if(?:def[ \t]+|[ \t]+defined[ \t]*\(?[ \t]*)__(?:cplusplus|OBJC__)\b[ \t]*\)?[ \t]*"
    rb"(?:&&[^|\n]*)?$(?:\n(?![ \t]*#[ \t]*(?:if|el|endif))[^\n]*)*"
)

_BEHIND = re.compile(rb"\(\?<[=!][^()]*\)")
_SHEBANG = re.compile(rb"#![ \t]*(\S+)((?:[ \t]+\S+)*)")
# A shell script that runs another program with its own text, or nix-shell's option that names a program.
_EXEC = re.compile(
    rb"(?m)^[ \t]*(?:eval[ \t]+|':'[ \t]*//;[ \t]*)?['\"]*exec['\"]*[ \t]+['\"]?(?:\S*/)?(?:env[ \t]+)?([\w.]+)"
    rb"[^\n(`]*\$(?:0|\{0|\{BASH_SOURCE(?:\[0\])?)\}?[\"'\s][^\n]*\$[@{*]|^#!.*nix-shell.*[ \t]-i[ \t]+([\w.]+)"
)
_MODE_LINE = 500  # bytes of a line that are searched
_VIM = re.compile(rb"(?:^|\s)(?:vi|vim|ex)(?:[<=>]?\d+)?:[^\n]*?\b(?:ft|filetype|syntax)=([\w+#-]+)")

_MARKS = (  # UTF-32 first: its mark begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(  # for Python, Emacs, Vim, XML, HTML, CSS, gettext and Perl, then for LaTeX
    rb"(?:coding|charset|fenc)[\"']?[ \t]*[:= ][ \t]*[\"']?([A-Za-z][\w.-]+)|\[([a-z\d-]+)\]\{inputenc\}", re.IGNORECASE
)
_PARTS = re.compile(r"^(?:iso-)?(latin)-(\d+)|^(?:x|japanese|chinese|korean|cyrillic)-|-(?:unix|dos|mac)$")
_NAMES = {"ansinew": "cp1252", "applemac": "mac-roman", "koi8": "koi8-r", "windows-31j": "cp932"}
_ENCODINGS = re.compile(
    r"iso8859-\d+|cp(?:125\d|437|85[02]|866|874|932|949|950)|koi8-[ru]|mac-(?:roman|cyrillic)|shift_jis|euc_(?:jp|kr)|"
    r"gb2312|gbk|gb18030|big5|tis-620"
)
# Measured in benchmarks/RESULTS.md; with them, hardly any text is converted wrongly.
_LEAST_LETTERS, _LEAST_SHARE, _TIMES = 10, (0.55, 0.66), 1.4
_CONTROLS = re.compile("[\0-\x08\x0e-\x19\x1c-\x1f\x7f]")
# Signs that a text is not in Latin-1 or Windows-1252: other scripts have words of three and more letters, Latin-2 has
# letters in place of signs, the code pages of DOS and the Macintosh have them in place of quotation marks. Two accented
# capitals that end a word in capitals are half-width letters of Shift-JIS, but also occur in French (CRÉÉ).
_DOUBTFUL = re.compile(
    rb"[\0-\x08\x0e-\x19\x1c-\x1f\x7f]|[\x80-\xff]{3}|[\xc2\xc3][\x80-\xbf]|"
    rb"[\x81-\x84\x86-\x90\x98\x9a-\x9f\xa4\xa6\xa8\xaf\xb8\xd0\xdd\xde\xf0\xfd-\xff]|"
    rb"[A-Za-z](?:[\x80\x91\x93\xa1\xa3\xa5\xa9\xac\xb1\xb3\xb6\xb9\xbc-\xbf]|"
    rb"[\x85\x94-\x97\x99\xa7\xaa\xab\xae\xb0\xb2\xba\xbb][A-Za-z]|\x92(?![a-z]{0,2}\b))|"
    rb"[\x99\xa3\xac\xae][A-Za-z]|[\xb1\xb3\xb6\xb9\xbc-\xbe][a-z]|[a-z][\xc0-\xde]|"
    rb"[A-Z\d](?!\xc9\xc9)[\xc0-\xde]{2}(?![A-Za-z\x80-\xff])|"
    rb"(?<![A-Za-z\x80-\xff])(?:[\x80-\xff]{2}(?![A-Za-z\x80-\xff])|[\xa2-\xff][@^_`~]|\xa5[A-Za-z])|"
    rb"[\xec\xf2\xf9][a-z\xe0-\xff]|\xf5(?!e)|\xfb(?![acdglmnrst])|\xe6(?![a-z\xe0-\xff])"  # as in Czech and Hungarian
)
# What texts in Latin-1 and Windows-1252 contain besides ASCII: words with two ASCII letters; shorter words; signs next
# to no letter or second byte of a Chinese or Japanese character; pairs of quotes.
_L = rb"[\xc0-\xd6\xd8-\xf6\xf8-\xff]"
_WORDS = re.compile(
    rb"(?<![A-Za-z\x80-\xff])(?=(?:%s{0,2}[A-Za-z]){2})(?:%s{1,2}(?![\x80-\xff]))?(?:[A-Za-z]+(?:%s{1,2}(?![\x80-\xff]))?)+"
    % (_L, _L, _L)
)
_SHORT = re.compile(rb"(?<![A-Za-z\x80-\xff])(?:%s|[A-Za-z]%s|%s[A-Za-z])(?![A-Za-z\x80-\xff@^_`])" % (_L, _L, _L))
_SIGNS = re.compile(
    rb"(?<![\x80-\xff])(?:(?<=\d)\xb0|(?<=\d )\xb0(?=[CF]\b)|(?<=[\d ])(?:\xb5(?=[smgFlAVWH]\b)|\xf7)|"
    rb"[\xa0\xa7\xa9\xab\xae\xb0\xb1\xb4\xb5\xb7\xba-\xbe\xd7\x85\x92\x95-\x97\x99](?![\x80-\xffA-Za-z@\[-`{-~])|"
    rb"(?<=[A-Za-z])\x92(?=[a-z])|\x93(?=[^\x80-\xff\x94]*\x94)|(?<=[^\x80-\xff])\x94|\xab(?=[^\x80-\xbf]*\xbb)|\x91(?=[^\x80-\x91]*\x92))"
)


@functools.cache
def _languages_by() -> dict[str, Mapping[str, Language]]:
    content = shipped_table(_FILE)
    known = {language.name: language for language in languages()}
    others = {**content["others"], **{name: f".{name.lower()}" for name in content["alike"].split()}}
    others |= {name: f"={name.lower().replace(' ', '-')}" for name in content["ruled"]}
    known |= {name: Language(name, "") for name in others}
    by: dict[str, dict[str, Language]] = {sign: {} for sign in "./$="}
    for name, listed in (*content["ours"].items(), *others.items()):
        for word in listed.split():
            by[word[0]][word if word[0] == "." else word[1:]] = known[name]
    by["="] |= {name.lower(): language for name, language in known.items() if not language.tag}
    return {**by, "name": known}


@functools.cache
def _rules(suffix: str) -> tuple[tuple[Sequence[Any], Language | None], ...]:
    """Return the rules of an ambiguous suffix: patterns that must all be found, and language (None: unknown)."""
    content, known = shipped_table(_FILE), _languages_by()["name"]
    pairs = (pair for rule in content["rules"][suffix] for pair in rule.items())
    return tuple((_compiled(pattern, content["patterns"]), known.get(name)) for name, pattern in pairs)


def _compiled(pattern: str | list[str], named: Mapping[str, list[str]]) -> Sequence[Any]:
    if pattern == "any":
        return ()
    parts = named[pattern[1:]] if isinstance(pattern, str) and pattern[0] == "$" else pattern
    text = ("(?m)" + (parts if isinstance(parts, str) else "|".join(parts))).encode()
    wider = _BEHIND.sub(b"", text)
    if b"(?!" in wider or b"(?<" in wider:
        return (re.compile(text),)
    # RE2 cannot look behind, but rules out a match in a tenth of the time; its \s lacks \v.
    if wider == text:
        return (linear_pattern(text),)
    return linear_pattern(wider.replace(rb"\s", rb"[\s\v]")), re.compile(text)


@functools.cache
def linear_pattern(pattern: bytes) -> Any:
    """Return a compiled RE2 pattern over bytes, which searches in time linear in the text's length."""
    import re2

    return re2.compile(pattern, linear_options())


def linear_options() -> Any:
    """Return RE2's options for patterns over bytes."""
    import re2

    options = re2.Options()
    options.log_errors = False  # errors are raised anyway
    options.encoding, options.max_mem = re2.Options.Encoding.LATIN1, 64 << 20  # less memory makes RE2 slower
    return options


def as_utf8(data: bytes, errors: str = "strict") -> tuple[bytes, str]:
    """Return a text in UTF-8 without its byte order mark, and the encoding it had: empty for UTF-8 without a mark and
    for an unclear encoding, whose text is unchanged. `errors` is `ignore` for the beginning of a file."""
    if data.isascii() and b"\0" not in data:
        return data, ""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _converted(data, encoding, errors) or (data, "")
    if b"\0" in data:
        pairs = data[:4096]
        low, high = pairs[::2].count(0), pairs[1::2].count(0)
        # Code is mostly ASCII: in UTF-16, one byte of a pair is usually zero.
        if min(low, high) > 0 or max(low, high) < len(pairs) * 0.2 or len(pairs) < 20:
            return data, ""
        return _converted(data, "utf-16-le" if high else "utf-16-be", errors) or (data, "")
    if is_utf8(data, HEAD_BYTES):
        return data, ""
    for found in _DECLARED.finditer(data, 0, 2000):
        name = _PARTS.sub(r"\1\2", (found[1] or found[2]).decode("ascii", "ignore").lower())
        with contextlib.suppress(LookupError, ValueError):  # not a known encoding
            name = codecs.lookup(_NAMES.get(name, name)).name
            if _ENCODINGS.fullmatch(name) and (converted := _converted(data, name, errors)):
                return converted
    high = len(data.translate(None, bytes(range(0x80))))
    words = b"".join(_WORDS.findall(data))
    left = _WORDS.sub(b"aa", _SIGNS.sub(b" ", data))
    left = _SHORT.sub(b"", left) if not words.isascii() else left
    latin = 4 * high <= len(data) and left.isascii() and not _DOUBTFUL.search(data)
    name = "iso8859-1" if latin else _encoding_by_letters(data) if errors == "strict" else ""
    return (name and _converted(data, name, errors)) or (data, "")


def _encoding_by_letters(data: bytes) -> str:
    """Return the encoding in which most letters are among the frequent ones of its language, by far more than in any
    other encoding; empty if there is none."""
    shares = []
    for name, listed in shipped_table(_ENCODINGS_FILE).items():
        try:
            text = data.decode(name)
        except UnicodeError:
            continue
        words = listed.split()
        pairs = len(words[0]) == 2
        units = Counter(map(add, text, text[1:]) if pairs else text)
        found = {unit: n for unit, n in units.items() if min(unit) > "\x7f" and (pairs or unit.isalpha())}
        number = sum(found.values())
        if number >= _LEAST_LETTERS:
            frequent = {*words} if pairs else {*listed}
            share = sum(found[unit] for unit in frequent & found.keys()) / number
            shares.append((share, share >= _LEAST_SHARE[pairs], name))
    (most, enough, name), *others = sorted(shares, reverse=True) or [(0, False, "")]
    return name if enough and most >= _TIMES * max((share for share, *_ in others), default=0) else ""


def _converted(data: bytes, encoding: str, errors: str) -> tuple[bytes, str] | None:
    if encoding == "iso8859-1" and re.search(rb"[\x80-\x9f]", data):
        encoding = "cp1252"  # as in browsers: in Latin-1 these bytes are controls
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding, errors)
    except UnicodeError:
        return None
    return None if encoding != "utf-8" and _CONTROLS.search(text) else (text.encode("utf-8", errors), encoding)


def is_utf8(data: bytes, head: int = 0) -> bool:
    """Return whether a text is UTF-8. If it has exactly `head` bytes, it may end within a character."""
    try:
        if not data.isascii():  # this check makes no copy
            data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > head - 4 and len(data) == head
    return True


def _by_name(name: str) -> Language | str:
    by = _languages_by()
    named = by["/"].get(name) or by["/"].get(name.lower())
    if named is not None:
        return named
    for suffix in (name[place:] for place in range(1, len(name)) if name[place] == "."):  # .bashrc has no suffix
        found = by["."].get(suffix) or by["."].get(suffix.lower())
        if found is not None:
            return found
        if suffix.lower() in shipped_table(_FILE)["rules"]:
            return suffix.lower()
    return by["/"].get(f"{name.partition('.')[0].lower()}.*", "none")


def needs_head(path: PurePath | str) -> bool:
    """Return whether `detect` needs the file's first bytes: its suffix is ambiguous, unknown or missing."""
    return isinstance(_by_name(PurePath(path).name), str)


def detect(path: PurePath | str, head: bytes = b"") -> Language | None:
    """Return a file's language, or None if it is unknown. One without a tag line is not one of the 96. Only the last
    part of `path` counts. `head` holds the first `HEAD_BYTES`, for ambiguous suffixes, editor modes and `#!` lines."""
    suffix = _by_name(PurePath(path).name)
    if isinstance(suffix, Language):
        return suffix if suffix.name != _PLAIN else None
    head, _ = as_utf8(head, "ignore")
    named = _by_shebang(head) if suffix not in _RULES_ALONE else None
    if suffix == "none" or named is not None:  # a shell script may continue in Tcl or Perl, and names it
        named = _by_mode(head) or named
    if named is not None:
        return named
    text = head
    if suffix in _C_LIKE:
        head = _C_PROSE.sub(b" ", head)
        if b"__cplusplus" in head or b"__OBJC__" in head:
            shared = _CPP_PART.sub(b"", head)
            head = head if b";" in head and b";" not in shared else shared  # keep it if it has all declarations
    ruled = next((found for patterns, found in _rules(suffix) if all(it.search(head) for it in patterns)), None)
    return ruled or _by_mode(text)


def _by_mode(head: bytes) -> Language | None:
    lines = [line[:_MODE_LINE] for line in head.split(b"\n", 5)[:5]]
    modes = [_emacs_mode(line) for line in lines[:2] if line.count(b"-*-") > 1]
    lines += head[-5 * _MODE_LINE :].split(b"\n")[-6:] if len(head) < HEAD_BYTES else []
    modes += [found[1] for line in lines if (found := _VIM.search(line[:_MODE_LINE]))]
    by = _languages_by()
    names = (mode.decode("ascii", "replace").lower().removesuffix("-mode").removesuffix("-ts") for mode in modes)
    found = (by["="].get(it) or lookup(it) or by["."].get(f".{it}") or by["$"].get(it) for it in names)
    return next(filter(None, found), None)


def _emacs_mode(line: bytes) -> bytes:
    variables = [variable.partition(b":") for variable in line.split(b"-*-")[1].split(b";")]
    named = (value for name, colon, value in variables if not colon or name.strip().lower() == b"mode")
    return next((value or variables[0][0] for value in named), b"").strip()


def _by_shebang(head: bytes) -> Language | None:
    if not (match := _SHEBANG.match(head)):
        return None
    words = [match[1], *match[2].split()]  # options (also `env -S`) and variables are dropped
    names = [word.rsplit(b"/", 1)[-1].strip(b"@") for word in words if word[:1] != b"-" and b"=" not in word]
    while names[1:] and names[0] in (b"env", b"busybox", b"npx", b"osascript"):
        del names[0]
    if names[:1] in ([b"sh"], [b"bash"], [b"nix-shell"]) and (started := _EXEC.search(head, 0, 1000)):
        names.insert(0, started[1] or started[2])
    programs, whole = _languages_by()["$"], [name.decode("ascii", "replace").lower() for name in names[:2]]
    keys = (key for name in whole for key in (name, re.sub(r"[-\d.]+\Z", "", name)))
    return next((programs[key] for key in keys if key in programs), None)
