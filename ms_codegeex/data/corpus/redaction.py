"""E-mail addresses and secrets in texts, replaced by `<EMAIL>` and `<SECRET>`.

A text without any costs little: every pattern begins with literal text, which `re` finds at gigabytes per second; what
may stand before it is examined only where it was found.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

REDACTIONS = ("email", "secrets")
EMAIL, SECRET = b"<EMAIL>", b"<SECRET>"

_WORD = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
_ESCAPES = (rb"\n", rb"\r", rb"\t")  # in a string of code or JSON; not a letter of a word
_LOCAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_LOCAL_BYTES = 64  # RFC 5321, section 4.5.3.1.1
# What follows must not make it an expression (`a@b.dot(c)`), a longer name or the path of a Git server.
_DOMAIN = re.compile(rb"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})(?![\w(\[@-]|\.\w)")
_FILES = frozenset((b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"ico", b"css", b"js", b"mjs", b"ts", b"py"))

_END = rb"(?![A-Za-z0-9_-])"
# Kind and format, as the issuers publish it. Group 1, if there is one, is what is replaced.
_TOKENS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("AWS access key", re.compile(rb"A[KS]IA[A-Z2-7]{16}" + _END)),
    ("GitHub token", re.compile(rb"gh[pousr]_[A-Za-z0-9]{36,251}" + _END)),
    ("GitHub token", re.compile(rb"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}" + _END)),
    ("GitLab token", re.compile(rb"gl(?:pat|ptt|dt|rt|oas|cbt|ft|soat|agent)-[A-Za-z0-9_.-]{20,}")),
    ("Slack token", re.compile(rb"xox[abeoprs]-(?:[A-Za-z0-9]+-){1,4}[A-Za-z0-9]{8,}")),
    ("Slack webhook", re.compile(rb"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9/]{30,})")),
    ("Google API key", re.compile(rb"AIza[A-Za-z0-9_-]{35}" + _END)),
    ("Stripe key", re.compile(rb"sk_(?:live|test)_[A-Za-z0-9]{24,}")),
    ("Stripe key", re.compile(rb"rk_(?:live|test)_[A-Za-z0-9]{24,}")),
    ("JSON web token", re.compile(rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}")),
    ("npm token", re.compile(rb"npm_[A-Za-z0-9]{36}" + _END)),
    ("PyPI token", re.compile(rb"pypi-AgE[A-Za-z0-9_-]{50,}")),
)
# The end may be missing where a text is truncated.
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----((?:[^-]|-(?!----)){64,20000})"
    rb"(?:-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
_KEY_BODY = re.compile(rb"[A-Za-z0-9+/]{40}")

_VALUE = rb"\s{0,8}[\"']([A-Za-z0-9+/=_.~!@#$%^&*-]{16,200})[\"']"
_ASSIGNMENTS = (re.compile(rb"=>?" + _VALUE), re.compile(rb":" + _VALUE))
_NAMED_SECRET = re.compile(
    rb"(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|(?:api|access|auth|private|encryption|signing)[_-]?key)"
    rb"\w{0,20}[\"']?\]?\s{0,8}:?\Z",
    re.IGNORECASE,
)
_BEFORE = 80  # room for a name and what separates it from its value
_HEX = re.compile(rb"(?:[0-9a-f]{32,}|[0-9A-F]{32,})\Z")

_Hit = tuple[int, int, str]


def redact(data: bytes, what: Sequence[str]) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """`data` (UTF-8) with every `what` (of `REDACTIONS`) replaced, and the kinds of what was found, with their counts.

    Kinds are `email`, `private key`, `password`, and the names of the services' tokens. The result is valid UTF-8.
    """
    hits: list[_Hit] = []
    if "secrets" in what:
        hits += [hit for find in (_private_keys, _tokens, _assigned) for hit in find(data)]
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
    for found in _DOMAIN.finditer(data):
        at = found.start()
        window = data[max(0, at - _LOCAL_BYTES) : at]
        local = window[len(window.rstrip(_LOCAL)) :].lstrip(b".%+-")
        git = local == b"git" and data[found.end() : found.end() + 1] in (b":", b"/")
        if local and not git and found[1].rsplit(b".", 1)[-1].lower() not in _FILES:
            yield at - len(local), found.end(), "email"


def _private_keys(data: bytes) -> Iterator[_Hit]:
    for found in _PRIVATE_KEY.finditer(data):
        if _KEY_BODY.search(found[1]):  # otherwise it is code that looks for these two lines
            yield found.start(), found.end(), "private key"


def _tokens(data: bytes) -> Iterator[_Hit]:
    for kind, pattern in _TOKENS:
        for found in pattern.finditer(data):
            group = 1 if pattern.groups else 0
            start = found.start()
            free = group or not start or data[start - 1] not in _WORD or data[max(0, start - 2) : start] in _ESCAPES
            if free and _entropy(found[group]) >= 3.0:  # not a placeholder such as a row of x
                yield found.start(group), found.end(group), kind


def _assigned(data: bytes) -> Iterator[_Hit]:
    for pattern in _ASSIGNMENTS:
        for found in pattern.finditer(data):
            before = data[max(0, found.start() - _BEFORE) : found.start()]
            if _is_random(found[1]) and _NAMED_SECRET.search(before):
                yield found.start(1), found.end(1), "password"


def _entropy(value: bytes) -> float:
    """Bits per byte of the frequencies of `value`'s bytes."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _kind_of(byte: int) -> str:
    char = chr(byte)
    return "digit" if char.isdigit() else "upper" if char.isupper() else "lower" if char.islower() else "other"


def _is_random(value: bytes) -> bool:
    """Whether these characters look random: 32 hexadecimal digits, or upper case, lower case and digits mixed.

    Camel and snake case change the kind of character at one step in three at most, random text at three in five.
    """
    if _HEX.match(value):
        return _entropy(value) >= 3.0
    kinds = [_kind_of(byte) for byte in value]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    mixed = {"digit", "upper", "lower"} <= set(kinds) and kinds.count("digit") >= 2
    return mixed and _entropy(value) >= 3.5 and changes >= 0.45 * (len(value) - 1)
