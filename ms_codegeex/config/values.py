"""Configurations as nested plain values: YAML files with their `base`, dotted overrides, and flattened keys."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base import nested
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import MalformedText
from ms_codegeex.base.shipped import find_config
from ms_codegeex.base.yaml_reading import parse_yaml, read_yaml_file
from ms_codegeex.config.blend import KEY as BLEND


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `over`, key by key at every depth."""
    result = dict(base)
    for key, value in over.items():
        # the weights of a blend are replaced as a whole
        both = key != "blend" and isinstance(value, Mapping | None) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value or {}) if both else value  # an empty section changes nothing
    return result


def with_home(value: Any) -> Any:
    """Expand a leading `~/` in all texts and keys of a value, since no shell does in a file or after `key=`."""
    if isinstance(value, Mapping):
        return {with_home(key): with_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the mapping in a YAML file, merged over that of its `base` file, whose name is relative to this file.
    `seen`: the files that led here by `base`. `UserError` if a file is missing, malformed or its own base."""
    real_path = Path(os.path.realpath(path))  # unlike Path.resolve, it returns for a loop of links
    if real_path in seen:
        raise UserError(f"{path}: its `base` chain comes back to itself; break the circle")
    try:
        values = read_yaml_file(path, pipe=not seen)  # a `base` may come from someone else's file: no pipe
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    if not isinstance(values, Mapping):
        found = {type(None): "nothing", list: "a list"}.get(type(values), "a single value")
        raise UserError(f"{path}: found {found}, expected sections with keys (model:, data:, training: …)")
    values = dict(values)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base: found {base!r}, expected the name of a YAML file")
    file = path.parent / with_home(base)
    file = file if file.suffix or file.exists() else find_config(base, option="base")
    return merged(read_yaml(file, (*seen, real_path)), values)


def _has_comment(value: str, parsed: Any) -> bool:
    comment = re.search(r"(?:^|\s)#", value)
    with contextlib.suppress(MalformedText):
        return comment is not None and parse_yaml(value[: comment.start()]) == parsed
    return False


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Parse `["training.steps=40"]` into `{"training": {"steps": 40}}`. Values are YAML scalars or flow collections."""
    tree: dict[str, Any] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not all(key.split(".")):
            raise UserError(f"'{text}': not an override; write key=value, for example training.steps=40")
        remedy = f"quote it as {shlex.quote(json.dumps(value, ensure_ascii=False))}"
        try:
            parsed = with_home(parse_yaml(value)) if value else None
        except MalformedText:
            if value[0] in "[{":
                remedy = "correct it, in quotes if it has spaces"
            raise UserError(f"{key}: found {value!r}, which is not a YAML value; {remedy}") from None
        if _has_comment(value, parsed):
            raise UserError(f"{key}: found {value!r}, where YAML takes # for a comment; {remedy}")
        if key.startswith(f"{BLEND}."):
            raise UserError(f"{key}: weights are given together; write '{BLEND}={{DIR: WEIGHT, DIR: WEIGHT}}'")
        for part in reversed(key.split(".")):
            parsed = {part: parsed}
        tree = merged(tree, parsed)
    return tree


def flattened(tree: Mapping[str, Any]) -> dict[str, Any]:
    return nested.flattened(tree, whole=(BLEND,))
