"""E-mail addresses and secrets in texts, replaced by `<EMAIL>` and `<SECRET>`.

A secret is either a token recognised by its form, or a value recognised by the name that it is assigned to. The forms
are ours (`rules/issuers.yaml`) and gitleaks' (`rules/gitleaks.json`, made by `docs/secret_rules.py`); the places of
assigned values are in `rules/places.yaml`. RE2 searches in two passes, one for tokens and one for assigned values, in
time linear in the length of the text. Most texts have no candidates. Those that are found are examined more closely."""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.corpus.detection import linear_options, linear_pattern

Hit = tuple[int, int, str]
"""Start, end and kind of a text that is replaced."""

REDACTIONS = ("email", "real-email", "secrets")
EMAIL, SECRET = b"<EMAIL>", b"<SECRET>"

_LOCAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_LOCAL_BYTES = 64  # RFC 5321, section 4.5.3.1.1
_WINDOW = 140  # bytes before an address that tell what it is
_ESCAPE = re.compile(rb"\A(?:u003[ce]|x3[ce]|[nrt])")

_RULES = Path(__file__).parent / "rules"
_LONGER = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPES = (rb"\n", rb"\r", rb"\t")  # in a string of code or JSON; their letter is not part of a word
_LONGEST = 200  # bytes: longer values are not secrets
_INSIDE = 40  # bytes of a token before the part that is searched for
_NEAR = 400  # bytes searched before a value

_HEX = re.compile(rb"(?:[0-9a-f]{32,}|[0-9A-F]{32,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")
_CAMEL = re.compile(rb"[A-Z][a-z]{3,}")
_ESCAPED = re.compile(rb"%[0-9A-Fa-f]{2}")
_KINDS = b"".join(  # the kind of each byte: digit, upper or lower case letter, other
    b"d" if each.isdigit() else b"u" if each.isupper() else b"l" if each.islower() else b"o"
    for each in (bytes([byte]) for byte in range(256))
)


def places(data: bytes, what: Sequence[str]) -> list[Hit]:
    """Return the places in a text (UTF-8) that `what` (some of `REDACTIONS`) replaces: start, end and kind, ascending
    and without overlaps. Kinds are `email`, with `real-email` without addresses at domains reserved for examples;
    `private key`, `password`, `credential`, the kinds of `rules/issuers.yaml` and the names of gitleaks' rules."""
    hits: list[Hit] = []
    if "secrets" in what:
        hits += find_secrets(data)
    if b"@" in data and not {"email", "real-email"}.isdisjoint(what):
        hits += find_emails(data, "email" not in what)
    apart: list[Hit] = []
    end = 0
    for hit in sorted(hits, key=operator.itemgetter(0)):
        if hit[0] >= end:  # otherwise part of a text that is replaced already
            apart.append(hit)
            end = hit[1]
    return apart


def redact(
    data: bytes, what: Sequence[str], found: Sequence[Hit] | None = None
) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """Return `data` (UTF-8) with everything in `what` replaced, and the number of places of each kind. `found`: the
    `places` of the text, if they are known already."""
    found, pieces, end = places(data, what) if found is None else found, [], 0
    for start, stop, kind in found:
        pieces += [data[end:start], EMAIL if kind == "email" else SECRET]
        end = stop
    counts = sorted(Counter(kind for _, _, kind in found).items()) if found else ()
    return b"".join([*pieces, data[end:]]) if found else data, tuple(counts)


