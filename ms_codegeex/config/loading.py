"""Build the configuration of a run from YAML files and overrides, or report the first mistake in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.kinds import refuse_other_kind
from ms_codegeex.base.shipped import SUFFIXES, find_config
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.values import merged, parse_overrides, read_yaml, with_home
from ms_codegeex.models.registry import FAMILIES, family


def _smallest_world(parallel: Any) -> int:
    if not isinstance(parallel, Mapping):
        return 1
    sizes = [parallel.get("data") or parallel.get("optimizer_shard"), parallel.get("tensor"), parallel.get("pipeline")]
    return math.prod(size for size in sizes if type(size) is int and size > 0)


def _with_own_tokenizer(values: Mapping[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    data, model = (each if isinstance(each, Mapping) else {} for each in (over.get("data"), over.get("model")))
    size, whole = data.get("tokenizer_size"), merged(values, over).get("model") or {}
    if type(size) is not int or not isinstance(whole, Mapping) or whole.get("weights") is not None:
        return over
    if (name := whole.get("family", "codegeex")) not in FAMILIES:
        return over
    after = family(name).config.build_config(None, {}).after_end
    own = {} if after is None else {"vocab_size": size, "eos_token_id": size - 1 - after}
    return {**over, "model": {**own, **model}}


def _with_chip(values: dict[str, Any]) -> dict[str, Any]:
    parallel = values.get("parallel")
    name = parallel.get("hardware") if isinstance(parallel, Mapping) else None
    if not isinstance(name, str) or Path(name).suffix not in SUFFIXES:
        return values
    try:
        content = read_yaml_file(Path(name))
    except FileNotFoundError:
        write = "`ms-codegeex plan --config RUN/config.yaml --measured RUN --write-hardware FILE.yaml`"
        raise UserError(f"parallel.hardware: {name} does not exist; write it with {write}, or name a chip") from None
    base = content.get("base") if isinstance(content, Mapping) else None
    if not isinstance(base, str):
        raise UserError(f"parallel.hardware: {name} names no chip as its base; add one, such as base: ascend910b")
    return {**values, "parallel": {**parallel, "hardware": base, "calibration": name}}


def given_values(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the merged values of a file, its bases and the overrides, unchecked."""
    over = parse_overrides(overrides)
    if "base" in over:
        raise UserError("base: is a key of files; give its file as --config")
    values = with_home(read_yaml(find_config(path))) if path else {}
    if path:
        refuse_other_kind(path, values)
    return merged(values, _with_own_tokenizer(values, over))


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the checked configuration from the YAML file `path`, or the shipped one of that name (None: defaults),
    with dotted overrides on top."""
    values = _with_chip(given_values(path, overrides))
    if values.get("devices") is None:
        values["devices"] = _smallest_world(values.get("parallel"))
        single = build_run_config(values)
        shareable = (
            single.devices == 1 and single.device == "cpu" and single.local_batch % 2 == 0 and not single.lora.bits
        )
        if shareable and available_cores() >= 2 and (single.training.micro_batch or 1) <= single.local_batch // 2:
            values["devices"] = 1 if single.parallel.data else 2
    return build_run_config(values)
