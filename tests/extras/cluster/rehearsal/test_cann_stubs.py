"""The stub CANN libraries: every name that the Ascend plugin wants, and MindSpore partitions for Ascend with them."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ms_codegeex.base.cuda import plugin as cuda_plugin
from ms_codegeex.base.errors import UserError
from ms_codegeex.config.software import pairs
from ms_codegeex.extras.cluster.rehearsal import cann_stubs
from ms_codegeex.extras.cluster.rehearsal.stubs import compile_library, rank_environment

LOAD = """
import sys
sys.path.append({folder!r})
import mindspore as ms
ms.set_context(device_target="Ascend")
from mindspore.communication import get_group_size, get_rank, init
init()
print("loaded", get_rank(), get_group_size())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    """A library of a few of the functions."""
    folder, create = tmp_path_factory.mktemp("cann"), "_ZN2ge15OperatorFactory14CreateOperatorEPKcS2_"
    names = ["aclrtGetSocName", "aclrtMalloc", "aclrtCreateStream", "aclInit", "aclnnAddGetWorkspaceSize", create]
    names += ["aclsysGetCANNVersion", "aclrtProcessReport"]
    (folder / "some.c").write_text(cann_stubs.source_of(names))
    compile_library(folder / "some.c", folder / "some.so", "stubs")
    return ctypes.CDLL(str(folder / "some.so"))


def test_functions_answer_what_the_plugin_needs(library, monkeypatch):
    for name, value in cann_stubs.device_environment("Ascend910A", 32 << 30, 4).items():
        monkeypatch.setenv(name, value)
    library.aclrtGetSocName.restype = ctypes.c_char_p
    assert library.aclrtGetSocName() == b"Ascend910A" and library.aclInit(None) == 0
    stream, count, free, total = ctypes.c_void_p(), ctypes.c_uint(), ctypes.c_long(), ctypes.c_long()
    assert library.aclrtCreateStream(ctypes.byref(stream)) == 0 and stream.value
    assert library.aclrtGetDeviceCount(ctypes.byref(count)) == 0 and count.value == 4
    assert library.aclrtGetMemInfo(1, ctypes.byref(free), ctypes.byref(total)) == 0
    assert free.value == total.value == 32 * 2**30


def test_who_asks_for_callbacks_waits(library):
    """A thread of the plugin asks without a pause. Who sleeps gives its core up."""
    began = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    assert [library.aclrtProcessReport(1) for _ in range(20)] == [0] * 20
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - began >= 20


def test_the_version_of_cann_is_that_of_the_newest_mindspore_we_run_on(library):
    """The compilation with graph kernels reads its parts as numbers (MindSpore 2.10)."""
    found, parts = ctypes.create_string_buffer(512), (0, 128, 192, 256)
    assert library.aclsysGetCANNVersion(0, found) == 0
    version, *numbers = (found.raw[at:].split(b"\0")[0].decode() for at in parts)
    assert version in [row["cann"] for row in pairs() if row["mindspore"] == "2.10.0"] and version.split(".") == numbers


def test_an_operator_is_returned_empty_in_the_memory_of_the_caller(library):
    result = (ctypes.c_void_p * 3)(1, 1, 1)
    library._ZN2ge15OperatorFactory14CreateOperatorEPKcS2_(result)
    assert list(result) == [None, None, None]


def test_memory_reads_as_zeros_whatever_was_copied_there(library):
    device, host, size = ctypes.c_void_p(), ctypes.create_string_buffer(b"abc"), ctypes.c_size_t(3)
    assert library.aclrtMalloc(ctypes.byref(device), ctypes.c_size_t(1 << 40), 0) == 0  # more than any machine has
    assert library.aclrtMemcpy(device, size, host, size, 1) == 0  # to the device
    assert library.aclrtMemcpy(host, size, device, size, 2) == 0
    assert host.raw == b"\0\0\0\0" and library.aclrtFree(device) == 0
    copy = ctypes.create_string_buffer(4)
    assert library.aclrtMemcpy(copy, size, ctypes.create_string_buffer(b"xyz"), size, 0) == 0 and copy.value == b"xyz"