def find_emails(data: bytes, real: bool = False) -> Iterator[Hit]:
    left_out = ("no_address", "reserved") if real else ("no_address",)
    for match in stated_pattern("domain").finditer(data):
        at = match.start()
        window = data[max(0, at - _WINDOW) : at]
        left = window[-_LOCAL_BYTES:].rstrip(_LOCAL)
        local = window[-_LOCAL_BYTES:][len(left) :].lstrip(b".%+-")
        local = _ESCAPE.sub(b"", local) if left.endswith(b"\\") else local
        before, address = window[: len(window) - len(local)], local + match[0]
        names = left_out if before.endswith(b"<") else (*left_out, "file")
        if not local or any(stated_pattern(name).match(address) for name in names):
            continue
        server = stated_pattern("before_address").search(before)
        server = server or stated_pattern("after_address").match(data, match.end())
        if not server and _public_suffixes().privatesuffix(match[1].decode("utf-8", "replace")):
            yield at - len(local), match.end(), "email"


@functools.cache
def _public_suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True)


def is_placeholder(value: bytes) -> bool:
    return stated_pattern("placeholders").search(value) is not None


def entropy(value: bytes) -> float:
    """Return the entropy of the frequencies of `value`'s bytes, in bits per byte."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _changes(kinds: bytes) -> float:
    return sum(a != b for a, b in itertools.pairwise(kinds)) / (len(kinds) - 1)


@functools.cache
def _weights() -> Mapping[bytes, int]:
    """Return how strongly two adjacent bytes suggest words, in bits; values below 0 suggest random characters. Two
    letters count by how often words contain them; a change of case and a letter next to a digit, `_`, `-` or `.` have
    fixed values."""
    lower, weights = bytes(range(97, 123)), {}
    for first, row in zip(lower, shipped_table(_RULES / "places.yaml")["bigrams"], strict=True):
        for second, digit in zip(lower, row, strict=True):
            pair = bytes((first, second))
            weights |= dict.fromkeys((pair, pair.upper(), pair.title()), int(digit) - 5)
            weights[pair[:1] + pair[1:].upper()] = -1
        for case, other in itertools.product((first, first - 32), b"0123456789"):
            weights |= dict.fromkeys((bytes((case, other)), bytes((other, case))), -1)
        for case, other in itertools.product((first, first - 32), b"_-."):
            weights |= dict.fromkeys((bytes((case, other)), bytes((other, case))), 3)
    return weights


def wordiness(value: bytes) -> int:
    weights = _weights()
    return sum(weights.get(value[place : place + 2], 0) for place in range(len(value) - 1))


def is_random(value: bytes) -> bool:
    """Return whether `value` looks random: hexadecimal digits, a UUID, or letters, with digits if they are of one case,
    that form no words. Base64 does not count if the decoded text does not look random."""
    if _HEX.match(value):
        return entropy(value) >= 3.0 and not is_placeholder(value)
    kinds = value.translate(_KINDS)
    if not {*b"lu"} <= {*kinds}:
        if b"o" in kinds:  # in groups, or after the issuer's name
            groups = re.split(rb"[_.-]", value)
            found = (it for it in (groups[-1], b"".join(groups)) if len(it) > 15 and wordiness(it) <= -12)
            return len(groups) > 1 and any(map(is_random, found))
        if kinds.count(b"d") < 2 or len(set(kinds)) < 2:
            return False
    least = 3.1 if len(value) > 14 else 2.8
    return wordiness(value) <= -6 and entropy(value) >= least and not is_placeholder(value) and not is_text(value)


def is_text(value: bytes) -> bool:
    return len(text := _decoded(value)) > 5 and not is_password(text)


def _decoded(value: bytes) -> bytes:
    try:
        text = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True).strip()
    except binascii.Error:
        return b""
    return text if text.isascii() and text.decode().isprintable() else b""


def is_assigned(value: bytes) -> bool:
    """Return whether `value` may be a secret, given that its name announces one."""
    return 12 <= len(value) <= _LONGEST and (is_random(value) or is_mixed(value))


def is_key(value: bytes) -> bool:
    digits = sum(48 <= byte < 58 for byte in value)
    return digits > 1 and entropy(value) >= (2.2 if digits == len(value) else 2.8) and not is_placeholder(value)


def is_phrase(value: bytes) -> bool:
    kinds = value.removeprefix(b"django-insecure-").translate(_KINDS)
    return len(set(kinds)) >= 3 and kinds.count(b"o") >= 4 and entropy(value) >= 4.2 and _changes(kinds) >= 0.45


def is_mixed(value: bytes) -> bool:
    """Return whether `value` has characters of all kinds, well mixed, as password generators draw them."""
    kinds = value.translate(_KINDS)
    mixed = len(set(kinds)) == 4 and _changes(kinds) >= 0.5 and entropy(value) >= 3.2
    return mixed and wordiness(value) <= -3 and not is_placeholder(value) and not is_text(value)


def is_password(value: bytes) -> bool:
    """Return whether `value` may be the password in a URL, not a word or a placeholder."""
    bare = _ESCAPED.sub(b"", value)
    mixed = not bare.isalpha() and not {*b"ud"}.isdisjoint(bare.translate(_KINDS))
    return 6 <= len(bare) <= _LONGEST and mixed and wordiness(bare) <= -2 and not is_placeholder(value)


def is_login(value: bytes) -> bool:
    return is_password(_decoded(value).partition(b":")[2])


def is_argument(value: bytes) -> bool:
    return is_assigned(value) and not _HEX.match(value)


_KEY_BEGINS = rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_GROUPS = re.compile(rb"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|(\((?!\?)|\(\?P<\w+>)", re.DOTALL)


class _Place(NamedTuple):
    """Where a value may be: a pattern whose group is the value, the value's kind, and which values it accepts."""

    pattern: bytes
    kind: str
    accepts: Callable[[bytes], bool]
    near: bytes = b""  # must occur shortly before the value


