"""Check a configuration against the rules between its keys. Every error names the key to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh, check_world
from ms_codegeex.config.chosen_hardware import attention_obstacle, chosen_kernels, hardware_of, running_on
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.config.validation import check_tree, validated

Condition = Callable[[RunConfig, Mesh], Any]
# Message -> condition. The message is a format string with the configuration `c`, its mesh `m`, and `found`, the value
# that the condition returned. Only the first error of a table is reported, so a rule may rely on those before it.
Rules = Mapping[str, Condition]
MIN_HEAD = 32  # channels that a head needs to tell one position from all others


RETIRED = {  # keys of earlier versions, and what to do instead; null is accepted, since old runs contain it
    "stages": "train one file after the other, each with --from RUN of the one before (docs/finetune.md)",
    "stage": "delete it; give the file of that stage as --config",
}


def build_run_config(values: Mapping[str, Any]) -> RunConfig:
    """Return a validated `RunConfig` from nested plain values."""
    for key, remedy in RETIRED.items():
        if values.get(key) is not None:
            raise UserError(f"{key}: no longer a key; {remedy}")
    values = {key: value for key, value in values.items() if key not in RETIRED}
    config = validated(RunConfig, check_tree(RunConfig, values))
    check_run_config(config)
    return config


def check_run_config(config: RunConfig) -> None:
    """Check the rules between keys. `UserError` names the key to change."""
    check_mesh(config)
    check_kernels(config)
    _check(config, RULES)
    if config.training.precision == "bf16" and config.device != "cpu" and config.parallel.hardware:
        hardware_of(config).peak("bf16")


def check_mesh(config: RunConfig) -> None:
    """Check every rule of meshes. `UserError` names the key to change."""
    hardware_of(config)
    _check(config, DEVICE_RULES)
    if config.partitioned:
        check_world("devices", config.mesh.world)
    _check(config, MESH_RULES)


def check_kernels(config: RunConfig) -> None:
    """Check the requested fusions against the device and the model. `UserError` names the key to change."""
    _check(config, FUSION_RULES)


def dropout_obstacle(config: RunConfig) -> str | None:
    """Return why this run cannot use the engine's dropout kernel, naming the key to change; None if it can. Its seeds
    have no effect on Ascend (MindSpore 2.9's documentation of the operator). So a copy of an activation on another
    device, or a recomputed forward pass, may drop other elements."""
    if not (config.training.dropout or config.training.attention_rate):
        return None
    if config.partitioned:
        return "devices that hold copies of an activation have to drop the same elements"
    if config.training.recompute != "none":
        return f"training.recompute: {config.training.recompute} has to drop the same elements again"
    return None


def _check(config: RunConfig, rules: Rules) -> None:
    mesh = config.mesh
    for text, broken in rules.items():
        if found := broken(config, mesh):
            raise UserError(text.format(c=config, m=mesh, found=found))


def _without(when: Condition, text: str, obstacles: Mapping[str, Condition]) -> Rules:
    return {
        text.replace("OBSTACLE", name): lambda c, m, given=given: when(c, m) and given(c, m)
        for name, given in obstacles.items()
    }


def _divided(key: str, when: Condition = lambda c, m: True) -> Rules:
    text = "parallel.tensor: {m.tensor} does not divide model.KEY {c.model.sizes.KEY}; change parallel.tensor or "
    return {f"{text}model.KEY".replace("KEY", key): lambda c, m: when(c, m) and getattr(c.model.sizes, key) % m.tensor}


def _if(when: Condition, rules: Rules) -> Rules:
    return {text: lambda c, m, broken=broken: when(c, m) and broken(c, m) for text, broken in rules.items()}


def _loaded_at_once(mesh: Mesh) -> int:
    return mesh.data * mesh.tensor * mesh.pipeline


def _shared_batch(config: RunConfig, mesh: Mesh) -> str:
    """Suggest a micro-batch near the given one that a replica's devices can share, and a batch that it divides."""
    batch = -(-config.local_batch // mesh.tensor) * mesh.tensor
    sizes = [x for x in range(mesh.tensor, batch + 1, mesh.tensor) if batch % x == 0]
    size = max((x for x in sizes if x <= config.micro_batch), default=sizes[0])
    more = f" training.global_batch={batch * mesh.data}" * (batch != config.local_batch)
    return f"training.micro_batch={size}{more}"


def _layers(config: RunConfig) -> dict[str, Any]:
    sizes, after = config.model.sizes, config.model.sizes.table.last_blocks
    counted = f"model.num_layers {sizes.num_layers}" + (f" and the {after} after them" if after else "")
    return {"layers": sizes.attention_layers, "counted": counted}


def _grown_context(config: RunConfig) -> str:
    return f" model.grow=[{','.join(sorted({'context', *config.model.grow}))}]" if config.model.weights else ""


def _undivided_rows(config: RunConfig, mesh: Mesh) -> dict[str, Any]:
    shard, model, tables = mesh.optimizer_shard, config.model.sizes, mesh.shards_tables(config.parallel.vocabulary)
    for layer in model.table.patterns if shard > 1 else ():
        for parameter in layer.parameters(model):
            rows = parameter.shape[0] // (mesh.tensor if parameter.axis_on(model, mesh.tensor) == 0 else 1)
            if parameter.shared_by_replicas(model, mesh.tensor, tables) and rows % shard:
                return {"rows": rows, "parameter": parameter, "layer": layer}
    return {}


def _blocks_beyond(config: RunConfig, mesh: Mesh) -> list[int]:
    held = mesh.layers_per_stage(config.model.sizes.attention_layers)
    return held if any(map(int.__gt__, config.training.recompute_blocks or [], held)) else []


def _lacks_kernel(config: RunConfig, mesh: Mesh) -> bool:
    named = config.device == "ascend" and config.parallel.hardware
    return bool(named) and "attention" not in running_on(config).fused


FUSION_RULES: Rules = {
    "parallel.fusion.attention: there is no such kernel for device: {c.device}, only for ascend; leave the key "
    "out": lambda c, m: c.parallel.fusion.attention and c.device != "ascend",
    "parallel.fusion.attention: parallel.hardware: {c.parallel.hardware} has no such kernel; set it to what you have, "
    "or leave the key out": lambda c, m: c.parallel.fusion.attention and _lacks_kernel(c, m),
    "parallel.fusion.documents: only fused attention takes the ends of documents, and this run composes "
    "attention{found[0]} leave the key out": lambda c, m: (
        c.parallel.fusion.documents
        and ("attention" not in chosen_kernels(c) or c.training.attention_rate)
        and [f": {cause}, or" if (cause := attention_obstacle(c)) else ";"]
    ),
    "parallel.fusion.attention: {found}, or leave the key out": lambda c, m: (
        c.parallel.fusion.attention and attention_obstacle(c)
    ),
    "parallel.fusion.norm: RMSNorm's kernel exists on Ascend only, not on device: {c.device}; leave the key "
    "out": lambda c, m: c.parallel.fusion.norm and c.device != "ascend" and c.model.sizes.rms_norm,
    "parallel.fusion.dropout: {found}, and the kernel's seeds have no effect on Ascend; leave the key out: composed "
    "dropout is a function of seed, sample and place": lambda c, m: c.parallel.fusion.dropout and dropout_obstacle(c),
}
# An accelerator multiplies 16-bit weights only in their own type; a CPU widens FP16 to FP32.
FROZEN_RULES: Rules = {
    "lora.frozen: {c.lora.frozen}, but all weights are trained, in FP32; set lora.rank=N or "
    "lora.frozen=fp32": lambda c, m: not c.lora.rank,
    "lora.frozen: {c.lora.frozen} with device: {c.device}, devices: {c.devices} and training.precision: "
    "{c.training.precision}; matrices of {c.lora.bits} bits train in FP32 in one process of a CPU: set device=cpu, "
    "devices=1 and training.precision=fp32, or lora.frozen=fp32": lambda c, m: (
        c.lora.bits and (c.device != "cpu" or c.devices > 1 or c.training.precision != "fp32")
    ),
    "lora.frozen: {c.lora.frozen} with training.precision: {c.training.precision}; a CPU holds frozen weights as "
    "fp16 for fp32 and fp16; set lora.frozen=fp16 and training.precision=fp32, or lora.frozen=fp32": lambda c, m: (
        c.device == "cpu" and "bf16" in (c.lora.frozen, c.training.precision)
    ),
    "lora.frozen: {c.lora.frozen}, but training.precision: {c.training.precision}, and device: {c.device} multiplies "
    "frozen weights in their own type; set lora.frozen={found} and training.precision={found}, or "
    "lora.frozen=fp32": lambda c, m: (
        c.device != "cpu" and c.lora.frozen != c.training.precision and {"gpu": "fp16"}.get(c.device, c.lora.frozen)
    ),
}
# Initial values with which heads attend to the previous token.
PREVIOUS_RULES: Rules = {
    "training.initial.attention: previous is for models with learned positions, of family codegeex; set it to "
    "normal": lambda c, m: c.family != "codegeex",
    "training.initial.attention: previous needs training.initial.positions=sinusoid; set that, or "
    "training.initial.attention=normal": lambda c, m: c.training.initial.positions != "sinusoid",
    f"training.initial.attention: previous needs heads of {MIN_HEAD} channels or more, to tell positions apart; "
    "model.num_heads gives them {c.model.sizes.head_dim}; lower it, or set training.initial.attention="
    "normal": lambda c, m: c.model.sizes.head_dim < MIN_HEAD,
}
RULES: Rules = {
    "data.seq_length: {c.seq_length} is longer than model.max_position_embeddings "
    "{c.model.sizes.max_position_embeddings}; set data.seq_length={c.model.sizes.max_position_embeddings} or "
    "model.max_position_embeddings={c.seq_length}{found[0]}": lambda c, m: (
        c.seq_length > c.model.sizes.max_position_embeddings and [_grown_context(c)]
    ),
    "data.blend: data.train is given too; set data.train=null or data.blend=null": lambda c, m: (
        c.data.blend is not None and c.data.train is not None
    ),
    "data.functions_from: works with data.train only, not with data.blend; set it to null": lambda c, m: (
        c.data.functions_from is not None and c.data.blend is not None
    ),
    "data.tokenizer_size: data.tokenizer is given too; set data.tokenizer=null": lambda c, m: (
        c.data.tokenizer_size and c.data.tokenizer
    ),
    "training.tokens: training.steps is given too; set training.steps=null or training.tokens=null": lambda c, m: (
        c.training.steps and c.training.tokens
    ),
    "training.steps: missing; set training.steps=N or training.tokens=N": lambda c, m: not c.steps,
    "training.patience: needs validation during training; set training.evaluate_every=N or "
    "training.patience=0": lambda c, m: c.training.patience and not c.training.evaluate_every,
    **_if(lambda c, m: c.training.initial.attention == "previous", PREVIOUS_RULES),
    "lora.targets: none; name layers that get adapters, such as [attention], or set lora.rank=0": lambda c, m: (
        c.lora.rank and not c.lora.targets
    ),
    "model.fresh: adapters need all weights of their model; leave it out, or set lora.rank=0": lambda c, m: (
        c.lora.rank and c.model.fresh
    ),
    **_if(lambda c, m: c.lora.frozen != "fp32", FROZEN_RULES),
    "training.loss_chunk: {c.loss_chunk}, but {c.device} forms all logits; set it to 0": lambda c, m: (
        c.partitioned and c.loss_chunk
    ),
    "training.loss_chunk: the chunked loss is FP32 only; set it to 0 or training.precision to fp32": lambda c, m: (
        c.training.loss_chunk and c.training.precision != "fp32"
    ),
    "training.loss_scale: bf16 has none; set training.precision=fp16, or leave the key out": lambda c, m: (
        c.training.precision == "bf16"
        and c.training.loss_scale
        not in (LossScaleConfig(), LossScaleConfig(initial=2.0**32))  # values in shipped recipes
    ),
    **_without(
        lambda c, m: c.training.precision == "bf16" and c.device == "cpu",
        "parallel.fusion.OBSTACLE: a CPU rounds to bf16 after each operator; leave the key out",
        {
            "graph_kernel": lambda c, m: c.parallel.fusion.graph_kernel,
            "dropout": lambda c, m: c.parallel.fusion.dropout,
        },
    ),
    "profile.steps: {c.profile.steps} ends before it begins; give A..B with B at least A": lambda c, m: (
        c.profile.steps and not c.profile.window
    ),
    "profile.steps: {c.profile.steps} goes beyond training.steps {c.training.steps}; choose earlier "
    "steps": lambda c, m: c.profile.window and c.training.steps and c.profile.window[-1] > c.training.steps,
    "profile.ranks: {found[0][0]}, but devices: {c.devices}; give 0 to {found[0][1]}": lambda c, m: (
        isinstance(c.profile.ranks, list) and [(x, c.devices - 1) for x in c.profile.ranks if x >= c.devices]
    ),
    "cluster.silent_check: counts infinite gradients, which the loss scale of training.precision: fp16 causes "
    "too; set it to false, or train in bf16": lambda c, m: (
        c.device == "ascend" and c.cluster.silent_check and c.training.precision == "fp16"
    ),
    "cluster.silent_check: looks at gradients before they are added up over devices, and there is one; set it "
    "to false": lambda c, m: c.device == "ascend" and c.cluster.silent_check and not c.partitioned,
    "cluster.silent_check: MindSpore 2.9 does not compile it with parallel.optimizer_shard {m.optimizer_shard}; "
    "set it to false, or the shards to 1": lambda c, m: (
        c.device == "ascend" and c.cluster.silent_check and m.optimizer_shard > 1
    ),
    # The engine's partitioning follows every path through Muon's iterations: compiling a small model for two devices
    # took more than five minutes.
    **_without(
        lambda c, m: c.training.optimizer.name == "muon",
        "training.optimizer.name: muon trains all weights, on one device or on the processes of a CPU, not with "
        "OBSTACLE; set it to adamw or change that",
        {
            "device: {c.device} and devices: {c.devices}": lambda c, m: c.partitioned,
            "lora.rank: {c.lora.rank}": lambda c, m: c.lora.rank > 0,
        },
    ),
    # A run too short for its schedule gets only a note (`misfit` in schedule.py).
    "training.schedule.warmup_steps: {c.schedule.warmup_steps} is not below decay_steps {c.schedule.decay_steps}, "
    "so the cosine would never start; set training.schedule.warmup_steps={found} or less": lambda c, m: (
        c.training.schedule.decay_steps
        and c.schedule.warmup_steps >= c.schedule.decay_steps
        and not c.schedule.cosine_after_warmup
        and str(c.schedule.decay_steps - 1)
    ),
}
DEVICE_RULES: Rules = {
    "parallel.tensor: tensor {m.tensor} x pipeline {m.pipeline} = {found} does not divide devices: {c.devices}; "
    "change parallel.tensor, parallel.pipeline or devices": lambda c, m: (
        c.devices % (m.tensor * m.pipeline) and m.tensor * m.pipeline
    ),
    "parallel.data: {m.data} replicas x {found[0]} do not use devices: {c.devices}; set it to {found[1]} or leave "
    "parallel.data out": lambda c, m: (
        m.world != c.devices and (m.tensor * m.pipeline, c.devices // (m.tensor * m.pipeline))
    ),
}
MESH_RULES: Rules = {
    "lora.frozen: {c.lora.frozen} on devices: {c.devices} of {c.device}, but 16-bit frozen weights train on "
    "one device, or on the processes of a CPU; set devices=1, or lora.frozen=fp32": lambda c, m: (
        c.lora.frozen in ("fp16", "bf16") and c.partitioned
    ),
    "training.global_batch: {c.training.global_batch} does not divide by the {m.data} data-parallel devices; "
    "set training.global_batch={found}, or change devices": lambda c, m: (
        c.training.global_batch % m.data and -(-c.training.global_batch // _loaded_at_once(m)) * _loaded_at_once(m)
    ),
    "parallel.micro_batches: {c.parallel.micro_batches} of training.micro_batch {c.training.micro_batch} are not "
    "the {c.local_batch} sequences of a replica; leave one of the two keys out": lambda c, m: (
        c.parallel.micro_batches
        and c.training.micro_batch
        and c.parallel.micro_batches * c.training.micro_batch != c.local_batch
    ),
    "parallel.micro_batches: {c.parallel.micro_batches} does not divide the {c.local_batch} sequences of a "
    "replica; choose a divisor or change training.global_batch": lambda c, m: (
        c.parallel.micro_batches and c.local_batch % c.parallel.micro_batches
    ),
    "training.micro_batch: {c.micro_batch} does not divide the {c.local_batch} sequences of a device; set "
    "{found}": lambda c, m: c.local_batch % c.micro_batch and _shared_batch(c, m),
    "parallel.sequence: shards rows over parallel.tensor, which is 1; set it to false": lambda c, m: (
        m.tensor == 1 and c.parallel.sequence
    ),
    **_divided("num_heads"),  # then it divides the hidden size too
    **_divided("intermediate_size"),
    "parallel.tensor: {m.tensor} does not divide model.num_kv_groups {c.model.sizes.num_kv_groups}; give a "
    "divisor": lambda c, m: c.model.sizes.num_kv_groups % m.tensor and m.tensor % c.model.sizes.num_kv_groups,
    **_divided("vocab_size", lambda c, m: c.parallel.vocabulary),
    "parallel.tensor: {m.tensor} devices, whose traffic must stay inside a server, do not divide "
    "parallel.server_devices {c.parallel.server_devices}; choose a divisor": lambda c, m: (
        c.parallel.server_devices % m.tensor
    ),
    "training.micro_batch: {c.micro_batch} sequences of a replica cannot be divided among the {m.tensor} devices "
    "that load them (parallel.tensor); set {found}": lambda c, m: c.micro_batch % m.tensor and _shared_batch(c, m),
    "parallel.stage_layers: {c.parallel.stage_layers} for parallel.pipeline 1, which is not a pipeline; leave "
    "parallel.stage_layers out or choose more stages": lambda c, m: m.stage_layers and m.pipeline == 1,
    "parallel.stage_layers: {c.parallel.stage_layers} are {found} numbers for parallel.pipeline {m.pipeline}; give one "
    "for each stage, or leave it out": lambda c, m: len(m.stage_layers) not in (0, m.pipeline) and len(m.stage_layers),
    "parallel.stage_layers: {c.parallel.stage_layers} are {found[given]} layers, the model has {found[layers]}: "
    "{found[counted]}; give numbers with that sum, or leave it out": lambda c, m: (
        sum(m.stage_layers) not in (0, c.model.sizes.attention_layers) and {"given": sum(m.stage_layers), **_layers(c)}
    ),
    "parallel.virtual_stages: {m.virtual_stages} for parallel.pipeline 1, which is not a pipeline; leave "
    "parallel.virtual_stages out or choose more stages": lambda c, m: m.virtual_stages > 1 and m.pipeline == 1,
    "parallel.virtual_stages: {m.virtual_stages} parts of each stage have equally many layers, so "
    "parallel.stage_layers {found} cannot be given too; leave one of the two keys out": lambda c, m: (
        m.virtual_stages > 1 and list(m.stage_layers)
    ),
    "parallel.virtual_stages: parallel.pipeline {m.pipeline} x {m.virtual_stages} = {found[parts]} parts do not "
    "divide the {found[layers]} layers ({found[counted]}); choose other numbers": lambda c, m: (
        m.virtual_stages > 1
        and c.model.sizes.attention_layers % (m.pipeline * m.virtual_stages)
        and {"parts": m.pipeline * m.virtual_stages, **_layers(c)}
    ),
    "parallel.micro_batches: {c.accumulation} is not a multiple of parallel.pipeline {m.pipeline}, which "
    "parallel.virtual_stages {m.virtual_stages} needs; choose a multiple, or change "
    "training.global_batch": lambda c, m: m.virtual_stages > 1 and c.accumulation % m.pipeline,
    **_without(
        lambda c, m: m.virtual_stages > 1,
        "parallel.virtual_stages: {m.virtual_stages} was never executed together with OBSTACLE; leave one of the two "
        "out",
        {
            "parallel.overlap.parts: {c.parallel.overlap.parts}": lambda c, m: c.parallel.overlap.parts > 1,
            "parallel.overlap.recompute_collectives: false": lambda c, m: not c.parallel.overlap.recompute_collectives,
            "training.recompute_blocks: {c.training.recompute_blocks}": lambda c, m: (
                c.training.recompute_blocks is not None
            ),
        },
    ),
    "parallel.pipeline: {m.pipeline} stages for model.num_layers {c.model.sizes.num_layers}; choose that or "
    "less": lambda c, m: m.pipeline > c.model.sizes.num_layers and m.pipeline > 1,
    "parallel.micro_batches: {c.accumulation} cannot fill parallel.pipeline {m.pipeline} stages; give at least as "
    "many micro-batches as stages": lambda c, m: c.accumulation < m.pipeline,
    "parallel.graph_micro_batches: {c.parallel.graph_micro_batches} of {c.accumulation} micro-batches in "
    "parallel.pipeline {m.pipeline}; give a divisor that is at least 2, not less than the stages, and with "
    "parallel.virtual_stages a multiple of them, or leave it out": lambda c, m: (
        c.partitioned and c.parallel.graph_micro_batches and not c.fills_graph(c.parallel.graph_micro_batches)
    ),
    "parallel.optimizer_shard: {m.optimizer_shard} does not divide the {m.data} data-parallel replicas; choose a "
    "divisor or change devices": lambda c, m: m.data % m.optimizer_shard,
    "parallel.optimizer_shard: {m.optimizer_shard} does not divide the {found[rows]} rows that parallel.tensor "
    "{m.tensor} leaves of {found[parameter].name} ({found[layer].rows} {found[parameter].shape[0]}); MindSpore "
    "would silently leave it unsharded. Choose a divisor": _undivided_rows,
    "parallel.optimizer_level: {m.optimizer_level} for parallel.optimizer_shard 1, which shards nothing; set "
    "parallel.optimizer_shard, or leave it out": lambda c, m: m.optimizer_level > 1 and m.optimizer_shard == 1,
    "parallel.optimizer_level: 3 with parallel.pipeline {m.pipeline}, which MindSpore does not compile; choose "
    "2": lambda c, m: m.optimizer_level == 3 and m.pipeline > 1,
    **_without(
        lambda c, m: m.optimizer_level > 1,
        "parallel.optimizer_level: {m.optimizer_level} was never executed together with OBSTACLE; leave one of the two "
        "out",
        {
            "parallel.overlap.parts: {c.parallel.overlap.parts}": lambda c, m: c.parallel.overlap.parts > 1,
            "lora.rank: {c.lora.rank}": lambda c, m: c.lora.rank > 0,
        },
    ),
    "training.recompute_blocks: nothing is recomputed; set training.recompute=full or leave it out": lambda c, m: (
        c.training.recompute_blocks is not None and c.training.recompute == "none"
    ),
    "training.recompute_blocks: {found} for parallel.pipeline {m.pipeline}; give as many": lambda c, m: (
        c.training.recompute_blocks is not None
        and len(c.training.recompute_blocks) != m.pipeline
        and str(len(c.training.recompute_blocks))
    ),
    "training.recompute_blocks: {c.training.recompute_blocks}, but the stages have {found} blocks; give no more "
    "than those": _blocks_beyond,
    **_without(
        lambda c, m: m.tensor == 1,
        "parallel.overlap.OBSTACLE: with parallel.tensor 1 there are no tensor-parallel all-reduces; leave it out",
        {
            "parts": lambda c, m: c.parallel.overlap.parts != 1,
            "recompute_collectives": lambda c, m: not c.parallel.overlap.recompute_collectives,
        },
    ),
    "parallel.overlap.parts: {c.parallel.overlap.parts} does not divide the {c.micro_batch} sequences of a "
    "micro-batch (training.micro_batch); choose a divisor": lambda c, m: c.micro_batch % c.parallel.overlap.parts,
    **_without(
        lambda c, m: not c.parallel.overlap.recompute_collectives,
        "parallel.overlap.recompute_collectives: false saves the all-reduce results of blocks that are recomputed in "
        "full, and is not possible with OBSTACLE; leave it out or change that key",
        {
            "training.recompute: {c.training.recompute}": lambda c, m: c.training.recompute != "full",
            "parallel.sequence": lambda c, m: c.parallel.sequence,
            "training.recompute_blocks": lambda c, m: c.training.recompute_blocks is not None,
            "lora.rank": lambda c, m: c.lora.rank > 0,
            "parallel.fusion.dropout": lambda c, m: c.parallel.fusion.dropout,
        },
    ),
    "parallel.short_gradients: training.precision is fp32; choose fp16 or bf16, or leave it out": lambda c, m: (
        c.parallel.short_gradients and c.training.precision == "fp32"
    ),
}