def test_names_are_those_of_cann_only():
    wanted = ("aclrtMalloc", "HcclAllReduce", "_ZN2ge5ShapeC1Ev", "_ZNK2ge6Tensor7GetSizeEv", "rtGetSocVersion")
    assert all(cann_stubs.SYMBOL.match(name) for name in wanted)
    assert not any(cann_stubs.SYMBOL.match(name) for name in ("_ZN9mindspore3AddEv", "malloc", "_ZNSt6vectorIiE"))
    data = b"\0aclnnAddGetWorkspaceSize\0acl_format\0xaclnnMul\0HcclSend\0aclnn is text\0"
    assert cann_stubs.LOOKED_UP.findall(data) == [b"aclnnAddGetWorkspaceSize", b"HcclSend"]


CALLER = """
typedef int Few(char *, unsigned long *, void **);
typedef int Many(char *, long, double, char *, long, long, double, long, char *, long, unsigned long *, void **);
int plans(int many) {
    unsigned long size = 0;
    void *executor = 0;
    char other[64] = {1};
    if (many) ((Many *)aclnnAddGetWorkspaceSize)(other, 1, 2.0, other, 0, 3, 4.0, 5, other, 6, &size, &executor);
    else ((Few *)aclnnAddGetWorkspaceSize)(other, &size, &executor);
    return size == 0 && executor != 0;
}
"""


@pytest.mark.slow  # compiles and imports; every first contact meets the executors, too
@pytest.mark.parametrize("many", [0, 1])
def test_a_kernel_gets_an_executor(many, tmp_path):
    """The stub does not know how many arguments there are: the last two are found."""
    (tmp_path / "a.c").write_text(cann_stubs.source_of(["aclnnAddGetWorkspaceSize"]) + CALLER)
    compile_library(tmp_path / "a.c", tmp_path / "a.so", "stubs")
    assert ctypes.CDLL(str(tmp_path / "a.so")).plans(many) == 1


def test_a_wheel_without_the_ascend_plugin_is_refused(monkeypatch):
    monkeypatch.setattr(cann_stubs, "PLUGIN", "lib/plugin/libmindspore_ascend.so.99")
    with pytest.raises(UserError, match=r"libmindspore_ascend.so.99: missing, .* leave --target ascend out"):
        cann_stubs.stub_folder()


def test_the_gpu_plugin_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda_plugin, "PLUGIN", "lib/plugin/libmindspore_gpu.so.99")
    monkeypatch.setattr(cann_stubs, "build", lambda directory, folder: (folder / "filled").touch())
    assert [path.name for path in cann_stubs.stub_folder().iterdir()] == ["filled"]


@pytest.mark.slow  # reads 150 MB of the plugin's libraries, compiles a library, imports the engine: half a minute
def test_the_plugin_loads_as_the_given_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    environment = {**os.environ, **cann_stubs.loader_environment(), **rank_environment(5, 16)}
    code = LOAD.format(folder=str(cann_stubs.stub_folder() / "python"))
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert "loaded 5 16" in result.stdout, result.stdout + result.stderr
    names = cann_stubs.wanted_names(cann_stubs.plugin_directory())
    built = ctypes.CDLL(str(Path(cann_stubs.stub_folder()) / cann_stubs.HOME / "lib64" / "libascendcl.so"))
    assert len(names) > 900 and all(hasattr(built, name) for name in names)


def test_what_the_plugin_is_linked_to_is_there_in_every_version():
    """The names differ between versions of MindSpore; only what it loads later has to be known."""
    linked = cann_stubs.linked_libraries(cann_stubs.plugin_directory())
    assert {"libascendcl.so", "libge_runner.so", "libgraph.so", "libhccl.so"} <= linked
    assert not any(name.startswith(("libc.", "libm.", "libmindspore", "ld-")) for name in linked)