_CHECKS = (is_argument, is_assigned, is_key, is_login, is_mixed, is_password, is_phrase, is_random)
_LOOKS = {look.__name__[3:]: look for look in _CHECKS}


@functools.cache
def _places(part: str) -> tuple[_Place, ...]:
    rows = shipped_table(_RULES / "places.yaml")[part]
    patterns, near = ([row.get(key, "") for row in rows] for key in ("pattern", "near"))
    looks = [_LOOKS[row["look"]] for row in rows]
    return tuple(map(_Place, map(_spelled_out, patterns), (row["kind"] for row in rows), looks, map(str.encode, near)))


@functools.cache
def _spelled_out(pattern: str) -> bytes:
    for name, parts in shipped_table(_RULES / "places.yaml")["parts"].items():
        pattern = pattern.replace(name, "".join(parts))
    return pattern.encode()


@functools.cache
def stated_pattern(what: str) -> re.Pattern[bytes]:
    return re.compile("".join(shipped_table(_RULES / "places.yaml")["stated"][what]).encode())


def find_secrets(data: bytes) -> list[Hit]:
    return [*_tokens(data), *_assigned(data)]


@dataclass(frozen=True)
class _Rule:
    """A rule for a token or a value: its `pattern`, its least `entropy`, and what is searched for first: `begins`, the
    pattern of a token's first characters; `inside`, the pattern of a part of it, if these may be any; or `names`, the
    names of a service. Values that match `allowed` are no secrets. After a `whole` token, no character may follow that
    could belong to it. If the pattern has a group, only the group is replaced."""

    kind: str
    pattern: bytes
    entropy: float
    begins: bytes = b""
    inside: bytes = b""
    names: bytes = b""
    allowed: bytes = b""
    whole: bool = True


@functools.cache
def _rules() -> tuple[tuple[_Rule, ...], tuple[_Rule, ...]]:
    read = parse_json((_RULES / "gitleaks.json").read_bytes(), data=True)

    def made(rule: Mapping[str, Any]) -> _Rule:
        begins, inside, names = (rule.get(key, "").encode() for key in ("begins", "inside", "names"))
        pattern, allowed = rule.get("value", rule.get("pattern")).encode(), "|".join(rule.get("allowed", ())).encode()
        further = (begins, inside, _no_groups(names), allowed)
        return _Rule(rule["id"].replace("-", " "), _no_groups(pattern), rule["entropy"], *further)

    tokens, assigned = (tuple(map(made, read[part])) for part in ("tokens", "assigned"))
    ours = shipped_table(_RULES / "issuers.yaml")
    return (*(rule for form in ours for rule in _rules_of_issuer(**form)), *tokens), assigned


