"""Check whether a run fits into this machine's memory, or on GPUs and Ascend into each device's, and whether the
devices' libraries and drivers work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from ms_codegeex.base.cuda.driver import Gpu
from ms_codegeex.base.cuda.libraries import check_loaded
from ms_codegeex.base.cuda.probe import probe_gpu_backend
from ms_codegeex.base.cuda.translation import translation_note
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_memory
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import ending
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of, running_on
from ms_codegeex.models.parameters import LORA_A, held_bytes
from ms_codegeex.planning.cost_model import shape_of
from ms_codegeex.planning.memory import kept_bytes, parameter_sums, stage_memory
from ms_codegeex.planning.model_parts import model_parts
from ms_codegeex.runs.rank.background import saves_in_background
from ms_codegeex.runs.servers.node import RECOVERY
from ms_codegeex.training.operators import finds_compiled_operators

# In bytes, unless stated otherwise.
ENGINE_PROCESS = 450_000_000
TRAINED_WEIGHT = 21  # the weight, its gradient, two moments, and the update's buffers
ACCUMULATED = 4  # in addition, if gradients are summed over micro-batches
COPIED = 12  # in addition in one process, for background saving: a copy of the weight and its moments
WIDENED_WEIGHT = 4  # one 16-bit matrix at a time is widened; the output table is the largest
COMPOSED = 8  # in addition per 8- or 4-bit weight without compiled operators: the engine keeps wide copies
FIRST_GRAPH = 120_000_000  # including the compiler
BLOCK_GRAPH, RECOMPUTED_BLOCK_GRAPH = 14_000_000, 22_000_000  # per block in each training graph
ADAPTED = {"codegeex": 25_000_000}  # in addition per block with adapters and compiled operators, by family
KEPT = 9.5  # resident bytes per byte kept for the backward pass
COMPILED = 2.6  # the same with compiled operators, which need little beyond their results
LOGITS = 4  # live tensors of logits' size; 3 with compiled operators, which hold less


def free_memory() -> int:
    """Return the free bytes of this machine or container."""
    return min(psutil.virtual_memory().available, available_memory() or sys.maxsize)


def available_for(config: RunConfig) -> int:
    """Return the bytes that `required_memory` may take: free ones on a CPU, else the assumed device's."""
    return free_memory() if config.device == "cpu" else int(running_on(config).usable_memory)


