"""A rank's first steps: choose the device and engine options, join the other ranks, and find a device's peak FLOP/s,
the reference for MFU."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from ms_codegeex.base.errors import RunFailure, UserError, first_line
from ms_codegeex.base.files import write_json
from ms_codegeex.base.hardware import GIB, PARTS, POOL_BLOCK
from ms_codegeex.base.host import hide_rank_table
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.runs.files.run_directory import RunDirectory

STRESS_FAULT = 2  # MindSpore's stress test: faulty hardware; 1: not done, 0: passed
WAKE_SECONDS = 1.0
FREE_SECONDS = 120.0
FREE_MEMORY = """
import ctypes, sys
cann, free, total, hbm = ctypes.CDLL("libascendcl.so"), ctypes.c_size_t(), ctypes.c_size_t(), 1
cann.aclInit(None)
failed = cann.aclrtSetDevice(int(sys.argv[1])) or cann.aclrtGetMemInfo(hbm, ctypes.byref(free), ctypes.byref(total))
print(0 if failed else free.value)
"""
# Variables of MindSpore and CANN that make arithmetic saturate on a chip that has infinities.
SATURATING = (
    ("MS_ASCEND_CHECK_OVERFLOW_MODE", "SATURATION_MODE"),
    ("INF_NAN_MODE_ENABLE", "0"),
    ("INF_NAN_MODE_FORCE_DISABLE", "1"),
)


def join(config: RunConfig) -> tuple[RunConfig, int, str | None]:
    """Choose the device and graph mode, and join the other ranks. Return the configuration with the hardware that the
    driver reports, this rank, and the communication group of the tied word embedding. A process that uses GPUs must
    have called `cuda.libraries.prepare` before importing MindSpore. `RunFailure` if the number of ranks is wrong."""
    hide_rank_table()
    import mindspore as ms
    from mindspore import communication

    from ms_codegeex.parallel import context
    from ms_codegeex.parallel.gradients import sixteen_bits, use_gradient_functions

    ms.set_context(mode=ms.GRAPH_MODE)
    if os.environ.get("MS_ROLE") == "MS_SCHED":  # the scheduler computes nothing, and msrun gives it no device
        ms.set_device("CPU")
    else:
        if config.device == "cpu":
            ms.set_device("CPU")
        else:  # set by every launcher, including msrun
            ms.set_device({"gpu": "GPU", "ascend": "Ascend"}[config.device], int(os.environ["DEVICE_ID"]))
        config = _on_this_device(config)
    if config.devices == 1:
        return config, 0, None
    with woken() if config.device == "cpu" and os.environ.get("MS_ROLE") != "MS_SCHED" else contextlib.nullcontext():
        communication.init()
    if communication.get_group_size() != config.devices:
        remedy = "check --nodes or the rank table, and that every server has its share of the devices"
        raise RunFailure(f"{communication.get_group_size()} ranks joined, {config.devices} were expected; {remedy}")
    rank = communication.get_rank()
    if config.partitioned and (half := sixteen_bits(config)):
        use_gradient_functions(half)
    return config, rank, context.enter(config, rank) if config.partitioned else None


@contextlib.contextmanager
def woken() -> Iterator[None]:
    """Wake the main thread from `sleep` every `WAKE_SECONDS` during the block. In MindSpore 2.9, a CPU rank that looks
    up the others' addresses sleeps for three seconds if one is missing, and one usually is, since ranks arrive up to a
    second apart. It looks 19 times, so ranks may still be 19 seconds late."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)  # other system calls continue
    signal.setitimer(signal.ITIMER_REAL, WAKE_SECONDS, WAKE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _on_this_device(config: RunConfig) -> RunConfig:
    import mindspore as ms

    from ms_codegeex.config.chips import driver_hardware
    from ms_codegeex.config.chosen_hardware import chosen_kernels, running_on
    from ms_codegeex.config.rules import check_kernels

    if config.device == "ascend":
        driver = ms.hal.get_device_name(ms.get_current_device().device_id, "Ascend")
        generation = driver_hardware(config, driver)
        hardware = driver if driver in PARTS else generation
        config = replace(config, parallel=replace(config.parallel, hardware=hardware))
        check_kernels(config)
        for name, value in () if running_on(config).saturates else SATURATING:
            if os.environ.get(name) == value:
                wrong = f"hides overflows, for which a run on {hardware} looks by infinities"
                others = " and ".join(other for other, _ in SATURATING if other != name)
                raise UserError(f"{name}={value}: {wrong}; unset it, and {others} if they are set")
    chosen = config.parallel.hardware or config.cluster.device_memory  # an unnamed GPU keeps the engine's default
    if config.device != "cpu" and chosen:
        blocks = {"increase_size": f"{POOL_BLOCK / GIB}GB"} if config.device == "ascend" else {}
        ms.runtime.set_memory(max_size=f"{_memory_limit(config) / GIB:g}GB", **blocks)
    fuses = "graph_kernel" in chosen_kernels(config)
    if config.device == "cpu" and fuses:  # jit_level O1 fuses nothing on a CPU (MindSpore 2.9)
        ms.set_context(enable_graph_kernel=True)
    elif config.device == "ascend" or fuses:  # a 910's default is O2, which hands the graph to GE
        ms.set_context(jit_config={"jit_level": "O1" if fuses else "O0"})
    return config


def _memory_limit(config: RunConfig) -> int:
    """Return the bytes of this rank's device for the engine's pool, in whole blocks. Prints a line if they are fewer
    than planned. `UserError` if that much memory is not free."""
    from ms_codegeex.config.chosen_hardware import memory_limit, running_on

    planned, free = running_on(config).usable_memory, _free_memory() if config.device == "ascend" else None
    limit = memory_limit(config, free) // POOL_BLOCK * POOL_BLOCK
    where = f"device {os.environ['DEVICE_ID']} of {platform.node()}"
    if free is not None and not 0 < limit < free:
        wrong = f"{where} has {free / GIB:.1f} GiB free, too little to fill {max(limit, 0) / GIB:g}"
        raise UserError(f"cluster.device_memory: {wrong}; leave it out, or stop what uses the rest (`npu-smi info`)")
    if limit < planned // POOL_BLOCK * POOL_BLOCK:
        found, assumed = f"{(free or 0) / GIB:.1f} GiB are free", f"not {planned / GIB:g} as planned"
        remedy = f"`ms-codegeex plan` with cluster.device_memory={limit / GIB:g} says whether the run fits"
        print_error(f"{where}: {found}, so the run may fill {limit / GIB:g}, {assumed}; {remedy}")
    return limit


def _free_memory() -> int | None:
    """Return the free bytes of this rank's Ascend device; None if CANN does not say. A subprocess asks: CANN answers
    only for a device in use, and MindSpore accepts no limit for such a device."""
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        command = [sys.executable, "-c", FREE_MEMORY, os.environ["DEVICE_ID"]]
        how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "check": True}
        return int(subprocess.run(command, timeout=FREE_SECONDS, **how).stdout.split()[-1]) or None
    return None