def _rules_of_issuer(kind: str, starts: str, rest: str) -> Iterator[_Rule]:
    whole, rest = rest.endswith("$"), rest.removesuffix("$")
    first = re.match(r"\(?(\[[^\]]+\]|\\d)\{(\d+)", rest)
    for start in starts.split():
        literal = re.escape(start)
        begins = literal + (f"{first[1]}{{{min(int(first[2]), max(2, 10 - len(start)))}}}" if first else rest)
        yield _Rule(kind, (literal + rest).encode(), 3.0, begins.encode(), whole=whole)


def _no_groups(pattern: bytes) -> bytes:
    return _GROUPS.sub(lambda match: b"(?:" if match[1] else match[0], pattern)


def _any_of(patterns: Iterable[bytes]) -> bytes:
    return b"(?:" + b"|".join(_no_groups(pattern) for pattern in patterns) + b")"


class _Patterns(NamedTuple):
    """What RE2 searches for. `beginnings`: the rules that a token may belong to, by number; `inside`: the rules whose
    tokens are found by a part of them; `token`: where tokens begin; `known`: values that gitleaks knows from manuals
    and tests; `service`: values given to the name of a service; `assignment`: values given to the name of a secret."""

    beginnings: Any
    inside: tuple[_Rule, ...]
    token: Any
    known: Any
    service: Any
    assignment: Any


@functools.cache
def _patterns() -> _Patterns:
    import re2

    tokens, assigned = _rules()
    inside = tuple(rule for rule in tokens if rule.inside)
    beginnings = re2.Set.MatchSet(linear_options())
    for rule in tokens:
        beginnings.Add(rule.begins or rb"[^\x00-\xff]")  # matches nothing: the rule has no beginning
    beginnings.Compile()
    parts = {part: [place.pattern for place in _places(part)] for part in ("credentials", "anywhere", "assignments")}
    words = _any_of([_KEY_BEGINS, *parts["credentials"], *(rule.begins for rule in tokens if rule.begins)])
    services = b"|".join(dict.fromkeys(rule.names for rule in assigned))
    service = rb"(?:\A|[^A-Za-z0-9])(?i:" + services + rb")[ \t\w.-]{0,20}[\s'\"]{0,3}[=>|:?,]"
    anywhere = _any_of([*parts["anywhere"], *(rule.inside for rule in inside), service])
    between = rb"[ \t\w.-]{0,20}[\s'\"]{0,3}(?:=>|:{0,3}=|\|\||:|\?=|>|,)[\x60'\"\s=]{0,5}"
    patterns = (  # most tokens must begin a word, which keeps the automaton small
        rb"(?:\A|[^A-Za-z0-9_]|\\[nrt])" + words + b"|" + anywhere,
        b"|".join(rule.allowed for rule in tokens if rule.allowed),
        rb"(?i:(%s)%s)([A-Za-z0-9_=.:/+%%|~-]{11,220})" % (services, between),
        _any_of(parts["assignments"]),
    )
    return _Patterns(beginnings, inside, *map(linear_pattern, patterns))


@functools.lru_cache(1024)
def _rules_of(name: bytes) -> tuple[_Rule, ...]:
    return tuple(rule for rule in _rules()[1] if linear_pattern(b"(?i:" + rule.names + b")").fullmatch(name))


