"""Which accelerator a run is planned for and executed on, from `parallel.hardware`, `device` and the driver; which of
its fused kernels the run uses: `parallel.fusion.*` where it is set, otherwise the device's default."""

from __future__ import annotations

import re

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import A100, ASCEND_910, CHIPS, DEVICES, Chip, Device, device
from ms_codegeex.config.run import RunConfig

FUSIONS = ("graph_kernel", "attention", "norm", "optimizer", "dropout")
# On a CPU the norm kernel is slower than elementary operators, and graph kernels change results by 1e-4. Dropout is off
# by default everywhere: the random numbers of its kernel are not a function of the sample.
CPU_FUSIONS = frozenset({"optimizer"})
HEAD_MULTIPLE, LARGEST_HEAD = 16, 512  # head sizes of fused attention
MOST_DOCUMENTS = 1024  # of one call of fused attention (MindSpore 2.9's documentation of the kernel)

ASSUMED = {"cpu": ASCEND_910, "ascend": ASCEND_910, "gpu": A100}  # without parallel.hardware


def hardware_of(config: RunConfig) -> Device:
    """The accelerator that a configuration is planned for: the named one, or the default of its kind."""
    name = config.parallel.hardware
    return device(name) if name else ASSUMED[config.device]


def running_on(config: RunConfig) -> Device:
    """The accelerator whose kernels a run on `device: ascend` or `gpu` may use: the named one if it is of that kind."""
    planned = hardware_of(config)
    return planned if planned.kind == config.device else ASSUMED[config.device]


def check_kind(config: RunConfig) -> None:
    """Raise a `UserError` if `parallel.hardware` is not of the kind that `device` names."""
    name = config.parallel.hardware
    if name and config.device != "cpu" and device(name).kind != config.device:
        known = ", ".join(sorted(x.name for x in DEVICES.values() if x.kind == config.device))
        raise UserError(
            f"parallel.hardware: {name} is not what device: {config.device} runs on; name one of {known}, or leave it "
            "out"
        )


def chip_of(name: str) -> Chip | None:
    """The chip that the driver calls so, or the first one that has this `parallel.hardware`."""
    return next((chip for chip in CHIPS if chip.hardware == name or re.fullmatch(chip.driver, name)), None)


def driver_hardware(config: RunConfig, driver: str) -> str:
    """Name of the accelerator of a run on Ascend.

    Args:
        config: of the run.
        driver: the driver's name of the device.

    Raises:
        UserError: the driver's name is unknown and `parallel.hardware` is not set, or the two contradict each other.
    """
    named = config.parallel.hardware
    chip = chip_of(driver)
    detected = chip.hardware if chip else None
    if detected is None and named is None:
        known = ", ".join(sorted(x.name for x in DEVICES.values() if x.kind == "ascend"))
        lacking = "known to train (docs/hardware.md)" if chip else "known"
        raise UserError(
            f"parallel.hardware: the driver's name of this device, '{driver}', is not {lacking}; name the one it is "
            f"most like, of {known}: it decides kernels and memory"
        )
    if detected and named and detected != named:
        raise UserError(
            f"parallel.hardware: {named}, but the driver says {driver}, which is {detected}; set it to {detected} or "
            "leave it out"
        )
    return named or detected


def chosen_kernels(config: RunConfig) -> frozenset[str]:
    """Names of the fusions that the run uses on `config.device`."""
    if config.device == "cpu":
        return fused_kernels(config, CPU_FUSIONS)
    return fused_kernels(config, running_on(config).fused)


def fused_kernels(config: RunConfig, available: frozenset[str]) -> frozenset[str]:
    """Names of the fusions that the run uses on a device whose defaults are `available`."""
    if attention_obstacle(config):
        available = available - {"attention"}
    if config.model.sizes.rms_norm and "rms_norm" not in available:
        available = available - {"norm"}
    settings = {name: getattr(config.parallel.fusion, name) for name in FUSIONS}
    return frozenset(name for name, on in settings.items() if (name in available if on is None else on))


def attention_obstacle(config: RunConfig) -> str | None:
    """Why fused attention cannot compute this model, ending in the key to change; None if it can."""
    model = config.model.sizes
    size = model.head_dim
    if config.training.dropout > 0:
        return f"it has no dropout; set training.dropout: {config.training.dropout} to 0"
    if config.training.precision == "fp32":
        return "it multiplies in 16 bits; set training.precision to fp16 or bf16"
    if model.scores_fp32:
        return "it multiplies queries with keys in 16 bits; set model.scores_fp32 to false"
    if size % HEAD_MULTIPLE or size > LARGEST_HEAD:
        return f"heads of {size} are not a multiple of {HEAD_MULTIPLE} up to {LARGEST_HEAD}; change model.num_heads"
    return None


def documents_of_a_row(config: RunConfig) -> int:
    """How many documents of a row fused attention takes by their ends; 0: it takes a mask."""
    if not config.parallel.fusion.documents:
        return 0
    rows = config.micro_batch // config.parallel.overlap.parts
    return min(MOST_DOCUMENTS // rows, config.seq_length) if config.data.reset_at_eos else 1


def dropout_obstacle(config: RunConfig) -> str | None:
    """Why this run cannot use the engine's dropout kernel, naming the key to change; None if it can.

    Its seeds have no effect on Ascend (MindSpore 2.9's documentation of the operator). A copy of an activation on
    another device, or a recomputed forward pass, may therefore drop other elements.
    """
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
        raise UserError(
            "parallel.fusion.documents: only fused attention takes the ends of documents, and this run composes "
            f"attention{f': {why}' if (why := attention_obstacle(config)) else ''}; leave the key out"
        )
    if fusion.norm and config.device != "ascend" and config.model.sizes.rms_norm:
        raise UserError(
            f"parallel.fusion.norm: RMSNorm's kernel exists on Ascend only, not on device: {config.device}; leave the "
            "key out"
        )
    obstacle = dropout_obstacle(config) if fusion.dropout else None
    if obstacle:
        raise UserError(
            f"parallel.fusion.dropout: {obstacle}, and the kernel's seeds have no effect on Ascend; leave the key out: "
            "composed dropout is a function of seed, sample and place"
        )
