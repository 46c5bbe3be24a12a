"""The rules that a run's mesh, batch and model obey together. Every error names the key to change."""

from __future__ import annotations

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh, check_world
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.config.run import RunConfig


def _divides(key: str, part: int, whole_key: str, whole: int) -> None:
    if whole % part:
        raise UserError(f"{key}: {part} does not divide {whole_key} {whole}; change {key} or {whole_key}")


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
        raise UserError(
            f"parallel.data: {mesh.data} replicas x {fixed} do not use devices: {config.devices}; "
            f"set it to {config.devices // fixed} or leave parallel.data out"
        )
    if config.partitioned:
        check_world("devices", mesh.world)
    _check_batch(config, mesh)
    _check_tensor(config, mesh)
    _check_pipeline(config, mesh)
    _check_optimizer_shards(config, mesh)
    _check_recomputation(config, mesh)
    _check_overlap(config, mesh)


def _check_recomputation(config: RunConfig, mesh: Mesh) -> None:
    blocks, what = config.training.recompute_blocks, config.training.recompute
    if blocks is None:
        return
    if what == "none":
        raise UserError(
            f"training.recompute_blocks: {blocks}, but training.recompute is none; set that to full or selective, or "
            "leave training.recompute_blocks out"
        )
    if len(blocks) != mesh.pipeline:
        raise UserError(
            f"training.recompute_blocks: {len(blocks)} numbers for the stages of parallel.pipeline {mesh.pipeline}; "
            "give one for each"
        )
    held = mesh.layers_per_stage(config.model.sizes.attention_layers)
    if any(number > layers for number, layers in zip(blocks, held, strict=True)):
        raise UserError(
            f"training.recompute_blocks: {blocks}, but the stages have {held} blocks; give no more than those"
        )


def _check_batch(config: RunConfig, mesh: Mesh) -> None:
    parallel, training = config.parallel, config.training
    if training.global_batch % mesh.data:
        raise UserError(
            f"training.global_batch: {training.global_batch} does not divide by the {mesh.data} "
            "data-parallel devices; change training.global_batch or devices"
        )
    if parallel.micro_batches and training.micro_batch:
        if parallel.micro_batches * training.micro_batch != config.local_batch:
            raise UserError(
                f"parallel.micro_batches: {parallel.micro_batches} of training.micro_batch {training.micro_batch} are "
                f"not the {config.local_batch} sequences of a replica; leave one of the two keys out"
            )
    elif parallel.micro_batches and config.local_batch % parallel.micro_batches:
        raise UserError(
            f"parallel.micro_batches: {parallel.micro_batches} does not divide the {config.local_batch} sequences of a "
            "replica; choose a divisor or change training.global_batch"
        )
    if config.local_batch % config.micro_batch:
        raise UserError(
            f"training.micro_batch: {config.micro_batch} does not divide the {config.local_batch} sequences of a "
            "device; choose a divisor"
        )


def _check_tensor(config: RunConfig, mesh: Mesh) -> None:
    parallel, model = config.parallel, config.model.sizes
    if mesh.tensor == 1:
        if parallel.sequence:
            raise UserError("parallel.sequence: shards rows over parallel.tensor, which is 1; set it to false")
        return
    for field in ("num_heads", "intermediate_size"):  # heads divide the hidden size
        _divides("parallel.tensor", mesh.tensor, f"model.{field}", getattr(model, field))
    groups = model.num_kv_groups
    if groups % mesh.tensor and mesh.tensor % groups:
        raise UserError(
            f"parallel.tensor: {mesh.tensor} devices cannot share model.num_kv_groups {groups} evenly; choose a "
            "divisor or a multiple"
        )
    if parallel.vocabulary:
        _divides("parallel.tensor", mesh.tensor, "model.vocab_size", model.vocab_size)
    if parallel.server_devices % mesh.tensor:
        raise UserError(
            f"parallel.tensor: groups of {mesh.tensor} devices do not fit into servers of "
            f"{parallel.server_devices} (parallel.server_devices); choose a divisor, tensor-parallel traffic must stay "
            "inside a server"
        )
    if config.micro_batch % mesh.tensor:
        raise UserError(
            f"training.micro_batch: {config.micro_batch} sequences of a replica cannot be divided equally among the "
            f"{mesh.tensor} devices that load them (parallel.tensor); choose a multiple"
        )


