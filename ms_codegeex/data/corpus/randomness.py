"""Whether characters look random, as those of keys and passwords do."""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import re
from collections import Counter

_PLACEHOLDER = re.compile(
    rb"(?i)x{4}|\*{3}|\.{3}|#{4}|your|example|placeholder|change_?(?:me|it)|dummy|redacted|passw(?:or)?d"
    rb"|abcdefgh|abc123|_here|tokenhere|stringhere"
)
_HEX = re.compile(rb"(?:[0-9a-f]{32,}|[0-9A-F]{32,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\Z")
_WORDS = re.compile(rb"[a-z]{5}|[A-Z]{5}")
_CAMEL = re.compile(rb"[A-Z][a-z]{3,}")
_SYLLABLES = re.compile(rb"[a-z]{4}|[A-Z]{4}")
_KINDS = (
    bytes(
        ord("d" if chr(n).isdigit() else "u" if chr(n).isupper() else "l" if chr(n).islower() else "o")
        for n in range(128)
    )
    + b"o" * 128
)


def is_placeholder(value: bytes) -> bool:
    """Whether this stands for a secret in a manual or a template."""
    return _PLACEHOLDER.search(value) is not None


def entropy(value: bytes) -> float:
    """Bits per byte of the frequencies of `value`'s bytes."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _changes(kinds: bytes) -> float:
    """How often the kind of character changes from one to the next, of 1."""
    return sum(a != b for a, b in itertools.pairwise(kinds)) / (len(kinds) - 1)


def is_random(value: bytes) -> bool:
    """Whether these characters look random: hexadecimal digits, a UUID, or letters and digits well mixed.

    Names in camel or snake case change the kind of character at about one step in three; random text does at three in
    five, and at two in five if its letters are of one case. Where it changes less often or has no digits, a random
    text still has no four or five letters of one case in a row, and names have.
    """
    if _HEX.match(value):
        return entropy(value) >= 3.0
    if is_placeholder(value):
        return False
    kinds = value.translate(_KINDS)
    changes, digits = _changes(kinds), kinds.count(b"d")
    if b"u" in kinds and b"l" in kinds:
        names = _WORDS if digits > 1 else _SYLLABLES
        mixed = (changes >= 0.42 and digits > 0) or (changes >= 0.3 and not names.search(value))
        return mixed and entropy(value) >= 3.1 and not is_name(value)
    one_case = b"o" not in kinds
    return one_case and len(value) >= 20 and digits >= len(value) / 8 and entropy(value) >= 3.5 and changes >= 0.22


def is_name(value: bytes) -> bool:
    """Whether this is mostly words in camel case."""
    return sum(map(len, _CAMEL.findall(value))) >= 0.6 * len(value)


def is_key(value: bytes) -> bool:
    """Whether this looks random enough for what is named as a key of a service, in the form of its keys."""
    digits = sum(48 <= byte < 58 for byte in value)
    return digits > 1 and entropy(value) >= (2.2 if digits == len(value) else 2.8) and not is_placeholder(value)


def is_phrase(value: bytes) -> bool:
    """Whether this is a long text of random characters of all kinds, as frameworks draw them for their settings."""
    kinds = value.removeprefix(b"django-insecure-").translate(_KINDS)
    return len(set(kinds)) >= 3 and kinds.count(b"o") >= 4 and entropy(value) >= 4.2 and _changes(kinds) >= 0.45


def is_password(value: bytes) -> bool:
    """Whether this may be the password in a URL, not a word or a placeholder."""
    plain = value.replace(b"-", b"").replace(b"_", b"").islower() and value.isalpha()
    return not plain and not is_placeholder(value)


def is_login(value: bytes) -> bool:
    """Whether this is the base64 of `user:password` (RFC 7617)."""
    try:
        user, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except binascii.Error:
        return False
    text = user + password
    return bool(colon and password) and text.isascii() and text.decode().isprintable() and not is_placeholder(text)
