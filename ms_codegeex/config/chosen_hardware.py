"""Choose the accelerator that a run is planned for and runs on, from `parallel.hardware` and `device`, and the fused
kernels that it uses: `parallel.fusion.*` where set, otherwise the device's default."""

from __future__ import annotations

from dataclasses import replace

from ms_codegeex.base.hardware import A100, ASCEND_910, GIB, RESERVE, Chip, chip_named
from ms_codegeex.config.run import RunConfig

FUSIONS = ("graph_kernel", "attention", "norm", "optimizer", "dropout")
# On a CPU the norm kernel is slower than elementary operators, and graph kernels change results by 1e-4. Dropout is off
# by default everywhere: the random numbers of its kernel are not a function of the sample.
CPU_FUSIONS = frozenset({"optimizer"})
HEAD_MULTIPLE, MAX_HEAD = 16, 512  # limits of fused attention on head sizes
MASK_BITS = 8  # bits per byte of its dropout mask
MAX_DOCUMENTS_PER_CALL = 1024  # limit of fused attention (MindSpore 2.9's documentation of the kernel)

ASSUMED = {"cpu": ASCEND_910, "ascend": ASCEND_910, "gpu": A100}  # assumed without parallel.hardware


def hardware_of(config: RunConfig) -> Chip:
    """Return the accelerator that a configuration is planned for: the named one, or the default of its kind.
    `cluster.device_memory`, if set, replaces its usable memory."""
    name, limit = config.parallel.hardware, config.cluster.device_memory
    chip = chip_named(name) if name else ASSUMED[config.device]
    return replace(chip, usable_memory=int(limit * GIB)) if limit else chip


def running_on(config: RunConfig) -> Chip:
    """Return the accelerator whose kernels an `ascend` or `gpu` run may use: the named one if it is of that kind."""
    planned = hardware_of(config)
    return planned if planned.kind == config.device else ASSUMED[config.device]


def memory_limit(config: RunConfig, free: int | None) -> int:
    """Return the bytes of a device that a run may fill. `free`: those that are free when it starts (None: unknown)."""
    planned = running_on(config).usable_memory
    return planned if free is None or config.cluster.device_memory else min(planned, free - RESERVE)


def chosen_kernels(config: RunConfig) -> frozenset[str]:
    """Return the names of the fusions that the run uses on `config.device`."""
    if config.device == "cpu":
        return fused_kernels(config, CPU_FUSIONS)
    return fused_kernels(config, running_on(config).fused)


def fused_kernels(config: RunConfig, available: frozenset[str]) -> frozenset[str]:
    """Return the names of the fusions that the run uses on a device whose defaults are `available`."""
    if attention_obstacle(config):
        available = available - {"attention"}
    if config.model.sizes.rms_norm and "rms_norm" not in available:
        available = available - {"norm"}
    settings = {name: getattr(config.parallel.fusion, name) for name in FUSIONS}
    return frozenset(name for name, on in settings.items() if (name in available if on is None else on))


def aclnn_kernels(config: RunConfig, partitioned: bool) -> frozenset[str]:
    """Return the fused kernels for which a run uses the aclnn form, for which the engine's plugin has code, where two
    forms exist. MindSpore 2.9 cannot partition LayerNorm's, and a rehearsal partitions every run."""
    if config.device != "ascend" or running_on(config).saturates:
        return frozenset()
    return frozenset({"aclnn_optimizer"} if partitioned else {"aclnn_optimizer", "aclnn_norm"})


def attention_obstacle(config: RunConfig) -> str | None:
    """Return why fused attention cannot compute this model, ending in the key to change; None if it can."""
    model = config.model.sizes
    size = model.head_dim
    if config.training.attention_rate > 0 and config.parallel.fusion.documents:
        return "by the ends of documents it drops nothing; set training.attention_dropout to 0"
    if config.training.attention_rate > 0 and config.seq_length % MASK_BITS:
        return (
            f"it takes a mask of dropout in bytes; make data.seq_length: {config.seq_length} a multiple of {MASK_BITS}"
        )
    if config.training.precision == "fp32":
        return "it multiplies in 16 bits; set training.precision to fp16 or bf16"
    if model.scores_fp32:
        return "it multiplies queries with keys in 16 bits; set model.scores_fp32 to false"
    if size % HEAD_MULTIPLE or size > MAX_HEAD:
        return f"heads of {size} are not a multiple of {HEAD_MULTIPLE} up to {MAX_HEAD}; change model.num_heads"
    return None


def flat_cells(config: RunConfig) -> bool:
    return config.device == "gpu" and config.parallel.tensor * config.parallel.pipeline == 1


def documents_of_a_row(config: RunConfig) -> int:
    """Return how many documents of a row fused attention takes by their ends; 0: it takes a mask instead."""
    if not config.parallel.fusion.documents:
        return 0
    rows = config.micro_batch // config.parallel.overlap.parts
    return min(MAX_DOCUMENTS_PER_CALL // rows, config.seq_length) if config.data.reset_at_eos else 1
