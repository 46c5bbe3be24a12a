"""The choice of the kind of device."""

import sys

import mindspore as ms
import pytest
from conftest import command
from recited_model import save_recited

from ms_codegeex.base.cuda import translation
from ms_codegeex.base.cuda.driver import Driver, Gpu
from ms_codegeex.base.errors import UserError
from ms_codegeex.generation import targets

GPU = Gpu("H200", (9, 0), 4 * 10**9, 2 * 10**9)


@pytest.mark.parametrize("name", ["gpu", pytest.param("ascend", marks=pytest.mark.slow)])
def test_a_device_that_is_absent_is_one_line(name, tmp_path):
    if ms.hal.is_available(targets.TARGETS[name]):
        pytest.skip("this machine has one")
    model = save_recited(tmp_path / "model", "Go:\n", "total")  # a wrong one is refused first
    result = command("generate", "--model", model, "--prompt", "x", "--device", name)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    if name == "gpu":
        assert "device: gpu: " in line and ("ms-codegeex[gpu]" in line or "no NVIDIA driver" in line)
    else:
        assert f"--device: MindSpore finds no {name} here" in line and "doctor" in line


def test_mindspore_is_asked_where_it_has_a_choice(monkeypatch, tmp_path):
    """By a stand-in for MindSpore, which says that it was asked."""
    (tmp_path / "mindspore.py").write_text("get_context = lambda name: f'asked for {name}'")
    monkeypatch.syspath_prepend(tmp_path)
    for device in ("null", "nvidia0", "davinci3", "dxg"):
        monkeypatch.delitem(sys.modules, "mindspore", raising=False)
        (tmp_path / device).mkdir()
        (tmp_path / device / device).touch()
        expected = "CPU" if device == "null" else "asked for device_target"
        assert targets.device_target(tmp_path / device) == expected
        assert ("mindspore" in sys.modules) == (expected != "CPU")
    assert targets.device_target(tmp_path / "null") == "asked for device_target"  # it is here already


def test_a_device_that_is_there_is_chosen(monkeypatch):
    chosen = []
    monkeypatch.setattr(ms, "set_device", chosen.append)
    monkeypatch.setattr(ms.hal, "is_available", lambda target: target != "GPU")
    targets.use_device("cpu")  # it is already
    targets.use_device("ascend")
    assert chosen == ["Ascend"]
    with pytest.raises(UserError, match="no gpu here"):
        targets.use_device("gpu")


@pytest.mark.parametrize(
    "driver,count,message",
    [
        (Driver("12.2", problem="no device"), 1, "--device: no device; .*or use --device cpu"),
        (Driver("12.2", (GPU, GPU)), 3, "--devices: 3, but 2 GPUs are here"),
        (Driver("11.7", (GPU,)), 1, "supports CUDA 11.7, but 11.8 is required; install driver 520 or newer"),
    ],
    ids=["none", "too few", "old driver"],
)
def test_too_few_gpus_are_one_line(monkeypatch, driver, count, message):
    monkeypatch.setattr(ms.hal, "is_available", lambda target: True)
    monkeypatch.setattr(ms, "set_device", lambda *_: pytest.fail("chosen"))
    monkeypatch.setattr("ms_codegeex.base.cuda.driver.query_driver_in_subprocess", lambda: driver)
    with pytest.raises(UserError, match=message):
        targets.use_device("gpu", count)


def test_a_chip_whose_kernels_are_to_be_translated_is_chosen_with_a_note(monkeypatch, capsys, tmp_path):
    """base/cuda/test_gpu_processes.py meets the engine's own functions."""
    chosen = []
    monkeypatch.setenv("CUDA_CACHE_PATH", str(tmp_path))
    monkeypatch.setattr(translation, "is_translated", lambda gpu: False)
    monkeypatch.setattr(ms.hal, "is_available", lambda target: True)
    monkeypatch.setattr(ms, "set_device", chosen.append)
    monkeypatch.setattr("ms_codegeex.base.cuda.driver.query_driver_in_subprocess", lambda: Driver("12.2", (GPU,)))
    targets.use_device("gpu")
    assert chosen == ["GPU"] and "H200 is newer than MindSpore's machine code" in capsys.readouterr().err
    monkeypatch.setattr(translation, "is_translated", lambda gpu: True)
    targets.use_device("gpu")
    assert capsys.readouterr().err == ""


def test_a_model_must_fit_into_what_is_free_of_the_gpu(monkeypatch):
    monkeypatch.setattr("ms_codegeex.base.cuda.driver.query_driver_in_subprocess", lambda: Driver("12.2", (GPU,)))
    targets.check_memory(10**15)  # of a CPU's memory other parts take care
    monkeypatch.setattr(ms, "get_context", lambda name: "GPU")
    assert targets.free_memory() == GPU.free
    targets.check_memory(GPU.free)
    with pytest.raises(UserError, match=r"need 3.0 GB, 2.0 GB of the GPU are free"):
        targets.check_memory(3 * 10**9)
