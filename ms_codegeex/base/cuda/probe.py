"""Find which parts of the GPU back end this machine has, in a separate process that a broken library may crash."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from ms_codegeex.base.cuda.driver import Driver, query_driver
from ms_codegeex.base.cuda.libraries import MACHINES, LoadedLibrary, load, load_libraries
from ms_codegeex.base.cuda.plugin import PLUGIN, plugin_directory
from ms_codegeex.base.processes import json_from_module

SECONDS = 300


@dataclass(frozen=True)
class GpuBackend:
    """The findings: the libraries, the driver with its devices, and what is wrong with MindSpore's plugin."""

    libraries: tuple[LoadedLibrary, ...]
    driver: Driver
    plugin: str


def probe_gpu_backend() -> GpuBackend:
    """Probe in a separate process. `UserError` if there is no GPU back end, `RunFailure` if the process crashed."""
    plugin_directory("device: gpu", MACHINES)
    fields = json_from_module("ms_codegeex.base.cuda.probe", "the CUDA probe", SECONDS)
    return TypeAdapter(GpuBackend).validate_python(fields)


def main() -> None:
    libraries, plugin = tuple(load_libraries()), load(plugin_directory("device: gpu", MACHINES) / PLUGIN)
    print(TypeAdapter(GpuBackend).dump_json(GpuBackend(libraries, query_driver(), plugin)).decode())


if __name__ == "__main__":
    main()
