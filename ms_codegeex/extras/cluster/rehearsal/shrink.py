"""Shrinks a configuration: it keeps everything of a plan except its sizes, so that all ranks fit on one machine."""

from __future__ import annotations

from dataclasses import fields, replace

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh, check_world
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config, check_run_config

RANK_BYTES = 550_000_000  # resident memory of one executing rank (measured with MindSpore 2.9.0)
FUSED = ("graph_kernel", "attention", "documents", "norm")  # not available on a CPU, or with other results there
FEW_RANKS = 4  # for so few, a longer compilation is acceptable
DROPOUT = 0.25  # if the plan has any


def on_devices(config: RunConfig) -> RunConfig:
    """The run as MindSpore would partition it over devices: a CPU run is rehearsed as if it ran on Ascend."""
    if config.device != "cpu":
        return config
    # choices made for a CPU do not apply to the device that stands in for it
    fusion = replace(config.parallel.fusion, dropout=None, attention=None, graph_kernel=None)
    training = replace(config.training, loss_chunk=0)
    config = replace(config, device="ascend", training=training, parallel=replace(config.parallel, fusion=fusion))
    check_run_config(config)
    return config


def small_mesh(mesh: Mesh) -> Mesh:
    """The mesh with every axis above 1 set to 2; partial optimizer sharding stays partial, on 4 replicas."""
    shard = min(mesh.optimizer_shard, 2)
    data = 4 if shard == 2 and mesh.data > mesh.optimizer_shard else min(mesh.data, 2)
    return Mesh(data, min(mesh.tensor, 2), min(mesh.pipeline, 2), shard)


