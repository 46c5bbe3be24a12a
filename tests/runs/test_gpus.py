"""A run on GPUs starts only where libraries, driver, devices and free memory are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ms_codegeex.base.cuda.driver import Driver, Gpu
from ms_codegeex.base.cuda.libraries import LIBRARIES, LoadedLibrary
from ms_codegeex.base.cuda.probe import GpuBackend
from ms_codegeex.base.cuda.translation import MODULES
from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs import memory_check
from ms_codegeex.runs.memory_check import check_gpus

RUN = ["model.preset=tiny", "training.steps=1", "device=gpu"]
FOUND = tuple(LoadedLibrary(library, Path("/nvidia")) for library in LIBRARIES)
K80 = Gpu("K80", (3, 7), 12 * 10**9, None)
H200 = Gpu("H200", (9, 0), 140 * 10**9, 139 * 10**9)


def checked(monkeypatch, *overrides, local=1, libraries=FOUND, driver=None, plugin="") -> str:
    driver = Driver("12.2", (H200, H200)) if driver is None else driver
    monkeypatch.setattr(memory_check, "probe_gpu_backend", lambda: GpuBackend(libraries, driver, plugin))
    return check_gpus(load_config(None, [*RUN, f"devices={local}", "training.global_batch=16", *overrides]), local)


def test_a_machine_that_fits(monkeypatch):
    checked(monkeypatch)
    checked(monkeypatch, local=2)
    checked(monkeypatch, driver=Driver("12.2", (Gpu("A", (8, 6), 10**9, None),)))  # what is free is not known


def test_other_devices_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(memory_check, "probe_gpu_backend", lambda: pytest.fail("looked for CUDA"))
    check_gpus(load_config(None, [*RUN, "device=cpu", "devices=1"]), 1)


GONE = tuple(
    LoadedLibrary(one.library, None, "gone") if one.library.soname == "libcublas.so.11" else one for one in FOUND
)
FULL = Driver("12.2", (H200, Gpu("H200", (9, 0), 140 * 10**9, 10**6)))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"libraries": GONE}, r"libcublas.so.11 cannot be loaded \(gone\); run pip install 'ms-codegeex\[gpu\]'"),
        ({"driver": Driver(problem="no driver (gone)")}, "device: gpu: no driver .*ms-codegeex doctor.*device=cpu"),
        ({"driver": Driver("11.4", (H200,))}, "supports CUDA 11.4, but 11.8 is required; install driver 520 or newer"),
        ({"driver": Driver("12.2", problem="no device")}, "device: gpu: no device"),
        ({"local": 4}, "devices: 4 on this machine, which has 2 GPUs to use; set devices=2"),
        ({"plugin": "undefined symbol"}, "plugin does not load .undefined symbol"),
        ({"driver": Driver("11.8", (K80,))}, r"GPU 0 \(K80\) has compute capability 3.7.* 6.0 or more"),
        ({"local": 2, "driver": FULL}, r"need about .* GB of a GPU; of GPU 1 \(H200\) 0.0 of 140.0 GB are free"),
    ],
    ids=["library", "driver", "old driver", "device", "devices", "plugin", "old chip", "memory"],
)
def test_what_is_missing_is_one_line_with_a_remedy(monkeypatch, changes, message):
    with pytest.raises(UserError, match=message) as error:
        checked(monkeypatch, **changes)
    assert "\n" not in str(error.value)


def test_bf16_is_refused_by_key(monkeypatch):
    with pytest.raises(UserError, match=r"^training.precision: bf16, for which MindSpore has no kernels"):
        checked(monkeypatch, "training.precision=bf16")


def test_the_first_start_on_a_newer_chip_says_why_it_takes_minutes(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))
    a100 = Gpu("A100", (8, 0), 80 * 10**9, None)
    assert checked(monkeypatch, driver=Driver("12.2", (a100,))) == ""
    assert checked(monkeypatch, driver=Driver("12.2", (a100, H200))) == ""  # which this run does not use
    note = checked(monkeypatch)
    assert note.startswith("H200 is newer than MindSpore's machine code") and str(tmp_path) in note
    for number in range(MODULES):
        (tmp_path / f"{number % 7}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 7}" / str(number)).touch()
    assert checked(monkeypatch) == ""
