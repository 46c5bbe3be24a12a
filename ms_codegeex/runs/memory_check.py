"""Whether a run fits into memory: of this machine on a CPU, otherwise of each device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import psutil

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of, running_on
from ms_codegeex.planning.cost_model import shape_of
from ms_codegeex.planning.memory import kept_bytes, stage_memory
from ms_codegeex.planning.model_parts import model_parts
from ms_codegeex.runs.background import saves_in_background

PROCESS = 450_000_000  # bytes of a process with the engine loaded
TRAINED = 21  # of a trained weight: itself, gradient, two moments, and the update's buffers
ACCUMULATED = 4  # more, if its gradient is summed over micro-batches
COPIED = 12  # more in one process, for background saving: a copy of the weight and its moments
FROZEN = 8.4  # of a frozen weight: itself, and a copy in the graph
KEPT = 9.5  # resident bytes for each byte that the backward pass needs


def required_memory(config: RunConfig) -> int:
    """Bytes of host memory that the CPU processes of a run need, roughly.

    Fitted to the peaks of resident memory of full and LoRA training with MindSpore 2.9.0 (docs/finetune.md has them).
    MindSpore's broadcast kernels keep their own buffers and little is reused, so an activation costs several times its
    size.
    """
    model, rows = config.model.sizes, config.micro_batch * config.seq_length
    trained, frozen = model.parameter_count(), 0
    if config.lora.rank:
        frozen = trained
        trained = sum(map(math.prod, model.adapter_shapes(config.lora.targets, config.lora.rank).values()))
    each = TRAINED + (ACCUMULATED if config.local_batch > config.micro_batch else 0)
    logits = 4 * 4 * model.vocab_size * min(rows, config.loss_chunk or rows)
    weights = each * trained + FROZEN * frozen
    saving, keep_best = config.checkpoint, config.training.patience > 0
    copies = COPIED * trained if saves_in_background(saving.background, saving.every, keep_best) else 0
    return config.devices * int(PROCESS + weights + KEPT * _kept(config) + logits) + copies


def _kept(config: RunConfig) -> float:
    """Bytes that one micro-batch keeps for its backward pass, without the logits, with elementary operators."""
    shape = replace(shape_of(config, hardware_of(config)), fused=frozenset())
    parts = [part for part in model_parts(config.model.sizes, shape) if part.name != "head"]
    return kept_bytes(parts)


@dataclass(frozen=True)
class Shortage:
    """Bytes that a run needs and bytes that exist: on a CPU those of this machine for all processes, otherwise those of
    each device."""

    needed: int
    available: int


def shortage(config: RunConfig) -> Shortage | None:
    """The reason why a run does not fit into memory; None if it fits. On a CPU, the memory that is free now counts;
    otherwise the plan and the device's memory, if it is known."""
    if config.device == "cpu":
        needed, available = required_memory(config), psutil.virtual_memory().available
    elif config.parallel.hardware is None:
        return None
    else:
        chip = running_on(config)
        needed, available = max(stage.total for stage in stage_memory(config, chip)), chip.usable_memory
    return Shortage(int(needed), int(available)) if needed > available else None


def check_memory(config: RunConfig) -> None:
    """`UserError` if a CPU run needs more memory than is free now."""
    if config.device == "cpu" and (short := shortage(config)):
        raise UserError(
            f"model.preset: {config.model.sizes.parameter_count():,} parameters with training.micro_batch "
            f"{config.micro_batch} need about {short.needed / 1e9:.1f} GB on {config.devices} process(es), "
            f"{short.available / 1e9:.1f} GB are free; choose a smaller model.preset, training.micro_batch or --devices"
        )
