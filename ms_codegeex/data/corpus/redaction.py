"""E-mail addresses and secrets in texts, replaced by `<EMAIL>` and `<SECRET>`.

Secrets are tokens of known formats (`secret_formats`), private keys, values that look random and are assigned to a name
such as `password`, credentials in headers and passwords in URLs. RE2 looks for all formats in one pass, in time linear
in the length of the text; most texts have none.
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ms_codegeex.data.corpus.secret_formats import FORMATS, NOT_LONGER

REDACTIONS = ("email", "secrets")
EMAIL, SECRET = b"<EMAIL>", b"<SECRET>"

_WORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_ESCAPES = (rb"\n", rb"\r", rb"\t")  # in a string of code or JSON; not a letter of a word
_LOCAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_LOCAL_BYTES = 64  # RFC 5321, section 4.5.3.1.1
# The text after it must not make it an expression (`a@b.dot(c)`), a longer name or the path of a Git server.
_DOMAIN = re.compile(rb"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})(?![\w(\[@-]|\.\w)")
_FILES = frozenset((b"py", b"rs", b"sh", b"pl", b"md", b"zip", b"mov"))  # top-level domains too
# Kotlin's and Swift's `this@Outer.field` and `return@label`, and the operands of Python's matrix product.
_KEYWORDS = frozenset((b"this", b"super", b"return", b"break", b"continue"))
_OPERANDS = frozenset((b"self", b"this", b"cls", b"np", b"jnp", b"torch"))

# The end may be missing where a text is truncated.
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----((?:[^-]|-(?!----)){64,20000})"
    rb"(?:-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
_KEY_BODY = re.compile(rb"[A-Za-z0-9+/]{40}")

# RE2's syntax: a name of a secret, and the value assigned to it, quoted or to the end of the line.
_ASSIGNMENT = (
    rb"(?i:passw(?:or)?d|passphrase|pwd|secret|token|credential|(?:api|access|account|auth|private|encryption|signing)[_-]?key)"
    rb"\w{0,20}[\\\"'\]]{0,3}(?:\s?:\s?[A-Za-z\[\], |.?]{1,40})?[ \t]{0,8}(?:=>|:=|=|:)\s{0,8}"
    rb"(?:\\?[\"'`]([A-Za-z0-9+/=_.~!@#$%^&*-]+)\\?[\"'`]"
    rb"|([A-Za-z0-9+/=_.~!@#%^*-]+)[ \t]*,?[ \t]*(?:[#;].*)?\r?(?:\n|\z))"
)
_SHORTEST, _LONGEST = 12, 200  # bytes of an assigned value
_HEADER = rb"(?:[Bb]earer[ \t]+([A-Za-z0-9_.~+/=-]{20,})|[Bb]asic[ \t]+([A-Za-z0-9+/]{16,}={0,2}))"
_URL = rb"://[^\s/:@\"'`<>{}$()]*:([^\s/:@\"'`<>{}$()]{6,})@[A-Za-z0-9\[]"
_PLACEHOLDER = re.compile(rb"(?i)x{4}|\*{3}|\.{3}|your|example|placeholder|change_?me|dummy|redacted|passw(?:or)?d")
_HEX = re.compile(rb"(?:[0-9a-f]{32,}|[0-9A-F]{32,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")

_Hit = tuple[int, int, str]


def redact(data: bytes, what: Sequence[str]) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """`data` (UTF-8) with every `what` (of `REDACTIONS`) replaced, and the kinds that were found, with their counts.

    Kinds are `email`, `private key`, `password`, `credential`, and the kinds of `FORMATS`. The result is valid UTF-8.
    """
    hits: list[_Hit] = []
    if "secrets" in what:
        hits += [hit for find in (_private_keys, _tokens, _values) for hit in find(data)]
    if "email" in what and b"@" in data:
        hits += _emails(data)
    if not hits:
        return data, ()
    pieces, end, counts = [], 0, Counter()
    for start, stop, kind in sorted(hits):
        if start < end:  # inside a text that is replaced already
            continue
        pieces += [data[end:start], EMAIL if kind == "email" else SECRET]
        end = stop
        counts[kind] += 1
    return b"".join([*pieces, data[end:]]), tuple(sorted(counts.items()))


def _emails(data: bytes) -> Iterator[_Hit]:
    for match in _DOMAIN.finditer(data):
        at = match.start()
        window = data[max(0, at - _LOCAL_BYTES) : at]
        left = window.rstrip(_LOCAL)
        local = window[len(left) :].lstrip(b".%+-")
        server = local == b"git" and data[match.end() : match.end() + 1] in (b":", b"/")
        if local and not server and not left.endswith(b"//") and not _is_code(local, match[1]):
            yield at - len(local), match.end(), "email"


def _is_code(local: bytes, domain: bytes) -> bool:
    """Whether `local@domain` is an expression or a file's name."""
    top = domain.rsplit(b".", 1)[-1]
    if local in _KEYWORDS or domain.split(b".", 1)[0] in _OPERANDS or top.lower() in _FILES:
        return True
    return not (top.islower() or top.isupper()) or _public_suffixes().privatesuffix(domain.decode()) is None


