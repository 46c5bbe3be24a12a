"""Whether a run on the CPU fits into the memory of this machine."""

from __future__ import annotations

import psutil

from ms_codegeex.config import RunConfig
from ms_codegeex.errors import UserError


def required_memory(config: RunConfig) -> int:
    """Bytes of host memory that the CPU processes of a run need, roughly.

    Fitted to resident sizes measured with the presets tiny, 25m and base (MindSpore 2.9.0, 512 to 4096 rows): within
    11 % for the first two, a quarter too high for the last. MindSpore's broadcast kernels keep buffers of their own, so
    an activation costs several times its size.
    """
    model, rows = config.model.sizes, config.micro_batch * config.seq_length
    weights = (44 if config.local_batch > config.micro_batch else 40) * model.parameter_count()
    row = 48 * model.hidden_size + 16 * model.intermediate_size + 12 * model.num_heads * config.seq_length
    activations = 4 * rows * (model.num_layers + 1) * row
    logits = 4 * 4 * model.vocab_size * min(rows, config.loss_chunk or rows)
    return config.devices * (700_000_000 + weights + activations + logits)


def check_memory(config: RunConfig) -> None:
    """`UserError` if a CPU run needs more memory than is free now."""
    if config.device != "cpu":
        return
    needed, free = required_memory(config), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"model.preset: {config.model.sizes.parameter_count():,} parameters with training.micro_batch "
            f"{config.micro_batch} need about {needed / 1e9:.1f} GB on {config.devices} process(es), "
            f"{free / 1e9:.1f} GB are free; choose a smaller model.preset, training.micro_batch or --devices"
        )
