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
_WINDOW = 140  # bytes before an address that tell what it is
_ESCAPE = re.compile(rb"\A(?:u003[ce]|x3[ce]|[nrt])")


def places(data: bytes, what: Sequence[str]) -> list[Hit]:
    """Where a text (UTF-8) has what is replaced for `what` (of `REDACTIONS`): start, end and kind, ascending and apart
    from each other. Kinds are `email`, with `real-email` without addresses at domains reserved for examples; `private
    key`, `password`, `credential`, the kinds of `rules/issuers.yaml` and the names of gitleaks' rules."""
    hits: list[Hit] = []
    if "secrets" in what:
        from ms_codegeex.data.corpus.secrets import find_secrets  # compiles its patterns

        hits += find_secrets(data)
    if b"@" in data and not {"email", "real-email"}.isdisjoint(what):
        hits += find_emails(data, "email" not in what)
    apart: list[Hit] = []
    end = 0
    for hit in sorted(hits, key=operator.itemgetter(0)):
        if hit[0] >= end:  # otherwise inside a text that is replaced already
            apart.append(hit)
            end = hit[1]
    return apart


def redact(
    data: bytes, what: Sequence[str], found: Sequence[Hit] | None = None
) -> tuple[bytes, tuple[tuple[str, int], ...]]:
    """`data` (UTF-8) with every `what` replaced, and the number of places of each kind; `found`: its `places`."""
    found, pieces, end = places(data, what) if found is None else found, [], 0
    for start, stop, kind in found:
        pieces += [data[end:start], EMAIL if kind == "email" else SECRET]
        end = stop
    counts = sorted(Counter(kind for _, _, kind in found).items()) if found else ()
    return b"".join([*pieces, data[end:]]) if found else data, tuple(counts)


def find_emails(data: bytes, real: bool = False) -> Iterator[Hit]:
    from ms_codegeex.data.corpus.secrets import stated_pattern

    left_out = ("no_address", "reserved") if real else ("no_address",)
    for match in _DOMAIN.finditer(data):
        at = match.start()
        window = data[max(0, at - _WINDOW) : at]
        left = window[-_LOCAL_BYTES:].rstrip(_LOCAL)
        local = window[-_LOCAL_BYTES:][len(left) :].lstrip(b".%+-")
        local = _ESCAPE.sub(b"", local) if left.endswith(b"\\") else local
        before, address = window[: len(window) - len(local)], local + match[0]
        if not local or any(stated_pattern(name).match(address) for name in left_out):
            continue
        server = stated_pattern("before_address").search(before)
        server = server or stated_pattern("after_address").match(data, match.end())
        if not server and _can_exist(match[1]):
            yield at - len(local), match.end(), "email"


def _can_exist(domain: bytes) -> bool:
    top = domain.rsplit(b".", 1)[-1]
    return (top.islower() or top.isupper()) and _public_suffixes().privatesuffix(domain.decode()) is not None


@functools.cache
def _public_suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True)
