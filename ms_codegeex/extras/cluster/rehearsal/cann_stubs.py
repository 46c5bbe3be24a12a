"""Stub CANN libraries, with which MindSpore's Ascend plugin works on a machine without an NPU.

As for the GPU (`stubs.py`), functions that return 0 suffice to partition a graph. Their names are read from the plugin:
symbols that it wants and MindSpore does not define, and names that it looks up when it runs. With the functions in
`idle_device.c`, which return more than 0, a whole run works, on a device that computes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from functools import partial
from pathlib import Path

from ms_codegeex.base.cache import cached_folder
from ms_codegeex.base.installed import mindspore_directory
from ms_codegeex.extras.cluster.rehearsal import stubs
from ms_codegeex.extras.cluster.rehearsal.stubs import compile_library, needed_libraries, undefined_symbols

PLUGIN = "lib/plugin/libmindspore_ascend.so.2"
PARTS = (
    PLUGIN,
    "lib/plugin/libmindspore_ops_ascend.so",
    "lib/plugin/ascend/libmindspore_ascend_res_manager.so",
    "lib/plugin/ascend/libd_collective.so",
    "lib/plugin/ascend/libmindspore_graph_ir.so",
    "lib/plugin/ascend/libhccl_plugin.so",
)
MORE_PARTS = ("libmindspore_cpu_kernels.so", "libmindspore_atb_kernels.so", "libshmem.so")
# Besides those that the parts are linked to, which differ between versions: what the plugin loads when it runs.
LIBRARIES = (
    "libruntime.so libplatform.so libc_sec.so libnnopbase.so libascend_hal.so libacl_op_compiler.so "
    "libacl_tdt_channel.so libacl_tdt_queue.so libopapi.so libhcom_graph_adaptor.so libprofapi.so libascend_ml.so"
)
SYSTEM = re.compile(r"ld-linux|lib(c|m|dl|rt|z|pthread|gcc_s|gomp|stdc\+\+)\.")  # every machine has these
HOME = "cann"  # the plugin looks for further libraries in `lib64` of the folder of this name above its first one
SYMBOL = re.compile(r"(acl|Hccl|_ZNK?2ge|_ZNK?3atb|_ZNK?5aicpu|rt[A-Z]|hal[A-Z]|smem_|Dlog|mm[A-Z]|CheckLogLevel)")
LOOKED_UP = re.compile(rb"(?<!\w)((?:(?:acl|Aml|Hccl|rt|hal)\w*[A-Z]|Msprof)\w+)(?=\x00)")
HCCL_VERSION = "8.0.0"
DEVICE = Path(__file__).with_name("idle_device.c")  # the functions that answer more than 0
# Some of the others return a handle, which may be any address, through their first argument or as their result; an
# `Operator` is returned in the caller's memory.
CREATES = re.compile(r"aclrt(Create(Context|Stream|Event)|MallocPhysical)")
RETURNS = re.compile(r"acl(op|mdl|prof|rtAllocator)?Create")
BY_VALUE = re.compile(r"_ZN2ge15OperatorFactory14CreateOperator")
RESULTS = re.compile(r"Aml\w+Detect")  # stress tests, whose result a variable of that name may set
PLANS = re.compile(r"aclnn\w+GetWorkspaceSize")


def loader_environment() -> dict[str, str]:
    """Variables with which a new process finds the stub libraries and the plugin's own. The plugin asks for the
    simulation level as soon as MindSpore is imported."""
    libraries, before = stub_folder() / HOME / "lib64", os.environ.get("LD_LIBRARY_PATH", "")
    own = plugin_directory() / "lib"
    paths = [libraries, own, own / "plugin", own / "plugin" / "ascend", *filter(None, before.split(os.pathsep))]
    variables = {"LD_LIBRARY_PATH": os.pathsep.join(map(str, paths)), "GLOG_v": "3", "MS_SIMULATION_LEVEL": "0"}
    return variables | device_environment()


def device_environment(
    name: str = "Ascend910B1", memory: int = 64 << 30, count: int = 8, taken: int = 0
) -> dict[str, str]:
    """Variables that say which chip the stub libraries report: the driver's name for it, its bytes of memory, how many
    a server has, and the bytes that another process has."""
    values = {"NAME": name, "BYTES": memory, "COUNT": count, "TAKEN": taken}
    return {f"IDLE_DEVICE_{key}": str(value) for key, value in values.items()}


def plugin_directory() -> Path:
    """Where MindSpore is installed, with its Ascend plugin; otherwise `UserError`."""
    advice = "came without the Ascend plugin; leave --target ascend out"
    return mindspore_directory("rehearsal", stubs.MACHINES, (PLUGIN,), advice)


def stub_folder() -> Path:
    """The folder with the stub libraries for the installed MindSpore, and in `python`, for `sys.path`, with the package
    `hccl` that it imports. Made on the first call; safe to call from many processes at once."""
    directory = plugin_directory()
    name = f"ascend-{stubs.fingerprint(directory / PLUGIN, __file__, str(DEVICE))}"
    return cached_folder(name, "the stub CANN libraries", partial(build, directory))


def wanted_names(directory: Path) -> list[str]:
    """CANN's functions that the plugin is linked to or looks up by name."""
    parts = [directory / part for part in PARTS]
    parts += [path for name in MORE_PARTS for path in directory.glob(f"lib/plugin/ascend/**/{name}")]
    names: set[str] = set()
    for part in parts:
        names |= {name for name in undefined_symbols(part).get("", ()) if SYMBOL.match(name)}
    for part in PARTS:
        names |= {name.decode() for name in LOOKED_UP.findall((directory / part).read_bytes())}
    names |= {f"{name}GetWorkspaceSize" for name in names if name.startswith("aclnn")}
    return sorted(names)


