"""From YAML files and overrides to a checked configuration, or to the first mistake in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.config.fusions import check_kernels
from ms_codegeex.config.mesh_rules import check_mesh
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import merged, parse_overrides, read_yaml
from ms_codegeex.errors import UserError
from ms_codegeex.host import available_cores
from ms_codegeex.shipped import find_config


def build_run_config(values: Mapping[str, Any]) -> RunConfig:
    """A validated `RunConfig` from nested plain values."""
    check_tree(RunConfig, values)
    config = validated(RunConfig, values)
    check_run_config(config)
    return config


def check_run_config(config: RunConfig) -> None:
    """Check the rules between keys; a `UserError` names the key to change."""
    model, training = config.model.sizes, config.training
    check_mesh(config)
    check_kernels(config)
    if config.seq_length > model.max_position_embeddings:
        raise UserError(
            f"data.seq_length: {config.seq_length} is longer than model.max_position_embeddings "
            f"{model.max_position_embeddings}; shorten it or enlarge the model's table"
        )
    if config.data.blend is not None and config.data.train is not None:
        raise UserError("data.blend: data.train is given too; set one of them to null")
    if training.steps and training.tokens:
        raise UserError("training.tokens: training.steps is given too; set one of them to null")
    if not config.steps:
        raise UserError("training.steps: missing; give training.steps or training.tokens")
    if config.partitioned and config.loss_chunk:
        raise UserError(
            f"training.loss_chunk: {config.loss_chunk}, but device: {config.device} forms all logits, which "
            "parallel.vocabulary can shard; set it to 0 or leave it out"
        )
    if training.loss_chunk and training.precision != "fp32":
        raise UserError("training.loss_chunk: the chunked loss is FP32 only; set it to 0 or training.precision to fp32")
    if training.schedule.warmup_steps >= training.schedule.decay_steps:
        raise UserError(
            f"training.schedule.warmup_steps: {training.schedule.warmup_steps} is not below decay_steps "
            f"{training.schedule.decay_steps}; the cosine would never start"
        )


def _smallest_world(parallel: Any) -> int:
    """The fewest devices for the given axes; a value of the wrong type is reported when the configuration is built."""
    if not isinstance(parallel, Mapping):
        return 1
    sizes = [parallel.get("data") or parallel.get("optimizer_shard"), parallel.get("tensor"), parallel.get("pipeline")]
    return math.prod(size for size in sizes if type(size) is int and size > 0)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML file `path`, or the shipped one of that name (none: defaults), with dotted overrides on top, checked."""
    values = merged(read_yaml(find_config(path)) if path else {}, parse_overrides(overrides))
    if values.get("devices") is None:
        values["devices"] = _smallest_world(values.get("parallel"))
        single = build_run_config(values)
        shareable = single.devices == 1 and single.device == "cpu" and single.local_batch % 2 == 0
        if shareable and available_cores() >= 2 and (single.training.micro_batch or 1) <= single.local_batch // 2:
            values["devices"] = 1 if single.parallel.data else 2
    return build_run_config(values)
