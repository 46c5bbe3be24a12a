"""The CUDA libraries are found in NVIDIA's packages, loaded by path, and shown to MindSpore as one installation."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_cuda import compile_library, environment_with, fake_driver, fake_packages

from ms_codegeex.base.cuda import libraries, plugin
from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.rehearsal import stubs

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the GPU back end is for Linux on x86_64"
)
PREPARE = """
import json, os
from ms_codegeex.base.cuda.libraries import prepare
from ms_codegeex.base.errors import UserError
try:
    prepare()
    loaded = sorted({line.split()[-1] for line in open("/proc/self/maps") if ".so" in line})
    print(json.dumps({"environment": dict(os.environ), "loaded": loaded}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    return fake_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Path:
    return fake_driver(tmp_path_factory.mktemp("driver"))


def prepared(environment: dict[str, str]) -> dict:
    done = subprocess.run([sys.executable, "-c", PREPARE], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_has_every_library_that_the_plugin_is_linked_to():
    directory = plugin.plugin_directory("test", libraries.MACHINES)
    needed = set(stubs._foreign_libraries(directory / plugin.PLUGIN)) - {plugin.DRIVER}
    known = {library.soname for library in libraries.LIBRARIES}
    assert needed <= known and known - needed == {"libcublasLt.so.11"}  # of libcublas


def test_the_packages_of_the_table_are_the_pinned_ones():
    pinned = re.findall(r"^(nvidia-[a-z-]+-cu11)==", (ROOT / "requirements-gpu.txt").read_text(), re.MULTILINE)
    folders = {"cuda_nvcc", *(library.folder for library in libraries.LIBRARIES)}  # and the one with ptxas
    assert {f"nvidia-{folder.replace('_', '-')}-cu11" for folder in folders} == set(pinned)


def test_a_process_loads_the_packages_and_shows_them_to_mindspore(packages, driver, tmp_path):
    settings = {"XDG_CACHE_HOME": str(tmp_path), "CUDA_HOME": "/usr/local/cuda-12", "CUDA_CACHE_MAXSIZE": "1000"}
    found = prepared(environment_with(packages, driver, **settings))
    for library in libraries.LIBRARIES:
        assert str(packages / "nvidia" / library.folder / "lib" / library.soname) in found["loaded"]
    environment = found["environment"]
    home = Path(environment["CUDA_HOME"])
    assert home.parent == tmp_path / "ms_codegeex"  # a newer toolkit of the user's would choose no plugin
    assert environment["LD_LIBRARY_PATH"] == f"{home / 'lib64'}:{driver}"
    assert (home / "lib64" / "libcudart.so.11.6.55").resolve().name == "libcudart.so.11.0"
    assert (home / "lib64" / "libcudnn.so.8.9").exists() and (home / "lib64" / "libnvrtc.so").exists()
    version = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True)
    assert "release 11.6," in version.stdout
    assert environment["CUDA_CACHE_PATH"] == str(tmp_path / "ms_codegeex" / "cuda-kernels")
    assert environment["CUDA_CACHE_MAXSIZE"] == "1000"  # the user's own


def test_a_process_loads_the_kernels_that_set_up_translated_or_says_how_to_go_on_without(
    packages, driver, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = libraries.translated_folder(plugin.plugin_directory("test", libraries.MACHINES))
    source, translated = tmp_path / "plugin.c", folder / plugin.PLUGIN
    source.write_text("int nothing(void) { return 0; }\n")
    compile_library(source, translated)
    environment = environment_with(packages, driver)
    assert str(translated) in prepared(environment)["loaded"]
    translated.write_text("broken off")
    assert prepared(environment)["error"].endswith(f"remove {folder}")
    shutil.rmtree(folder)
    assert str(translated) not in prepared(environment)["loaded"]


def test_a_second_process_uses_the_folder_of_the_first(packages, driver, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    paths = {one.soname: packages / "nvidia" / one.folder / "lib" / one.soname for one in libraries.LIBRARIES}
    first = libraries.cuda_environment(paths)["CUDA_HOME"]
    monkeypatch.setattr(libraries, "_fill", lambda *_: pytest.fail("made again"))
    assert libraries.cuda_environment(paths)["CUDA_HOME"] == first
    (Path(first) / "bin" / "nvcc").chmod(0o644)
    with pytest.raises(UserError, match="noexec"):
        libraries.cuda_environment(paths)


def test_each_missing_library_is_named_with_the_remedy(packages, driver, tmp_path):
    partly = tmp_path / "partly"
    for library in libraries.LIBRARIES:
        if library.folder not in ("cufft", "cusolver"):
            place = partly / "nvidia" / library.folder / "lib"
            place.mkdir(parents=True, exist_ok=True)
            os.symlink(packages / "nvidia" / library.folder / "lib" / library.soname, place / library.soname)
    error = prepared(environment_with(partly, driver))["error"]
    assert re.match(r"device: gpu: libcufft.so.10, libcusolver.so.11 cannot be loaded \(.*\); run pip install", error)
    assert "ms-codegeex[gpu]" in error and "setup.sh --gpu" in error and "\n" not in error


def test_a_machine_without_a_driver_is_one_line(packages):
    if not libraries.load(plugin.DRIVER):
        pytest.skip("this machine has a driver")
    error = prepared(environment_with(packages))["error"]
    assert error.startswith("device: gpu: no NVIDIA driver (libcuda.so.1") and "install it" in error


def test_another_machine_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match="device: gpu: needs Linux on x86_64, this is linux on aarch64"):
        libraries.prepare()


def test_a_module_is_run_with_the_libraries_loaded(packages, driver, tmp_path):
    (tmp_path / "shown.py").write_text("import os, sys; print(os.environ['CUDA_HOME'], sys.argv[1:], __name__)")
    environment = environment_with(packages, driver, XDG_CACHE_HOME=str(tmp_path))
    environment["PYTHONPATH"] += f":{tmp_path}"
    words = [sys.executable, "-m", "ms_codegeex.base.cuda", "shown", "a", "b"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split()[1:] == ["['a',", "'b']", "__main__"], done.stderr
    done = subprocess.run(words, env=environment_with(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
