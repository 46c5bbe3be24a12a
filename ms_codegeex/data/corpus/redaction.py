"""E-mail addresses and secrets in texts, replaced by `<EMAIL>` and `<SECRET>`.

`ms_codegeex.data.corpus.secrets` finds the secrets.
"""

from __future__ import annotations

import functools
import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ms_codegeex.data.corpus.secrets import Hit

REDACTIONS = ("email", "real-email", "secrets")
EMAIL, SECRET = b"<EMAIL>", b"<SECRET>"

_LOCAL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-"
_LOCAL_BYTES = 64  # RFC 5321, section 4.5.3.1.1
# The text after it must not make it an expression (`a@b.dot(c)`), a longer name or the path of a Git server.
_DOMAIN = re.compile(rb"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24})(?![\w(\[@-]|\.\w)")
_RESERVED = re.compile(rb"(?i)(?:\A|\.)example\.(?:com|net|org|edu)\Z")  # RFC 2606; its `.test` is no public suffix
_WINDOW = 140  # bytes before an address that tell what it is
_ESCAPE = re.compile(rb"(?:u003[ce]|x3[ce]|[nrt])")
_SERVER = re.compile(rb":(?:[/~\d]|[\w.-]+/)|/[\w.~-]+\.git\b")  # what follows a user of a server
_FILES = frozenset((b"py", b"rs", b"sh", b"pl", b"md", b"zip", b"mov"))  # top-level domains too
# Kotlin's and Swift's `this@Outer.field` and `return@label`, and the operands of Python's matrix product.
_KEYWORDS = frozenset((b"this", b"super", b"return", b"break", b"continue"))
_OPERANDS = frozenset((b"self", b"this", b"cls", b"np", b"jnp", b"torch"))


def redact(data: bytes, what: Sequence[str]) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """`data` (UTF-8) with every `what` (of `REDACTIONS`) replaced, and the number of places of each kind: `email` (with
    `real-email`, without those at domains that are reserved for examples), `private key`, `password`, `credential`, the kinds of `rules/issuers.yaml` and the names of gitleaks' rules."""
    hits: list[Hit] = []
    if "secrets" in what:
        from ms_codegeex.data.corpus.secrets import find_secrets  # compiles its patterns

        hits += find_secrets(data)
    if b"@" in data and not {"email", "real-email"}.isdisjoint(what):
        hits += _emails(data, "email" not in what)
    if not hits:
        return data, ()
    pieces, end, counts = [], 0, Counter()
    for start, stop, kind in sorted(hits, key=operator.itemgetter(0)):
        if start < end:  # inside a text that is replaced already
            continue
        pieces += [data[end:start], EMAIL if kind == "email" else SECRET]
        end = stop
        counts[kind] += 1
    return b"".join([*pieces, data[end:]]), tuple(sorted(counts.items()))


def _emails(data: bytes, real: bool = False) -> Iterator[Hit]:
    for match in _DOMAIN.finditer(data):
        at = match.start()
        window = data[max(0, at - _WINDOW) : at]
        left = window[-_LOCAL_BYTES:].rstrip(_LOCAL)
        local = window[-_LOCAL_BYTES:][len(left) :].lstrip(b".%+-")
        if left.endswith(b"\\"):  # the letter of an escape
            local = _ESCAPE.sub(b"", local, 1) if _ESCAPE.match(local) else local
        if not local or _is_code(local, match[1]) or (real and _RESERVED.search(match[1])):
            continue
        if not _SERVER.match(data, match.end()) and not _is_name(window[: -len(local)], local + match[0]):
            yield at - len(local), match.end(), "email"


def _is_name(before: bytes, address: bytes) -> bool:
    """Whether this is a name of SSH's, a user of a server or the number of a message."""
    from ms_codegeex.data.corpus.secrets import stated_pattern

    return bool(stated_pattern("no_address").match(address) or stated_pattern("no_address_after").search(before))


def _is_code(local: bytes, domain: bytes) -> bool:
    """Whether `local@domain` is an expression or a file's name."""
    top = domain.rsplit(b".", 1)[-1]
    if len(local) == 1 and local.isupper() and domain[1:2] == b".":  # the product of two matrices
        return True
    if local in _KEYWORDS or domain.split(b".", 1)[0] in _OPERANDS or top.lower() in _FILES:
        return True
    return not (top.islower() or top.isupper()) or _public_suffixes().privatesuffix(domain.decode()) is None


@functools.cache
def _public_suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True)
