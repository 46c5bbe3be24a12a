"""Refuse models that only look like a supported one; `lookalikes.yaml` says how each is recognised."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_inside
from ms_codegeex.base.shipped import shipped_table

_CODE_BESIDE, _MAX_CODE = ("modeling_codegen.py", "tokenization_chatglm.py"), 16 << 20  # searched for names, never run


def lookalikes() -> Mapping[str, Sequence[Mapping[str, Any]]]:
    return shipped_table(Path(__file__).with_name("lookalikes.yaml"))


def refuse_lookalike(
    where: Path, config: Mapping[str, Any] | None = None, *, of: str | None = None, token: str | None = None
) -> None:
    """Raise `UserError` if a model is a known lookalike of the family `of`, or of any family if None. It is recognised
    by its settings `config`, read from the file `where`, or by the added token `token`."""
    values = {} if config is None else _evidence(where.parent, config)
    for model in lookalikes()["refused"]:
        if of in (None, model["of"]):
            mark = next((mark for mark in model["marks"] if values and _found(mark, values)), None)
            if mark is not None or token in model.get("tokens", ()):
                shown = " and ".join(mark or [f"token {token}"])
                said = f"is {model['name']} by its {shown}, not {model['of']}: {model['reason']}"
                raise UserError(f"{where}: {said}; give a model of this family, or correct that if it is one")


def _found(mark: Mapping[str, str], values: Mapping[str, str]) -> bool:
    return all(re.search(pattern, values.get(key, ""), re.IGNORECASE) for key, pattern in mark.items())


def _evidence(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in config.items()}
    named = {f"{module}.py" for module in re.findall(r'"(?:[^"]*--)?(\w+)\.\w+"', values.get("auto_map", ""))}
    beside = [name for name in sorted({*named, *_CODE_BESIDE}) if (directory / name).is_file()]
    code = (read_inside(directory, name, _MAX_CODE) for name in beside)
    name = values.get("_name_or_path") or values.get("name_or_path") or ""
    text = b"\n".join(code).decode("utf-8", "replace")
    return {**values, "name": name, "code": text, "files": " ".join(beside)}
