"""A worker sets what the device and its kernels need, asks the driver what it runs on, and counts the ranks."""

from types import SimpleNamespace

import mindspore as ms
import pytest

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.hardware import GIB
from ms_codegeex.config.chosen_hardware import chosen_kernels
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.rank import joining
from ms_codegeex.training.progress import used_memory

RUN = ["model.preset=tiny", "training.steps=1", "training.dropout=0", "devices=1"]
ASCEND = ["device=ascend", "training.precision=fp16"]


def run_with(*words):
    return load_config(None, [*RUN, *words])


@pytest.fixture
def engine(monkeypatch):
    """What a worker sets; `driver` is the name that an Ascend's driver gives. test_ascend_start.py and
    base/cuda/test_gpu_processes.py meet the engine's own functions."""
    monkeypatch.setenv("DEVICE_ID", "0")
    seen = SimpleNamespace(settings={}, memory=None, driver="Ascend910A", device=())
    monkeypatch.setattr(ms, "set_context", lambda **given: seen.settings.update(given))
    monkeypatch.setattr(ms, "set_device", lambda *given: setattr(seen, "device", given))
    monkeypatch.setattr(ms.hal, "get_device_name", lambda *given, **options: seen.driver)
    monkeypatch.setattr(ms.runtime, "set_memory", lambda **given: setattr(seen, "memory", given))
    monkeypatch.setattr(joining, "_free_memory", lambda: None)  # would start a process for each
    return seen


@pytest.mark.parametrize(
    "overrides,switch,level",
    [
        (["device=cpu"], None, None),
        (["device=cpu", "parallel.fusion.graph_kernel=true"], True, None),
        (["device=ascend"], None, "O1"),
        (["device=gpu"], None, None),
        (["device=gpu", "parallel.fusion.graph_kernel=true"], None, "O1"),
        (["device=ascend", "parallel.fusion.graph_kernel=false"], None, "O0"),
    ],
)
def test_graph_kernels_follow_the_setting(engine, overrides, switch, level):
    joining.join(run_with(*overrides))
    assert engine.settings.get("enable_graph_kernel") is switch
    assert engine.settings.get("jit_config", {}).get("jit_level") == level
    assert engine.settings["mode"] == ms.GRAPH_MODE


@pytest.mark.parametrize(
    "driver,overrides,memory,attention",
    [
        ("Ascend910A", ["device=ascend"], "30GB", False),
        ("Ascend910B4", ASCEND, "28GB", True),
        ("Ascend910B4-1", ASCEND, "58GB", True),
        ("Ascend910B4", [*ASCEND, "cluster.device_memory=24.5"], "24.5GB", True),
        ("Ascend910B2", ASCEND, "58GB", True),
        ("Ascend910B2", [*ASCEND, "parallel.hardware=ascend910b"], "58GB", True),
        ("", ["device=gpu", "parallel.hardware=a100", "training.precision=fp16"], "70.75GB", False),
        ("", ["device=gpu", "cluster.device_memory=30"], "30GB", False),
        ("", ["device=gpu"], None, False),
        ("", ["device=cpu"], None, False),
    ],
)
def test_the_device_decides_memory_and_kernels(engine, driver, overrides, memory, attention):
    engine.driver = driver
    config, rank, _ = joining.join(run_with(*overrides))
    growth = {"increase_size": "0.125GB"} if config.device == "ascend" else {}
    assert engine.memory == (memory and {"max_size": memory, **growth}) and rank == 0
    assert ("attention" in chosen_kernels(config)) is attention
    if config.device == "ascend":
        assert config.parallel.hardware == (driver if "B" in driver else "ascend910")


@pytest.mark.parametrize(
    "driver,free,words,limit",
    [
        ("Ascend910B2", 64.0, [], "58GB"),
        ("Ascend910B2", 56.0, [], "54GB"),  # another process has the rest
        ("Ascend910B4", 29.5, [], "27.5GB"),
        ("Ascend910A", 31.05, [], "29GB"),  # in whole blocks
        ("Ascend910B2", 56.0, ["cluster.device_memory=55.5"], "55.5GB"),
        ("Ascend910B2", 56.0, ["cluster.device_memory=56"], "has 56.0 GiB free, too little to fill 56"),
        ("Ascend910B2", 1.5, [], "has 1.5 GiB free, too little to fill 0"),
    ],
)
def test_the_limit_is_below_what_is_free(engine, monkeypatch, capsys, driver, free, words, limit):
    """MindSpore refuses another one. First contact asks CANN's own function."""
    engine.driver = driver
    monkeypatch.setattr(joining, "_free_memory", lambda: int(free * GIB))
    config = run_with(*ASCEND, *words)
    if not limit.endswith("GB"):
        with pytest.raises(UserError, match=rf"^cluster.device_memory: device 0 of \S+ {limit}; leave it out, or stop"):
            joining.join(config)
        return
    joining.join(config)
    assert engine.memory["max_size"] == limit
    said = f"are free, so the run may fill {limit[:-2]}, not " in capsys.readouterr().err
    assert said == (not words and free < 60)


