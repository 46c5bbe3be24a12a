"""Licences: which licence a text has, whether `--licences` allows it, and the headers of source files that state it.

A licence is an SPDX expression or a common name. A source file states it in its first comments; otherwise the nearest
package metadata does. A licence that is not recognised is unknown, never guessed.

A header is a comment above the first line of code that contains a copyright notice or the words of a licence. It is
removed completely, with the blank lines after it. Everything else stays, byte for byte: the `#!` line, an XML
declaration, a doctype, PHP's opening tag, lines that are directives for an editor, a compiler or a checker,
documentation comments such as Rust's `//!`, docstrings, and all other comments.

Nothing is removed unless it is certain to be only a comment. Comments are not found by pygments, because its version
would then decide the bytes of every corpus. Comment styles and the names, texts and words of licences are in
`rules/licences.yaml`."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.corpus.detection import linear_pattern
from ms_codegeex.extras.corpus.licence_texts import RULES, licences_of

_OPENING = re.compile(
    rb"\A(?:\xef\xbb\xbf)?(?:#!(?!\[)[^\n]*\n)?(?:<\?xml\b[^>]*\?>\s*)?(?:<!DOCTYPE\b[^>\[]*>\s*)?"
    rb"(?:<\?php\b\s*)?(?:@charset\b[^\n;]*;\s*)?",
    re.IGNORECASE,
)
# A comment stays if it contains one of these: line ends known to some languages only, continued lines, unusual ends.
_DOUBTFUL = rb"\r(?:[^\n]|\z)|\\[ \t]*\r?\n|[\x0b\x0c]|\xe2\x80[\xa8\xa9]|\xc2\x85|--!>|\?>"
# LLVM's boxed comments: block comments whose lines end with a backslash.
_BOXED = re.compile(rb"/\*(?:(?!\*/)[^\n])*\\\r?\n(?:\|\*(?:(?!\*/)[^\n])*\|\r?\n)+\\\*[^\n/]*\*/[ \t]*\r?\n?")
_WORD = re.compile(rb"[A-Za-z0-9]{2,}|[\x80-\xff]{2,6}")  # two characters in scripts without spaces
_BLANK = re.compile(rb"(?:[ \t]*\r?\n)*")
_INDENTATION = re.compile(rb"[ \t]*")
_REPEATED = 4096  # bytes: longer comments are not cached
_REST_OF_LINE = re.compile(rb"[ \t]*(?:\r?\n|\Z)")
# First bytes of most files without a header, and what may follow them in the opening of a comment.
_CODE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_\"'"
_AFTER = (b"", b" ", b"\n", b"a", b"1", b'"', b"''", b'""', b"*", b"-", b"/")


@dataclass(frozen=True, eq=False)  # hashed by identity, as a cache key of `_rest_of`
class _Patterns:
    """The patterns of a comment style. `run` matches consecutive one-line comments, `directive` a line with a
    directive, `past` code that a header may follow, `owners` a line that only names owners. `header`, a part of a
    licence header, and `legal` are RE2's. `blocks` has the opening of each block comment, the same with indentation,
    and the closing text. `code` holds bytes that begin no comment."""

    run: re.Pattern[bytes]
    directive: re.Pattern[bytes]
    past: re.Pattern[bytes]
    owners: re.Pattern[bytes]
    header: Any
    legal: Any
    blocks: tuple[tuple[re.Pattern[bytes], re.Pattern[bytes], bytes], ...]
    nested: bool
    code: frozenset[int]


@functools.cache
def _patterns(language: str) -> _Patterns | None:
    rules = shipped_table(RULES)
    style = next((style for style in rules["styles"] if language in style["languages"]), None)
    if style is None:
        return None
    pairs = [(opening.encode(), closing.encode()) for opening, closing in style.get("blocks", ())]
    starts = [rb"(?:%s)" % opening for opening, _ in pairs]
    one_line = [
        rb"%s(%%s)(?:(?!%s|%s)[^\n])*%s[ \t]*" % (start, re.escape(closing), start, re.escape(closing))
        for start, (_, closing) in zip(starts, pairs, strict=True)
        if not closing.startswith(b"\n")
    ]
    lines = [style["line"].encode()] if "line" in style else []
    one_line += [rb"(?!%s)(?:%s)(%%s)[^\n]*" % (b"|".join(starts) or rb"(?!)", line) for line in lines]
    # `(%s)` is a placeholder for the lookahead that accepts or rejects directives.
    comment = rb"[ \t]*(?:%s)(?:\r?\n|\Z)" % b"|".join(one_line)
    directives = "|".join(rules["directives"]).encode()
    run = rb"(?:%s)+" % comment.replace(b"(%s)", rb"(?!%s)" % directives)
    directive = comment.replace(b"(%s)", rb"(?=%s)" % directives)
    openings = re.compile(b"|".join([*starts, *lines]))
    code = frozenset(byte for byte in _CODE if not any(openings.match(bytes([byte]) + more) for more in _AFTER))
    code -= frozenset(b"'\"" if "past" in style else b"")  # they may open `use strict`, which `past` skips
    header = "|".join(rules["headers"]).encode()
    others = (style.get("past", "(?!)").encode(), rules["owners"].encode())
    compiled = [re.compile(pattern, re.IGNORECASE) for pattern in (run, directive, *others)]
    compiled += [linear_pattern(b"(?i)" + pattern) for pattern in (header, header + b"|" + rules["legal"].encode())]
    around = rb"[ \t]*(?:%s)[*!]*"
    blocks = tuple((re.compile(opening), re.compile(around % opening), closing) for opening, closing in pairs)
    return _Patterns(*compiled, blocks, style.get("nested", False), code)


def strip_licence(data: bytes, language: str) -> bytes:
    """Return a source file in UTF-8 without its licence headers; `data` itself if it has none, or if `language`, a
    canonical name, has no comment style."""
    patterns = _patterns(language)
    if patterns is None or (data[:1] and data[0] in patterns.code):
        return data
    opening = -1  # removing a header may expose an XML declaration that more headers follow
    while (start := _OPENING.match(data).end()) != opening and (headers := list(_headers(data, patterns))):
        opening = start
        ends = [*(start for start, _, _ in headers), len(data)]
        pieces = zip([(0, 0, b""), *headers], ends, strict=True)
        data = b"".join(rest + data[stop:end] for (_, stop, rest), end in pieces)
    return data


def _headers(data: bytes, patterns: _Patterns) -> Iterator[tuple[int, int, bytes]]:
    for offset, end, kind in _comments(data, patterns):
        rest_of = _rest_of if end - offset <= _REPEATED else _rest_of.__wrapped__
        rest = None if kind == "directive" else rest_of(data[offset:end], patterns, kind == "block")
        if rest is not None:
            yield offset, end if rest else _BLANK.match(data, end).end(), rest


@functools.lru_cache(1 << 10)  # files of a package share their headers
def _rest_of(comment: bytes, patterns: _Patterns, block: bool) -> bytes | None:
    if not patterns.header.search(comment):
        return None
    if linear_pattern(_DOUBTFUL).search(comment) and not _BOXED.fullmatch(comment):
        return None
    opening, body, closing = b"", comment, b""
    for start, around, end in patterns.blocks if block else ():
        if found := around.match(comment):
            opening, body = found[0], comment[found.end() : comment.rindex(end)].rstrip(b" \t")
            closing = comment[found.end() + len(body) :]
            if patterns.nested and start.search(body):
                return b""
            break
    kept, last, gone = list[bytes](), 0, False
    for is_text, group in itertools.groupby(body.splitlines(keepends=True), lambda line: bool(_WORD.search(line))):
        lines = [line for line in group if not (is_text and patterns.owners.match(line))]
        text = b"".join(lines)
        gone = gone if not is_text else bool(patterns.legal.search(text)) or len(_WORD.findall(text)) < 5
        if gone:
            continue
        kept += lines
        last = len(kept) if is_text else last
    rest = b"".join(kept[:last])
    if not rest or patterns.header.search(rest):
        return b""
    own_line = opening and not body.startswith(kept[0])
    return opening + (b"\n" if own_line else b"") + rest + closing


def _comments(data: bytes, patterns: _Patterns) -> Iterator[tuple[int, int, str]]:
    offset = _OPENING.match(data).end()
    while offset < len(data):
        offset = _BLANK.match(data, offset).end()
        directive = patterns.directive.match(data, offset)
        lines = directive or patterns.run.match(data, offset)
        end = lines.end() if lines else _block_end(data, offset, patterns)
        if end is None or end == offset:
            if not (past := patterns.past.match(data, offset)):
                return
            offset = past.end()
            continue
        yield offset, end, "directive" if directive else "lines" if lines else "block"
        offset = end


def _block_end(data: bytes, offset: int, patterns: _Patterns) -> int | None:
    offset = _INDENTATION.match(data, offset).end()
    for opening, _, closing in patterns.blocks:
        start = opening.match(data, offset)
        if start:
            end = _closed(data, start.end(), opening, closing, patterns.nested)
            rest = None if end is None else _REST_OF_LINE.match(data, end)
            return rest.end() if rest else None
    return None


def _closed(data: bytes, offset: int, opening: re.Pattern[bytes], closing: bytes, nested: bool) -> int | None:
    depth, end = 1, -1
    while depth:
        end = data.find(closing, offset) if end < offset else end  # still valid after an inner opening
        if end < 0:
            return None
        inner = opening.search(data, offset, end) if nested else None
        depth, offset = (depth + 1, inner.end()) if inner else (depth - 1, end + len(closing))
    return offset


UNKNOWN, _MORE = "unknown", "with other words"
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() \t:-]+)", re.IGNORECASE | re.ASCII)
_VERSIONED = re.compile(r"(.+?)-(\d[\d.]*)(-only|-or-later|\+)?")
_DEBIAN = re.compile(r"(?m)^(Files|License):(.*(?:\n[ \t].*)*)")
_LONGEST = 600  # characters of an expression; longer ones are unknown
Stated = tuple[re.Pattern[str] | None, str]
"""A licence that metadata state, for the paths below their directory that match; None: for all."""


@functools.cache
def _identifiers() -> dict[str, str]:
    from license_expression import get_license_index  # takes half a second, and only `--licences` needs it

    names = {name: key for key, others in shipped_table(RULES)["names"].items() for name in (key, *others)}
    for it in get_license_index():
        known = (name for name in (it["spdx_license_key"], *it["other_spdx_license_keys"]) if name)
        names |= {name: it["spdx_license_key"] for name in known if not name.startswith("LicenseRef")}
    return {_bare(_spelled(name)): key for name, key in names.items()}


def _spelled(name: str) -> str:
    name = " ".join(name.lower().split())
    for pattern, replacement in shipped_table(RULES)["spellings"]:
        name = re.sub(pattern, replacement, name)
    return name.strip()


def _bare(name: str) -> str:
    return re.sub(shipped_table(RULES)["noise"], "", name)


@functools.lru_cache(1 << 14)
def _parsed(text: str) -> Any:
    from license_expression import ExpressionError, Licensing, ParseError

    spelled = _spelled(text) if len(text) <= _LONGEST else ""
    try:
        return Licensing().parse(_identifiers().get(_bare(spelled), spelled) or UNKNOWN)
    except (ExpressionError, ParseError):
        return Licensing().parse(UNKNOWN)


def _judged(expression: Any, allowed: frozenset[str]) -> tuple[str, bool | None]:
    from license_expression import AND, OR, LicenseWithExceptionSymbol

    if isinstance(expression, AND | OR):
        either = isinstance(expression, OR)
        names, answers = zip(*(_judged(each, allowed) for each in expression.args), strict=True)
        answer = either if either in answers else None if None in answers else not either
        return _joined(names, "OR" if either else "AND"), answer
    if isinstance(expression, LicenseWithExceptionSymbol):  # an exception permits more; other additions may restrict
        name, answer = _judged(expression.license_symbol, allowed)
        added = expression.exception_symbol.key
        added = _identifiers().get(_bare(_spelled(added)), added)
        return f"{name} WITH {added}", answer if not answer or "exception" in added.lower() else None
    bare, known = _bare(_spelled(expression.key)), _identifiers()
    name = known.get(bare) or (f"{known[bare[:-1]]}+" if bare[:-1] in known and bare[-1] == "+" else UNKNOWN)
    if " " in name:
        return _judged(_parsed(name), allowed)
    later = name.endswith(("+", "-or-later")) and any(_follows(each, name) for each in allowed)
    return name, None if name == UNKNOWN else name in allowed or later


def _follows(newer: str, name: str) -> bool:
    pair = [_VERSIONED.fullmatch(newer), _VERSIONED.fullmatch(name)]
    if not all(pair) or pair[0][1] != pair[1][1]:
        return False
    version, least = ([int(number or 0) for number in found[2].split(".")] for found in pair)
    return version >= least


def _joined(names: Iterable[str], operator: str) -> str:
    names = list(dict.fromkeys(names))
    return f" {operator} ".join(f"({name})" if " " in name and len(names) > 1 else name for name in names)


@functools.lru_cache(1 << 14)
def judge(texts: tuple[str, ...], licences: tuple[str, ...]) -> tuple[str, bool | None]:
    """Return the licence that `texts` name together, as an SPDX expression, and whether `licences`, in lower case,
    allow all of them; of `A OR B` one is enough. None: no licence is named, or the answer depends on unknown names."""
    allowed = frozenset(_judged(_parsed(name), frozenset())[0] for name in licences) - {UNKNOWN}
    names, answers = list[str](), set[bool | None]()
    for text in texts:
        name, answer = _judged(_parsed(text), allowed)
        given = text.strip().lower() in licences  # any word counts, such as "permissive"
        names.append(text.strip() if given and name == UNKNOWN else name)
        answers.add(given or answer)
    answer = False if False in answers else None if None in answers or not names else True
    return _joined(names, "AND") or UNKNOWN, answer


def named_licences(value: Any) -> list[str]:
    """Return the licence names in a field: a text, an object that has a name, or a list of these."""
    if isinstance(value, list | tuple):
        return [name for item in value for name in named_licences(item)]
    if isinstance(value, dict):
        value = next((value[key] for key in ("spdx_id", "type", "key", "name") if value.get(key)), None)
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return [] if value is None or not str(value).strip() else [str(value)[: _LONGEST + 1]]


def licences_in_comments(data: bytes, language: str) -> list[str]:
    """Return the licences that the comments above a source file's code name, or whose texts or notices they contain."""
    if (patterns := _patterns(language)) is None:
        return []
    text = b"".join(data[start:end] for start, end, _ in _comments(data, patterns)).decode("utf-8", "replace")
    stated = [line.strip(" \t-") for line in _SPDX.findall(text)]
    if stated := named_licences(stated):
        return stated
    whole = licences_of(text)
    if whole.licences:
        legal = re.compile(shipped_table(RULES)["legal"], re.IGNORECASE)
        return [f"{whole.licences[0]}, {_MORE}"] if any(map(legal.search, whole.others)) else whole.licences
    return _grants_in(text, "notices") or _named_in(text)


