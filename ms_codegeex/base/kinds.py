"""Recognise settings and record files that belong to other programs, by `kinds.yaml`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_table

_RECORDS = (
    "`ms-codegeex finetune --model DIR --data {path} output=DIR` trains on examples, `ms-codegeex prepare --input "
)
_RECORDS += "{path} --output DIR` makes a dataset of texts (docs/what-we-read.md)"


def refuse_other_kind(path: Path, content: Any) -> None:
    """Raise `UserError` if the `content` of the file `path` is records or another program's file; it says which."""
    kind, helps = "a list of records", _RECORDS
    if isinstance(content, Mapping):
        row = next((row for row in shipped_table(Path(__file__).with_name("kinds.yaml")) if _fits(row, content)), None)
        if row is None:
            return
        kind, helps = row["kind"], row["helps"]
    elif not (isinstance(content, list) and content and isinstance(content[0], Mapping)):
        return
    raise UserError(f"{path}: found {kind}; {helps.format(path=shlex.quote(str(path)))}")


def _fits(row: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    if each := row.get("in_each"):
        return bool(content) and all(isinstance(it, Mapping) and it.keys() & {*each} for it in content.values())
    one = row.get("or_one")
    return {*row.get("has", ())} <= content.keys() and (one is None or bool(content.keys() & {*one}))