def _check_pipeline(config: RunConfig, mesh: Mesh) -> None:
    _check_stage_layers(config, mesh)
    _check_virtual_stages(config, mesh)
    if mesh.pipeline == 1:
        return
    layers = config.model.sizes.num_layers
    if mesh.pipeline > layers:
        raise UserError(
            f"parallel.pipeline: {mesh.pipeline} stages for model.num_layers {layers}; choose at most that many"
        )
    if config.accumulation < mesh.pipeline:
        raise UserError(
            f"parallel.micro_batches: {config.accumulation} cannot fill parallel.pipeline {mesh.pipeline} stages; "
            "give at least as many micro-batches as stages"
        )


def _check_virtual_stages(config: RunConfig, mesh: Mesh) -> None:
    parts, stages, layers = mesh.virtual_stages, mesh.pipeline, config.model.sizes.attention_layers
    if parts == 1:
        return
    if stages == 1:
        raise UserError(
            f"parallel.virtual_stages: {parts} for parallel.pipeline 1, which is no pipeline; leave "
            "parallel.virtual_stages out or choose more stages"
        )
    if mesh.stage_layers:
        raise UserError(
            f"parallel.virtual_stages: {parts} parts of each stage have equally many layers, so parallel.stage_layers "
            f"{list(mesh.stage_layers)} cannot be given too; leave one of the two keys out"
        )
    if layers % (stages * parts):
        after = layers - config.model.sizes.num_layers
        counted = f" and the {after} after them" if after else ""
        raise UserError(
            f"parallel.virtual_stages: parallel.pipeline {stages} x {parts} = {stages * parts} parts do not divide the "
            f"{layers} layers (model.num_layers {config.model.sizes.num_layers}{counted}); choose other numbers"
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
        f"lora.rank: {config.lora.rank}": config.lora.rank > 0,
    }
    for name, given in untried.items():
        if given:
            raise UserError(
                f"parallel.virtual_stages: {parts} was never executed together with {name}; leave one of the two out"
            )


def _check_stage_layers(config: RunConfig, mesh: Mesh) -> None:
    given, layers = list(mesh.stage_layers), config.model.sizes.attention_layers
    if not given:
        return
    if mesh.pipeline == 1:
        raise UserError(
            f"parallel.stage_layers: {given} for parallel.pipeline 1, which is no pipeline; leave "
            "parallel.stage_layers out or choose more stages"
        )
    if len(given) != mesh.pipeline:
        raise UserError(
            f"parallel.stage_layers: {given} are {len(given)} numbers for parallel.pipeline {mesh.pipeline}; give one "
            "for each stage, or leave it out"
        )
    if sum(given) != layers:
        after = layers - config.model.sizes.num_layers
        counted = f" and the {after} after them" if after else ""
        raise UserError(
            f"parallel.stage_layers: {given} are {sum(given)} layers, the model has {layers}: model.num_layers "
            f"{config.model.sizes.num_layers}{counted}; give numbers with that sum, or leave it out"
        )


def _check_optimizer_shards(config: RunConfig, mesh: Mesh) -> None:
    shard, model = mesh.optimizer_shard, config.model.sizes
    if shard == 1:
        return
    if mesh.data % shard:
        raise UserError(
            f"parallel.optimizer_shard: {shard} does not divide the {mesh.data} data-parallel replicas; choose a "
            "divisor or change devices"
        )
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
        raise UserError(
            f"parallel.overlap.parts: {overlap.parts} does not divide the {config.micro_batch} sequences of a "
            "micro-batch (training.micro_batch); choose a divisor"
        )
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
            raise UserError(
                f"parallel.overlap.recompute_collectives: false saves the all-reduce results of blocks that "
                f"are recomputed in full, and is not possible with {name}; leave it out or change that key"
            )
