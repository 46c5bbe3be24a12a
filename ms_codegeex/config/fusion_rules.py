"""Which of the `parallel.fusion.*` keys a run cannot have, and why."""

from __future__ import annotations

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.chosen_hardware import attention_obstacle, chosen_kernels, running_on
from ms_codegeex.config.run import RunConfig


def dropout_obstacle(config: RunConfig) -> str | None:
    """Why this run cannot use the engine's dropout kernel, naming the key to change; None if it can. Its seeds have no
    effect on Ascend (MindSpore 2.9's documentation of the operator). A copy of an activation on another device, or a
    recomputed forward pass, may therefore drop other elements."""
    if config.training.dropout == 0:
        return None
    if config.partitioned:
        return "devices that hold copies of an activation have to drop the same elements"
    if config.training.recompute != "none":
        return f"training.recompute: {config.training.recompute} has to drop the same elements again"
    return None


def check_kernels(config: RunConfig) -> None:
    """Raise a `UserError` for a requested fusion that this device or model does not support."""
    fusion = config.parallel.fusion
    if fusion.attention:
        obstacle = attention_obstacle(config)
        if config.device != "ascend":
            obstacle = f"there is no such kernel for device: {config.device}, only for ascend; set it"
        elif config.parallel.hardware and "attention" not in running_on(config).fused:
            obstacle = f"parallel.hardware: {config.parallel.hardware} has no such kernel; set it to what you have"
        if obstacle:
            raise UserError(f"parallel.fusion.attention: {obstacle}, or leave the key out")
    if fusion.documents and "attention" not in chosen_kernels(config):
        why = f": {cause}" if (cause := attention_obstacle(config)) else ""
        wrong = f"only fused attention takes the ends of documents, and this run composes attention{why}"
        raise UserError(f"parallel.fusion.documents: {wrong}; leave the key out")
    if fusion.norm and config.device != "ascend" and config.model.sizes.rms_norm:
        wrong = f"RMSNorm's kernel exists on Ascend only, not on device: {config.device}"
        raise UserError(f"parallel.fusion.norm: {wrong}; leave the key out")
    obstacle = dropout_obstacle(config) if fusion.dropout else None
    if obstacle:
        wrong = f"{obstacle}, and the kernel's seeds have no effect on Ascend"
        remedy = "leave the key out: composed dropout is a function of seed, sample and place"
        raise UserError(f"parallel.fusion.dropout: {wrong}; {remedy}")
