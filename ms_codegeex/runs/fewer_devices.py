"""Continuing on fewer devices: the mesh of a run after it has lost some. Imports no engine."""

from __future__ import annotations

import math

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config


def on_fewer_devices(config: RunConfig, minimum: int = 1) -> RunConfig | None:
    """The configuration on the most devices, fewer than its own and at least `least`, that its mesh allows; None if
    there is no such number.

    Only the number of replicas changes. The global batch stays, so that losses can be compared: replicas accumulate
    more micro-batches, none of them larger than before. Optimizer shards are reduced to a divisor of the replicas.
    """
    parallel = config.parallel
    fixed = parallel.tensor * parallel.pipeline
    for replicas in range(config.data_parallel - 1, 0, -1):
        if replicas * fixed < minimum:
            break
        for micro_batch in range(config.micro_batch, 0, -1):
            smaller = _resized(config, replicas, micro_batch)
            if smaller is not None:
                return smaller
    return None


def _resized(config: RunConfig, replicas: int, micro_batch: int) -> RunConfig | None:
    """The configuration with this number of replicas; None if a rule forbids it."""
    values, parallel = config.to_dict(), config.parallel
    values["devices"] = replicas * parallel.tensor * parallel.pipeline
    values["training"]["micro_batch"] = micro_batch
    values["parallel"].update(
        data=None if parallel.data is None else replicas,
        optimizer_shard=math.gcd(parallel.optimizer_shard, replicas),
        micro_batches=None,
    )
    try:
        return build_run_config(values)
    except UserError:
        return None