def _named_in(comments: str) -> list[str]:
    rules, texts = shipped_table(RULES), (comments, re.sub(r"\s+(?:[*#/;%!|-]+\s+)*", " ", comments))
    others, pairs = re.compile(f"{rules['others']}|(?i:{rules['limits']})"), zip(rules["named"], texts, strict=True)
    found, around = [match for pattern, text in pairs for match in re.finditer(pattern, text)], list[str]()
    for it in found:
        before = it.string[max(0, it.start() - 60) : it.end(1)].rpartition("\n")[2]
        after = re.split(r"[.\n](?:\s|$)", it.string[it.end(1) :], maxsplit=1)[0]
        limited = re.search(rf"\b(?:{rules['limits']})\b", after, re.IGNORECASE)
        around.append(limited[0] if limited else before)
    names = [it[1] for it, words in zip(found, around, strict=True) if not others.search(words)]
    return [it for it in names if UNKNOWN not in judge((it,), ())[0]] or _grants_in(comments, "families")


def _grants_in(text: str, group: str) -> list[str]:
    rules, words = shipped_table(RULES), " ".join(re.findall("[a-z0-9]+", text.lower()))
    rows = [row for row in rules[group] if all(it in words for it in row["all"])]
    rows = [row for row in rows if not any(it in words for it in row.get("none", ()))]
    limits = rf"\b(?:{rules['limits']})\b"
    limited = rows and re.search(rf"licens\w*.{{0,80}}{limits}|{limits}.{{0,60}}licens", words)
    return [f"{row['licence']}, {_MORE}" if limited else row["licence"] for row in rows]


