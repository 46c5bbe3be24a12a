"""Whether this machine's GPUs, their driver and their libraries fit a run on `device: gpu`."""

from __future__ import annotations

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import running_on
from ms_codegeex.cuda.driver import Gpu
from ms_codegeex.cuda.libraries import check_loaded
from ms_codegeex.cuda.probe import probe_gpu_backend
from ms_codegeex.planning.memory import stage_memory


def check_gpus(config: RunConfig, local: int) -> None:
    """`UserError` if a run on GPUs cannot start on this machine, with `local` ranks of it here: a library, the driver
    or a GPU is missing, or too little of its memory is free. Does nothing for other devices."""
    if config.device != "gpu":
        return
    check_precision(config)
    found = probe_gpu_backend()
    check_loaded(list(found.libraries))
    found.driver.check()
    gpus = found.driver.gpus
    if not gpus:
        raise UserError(f"device: gpu: {found.driver.problem}; run `ms-codegeex doctor` for details, or set device=cpu")
    if found.plugin:
        raise UserError(f"device: gpu: MindSpore's plugin does not load ({found.plugin}); run `ms-codegeex doctor`")
    if local > len(gpus):
        raise UserError(
            f"devices: {local} on this machine, which has {len(gpus)} GPU{'s' * (len(gpus) > 1)} to use; set "
            f"devices={len(gpus)}, or check CUDA_VISIBLE_DEVICES"
        )
    for number, gpu in enumerate(gpus[:local]):
        if gpu.kernels == "none":
            raise UserError(
                f"device: gpu: GPU {number} ({gpu.name}) has compute capability {'.'.join(map(str, gpu.capability))}, "
                "MindSpore's kernels need 6.0 or more; choose another with CUDA_VISIBLE_DEVICES"
            )
    _check_memory(config, gpus[:local])


def check_precision(config: RunConfig) -> None:
    """`UserError` for BF16: MindSpore 2.9 lacks kernels for it on a GPU, for example addition."""
    if config.training.precision == "bf16":
        raise UserError(
            "training.precision: bf16, for which MindSpore has no kernels on device: gpu; set it to fp16 or fp32"
        )


def _check_memory(config: RunConfig, gpus: tuple[Gpu, ...]) -> None:
    """Compare the plan's memory of the largest stage with the free memory; the plan has not been checked on a GPU."""
    needed = max(stage.total for stage in stage_memory(config, running_on(config)))
    for number, gpu in enumerate(gpus):
        if gpu.free is not None and needed > gpu.free:
            raise UserError(
                f"training.micro_batch: {config.micro_batch} sequences of {config.seq_length} tokens and the model "
                f"need about {needed / 1e9:.1f} GB of a GPU; of GPU {number} ({gpu.name}) {gpu.free / 1e9:.1f} of "
                f"{gpu.memory / 1e9:.1f} GB are free; lower it, set training.recompute=full, or stop what uses the "
                "rest (nvidia-smi)"
            )