def stress_check(config: RunConfig, run: RunDirectory, rank: int) -> None:
    """Test this rank's device, and the links inside its server, as `cluster.stress_check` says. `RunFailure` if the
    hardware is faulty, `UserError` if CANN could not run the test."""
    if config.device != "ascend" or config.cluster.stress_check == "none":
        return
    import mindspore as ms
    from mindspore import tools

    place, began = f"device {ms.get_current_device().device_id} of {platform.node()} (rank {rank})", time.time()
    tests = {"aic": "arithmetic"}
    if config.cluster.stress_check == "all" and config.devices > 1:
        tests["hccs"] = "links to the other devices of its server"
    for test, what in tests.items():
        try:
            code = tools.stress_detect(test)
        except RuntimeError as error:  # for example, this CANN lacks the function
            code = first_line(error)
        if code == STRESS_FAULT:
            remedy = "run `ascend-dmi` there, and have the device replaced if that finds it too"
            fault = f"the stress test found a fault in its {what}"
            raise RunFailure(f"{place}: {fault}; take the server out of the job, {remedy}")
        if code:
            reason = code if isinstance(code, str) else f"code {code}"
            wrong = f"{config.cluster.stress_check}, but the test of {what} could not be done on {place} ({reason})"
            cause = "this CANN may not have it, or 10 GiB of device memory may not be free"
            ways = "see why in the worker's log, with GLOG_v=2 in the environment, or set it to none"
            raise UserError(f"cluster.stress_check: {wrong}: {cause}; {ways}")
    ms.runtime.reset_peak_memory_stats()  # the run's peak excludes the test
    if rank == 0:
        with contextlib.suppress(OSError):  # a full disk
            run.add_event("stress check", passed=[*tests.values()], seconds=time.time() - began)


def measure_matmul_peak(
    ranks: int = 1, size: int = 1024, seconds: float = 0.6, precision: str = "fp32", at_once: int = 1
) -> float:
    """Return the FLOP/s of matrix products while all ranks measure at once, the reference for MFU on a CPU or GPU. The
    result is the best during `seconds`, since other programs can only slow it down. It is measured after a barrier,
    because the ranks of one machine share its cores. With `at_once` above 1, that many products are started before the
    rank waits, and no result is copied from the device, since that would take longer than the product."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor, ops

    number = {"fp32": ms.float32, "fp16": ms.float16, "bf16": ms.bfloat16}[precision]
    values = np.random.default_rng(0).standard_normal((size, size), np.float32)  # a GPU multiplies ones faster
    a, matmul, times = Tensor(values, number), ops.MatMul(), []
    matmul(a, a).asnumpy()
    if ranks > 1:
        ops.AllReduce()(Tensor(np.zeros(1, np.float32))).asnumpy()
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:  # at least once, even if the machine stalled
        began = time.perf_counter()
        for _ in range(at_once):
            product = matmul(a, a)
        if at_once == 1:
            product.asnumpy()
        else:
            ms.runtime.synchronize()
        times.append((time.perf_counter() - began) / at_once)
    return 2 * size**3 / min(times)


def matmul_peak(config: RunConfig) -> float:
    """Return the peak FLOP/s of a device in the run's precision, the reference for MFU: published for an Ascend,
    otherwise measured."""
    from ms_codegeex.config.chosen_hardware import running_on

    precision = config.training.precision
    if config.device == "ascend":
        return running_on(config).peak(precision)
    if config.device == "gpu":
        return measure_matmul_peak(config.devices, size=8192, precision=precision, at_once=16)
    return measure_matmul_peak(config.devices)


def kept_peak(config: RunConfig, run: RunDirectory, rank: int, launcher: str | None) -> float:
    """Return `matmul_peak`, measured once for all attempts of a command. Ranks synchronise while measuring, so either
    all measure or none does; rank 0 therefore writes the file only afterwards. The file system of several servers may
    show the file to some ranks only, so there every attempt measures."""
    if launcher is None or config.device == "ascend" or run.servers.is_dir():
        return matmul_peak(config)
    of = {"command": [platform.node(), launcher], "devices": config.devices, "precision": config.training.precision}
    with contextlib.suppress(UserError):
        if run.peak.is_file() and (kept := read_json(run.peak))["of"] == of:
            return kept["flops"]
    flops = matmul_peak(config)
    if rank == 0:
        with contextlib.suppress(UserError):  # a full disk
            write_json(run.peak, {"of": of, "flops": flops})
    return flops
