"""MindSpore's parallel settings for one rank of a partitioned run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ms_codegeex.parallel.sharding import layouts_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

PREFIX = "ranks-"  # our groups' names list their members, because an exported graph does not record them


def group_name(ranks: list[int]) -> str:
    return PREFIX + "-".join(map(str, ranks))


def ranks_in_group_name(name: str) -> tuple[int, ...] | None:
    """Return the members of one of our groups; None for MindSpore's own, even if the name begins with one of ours."""
    ranks = name.removeprefix(PREFIX).split("-") if name.startswith(PREFIX) else ["none"]
    return tuple(map(int, ranks)) if all(map(str.isdecimal, ranks)) else None


def engine_settings(config: RunConfig, rank: int) -> dict:
    """Return the arguments of `set_auto_parallel_context`. Each device loads its share of the batch. Gradients are
    summed, not averaged: with `gradients_mean`, parameters that several devices hold would get a fraction of their
    gradient. The number of optimizer shards is always given: by default MindSpore uses all replicas, and silently does
    not shard a weight whose rows they do not divide. A graph that is called several times per step accumulates its
    gradients as those of shards: otherwise MindSpore would overwrite each replica's own sum with the sum over all."""
    mesh = config.mesh
    sharding = {"parallel_optimizer_threshold": 0}  # in KB; 0 shards weights of any size
    if mesh.optimizer_shard > 1:
        sharding["optimizer_weight_shard_size"] = mesh.optimizer_shard
        if mesh.optimizer_level > 1:
            sharding["optimizer_level"] = f"level{mesh.optimizer_level}"
    interleaved = {"pipeline_config": {"pipeline_interleave": True, "pipeline_scheduler": "1f1b"}}
    return {
        "parallel_mode": "semi_auto_parallel",
        "device_num": mesh.world,
        "global_rank": rank,
        "pipeline_stages": mesh.pipeline,
        "gradients_mean": False,
        "dataset_strategy": "data_parallel",
        "enable_parallel_optimizer": mesh.optimizer_shard > 1 or config.reductions > 1,
        "parallel_optimizer_config": sharding,
        **(interleaved if mesh.virtual_stages > 1 else {}),
    }


def enter(config: RunConfig, rank: int) -> str | None:
    """Make MindSpore partition what is built from now on. Communication must be initialised. Return the group that
    keeps a tied word table equal on its stages, or None if this rank is in none."""
    import mindspore as ms
    from mindspore.communication import create_group

    ms.set_auto_parallel_context(**engine_settings(config, rank))
    mesh = config.mesh
    stage = mesh.coordinates(rank)[0]
    tied = mesh.pipeline > 1 and any(x.copy_of and x.trained for x in layouts_of(config))
    if not tied or 0 < stage < mesh.pipeline - 1:
        return None  # even an unused communicator takes buffers on the device
    ranks = mesh.tied_group(rank)
    create_group(group_name(ranks), ranks)
    return group_name(ranks)


def before_evaluation() -> None:
    """Let MindSpore compile a graph without gradients after one that accumulates them over micro-batches. MindSpore 2.9
    remembers their number, and would refuse the second graph ("not support predict with grad_accu")."""
    import mindspore as ms

    ms.set_auto_parallel_context(grad_accumulation_step=1)
