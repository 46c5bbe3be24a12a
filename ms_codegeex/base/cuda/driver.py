"""Query NVIDIA's driver for the GPUs visible to this process. `query_driver_in_subprocess` does so in a separate
process, for two reasons: a process that has called the driver cannot be forked safely, and reading the free memory
needs a context on the device, which takes some hundred megabytes of it."""

from __future__ import annotations

import ctypes
import json
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from ms_codegeex.base.cuda.plugin import DRIVER
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.processes import json_from_module

SECONDS = 120
MACHINE_CODE = ((6, 0), (6, 1), (7, 0), (7, 5), (8, 0))  # compute capabilities of the kernels in MindSpore's wheel
NEWEST_PTX = (8, 6)  # the newest PTX in the wheel; the driver translates it for newer chips
NEEDED_CUDA, NEEDED_DRIVER = (11, 8), 520  # CUDA version of NVIDIA's packages, and the oldest driver that supports it
NO_DEVICE, NAME_BYTES = 100, 128
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """A GPU: name, compute capability, memory in bytes. `free`: unused bytes; None if the driver gave no context."""

    name: str
    capability: tuple[int, int]
    memory: int
    free: int | None

    @property
    def kernels(self) -> str:
        """The form in which MindSpore's wheel has kernels for this GPU: "machine code", "PTX", or "none"."""
        major, minor = self.capability
        if any(major == known and minor >= minimum for known, minimum in MACHINE_CODE):
            return "machine code"  # also runs on later chips of the same generation
        return "PTX" if self.capability >= NEWEST_PTX else "none"


@dataclass(frozen=True)
class Driver:
    """The driver: the newest CUDA that it supports, its GPUs, and what is wrong with it ("" for nothing)."""

    cuda: str = ""
    gpus: tuple[Gpu, ...] = ()
    problem: str = ""

    @property
    def too_old(self) -> str:
        """The problem with a driver older than the CUDA libraries; "" if it is new enough or its version is unknown."""
        if not self.cuda or tuple(map(int, self.cuda.split("."))) >= NEEDED_CUDA:
            return ""
        needed = ".".join(map(str, NEEDED_CUDA))
        return f"the NVIDIA driver supports CUDA {self.cuda}, but {needed} is required"

    def check(self) -> None:
        """Raise `UserError` if the driver is too old."""
        if self.too_old:
            raise UserError(f"device: gpu: {self.too_old}; install driver {NEEDED_DRIVER} or newer")


def query_driver_in_subprocess() -> Driver:
    """Query the driver in a separate process. `CUDA_VISIBLE_DEVICES` selects and orders the GPUs, as for MindSpore."""
    try:
        fields = json_from_module("ms_codegeex.base.cuda.driver", "the driver query", SECONDS)
    except RunFailure as error:
        return Driver(problem=str(error))
    return TypeAdapter(Driver).validate_python(fields)


def query_driver() -> Driver:
    """Query the driver in this process."""
    try:
        library = ctypes.CDLL(DRIVER)
    except OSError as error:
        return Driver(problem=f"no driver ({error})")
    if not hasattr(library, "cuDriverGetVersion"):
        return Driver(problem=f"{DRIVER} is not NVIDIA's driver")
    number = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(number))
    cuda = f"{number.value // 1000}.{number.value % 1000 // 10}" if number.value else ""
    if status := library.cuInit(0):
        problem = "no device" if status == NO_DEVICE else f"the driver cannot start (cuInit gave {status})"
        return Driver(cuda, problem=problem)
    count = ctypes.c_int(0)
    if status := library.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(cuda, problem=f"the driver lists no devices (cuDeviceGetCount gave {status})")
    gpus = tuple(_gpu(library, number) for number in range(count.value))
    return Driver(cuda, gpus, "" if gpus else "no device")


def _gpu(library: ctypes.CDLL, number: int) -> Gpu:
    device, name, value = ctypes.c_int(0), ctypes.create_string_buffer(NAME_BYTES), ctypes.c_int(0)
    library.cuDeviceGet(ctypes.byref(device), number)
    library.cuDeviceGetName(name, NAME_BYTES, device)
    capability = []
    for attribute in CAPABILITY:
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    library.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    memory = total.value
    context = ctypes.c_void_p()
    known = not library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    if known:
        known = not library.cuCtxSetCurrent(context)
        known = known and not library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        library.cuDevicePrimaryCtxRelease_v2(device)
    words = name.value.decode("utf-8", "replace")
    return Gpu(words, (capability[0], capability[1]), memory, free.value if known else None)


if __name__ == "__main__":
    print(json.dumps(asdict(query_driver())))