def required_memory(config: RunConfig, compiled: bool | None = None) -> int:
    """Return the bytes that a run needs: on a CPU, host memory of all its processes; otherwise memory of each device,
    as planned. Fitted to peaks of resident memory in full and LoRA training with MindSpore 2.9.0 (figures in
    docs/finetune.md). MindSpore's broadcast kernels keep their own buffers and little is reused, so an activation costs
    several times its size. `compiled`: with compiled operators (`training/operators.py`); None: if found."""
    if config.device != "cpu":
        return int(max(stage.total for stage in stage_memory(config, running_on(config))))
    if compiled is None:
        compiled = finds_compiled_operators(config)
    model, rows = config.model.sizes, config.micro_batch * config.seq_length
    trained, frozen = model.parameter_count(), 0
    if config.lora.rank:
        # processes share unchanged file contents, which are not counted; of the first table only some rows are read
        table = held_bytes((model.vocab_size, model.hidden_size), config.lora.tables)
        sums = parameter_sums(config)[0]
        trained, frozen = sums.own_trained, sums.bytes - 4 * sums.own_trained - table
    accumulates = config.local_batch > config.micro_batch
    each = TRAINED_WEIGHT + (ACCUMULATED if accumulates else 0)
    logits = (LOGITS - compiled) * 4 * model.vocab_size * min(rows, config.loss_chunk or rows)
    if compiled and config.loss_chunk and not config.lora.rank:  # rows as in kernels/entropy.h, plus the packed table
        held = min(rows, max(64, (1 << 19) // model.vocab_size)) + min(model.hidden_size, 512)
        logits = max(logits, 4 * model.vocab_size * held)
    block = BLOCK_GRAPH if config.training.recompute == "none" else RECOMPUTED_BLOCK_GRAPH
    if config.lora.rank and compiled:
        block += ADAPTED.get(config.family, 0)
    graphs = FIRST_GRAPH + block * model.attention_layers * (1 + accumulates)
    weights = each * trained + frozen
    if config.lora.frozen != "fp32":
        weights += WIDENED_WEIGHT * max(model.vocab_size, model.intermediate_size) * model.hidden_size
    if config.lora.bits and not compiled:
        weights += COMPOSED * (model.parameter_count() - 2 * model.vocab_size * model.hidden_size)
    saving, keep_best = config.checkpoint, config.training.patience > 0
    copies = COPIED * trained if saves_in_background(saving.background, saving.every, keep_best) else 0
    # kept by one micro-batch for its backward pass, without the logits
    fused = {"norm"} if compiled else set()
    if compiled and not config.training.attention_rate:
        fused |= {"attention"}
    shape = replace(shape_of(config, hardware_of(config)), fused=frozenset(fused))
    kept = kept_bytes([part for part in model_parts(model, shape) if part.name != "head"])
    activations = (COMPILED if compiled else KEPT) * kept
    activations += _packed(config) if compiled and config.training.recompute == "full" else 0
    return config.devices * int(ENGINE_PROCESS + graphs + weights + activations + logits) + copies


def _packed(config: RunConfig) -> int:
    """Return the bytes into which MindSpore's products pack the inputs of all layers' adapters for the gradients of A.
    Where activations are kept, `COMPILED` covers them."""
    shapes = config.model.sizes.adapter_shapes(config.lora.targets, config.lora.rank) if config.lora.rank else {}
    columns = sum(columns for name, (_, columns) in shapes.items() if name.endswith(LORA_A))
    return 4 * config.micro_batch * config.seq_length * columns


def check_memory(config: RunConfig) -> None:
    """Raise `UserError` if a CPU run needs more memory than is free now."""
    if config.device != "cpu":
        return
    needed, available = required_memory(config), free_memory()
    if needed > available:
        parts = f"{config.model.sizes.parameter_count():,} parameters with training.micro_batch {config.micro_batch}"
        smaller = "choose a smaller model, data.seq_length, training.micro_batch or --devices"
        wrong = f"{parts} need about {needed / 1e9:.1f} GB on {config.devices} process(es)"
        wrong += f", {available / 1e9:.1f} GB are free"
        raise UserError(f"model: {wrong}; {smaller}, or set training.recompute=full")


def check_ascend(config: RunConfig) -> None:
    """Raise `UserError` if an Ascend run cannot start here because MindSpore's plugin does not load: CANN is missing,
    or the shell has not sourced its variables. Does nothing for other devices."""
    if config.device != "ascend":
        return
    if asked := os.environ.get(RECOVERY):
        why = "it recovers single ranks under MindSpore's own training loop only"
        instead = "--restarts N starts all again from the newest checkpoint (docs/cluster.md)"
        print_error(f"{RECOVERY}={asked} of the environment is not used: {why}; {instead}")
    spec = importlib.util.find_spec("mindspore")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    problem = "this MindSpore has none"
    for plugin in sorted(folder.glob("lib/plugin/libmindspore_ascend.so.*")):  # in a subprocess, which may crash
        command = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(plugin)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if not done.returncode:
            return
        problem = "".join(done.stderr.strip().splitlines()[-1:]).removeprefix("OSError: ") or ending(done.returncode)
    remedy = "source CANN's set_env.sh in this shell; `ms-codegeex doctor` shows what is missing"
    raise UserError(f"device: ascend: MindSpore's plugin does not load ({problem}); {remedy}")


def check_gpus(config: RunConfig, local: int) -> str:
    """Raise `UserError` if a GPU run with `local` ranks on this machine cannot start here: a library, the driver, a GPU
    or free memory is missing. Otherwise return what delays the start, "" for nothing. Ignores other devices."""
    if config.device != "gpu":
        return ""
    if config.training.precision == "bf16":  # MindSpore 2.9 lacks bf16 kernels on a GPU, for example addition
        wrong = "bf16, for which MindSpore has no kernels on device: gpu"
        raise UserError(f"training.precision: {wrong}; set it to fp16 or fp32")
    probe = probe_gpu_backend()
    check_loaded(list(probe.libraries))
    probe.driver.check()
    gpus = probe.driver.gpus
    if not gpus:
        raise UserError(f"device: gpu: {probe.driver.problem}; run `ms-codegeex doctor` for details, or set device=cpu")
    if probe.plugin:
        raise UserError(f"device: gpu: MindSpore's plugin does not load ({probe.plugin}); run `ms-codegeex doctor`")
    if local > len(gpus):
        wrong = f"{local} on this machine, which has {len(gpus)} GPU{'s' * (len(gpus) > 1)} to use"
        raise UserError(f"devices: {wrong}; set devices={len(gpus)}, or check CUDA_VISIBLE_DEVICES")
    for number, gpu in enumerate(gpus[:local]):
        if gpu.kernels == "none":
            wrong = f"GPU {number} ({gpu.name}) has compute capability {'.'.join(map(str, gpu.capability))}"
            remedy = "MindSpore's kernels need 6.0 or more; choose another with CUDA_VISIBLE_DEVICES"
            raise UserError(f"device: gpu: {wrong}, {remedy}")
    _check_memory(config, gpus[:local])
    return translation_note(gpus[:local])


def _check_memory(config: RunConfig, gpus: tuple[Gpu, ...]) -> None:
    needed = max(stage.total for stage in stage_memory(config, running_on(config)))
    for number, gpu in enumerate(gpus):
        if gpu.free is not None and needed > gpu.free:
            parts = f"{config.micro_batch} sequences of {config.seq_length} tokens and the model"
            free = f"of GPU {number} ({gpu.name}) {gpu.free / 1e9:.1f} of {gpu.memory / 1e9:.1f} GB are free"
            remedy = "lower it, set training.recompute=full, or stop what uses the rest (nvidia-smi)"
            wrong = f"{parts} need about {needed / 1e9:.1f} GB of a GPU; {free}"
            raise UserError(f"training.micro_batch: {wrong}; {remedy}")
