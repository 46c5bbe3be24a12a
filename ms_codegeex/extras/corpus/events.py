"""What becomes of corpus input that is not kept unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ms_codegeex.base.shipped import shipped_table


class Event(NamedTuple):
    """What became of input that is not kept unchanged. `source` is that of a `Document`, or the identity of a file if
    no line or row is meant. `kind`, with a `reason`: a rule dropped a text (`dropped`), or it is broken (`problems`); a
    file is not read (`unread`), or read for its records (`archives`); a text is kept, but changed (`changed`) or with a
    remark (`noted`). `detail` is what matched and `where` its place in the text; `count` is the number of files,
    records or places; `excerpt` is the beginning of a text, at most 200 characters."""

    source: str
    kind: str
    reason: str
    detail: str = ""
    bytes: int = 0
    where: str = ""
    count: int = 1
    excerpt: str = ""


def remedies(of: str) -> Mapping[str, str]:
    return shipped_table(Path(__file__).parent / "rules" / "remedies.yaml")[of]