@functools.cache
def _public_suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True)


@functools.cache
def _re2(pattern: bytes) -> Any:
    """Bytes in, bytes out."""
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 64 << 20  # of the automaton, which is slower with less
    return re2.compile(pattern, options)


@functools.cache
def _any_format() -> bytes:
    """RE2's pattern for a token of any format; without the assertions and groups that are checked where it is found."""
    parts = (re.escape(form.start) + form.rest.replace(NOT_LONGER, b"") for form in FORMATS)
    return b"|".join(re.sub(rb"\((?!\?)", b"(?:", part) for part in parts)


@functools.cache
def _formats() -> dict[bytes, list[tuple[str, re.Pattern[bytes]]]]:
    """Kinds and patterns by the first two bytes of a token."""
    formats: dict[bytes, list[tuple[str, re.Pattern[bytes]]]] = {}
    for form in FORMATS:
        pattern = re.compile(re.escape(form.start) + form.rest)
        formats.setdefault(form.start[:2], []).append((form.kind, pattern))
    return formats


def _private_keys(data: bytes) -> Iterator[_Hit]:
    for match in _PRIVATE_KEY.finditer(data):
        if _KEY_BODY.search(match[1]):  # otherwise it is code that looks for these two lines
            yield match.start(), match.end(), "private key"


def _tokens(data: bytes) -> Iterator[_Hit]:
    for candidate in _re2(_any_format()).finditer(data):
        start = candidate.start()
        word = start and data[start - 1] in _WORD and data[max(0, start - 2) : start] not in _ESCAPES
        for kind, pattern in _formats()[data[start : start + 2]]:
            match = pattern.match(data, start)
            group = 1 if pattern.groups else 0
            if not match or (word and not group):  # the middle of a word
                continue
            if _entropy(match[group]) >= 3.0 and not _PLACEHOLDER.search(match[group]):
                yield match.start(group), match.end(group), kind
                break


def _values(data: bytes) -> Iterator[_Hit]:
    for pattern, kind, *accepts in _PLACES:
        for match in _re2(pattern).finditer(data):
            group = match.lastindex
            if accepts[group - 1](match.group(group)):
                yield match.start(group), match.end(group), kind


def _is_assigned(value: bytes) -> bool:
    return _SHORTEST <= len(value) <= _LONGEST and _is_random(value)


def _is_password(value: bytes) -> bool:
    """Whether this may be the password in a URL, not a word or a placeholder."""
    plain = value.replace(b"-", b"").replace(b"_", b"").islower() and value.isalpha()
    return len(value) <= _LONGEST and not plain and not _PLACEHOLDER.search(value)


def _is_login(value: bytes) -> bool:
    """Whether this is the base64 of `user:password` (RFC 7617)."""
    try:
        user, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except binascii.Error:
        return False
    text = user + password
    return bool(colon and password) and text.isascii() and text.decode().isprintable() and not _PLACEHOLDER.search(text)


def _entropy(value: bytes) -> float:
    """Bits per byte of the frequencies of `value`'s bytes."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _kind_of(byte: int) -> str:
    char = chr(byte)
    return "digit" if char.isdigit() else "upper" if char.isupper() else "lower" if char.islower() else "other"


def _is_random(value: bytes) -> bool:
    """Whether these characters look random: hexadecimal digits, a UUID, or letters and digits well mixed.

    Names in camel or snake case change the kind of character at about one step in three; random text does at three in
    five, and at two in five if its letters are of one case.
    """
    if _HEX.match(value):
        return _entropy(value) >= 3.0
    if _PLACEHOLDER.search(value):
        return False
    kinds = [_kind_of(byte) for byte in value]
    changes = sum(a != b for a, b in itertools.pairwise(kinds)) / (len(value) - 1)
    digits = kinds.count("digit")
    if {"upper", "lower"} <= set(kinds):
        return digits > 0 and _entropy(value) >= 3.2 and changes >= 0.42
    one_case = set(kinds) <= {"digit", "upper"} or set(kinds) <= {"digit", "lower"}
    return one_case and len(value) >= 20 and digits >= len(value) / 8 and _entropy(value) >= 3.5 and changes >= 0.22


# Where values are: a pattern, their kind, and which values count, for each group of the pattern.
_PLACES = (
    (_ASSIGNMENT, "password", _is_assigned, _is_assigned),
    (_HEADER, "credential", _is_random, _is_login),
    (_URL, "credential", _is_password),
)