def _tokens(data: bytes) -> Iterator[Hit]:
    for candidate in _patterns().token.finditer(data):
        start = candidate.start()
        for place in _places("anywhere"):
            found = linear_pattern(place.pattern).match(data, start)
            if found and place.accepts(found.group(1)) and place.near in data[max(0, start - _NEAR) : start]:
                yield found.start(1), found.end(1), place.kind
        for rule in _patterns().inside:
            if linear_pattern(rule.inside).match(data, start):
                found = linear_pattern(rule.pattern).search(data, max(0, start - _INSIDE), start + _LONGEST)
                if found and _is_token(rule, found.group()):
                    yield found.start(), found.end(), rule.kind
        for begin in (start, start + 1, start + 2):  # at the start, or after a character or an escape
            if (begin > start or not start) and (begin < start + 2 or data[start:begin] in _ESCAPES):
                yield from _token(data, begin)
                yield from _of_service(data, begin)


def _token(data: bytes, start: int) -> Iterator[Hit]:
    if data.startswith(b"-----BEGIN", start):
        for ends in shipped_table(_RULES / "places.yaml")["key"]:  # first as a whole key, then as one that is cut off
            match = linear_pattern(_KEY_BEGINS + _spelled_out(ends)).match(data, start)
            if match and b"..." in data[start : match.end() + 8]:
                return  # an excerpt in a manual
            if match and {*b"lud"} <= {*match[1].translate(_KINDS)} and wordiness(match[1]) < 0:
                yield start, match.end(), "private key"
                return
        return
    for place in _places("credentials"):
        found = linear_pattern(place.pattern).match(data, start)
        if found and place.accepts(found.group(1)):
            yield found.start(1), found.end(1), place.kind
            return
    for number in sorted(_patterns().beginnings.Match(data[start : start + _LONGEST]) or ()):
        rule = _rules()[0][number]
        pattern = linear_pattern(rule.pattern)
        found, group = pattern.match(data, start), pattern.groups
        longer = found and rule.whole and found.end() < len(data) and data[found.end()] in _LONGER
        if found and not longer and _is_token(rule, found.group(group)):
            yield found.start(group), found.end(group), rule.kind
            return


def _is_token(rule: _Rule, value: bytes) -> bool:
    is_name = sum(map(len, _CAMEL.findall(value))) >= 0.6 * len(value)  # mostly words in camel case
    known = is_name or is_placeholder(value) or _patterns().known.fullmatch(value)
    return entropy(value) >= max(rule.entropy, 2.0) and not known


def _of_service(data: bytes, start: int) -> Iterator[Hit]:
    found = _patterns().service.match(data, start)
    for rule in _rules_of(found.group(1)) if found and is_key(found.group(2)) else ():
        if linear_pattern(rule.pattern).fullmatch(found.group(2)):
            yield found.start(2), found.end(2), rule.kind
            return


def _assigned(data: bytes) -> Iterator[Hit]:
    for candidate in _patterns().assignment.finditer(data):
        start, end = candidate.start(), candidate.end()
        for place in _places("assignments"):
            found = linear_pattern(place.pattern).search(data, start, end)
            if not found or not place.accepts(found.group(1)):
                continue
            name, before = data[found.start() : found.start(1)], data[max(0, found.start() - _NEAR) : found.start()]
            if not _is_public(before, name, found.group(1)):
                yield found.start(1), found.end(1), place.kind
                break


def _is_public(before: bytes, name: bytes, value: bytes) -> bool:
    word, before_name = re.match(rb"\W*([\w.-]*)", name)[1].lower(), before[-14:]  # type: ignore[index]
    if stated_pattern("name").search(word) or stated_pattern("public").match(value):
        return True
    if re.fullmatch(rb"[0-9a-fA-F]+", value) and stated_pattern("cryptography").search(before + name):
        return True
    if not word.startswith((b"secret", b"pass")) and stated_pattern("before").search(before_name):
        return True
    bare = word.startswith(b"token") and not stated_pattern("secret_before").search(before_name)
    return bare and stated_pattern("base58").match(value) is not None
