"""MindSpore's parallel settings for one rank of a partitioned run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ms_codegeex.parallel.sharding import layouts_of

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

PREFIX = "ranks-"  # names of our groups list their members, which the exported graph does not record


def group_name(ranks: list[int]) -> str:
    return PREFIX + "-".join(map(str, ranks))


def ranks_in_group_name(name: str) -> tuple[int, ...] | None:
    """The members of one of our groups; None for a group of MindSpore, even if its name begins with one of ours."""
    ranks = name.removeprefix(PREFIX).split("-") if name.startswith(PREFIX) else ["none"]
    return tuple(map(int, ranks)) if all(map(str.isdecimal, ranks)) else None


def engine_settings(config: RunConfig, rank: int) -> dict:
    """Arguments of `set_auto_parallel_context`. Each device loads its share of the batch. Gradients are summed, not
    averaged: with `gradients_mean`, parameters that several devices hold would get a fraction of their gradient. The
    number of optimizer shards is always given: otherwise MindSpore takes all replicas, and silently does not shard a
    weight if they do not divide its rows. A graph that is called several times a step adds gradients up as those of
    shards are: otherwise MindSpore writes the sum over replicas into each one's own sum, which then goes on."""
    mesh = config.mesh
    sharding = {"parallel_optimizer_threshold": 0}  # KB: weights of any size are sharded
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
    """Make MindSpore partition what is built from now on. Communication must be initialised. Returns the group that
    keeps a tied word table equal, if this rank is in one."""
    import mindspore as ms
    from mindspore.communication import create_group

    ms.set_auto_parallel_context(**engine_settings(config, rank))
    mesh = config.mesh
    stage = mesh.coordinates(rank)[0]
    tied = mesh.pipeline > 1 and any(x.copy_of and x.trained for x in layouts_of(config))
    if not tied or 0 < stage < mesh.pipeline - 1:
        return None  # an unused communicator would have buffers of the device, too
    ranks = mesh.tied_group(rank)
    create_group(group_name(ranks), ranks)
    return group_name(ranks)


def before_evaluation() -> None:
    """Let MindSpore compile a graph without gradients after one that accumulates them over micro-batches, whose number
    it remembers and then refuses such a graph for ("not support predict with grad_accu", MindSpore 2.9)."""
    import mindspore as ms

    ms.set_auto_parallel_context(grad_accumulation_step=1)