def test_without_an_answer_nothing_is_known_to_be_free(monkeypatch):
    monkeypatch.setenv("DEVICE_ID", "0")
    monkeypatch.setattr(joining, "FREE_MEMORY", "raise SystemExit(1)")
    assert joining._free_memory() is None


@pytest.mark.parametrize("driver,peak", [("Ascend910B1", 400), ("Ascend910B3", 313), ("Ascend910B4-1", 280)])
def test_the_part_decides_the_peak(engine, driver, peak):
    engine.driver = driver
    joined, *_ = joining.join(run_with("device=ascend", "parallel.hardware=ascend910b", "training.precision=bf16"))
    assert joining.matmul_peak(joined) == peak * 1e12


def test_each_rank_of_a_machine_has_a_gpu_of_its_own(engine, monkeypatch):
    monkeypatch.setenv("DEVICE_ID", "3")  # as the launchers set it, msrun too
    joining.join(run_with("device=gpu"))
    assert engine.device == ("GPU", 3)
    monkeypatch.setattr(ms.communication, "init", lambda: None)
    monkeypatch.setattr(ms.communication, "get_group_size", lambda: 0)
    with pytest.raises(RunFailure):
        joining.join(load_config(None, [*RUN[:-1], "device=gpu", "devices=4"]))
    assert engine.device == ("GPU", 3)


def test_kernels_that_the_device_does_not_have_are_refused_there(engine):
    config = run_with(*ASCEND, "parallel.fusion.attention=true")
    with pytest.raises(UserError, match=r"^parallel.fusion.attention: parallel.hardware: ascend910 has no such kernel"):
        joining.join(config)


@pytest.mark.parametrize("name,value", joining.SATURATING)
def test_a_chip_with_infinities_is_not_set_to_hide_them(engine, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    config = run_with(*ASCEND)
    assert joining.join(config)[0].parallel.hardware == "ascend910"  # it knows no other mode
    engine.driver = "Ascend910B2"
    with pytest.raises(UserError, match=rf"^{name}={value}: hides overflows.*unset it"):
        joining.join(config)
    monkeypatch.setenv(name, {"0": "1", "1": "0"}.get(value, "INFNAN_MODE"))
    joining.join(config)


def test_a_gpus_peak_is_measured_in_the_precision_of_the_run(monkeypatch):
    measured = []
    monkeypatch.setattr(joining, "measure_matmul_peak", lambda *given, **options: measured.append(options) or 1.0)
    for precision in ("fp16", "fp32"):
        joining.matmul_peak(run_with("device=gpu", f"training.precision={precision}"))
    assert [options["precision"] for options in measured] == ["fp16", "fp32"]


def test_the_attempts_of_a_command_measure_the_peak_once(monkeypatch, tmp_path):
    peaks, run, config = [3.0, 2.0, 1.0], RunDirectory(tmp_path), load_config(None, RUN)
    monkeypatch.setattr(joining, "measure_matmul_peak", lambda *given, **options: peaks.pop())

    def peak(rank, launcher, config=config):
        return joining.kept_peak(config, run, rank, launcher)

    assert [peak(0, "7"), peak(0, "7"), peak(1, "7")] == [1.0] * 3
    assert peak(1, "8") == 2.0 and peak(0, "7") == 1.0  # rank 0 writes it
    run.servers.mkdir()
    assert peak(0, "7") == 3.0 and not peaks


def test_a_peak_is_measured_with_numbers_of_that_precision(monkeypatch):
    made, make = [], ms.Tensor
    monkeypatch.setattr(ms, "Tensor", lambda array, dtype=None: made.append((array, dtype)) or make(array, dtype))
    assert joining.measure_matmul_peak(size=64, seconds=0, precision="fp16") > 0
    ((values, dtype),) = made
    assert dtype == ms.float16 and len(set(values.flatten())) > 4000  # equal numbers are multiplied faster on a GPU


@pytest.mark.parametrize("device,expected", [("gpu", 7), ("ascend", 7), ("cpu", None)])
def test_memory_is_that_of_the_device(monkeypatch, device, expected):
    monkeypatch.setattr(ms.runtime, "max_memory_allocated", lambda: 7)
    found = used_memory(device)
    assert found == expected if expected else found > 10**7


def test_a_wrong_number_of_ranks_ends_with_what_to_check(engine, monkeypatch):
    monkeypatch.setattr(ms.communication, "init", lambda: None)
    monkeypatch.setattr(ms.communication, "get_group_size", lambda: 8)
    config = load_config(None, ["model.preset=tiny", "training.steps=1", "device=ascend", "devices=16"])
    with pytest.raises(RunFailure, match="8 ranks joined, 16 were expected; check --nodes or the rank table"):
        joining.join(config)
