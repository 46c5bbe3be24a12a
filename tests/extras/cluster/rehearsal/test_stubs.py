"""The stub CUDA libraries: made of what the plugin names, by either compiler, once; MindSpore loads with them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.cluster.rehearsal import stubs

LOAD = (
    "import mindspore as ms; ms.set_context(device_target='GPU'); from mindspore.communication import init, get_rank, \
get_group_size; init(); print('loaded', get_rank(), get_group_size())"
)
BUILD = """
from ms_codegeex.extras.cluster.rehearsal import stubs
build = stubs.build
stubs.build = lambda *paths: (print("built"), build(*paths))
print(stubs.stub_libraries())
"""
ZIG = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="the package ziglang is not installed")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ms_codegeex"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A cache folder that this file's tests share."""
    return tmp_path_factory.mktemp("stubs")


@pytest.fixture
def libraries(stored, monkeypatch) -> Path:
    """The stub libraries, built once for these tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(stored))
    return stubs.stub_libraries()


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    variables, how = {**os.environ, "PYTHONPATH": str(ROOT), **environment}, {"capture_output": True, "text": True}
    return subprocess.run([sys.executable, "-c", code], env=variables, timeout=180, **how)


@pytest.mark.slow
def test_the_plugin_loads_as_the_given_rank(libraries, tmp_path):
    assert "loaded" not in python(LOAD).stdout  # or this machine has a GPU, and the rest shows nothing
    result = python(f"import os; os.chdir({str(tmp_path)!r}); {LOAD}", **stubs.simulation_environment(5, 12))
    assert "loaded 5 12" in result.stdout, result.stdout + result.stderr


@ZIG
@pytest.mark.slow
def test_the_plugin_loads_with_what_zig_compiled(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(stubs, "compilers", lambda: [[sys.executable, "-m", "ziglang", "cc"]])
    result = python(f"import os; os.chdir({str(tmp_path)!r}); {LOAD}", **stubs.simulation_environment(1, 2))
    assert "loaded 1 2" in result.stdout, result.stdout + result.stderr
    assert not list(cache.rglob("zig"))


@pytest.mark.slow
def test_every_symbol_the_plugin_wants_is_there_under_its_version(libraries):
    plugin = stubs.cuda_plugin.plugin_directory("rehearsal", stubs.MACHINES) / stubs.cuda_plugin.PLUGIN
    wanted = {v: names for v, names in stubs.undefined_symbols(plugin).items() if stubs.FOREIGN_LIBRARY.match(v)}
    assert sum(map(len, wanted.values())) > 200
    libc = ctypes.CDLL(None)
    libc.dlvsym.restype, libc.dlvsym.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
    for version, names in wanted.items():
        library = ctypes.CDLL(str(libraries / version))
        missing = [name for name in names if not libc.dlvsym(library._handle, name.encode(), version.encode())]
        assert not missing
    assert ctypes.CDLL(str(libraries / "libcudart.so.11.0")).cudaFree(0) == 0


@pytest.mark.slow
def test_processes_that_start_at_once_get_the_same_libraries(cache):
    how = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([sys.executable, "-c", BUILD], **how) for _ in range(4)]
    printed = [process.communicate(timeout=120)[0].split() for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert {lines[-1] for lines in printed} == {str(next(cache.glob("stubs-*/lib64")))}
    assert sum("built" in lines for lines in printed) == 1
    assert len(list(cache.glob("stubs-*/lib64"))) == 1
    assert not [path for path in cache.iterdir() if path.name.endswith((".tmp", ".old"))]


@pytest.mark.slow
def test_a_build_that_fails_leaves_nothing_and_can_be_repeated_once(cache, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho out of ideas >&2\nexit 3\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(stubs, "compilers", lambda: [[str(broken)]])
        message = r"broken: could not compile .* \(out of ideas\); run `pip install ziglang`"
        with pytest.raises(RunFailure, match=message):
            stubs.stub_libraries()
    assert not [path for path in cache.iterdir() if path.is_dir()]
    built = stubs.stub_libraries()
    assert built.is_dir() and built.parent.parent == cache
    monkeypatch.setattr(stubs, "build", lambda *_: pytest.fail("built again"))
    assert stubs.stub_libraries() == built


def test_compilers_on_the_path_come_before_zig(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for found, expected in ((object(), [[sys.executable, "-m", "ziglang", "cc"]]), (None, [])):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        assert stubs.compilers() == expected
        for name in ("gcc", "clang", "cc"):
            (tmp_path / name).write_text("#!/bin/sh\n")
            (tmp_path / name).chmod(0o755)
        assert stubs.compilers()[:3] == [[str(tmp_path / name)] for name in ("cc", "gcc", "clang")]
        for name in ("gcc", "clang", "cc"):
            (tmp_path / name).unlink()


def test_without_a_compiler_the_remedy_is_named(cache, monkeypatch):
    monkeypatch.setattr(stubs, "compilers", list)
    with pytest.raises(UserError, match=r"no C compiler .* run `pip install ziglang`"):
        stubs.stub_libraries()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64")])
def test_other_platforms_are_refused(cache, monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(UserError, match=f"needs Linux on x86_64 or aarch64, this is {system} on {machine}"):
        stubs.simulation_environment(0, 2)


def test_a_wheel_without_the_plugin_is_refused(cache, monkeypatch):
    monkeypatch.setattr(stubs.cuda_plugin, "PLUGIN", "lib/plugin/libmindspore_gpu.so.99")
    installed = re.escape(importlib.metadata.version("mindspore"))
    wrong = f"libmindspore_gpu.so.99: missing, MindSpore {installed} came without the GPU plugin"
    with pytest.raises(UserError, match=wrong):
        stubs.stub_libraries()


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        stubs.stub_libraries()


@pytest.mark.slow
def test_a_cache_that_may_not_execute_is_named(libraries, cache):
    shutil.copytree(libraries.parent, cache / libraries.parent.name)
    (cache / libraries.parent.name / "bin" / "nvcc").chmod(0o644)  # as on a file system mounted with noexec
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        stubs.stub_libraries()


@pytest.mark.slow
def test_the_environment_keeps_the_libraries_of_the_user(libraries, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/some/where")
    environment = stubs.simulation_environment(2, 4)
    assert environment["LD_LIBRARY_PATH"] == f"{libraries}:/some/where"
    assert (environment["RANK_ID"], environment["RANK_SIZE"]) == ("2", "4")
    with pytest.raises(ValueError, match="rank 4 of 4"):
        stubs.simulation_environment(4, 4)
