"""A rank's first steps: choose the device and the engine's options, and join the other ranks."""

from __future__ import annotations

import os
from dataclasses import replace

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.hardware import GIB
from ms_codegeex.config import RunConfig
from ms_codegeex.cuda.libraries import prepare

OVERFLOW_MODE = "MS_ASCEND_CHECK_OVERFLOW_MODE"  # the engine's


def join(config: RunConfig) -> tuple[RunConfig, int, str | None]:
    """Choose device and graph mode and join the other ranks. Returns the configuration with the hardware that the
    driver reports, this rank, and the communication group of the tied word embedding."""
    if config.device == "gpu":
        prepare()
    # The launcher has read the table. The engine would only notice the variable: it changes the compiler's level, and
    # then refuses to start from a table (MindSpore 2.9).
    os.environ.pop("RANK_TABLE_FILE", None)
    import mindspore as ms
    from mindspore import communication

    from ms_codegeex.parallel import context

    ms.set_context(mode=ms.GRAPH_MODE)
    if os.environ.get("MS_ROLE") == "MS_SCHED":  # it computes nothing, and msrun gives it no device
        ms.set_device("CPU")
    else:
        if config.device == "cpu":
            ms.set_device("CPU")
        else:  # every launcher, msrun too, says which
            ms.set_device({"gpu": "GPU", "ascend": "Ascend"}[config.device], int(os.environ["DEVICE_ID"]))
        config = _on_this_device(config)
    if config.devices == 1:
        return config, 0, None
    communication.init()
    if communication.get_group_size() != config.devices:
        raise RunFailure(
            f"{communication.get_group_size()} ranks joined, {config.devices} were expected; check --nodes or the rank "
            "table, and that every server has its share of the devices"
        )
    rank = communication.get_rank()
    return config, rank, context.enter(config, rank) if config.partitioned else None


def _on_this_device(config: RunConfig) -> RunConfig:
    """The configuration with the Ascend that was found, after checking its fused kernels again. Also sets the engine's
    options that depend on both: the memory limit that the plan assumes, and graph-kernel fusion."""
    import mindspore as ms

    from ms_codegeex.config.chosen_hardware import driver_hardware, running_on
    from ms_codegeex.config.fusions import check_kernels, chosen_kernels

    if config.device == "ascend":
        hardware = driver_hardware(config, ms.hal.get_device_name(ms.get_current_device().device_id, "Ascend"))
        config = replace(config, parallel=replace(config.parallel, hardware=hardware))
        check_kernels(config)
        mode = os.environ.get(OVERFLOW_MODE)
        if mode == "SATURATION_MODE" and not running_on(config).saturates:
            raise UserError(
                f"{OVERFLOW_MODE}={mode}: hides overflows, for which a run on {hardware} looks by infinities; unset "
                "it, and INF_NAN_MODE_ENABLE=0 with it"
            )
    if config.device != "cpu" and config.parallel.hardware:  # an unnamed GPU keeps its default
        ms.runtime.set_memory(max_size=f"{running_on(config).usable_memory // GIB}GB")
    if "graph_kernel" in chosen_kernels(config):
        if config.device == "cpu":  # there jit_level O1 fuses nothing (MindSpore 2.9), but the deprecated switch does
            ms.set_context(enable_graph_kernel=True)
        else:
            ms.set_context(jit_config={"jit_level": "O1"})
    return config