def parse_mesh(text: str) -> Mesh:
    """A mesh from text such as `data=2,tensor=2,pipeline=2,optimizer_shard=2`; an axis that is left out is 1."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, separator, size = part.partition("=")
        if name not in ("data", "tensor", "pipeline", "optimizer_shard") or not separator or not size.isdecimal():
            raise UserError(f"--mesh: found '{part}', expected axis=size like data=2,tensor=2,pipeline=1")
        if int(size) < 1:
            raise UserError(f"--mesh: {name} is {size}; give 1 or more")
        if name in sizes:
            raise UserError(f"--mesh: {name} is given twice; keep one")
        sizes[name] = int(size)
    mesh = Mesh(**sizes)
    if mesh.world == 1:
        raise UserError("--mesh: 1 rank has nothing to communicate; give an axis above 1, for example --mesh data=2")
    check_world("--mesh", mesh.world)
    return mesh


def shrunk(config: RunConfig, mesh: Mesh) -> RunConfig:
    """The configuration on `mesh` with a model of a few thousand weights and a batch of a few sequences.

    Kept: family, parallel settings, recompute, precision, whether there is loss scaling, clipping and dropout, kind of
    schedule. BF16, which no CPU executes, becomes FP32, or FP16 if gradients travel in 16 bits.

    Changed so that errors show: clipping that acts, a learning rate that moves the weights, and in FP16 an initial loss
    scale that overflows. A large factor skips the scales at which a sum may overflow but its parts not.
    """
    # of a run whose host feeds each micro-batch, all are in one graph here
    in_graph, calls = (config.graph_micro_batches, config.calls) if config.partitioned else (config.accumulation, 1)
    accumulation = min(in_graph, 2)  # each takes time to compile
    if mesh.pipeline > 1:  # with one more than stages, each stage alternates between forward and backward
        more = 1 if mesh.world <= FEW_RANKS else 0
        accumulation = max(mesh.pipeline, min(in_graph, mesh.pipeline + more))
    if config.mesh.virtual_stages > 1 and mesh.pipeline > 1:
        accumulation = 2 * mesh.pipeline  # twice round the stages: each part alternates, too
    graph_micro_batches, accumulation = accumulation, accumulation * min(calls, 2)
    micro, clip_norm = 2 * mesh.tensor, 0.2 if config.lora.rank else 0.5  # the gradients of adapters are smaller
    executed = "fp16" if config.parallel.short_gradients else "fp32"
    values = config.to_dict()
    values["device"] = "gpu" if config.device == "gpu" else "ascend"
    values["devices"], values["profile"] = mesh.world, {}
    values["model"].update(_small_model(config, mesh))
    values["data"].update(seq_length=16)
    values["training"]["initial"].update(attention="normal")  # `previous` needs wider heads
    dropped = DROPOUT if config.lora.dropout else 0.0
    values["lora"].update(rank=min(config.lora.rank, 2), dropout=dropped, alpha=4.0, weights=None)
    values["training"].update(
        steps=8,
        tokens=None,
        global_batch=micro * accumulation * mesh.data,
        micro_batch=micro,
        dropout=DROPOUT if config.training.dropout else 0.0,
        attention_dropout=DROPOUT if config.training.attention_rate else 0.0,
        loss_chunk=0,
        recompute_blocks=[1] * mesh.pipeline if config.training.recompute_blocks else None,
        clip_norm=clip_norm if config.training.clip_norm else 0.0,
        precision=config.training.precision if config.training.precision != "bf16" else executed,
        loss_scale={"initial": 2.0**24, "window": 3, "factor": 2.0**10},
        schedule={"learning_rate": 0.24, "end_learning_rate": 0.12, "warmup_steps": 4, "decay_steps": 16},
    )
    parallel = {**values["parallel"], "data": mesh.data, "tensor": mesh.tensor, "pipeline": mesh.pipeline}
    parallel.update(optimizer_shard=mesh.optimizer_shard, micro_batches=None, stage_layers=None)
    level = min(config.parallel.optimizer_level, 2 if mesh.pipeline > 1 else 3)
    parallel["optimizer_level"] = level if mesh.optimizer_shard > 1 else 1
    parallel["graph_micro_batches"] = graph_micro_batches
    parallel["virtual_stages"] = 2 if config.mesh.virtual_stages > 1 and mesh.pipeline > 1 else 1
    parallel["sequence"] = config.parallel.sequence and mesh.tensor > 1
    overlap = parallel["overlap"] if mesh.tensor > 1 else {}
    parallel["overlap"] = {**overlap, "parts": min(overlap.get("parts", 1), 2)}
    parallel["fusion"] = {**parallel["fusion"], **dict.fromkeys(FUSED, False)}
    small = build_run_config({**values, "parallel": parallel})
    if not config.parallel.stage_layers or mesh.pipeline == 1:
        return small
    others = [1] * (mesh.pipeline - 1)  # as uneven as can be
    parallel["stage_layers"] = [small.model.sizes.attention_layers - len(others), *others]
    return build_run_config({**values, "parallel": parallel})


def single_device(config: RunConfig) -> RunConfig:
    """The same training on one device, in micro-batches of the same size, which a partitioned run must equal."""
    values = config.to_dict()
    values["devices"], values["device"] = 1, "cpu"
    values["training"].update(micro_batch=config.micro_batch, recompute="none", recompute_blocks=None, loss_chunk=0)
    values["parallel"] = {}
    return build_run_config(values)


def _small_model(config: RunConfig, mesh: Mesh) -> dict[str, int]:
    model = config.model.sizes
    shared = model.num_kv_groups < model.num_heads
    by_group = model.num_kv_groups % config.mesh.tensor == 0
    heads, hidden = (4 if shared else 2) * mesh.tensor, 16 * mesh.tensor * mesh.optimizer_shard
    sizes = {
        "hidden_size": hidden,
        "num_layers": max(2, 2 * mesh.pipeline - 1),  # CodeGeeX's top query layer is one more
        "num_heads": heads,
        "num_kv_groups": 2 * mesh.tensor if by_group else max(1, mesh.tensor // 2),
        "intermediate_size": 2 * hidden,
        "rotary_dim": hidden // heads // 2,
        "vocab_size": 64 * mesh.tensor,
        "max_position_embeddings": 16,
        "eos_token_id": 1,
    }
    known = {field.name for field in fields(model)}
    if config.mesh.virtual_stages > 1 and mesh.pipeline > 1:  # one layer for each part of a stage
        sizes["num_layers"] = 2 * mesh.pipeline - (model.attention_layers - model.num_layers)
    return {name: size for name, size in sizes.items() if name in known}