def metadata_rule(folder: str, name: str) -> int | None:
    """Return the number of the `metadata` rule for a file called `name` in `folder`, or None."""
    names, rules = _metadata()
    found = rules if names.fullmatch(name := name.lower()) else ()
    pairs = enumerate((file.fullmatch(name), there.fullmatch(folder.lower())) for file, there in found)
    return next((number for number, pair in pairs if all(pair)), None)


@functools.cache
def _metadata() -> tuple[re.Pattern[str], list[tuple[re.Pattern[str], re.Pattern[str]]]]:
    rules = [(rule["file"], rule.get("folder", ".*")) for rule in shipped_table(RULES)["metadata"]]
    return re.compile("|".join(name for name, _ in rules)), [tuple(map(re.compile, rule)) for rule in rules]


def rule_is(kind: str, number: int) -> bool:
    return kind in shipped_table(RULES)["metadata"][number]


def stated_licences(number: int, data: bytes, scope: Sequence[str] = ()) -> list[Stated]:
    """Return the licences that a metadata file states, for the modules and packages in `scope` (empty: for all)."""
    rule, text, found = shipped_table(RULES)["metadata"][number], data.decode("utf-8", "replace"), list[list[str]]()
    if rule.get("globs"):  # the last paragraph that matches a path decides
        paragraphs = [dict(_DEBIAN.findall(paragraph)) for paragraph in re.split(r"\n[ \t]*\n", text)]
        pairs = [(it["Files"].split(), it["License"].strip().partition("\n")[0]) for it in paragraphs if len(it) == 2]
        short = [([glob for glob in globs[:1000] if len(glob) < 200], name) for globs, name in reversed(pairs)]
        return [(re.compile("|".join(map(fnmatch.translate, globs))), name) for globs, name in short]
    if "keys" in rule:
        with contextlib.suppress(ValueError):
            content = parse_json(data, data=True)
            found = [named_licences(content.get(key)) for key in rule["keys"] if isinstance(content, dict)]
    elif "patterns" in rule:
        found = [named_licences(re.findall(pattern, text)) for pattern in rule["patterns"]]
    else:
        whole, (name, _, more) = licences_of(text), text.strip().partition("\n")
        named = [f"{name[:60]}, {_MORE}"] if more.strip() else named_licences(name)
        found = [_grants_in(text, "refused") or (whole.licences if whole.licences and not whole.others else named)]
    paths = re.compile(rf"(?:{'|'.join(map(re.escape, scope))})(?:\.py|/.*)?", re.DOTALL) if scope else None
    stated = list[Stated]()
    for names in filter(None, found):
        spelled = [judge((name,), ())[0] for name in names]
        stated.append((paths, names[0] if UNKNOWN in spelled else _joined(spelled, rule.get("several", "AND"))))
    return stated


def of_texts(stated: Iterable[Stated]) -> list[Stated]:
    """Combine the licences that the texts in one folder state. If one of them is unknown, only that one counts."""
    names = dict[re.Pattern[str] | None, list[str]]()
    for paths, name in stated:
        names.setdefault(paths, []).append(name)
    unknown = {paths: next((it for it in each if UNKNOWN in judge((it,), ())[0]), "") for paths, each in names.items()}
    return [(paths, unknown[paths] or _joined(each, "AND")) for paths, each in names.items()]


def nearest_licence(stated: Iterable[Stated], path: str) -> str:
    """Return the first known licence for `path`, else the first one stated, else an empty string."""
    names = [name for paths, name in stated if paths is None or paths.fullmatch(path)]
    return next((name for name in names if UNKNOWN not in judge((name,), ())[0]), next(iter(names), ""))
