"""Which parts of the GPU back end this machine has. A library that breaks ends only the process that looks."""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ms_codegeex.base.processes import json_from_module
from ms_codegeex.cuda.driver import Driver, driver_of, query_driver
from ms_codegeex.cuda.libraries import LIBRARIES, MACHINES, Loaded, load_libraries
from ms_codegeex.cuda.plugin import PLUGIN, plugin_directory

SECONDS = 300


@dataclass(frozen=True)
class GpuBackend:
    """The findings: the libraries, the driver with its devices, and what is wrong with MindSpore's plugin."""

    libraries: tuple[Loaded, ...]
    driver: Driver
    plugin: str


def probe_gpu_backend() -> GpuBackend:
    """Probe it in a separate process. `UserError`: MindSpore has no GPU back end here; `RunFailure`: the process
    ended."""
    plugin_directory("device: gpu", MACHINES)
    found = json_from_module("ms_codegeex.cuda.probe", "the CUDA probe", SECONDS)
    libraries = tuple(
        Loaded(library, Path(path) if path else None, problem)
        for library, (path, problem) in zip(LIBRARIES, found["libraries"], strict=True)
    )
    return GpuBackend(libraries, driver_of(found["driver"]), found["plugin"])


def main() -> None:
    """Look in this process and print it."""
    libraries, plugin = load_libraries(), ""
    try:
        ctypes.CDLL(str(plugin_directory("device: gpu", MACHINES) / PLUGIN))
    except OSError as error:
        plugin = str(error)
    paths = [(str(one.path) if one.path else None, one.problem) for one in libraries]
    print(json.dumps({"libraries": paths, "driver": asdict(query_driver()), "plugin": plugin}))


if __name__ == "__main__":
    main()