def linked_libraries(directory: Path) -> set[str]:
    """The libraries that the plugin is linked to and MindSpore does not bring."""
    own = {path.name for path in directory.rglob("*.so*")}
    needed = {name for part in PARTS for name in needed_libraries(directory / part)}
    return {name for name in needed - own if not SYSTEM.match(name)}


def source_of(names: list[str]) -> str:
    """C code that defines these functions."""
    lines = [DEVICE.read_text(encoding="utf-8")]
    for name in sorted(set(names) - set(stubs.C_FUNCTION.findall(lines[0]))):
        if BY_VALUE.match(name):
            lines.append(f"void *{name}(void **result) {{ result[0] = result[1] = result[2] = 0; return result; }}")
        elif PLANS.fullmatch(name):
            body = "va_list rest; va_start(rest, first); plan(first, rest); va_end(rest); return 0;"
            lines.append(f"int {name}(void *first, ...) {{ {body} }}")
        elif RESULTS.match(name):
            lines.append(f'int {name}(void) {{ char *code = getenv("{name}"); return code ? atoi(code) : 0; }}')
        elif CREATES.match(name):
            lines.append(f"int {name}(void **handle) {{ *handle = object; return 0; }}")
        elif RETURNS.match(name):
            lines.append(f"void *{name}(void) {{ return object; }}")
        else:
            lines.append(f"long {name}(void) {{ return 0; }}")
    return "\n".join(lines) + "\n"


def build(directory: Path, folder: Path) -> None:
    """Make `folder/cann/lib64/*` and `folder/python/hccl`."""
    source, library = folder / "cann.c", folder / "cann.so"
    source.write_text(source_of(wanted_names(directory)))
    compile_library(source, library, "the stub CANN libraries")
    libraries = folder / HOME / "lib64"
    libraries.mkdir(parents=True)
    for name in sorted({*LIBRARIES.split(), *linked_libraries(directory)}):
        shutil.copy(library, libraries / name)
    library.unlink()
    package = folder / "python" / "hccl"
    (package / "manage").mkdir(parents=True)
    for path in (package / "__init__.py", package / "manage" / "__init__.py"):
        path.write_text("")
    (package / "sys_version.py").write_text(f'__sys_version__ = "{HCCL_VERSION}"\n')
