"""From nested values to a checked configuration: the rules between its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.config.fusions import check_kernels
from ms_codegeex.config.mesh_rules import check_mesh
from ms_codegeex.config.run import RunConfig
from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.config.validation import check_tree, validated


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
    if training.patience and not training.evaluate_every:
        raise UserError(
            "training.patience: needs validation during training; set training.evaluate_every, or training.patience=0"
        )
    if config.compile_cache and config.partitioned:
        raise UserError(
            "compile_cache: not available for partitioned runs, which take tensor layouts from the compilation; set it "
            "to false"
        )
    if config.lora.rank and config.model.fresh:
        raise UserError("model.fresh: adapters need all weights of their model; leave it out, or set lora.rank=0")
    if config.partitioned and config.loss_chunk:
        raise UserError(
            f"training.loss_chunk: {config.loss_chunk}, but device: {config.device} forms all logits, which "
            "parallel.vocabulary can shard; set it to 0 or leave it out"
        )
    if training.loss_chunk and training.precision != "fp32":
        raise UserError("training.loss_chunk: the chunked loss is FP32 only; set it to 0 or training.precision to fp32")
    if training.precision == "bf16":
        _check_bf16(config)
    schedule = training.schedule
    if schedule.warmup_steps >= schedule.decay_steps and not schedule.cosine_after_warmup:
        raise UserError(
            f"training.schedule.warmup_steps: {training.schedule.warmup_steps} is not below decay_steps "
            f"{training.schedule.decay_steps}; the cosine would never start"
        )


def _check_bf16(config: RunConfig) -> None:
    """Rules of training.precision: bf16."""
    if config.training.loss_scale != LossScaleConfig():
        raise UserError(
            "training.loss_scale: training.precision is bf16, which has FP32's range and no loss scale; leave "
            "training.loss_scale out, or set training.precision to fp16"
        )
    if config.device != "cpu" and config.parallel.hardware:
        hardware_of(config).peak("bf16")
    for name in ("graph_kernel", "dropout"):
        if config.device == "cpu" and getattr(config.parallel.fusion, name):
            raise UserError(
                f"parallel.fusion.{name}: a CPU trains bf16 by rounding after each FP32 operator, not inside a fused "
                "kernel; leave the key out"
            )
