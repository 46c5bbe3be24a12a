"""Tries kernels on a device, as a program that is started with its settings in JSON. Before each probe a line says
which begins, after it one what is wrong; a probe without the second line has ended the process."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.errors import first_line
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.printing import print_json
from ms_codegeex.base.processes import die_with_parent


@dataclass(frozen=True)
class TrialSettings:
    """`device`: cpu or ascend. `precision`: of products. `kernels`: the fusions that the run uses. `kinds`: the kernels
    to try; None: all that are known. `without`: probes that are not tried again."""

    device: str
    precision: str
    saturates: bool
    kernels: list[str]
    kinds: list[str] | None
    without: list[str]


def main(settings: TrialSettings) -> None:
    """Try what the settings say."""
    import mindspore as ms

    from ms_codegeex.extras.cluster.first_run.probes import probes, tried
    from ms_codegeex.training.build import DTYPES

    ms.set_context(mode=ms.GRAPH_MODE)
    ascend = settings.device == "ascend"
    ms.set_device("Ascend" if ascend else "CPU", int(os.environ.get("DEVICE_ID", "0")) if ascend else 0)
    if ascend and "graph_kernel" in settings.kernels:
        ms.set_context(jit_config={"jit_level": "O1"})
    name = ms.hal.get_device_name(ms.get_current_device().device_id, "Ascend") if ascend else "CPU"
    print_json({"device": name, "mindspore": ms.__version__})
    for probe in probes(DTYPES[settings.precision], settings.saturates, settings.kernels):
        kinds = probe.kinds.split()
        wanted = settings.kinds is None or not kinds or set(kinds) & set(settings.kinds)
        if probe.name in settings.without or not wanted:
            continue
        said: dict[str, Any] = {"probe": probe.name, "kinds": kinds, "key": probe.key}
        print_json({**said, "begins": True})
        began = time.monotonic()
        if probe.only_ascend and not ascend:
            print_json({**said, "problem": None})
            continue
        try:
            problem = tried(probe)
        except Exception as error:  # whatever the engine raises for a kernel that is missing
            problem = f"{type(error).__name__}: {first_line(str(error))}"
        print_json({**said, "problem": problem, "seconds": round(time.monotonic() - began, 2)})


if __name__ == "__main__":
    die_with_parent(os.getppid())
    main(TrialSettings(**parse_json(sys.argv[1])))
