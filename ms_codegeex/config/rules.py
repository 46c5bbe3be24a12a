"""From nested values to a checked configuration: the rules between its keys. Every error names the key to change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh, check_world
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.config.fusion_rules import check_kernels
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.config.validation import check_tree, validated

LEAST_HEAD = 32  # channels of a head that can tell one token from all others by its position


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
    if config.seq_length > (limit := model.max_position_embeddings):
        growing = ",".join(sorted({"context", *config.model.grow}))
        grow = f" model.grow=[{growing}]" if config.model.weights else ""
        raise UserError(
            f"data.seq_length: {config.seq_length} is longer than model.max_position_embeddings {limit}; set "
            f"data.seq_length={limit} or model.max_position_embeddings={config.seq_length}{grow}"
        )
    if config.data.blend is not None and config.data.train is not None:
        raise UserError("data.blend: data.train is given too; set data.train=null or data.blend=null")
    if config.data.functions_from is not None and config.data.blend is not None:
        raise UserError("data.functions_from: works with data.train only, not with data.blend; set it to null")
    if config.data.tokenizer_size and config.data.tokenizer:
        raise UserError("data.tokenizer_size: data.tokenizer is given too; set data.tokenizer=null")
    if training.steps and training.tokens:
        raise UserError("training.tokens: training.steps is given too; set training.steps=null or training.tokens=null")
    if not config.steps:
        raise UserError("training.steps: missing; set training.steps=N or training.tokens=N")
    if training.patience and not training.evaluate_every:
        raise UserError(
            "training.patience: needs validation during training; set training.evaluate_every=N or training.patience=0"
        )
    _check_initial(config)
    if config.compile_cache and config.partitioned:
        raise UserError("compile_cache: not for partitioned runs, which compile for their layouts; set it to false")
    if config.lora.rank and not config.lora.targets:
        raise UserError("lora.targets: none; name layers that get adapters, such as [attention], or set lora.rank=0")
    if config.lora.rank and config.model.fresh:
        raise UserError("model.fresh: adapters need all weights of their model; leave it out, or set lora.rank=0")
    _check_frozen(config)
    if config.partitioned and config.loss_chunk:
        raise UserError(f"training.loss_chunk: {config.loss_chunk}, but {config.device} forms all logits; set it to 0")
    if training.loss_chunk and training.precision != "fp32":
        raise UserError("training.loss_chunk: the chunked loss is FP32 only; set it to 0 or training.precision to fp32")
    if training.precision == "bf16":
        _check_bf16(config)
    _check_watching(config)
    _check_muon(config)
    schedule = config.schedule
    never = schedule.warmup_steps >= schedule.decay_steps and not schedule.cosine_after_warmup
    if training.schedule.decay_steps and never:  # a run that is too short for its schedule gets a note
        raise UserError(
            f"training.schedule.warmup_steps: {schedule.warmup_steps} is not below decay_steps {schedule.decay_steps}, "
            f"so the cosine would never start; set training.schedule.warmup_steps={schedule.decay_steps - 1} or less"
        )


def _check_initial(config: RunConfig) -> None:
    """What heads that begin by attending to the tokens before need."""
    initial, key = config.training.initial, "training.initial.attention"
    if initial.attention != "previous":
        return
    if config.family != "codegeex":
        raise UserError(f"{key}: previous is for models with learned positions, of family codegeex; set it to normal")
    if initial.positions != "sinusoid":
        raise UserError(f"{key}: previous needs training.initial.positions=sinusoid; set that, or {key}=normal")
    if (width := config.model.sizes.head_dim) < LEAST_HEAD:
        raise UserError(
            f"{key}: previous needs heads of {LEAST_HEAD} channels or more, to tell positions apart; model.num_heads "
            f"gives them {width}; lower it, or set {key}=normal"
        )


def _check_frozen(config: RunConfig) -> None:
    """Rules of lora.frozen. A device multiplies 16-bit weights only in their own type; a CPU widens FP16 to FP32."""
    held, precision = config.lora.frozen, config.training.precision
    if held == "fp32":
        return
    if not config.lora.rank:
        raise UserError(
            f"lora.frozen: {held}, but all weights are trained, in FP32; set lora.rank=N or lora.frozen=fp32"
        )
    if config.lora.bits and (config.device != "cpu" or config.devices > 1 or precision != "fp32"):
        raise UserError(
            f"lora.frozen: {held} with device: {config.device}, devices: {config.devices} and training.precision: "
            f"{precision}; matrices of {config.lora.bits} bits train in FP32 in one process of a CPU: set device=cpu, "
            "devices=1 and training.precision=fp32, or lora.frozen=fp32"
        )
    if config.partitioned:  # values agree in a rehearsal, but the plan lacks the lookups' sums in 16 bits
        raise UserError(
            f"lora.frozen: {held} on devices: {config.devices} of {config.device}, but 16-bit frozen weights train on "
            "one device, or on the processes of a CPU; set devices=1, or lora.frozen=fp32"
        )
    if config.device == "cpu" and (held == "bf16" or precision == "bf16"):
        wrong = f"{held} with training.precision: {precision}; a CPU holds frozen weights as fp16 for fp32 and fp16"
        raise UserError(f"lora.frozen: {wrong}; set lora.frozen=fp16 and training.precision=fp32, or lora.frozen=fp32")
    if config.device != "cpu" and held != precision:
        raise UserError(
            f"lora.frozen: {held}, but training.precision: {precision}, and device: {config.device} multiplies frozen "
            f"weights in their own type; set training.precision={held}, or lora.frozen=fp32"
        )


def _check_muon(config: RunConfig) -> None:
    """Rules of training.optimizer.name: muon. The engine's partitioning follows every path through the iterations:
    a small model on two devices was not compiled after five minutes."""
    obstacles = {
        f"device: {config.device} and devices: {config.devices}": config.partitioned,
        f"lora.rank: {config.lora.rank}": config.lora.rank > 0,
    }
    for name, given in obstacles.items():
        if given and config.training.optimizer.name == "muon":
            wrong = f"muon trains all weights, on one device or on the processes of a CPU, not with {name}"
            raise UserError(f"training.optimizer.name: {wrong}; set it to adamw or change that")


def _check_watching(config: RunConfig) -> None:
    """Rules of profile and cluster.silent_check."""
    steps, ranks = config.profile.window, config.profile.ranks
    if config.profile.steps and not steps:
        raise UserError(f"profile.steps: {config.profile.steps} ends before it begins; give A..B with B at least A")
    if steps and config.training.steps and steps[-1] > config.training.steps:
        wrong = f"{config.profile.steps} goes beyond training.steps {config.training.steps}"
        raise UserError(f"profile.steps: {wrong}; choose earlier steps")
    if isinstance(ranks, list) and (beyond := [rank for rank in ranks if rank >= config.devices]):
        raise UserError(f"profile.ranks: {beyond[0]}, but devices: {config.devices}; give 0 to {config.devices - 1}")
    if config.device != "ascend" or not config.cluster.silent_check:
        return
    if config.training.precision == "fp16":
        wrong = "counts infinite gradients, which the loss scale of training.precision: fp16 causes too"
        raise UserError(f"cluster.silent_check: {wrong}; set it to false, or train in bf16")
    if not config.partitioned:
        wrong = "looks at gradients before they are added up over devices, and there is one"
        raise UserError(f"cluster.silent_check: {wrong}; set it to false")
    if config.mesh.optimizer_shard > 1:
        wrong = f"MindSpore 2.9 does not compile it with parallel.optimizer_shard {config.mesh.optimizer_shard}"
        raise UserError(f"cluster.silent_check: {wrong}; set it to false, or the shards to 1")


def _check_bf16(config: RunConfig) -> None:
    """Rules of training.precision: bf16."""
    if config.training.loss_scale != LossScaleConfig():
        raise UserError("training.loss_scale: bf16 has none; set training.precision=fp16, or leave the key out")
    if config.device != "cpu" and config.parallel.hardware:
        hardware_of(config).peak("bf16")
    for name in ("graph_kernel", "dropout"):
        if config.device == "cpu" and getattr(config.parallel.fusion, name):
            raise UserError(f"parallel.fusion.{name}: a CPU rounds to bf16 after each operator; leave the key out")


# --- mesh, batch and model together ---


def check_mesh(config: RunConfig) -> None:
    """Check every rule of meshes; a `UserError` names the key to change."""
    parallel = config.parallel
    hardware_of(config)
    fixed = parallel.tensor * parallel.pipeline
    if config.devices % fixed:
        raise UserError(
            f"parallel.tensor: tensor {parallel.tensor} x pipeline {parallel.pipeline} = {fixed} does not divide "
            f"devices: {config.devices}; change parallel.tensor, parallel.pipeline or devices"
        )
    mesh = config.mesh
    if mesh.world != config.devices:
        wrong = f"{mesh.data} replicas x {fixed} do not use devices: {config.devices}"
        raise UserError(f"parallel.data: {wrong}; set it to {config.devices // fixed} or leave parallel.data out")
    if config.partitioned:
        check_world("devices", mesh.world)
    checks = (_check_batch, _check_tensor, _check_stage_layers, _check_virtual_stages, _check_pipeline)
    for check in (*checks, _check_optimizer_shards, _check_recomputation, _check_overlap):
        check(config, mesh)
    if config.parallel.short_gradients and config.training.precision == "fp32":
        raise UserError("parallel.short_gradients: training.precision is fp32; choose fp16 or bf16, or leave it out")


def _check_recomputation(config: RunConfig, mesh: Mesh) -> None:
    blocks, what = config.training.recompute_blocks, config.training.recompute
    if blocks is None:
        return
    if what == "none":
        raise UserError("training.recompute_blocks: nothing is recomputed; set training.recompute=full or leave it out")
    if len(blocks) != mesh.pipeline:
        raise UserError(f"training.recompute_blocks: {len(blocks)} for parallel.pipeline {mesh.pipeline}; give as many")
    held = mesh.layers_per_stage(config.model.sizes.attention_layers)
    if any(number > layers for number, layers in zip(blocks, held, strict=True)):
        raise UserError(f"training.recompute_blocks: {blocks}, but the stages have {held} blocks; give no more")


def _check_batch(config: RunConfig, mesh: Mesh) -> None:
    parallel, training = config.parallel, config.training
    if training.global_batch % mesh.data:
        whole = -(-training.global_batch // mesh.data) * mesh.data
        said = f"{training.global_batch} does not divide by the {mesh.data} data-parallel devices"
        raise UserError(f"training.global_batch: {said}; set training.global_batch={whole}, or change devices")
    if parallel.micro_batches and training.micro_batch:
        if parallel.micro_batches * training.micro_batch != config.local_batch:
            given = f"{parallel.micro_batches} of training.micro_batch {training.micro_batch}"
            raise UserError(f"parallel.micro_batches: {given} are not {config.local_batch} sequences; leave one out")
    elif parallel.micro_batches and config.local_batch % parallel.micro_batches:
        wrong = f"{parallel.micro_batches} does not divide the {config.local_batch} sequences of a replica"
        raise UserError(f"parallel.micro_batches: {wrong}; choose a divisor or change training.global_batch")
    if config.local_batch % config.micro_batch:
        divisor = math.gcd(config.micro_batch, config.local_batch)
        said = f"{config.micro_batch} does not divide the {config.local_batch} sequences of a device"
        raise UserError(f"training.micro_batch: {said}; set training.micro_batch={divisor} or another divisor")


def _tensor_divides(key: str, mesh: Mesh, size: int) -> None:
    if size % mesh.tensor:
        raise UserError(f"parallel.tensor: {mesh.tensor} does not divide {key} {size}; change parallel.tensor or {key}")


def _check_tensor(config: RunConfig, mesh: Mesh) -> None:
    parallel, model = config.parallel, config.model.sizes
    if mesh.tensor == 1:
        if parallel.sequence:
            raise UserError("parallel.sequence: shards rows over parallel.tensor, which is 1; set it to false")
        return
    for field in ("num_heads", "intermediate_size"):  # heads divide the hidden size
        _tensor_divides(f"model.{field}", mesh, getattr(model, field))
    groups = model.num_kv_groups
    if groups % mesh.tensor and mesh.tensor % groups:
        raise UserError(f"parallel.tensor: {mesh.tensor} does not divide model.num_kv_groups {groups}; give a divisor")
    if parallel.vocabulary:
        _tensor_divides("model.vocab_size", mesh, model.vocab_size)
    if parallel.server_devices % mesh.tensor:
        raise UserError(
            f"parallel.tensor: {mesh.tensor} devices, whose traffic must stay inside a server, do not divide "
            f"parallel.server_devices {parallel.server_devices}; choose a divisor"
        )
    if config.micro_batch % mesh.tensor:
        raise UserError(
            f"training.micro_batch: {config.micro_batch} sequences of a replica cannot be divided equally among the "
            f"{mesh.tensor} devices that load them (parallel.tensor); choose a multiple"
        )


def _check_pipeline(config: RunConfig, mesh: Mesh) -> None:
    if mesh.pipeline == 1:
        return
    layers = config.model.sizes.num_layers
    if mesh.pipeline > layers:
        raise UserError(f"parallel.pipeline: {mesh.pipeline} stages for model.num_layers {layers}; choose that or less")
    if config.accumulation < mesh.pipeline:
        wrong = f"{config.accumulation} cannot fill parallel.pipeline {mesh.pipeline} stages"
        raise UserError(f"parallel.micro_batches: {wrong}; give at least as many micro-batches as stages")


def _counted(config: RunConfig) -> str:
    layers, after = config.model.sizes.num_layers, config.model.sizes.table.last_blocks
    return f"model.num_layers {layers}" + (f" and the {after} after them" if after else "")


def _check_virtual_stages(config: RunConfig, mesh: Mesh) -> None:
    parts, stages, layers = mesh.virtual_stages, mesh.pipeline, config.model.sizes.attention_layers
    if parts == 1:
        return
    if stages == 1:
        wrong = f"{parts} for parallel.pipeline 1, which is no pipeline"
        raise UserError(f"parallel.virtual_stages: {wrong}; leave parallel.virtual_stages out or choose more stages")
    if mesh.stage_layers:
        raise UserError(
            f"parallel.virtual_stages: {parts} parts of each stage have equally many layers, so parallel.stage_layers "
            f"{list(mesh.stage_layers)} cannot be given too; leave one of the two keys out"
        )
    if layers % (stages * parts):
        raise UserError(
            f"parallel.virtual_stages: parallel.pipeline {stages} x {parts} = {stages * parts} parts do not divide the "
            f"{layers} layers ({_counted(config)}); choose other numbers"
        )
    if config.accumulation % stages:
        raise UserError(
            f"parallel.micro_batches: {config.accumulation} is no multiple of parallel.pipeline {stages}, which "
            f"parallel.virtual_stages {parts} needs; choose a multiple"
        )
    untried = {
        f"parallel.overlap.parts: {config.parallel.overlap.parts}": config.parallel.overlap.parts > 1,
        "parallel.overlap.recompute_collectives: false": not config.parallel.overlap.recompute_collectives,
        f"training.recompute_blocks: {config.training.recompute_blocks}": config.training.recompute_blocks is not None,
    }
    for name, given in untried.items():
        if given:
            raise UserError(f"parallel.virtual_stages: {parts} was never executed together with {name}; leave one out")


def _check_stage_layers(config: RunConfig, mesh: Mesh) -> None:
    given, layers = list(mesh.stage_layers), config.model.sizes.attention_layers
    if not given:
        return
    if mesh.pipeline == 1:
        wrong = f"{given} for parallel.pipeline 1, which is no pipeline"
        raise UserError(f"parallel.stage_layers: {wrong}; leave parallel.stage_layers out or choose more stages")
    if len(given) != mesh.pipeline:
        wrong = f"{given} are {len(given)} numbers for parallel.pipeline {mesh.pipeline}"
        raise UserError(f"parallel.stage_layers: {wrong}; give one for each stage, or leave it out")
    if sum(given) != layers:
        wrong = f"{given} are {sum(given)} layers, the model has {layers}: {_counted(config)}"
        raise UserError(f"parallel.stage_layers: {wrong}; give numbers with that sum, or leave it out")


def _check_optimizer_shards(config: RunConfig, mesh: Mesh) -> None:
    shard, model = mesh.optimizer_shard, config.model.sizes
    if shard == 1:
        return
    if mesh.data % shard:
        wrong = f"{shard} does not divide the {mesh.data} data-parallel replicas"
        raise UserError(f"parallel.optimizer_shard: {wrong}; choose a divisor or change devices")
    for layer in model.table.patterns:
        for parameter in layer.parameters(model):
            rows = parameter.shape[0] // (mesh.tensor if parameter.axis_on(model, mesh.tensor) == 0 else 1)
            if parameter.shared_by_replicas(model, mesh.tensor) and rows % shard:
                raise UserError(
                    f"parallel.optimizer_shard: {shard} does not divide the {rows} rows that parallel.tensor "
                    f"{mesh.tensor} leaves of {parameter.name} ({layer.rows} {parameter.shape[0]}); MindSpore would "
                    "silently leave it unsharded. Choose a divisor"
                )


def _check_overlap(config: RunConfig, mesh: Mesh) -> None:
    overlap, without = config.parallel.overlap, "there are no tensor-parallel all-reduces; leave it out"
    for key, default in (("parts", 1), ("recompute_collectives", True)):
        if mesh.tensor == 1 and getattr(overlap, key) != default:
            raise UserError(f"parallel.overlap.{key}: with parallel.tensor 1 {without}")
    if config.micro_batch % overlap.parts:
        wrong = f"{overlap.parts} does not divide the {config.micro_batch} sequences of training.micro_batch"
        raise UserError(f"parallel.overlap.parts: {wrong}; choose a divisor")
    if overlap.recompute_collectives:
        return
    obstacles = {
        f"training.recompute: {config.training.recompute}": config.training.recompute != "full",
        "parallel.sequence": config.parallel.sequence,
        "training.recompute_blocks": config.training.recompute_blocks is not None,
        "lora.rank": config.lora.rank > 0,
        "parallel.fusion.dropout": bool(config.parallel.fusion.dropout),
    }
    for name, given in obstacles.items():
        if given:
            wrong = f"false is for blocks that are recomputed in full, and not possible with {name}"
            raise UserError(f"parallel.overlap.recompute_collectives: {wrong}; leave it out or change that key")
