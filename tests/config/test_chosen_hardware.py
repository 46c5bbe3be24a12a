import importlib.metadata

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.chips import check_kind, driver_hardware
from ms_codegeex.config.chosen_hardware import flat_cells, hardware_of, running_on
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.software import software_note
from ms_codegeex.runs.servers.node import resolve_node


def run(device, name=None):
    return load_config(None, ["training.steps=1", f"device={device}", f"parallel.hardware={name or 'null'}"])


def test_a_configuration_that_names_none_is_planned_for_one_of_its_kind():
    assert [hardware_of(run(kind)).name for kind in ("cpu", "ascend", "gpu")] == ["ascend910", "ascend910", "a100"]
    assert hardware_of(run("gpu", "ascend910b")).name == "ascend910b"  # a plan may ask what if
    assert running_on(run("gpu", "ascend910b")).name == "a100" and running_on(run("ascend", "a100")).kind == "ascend"


@pytest.mark.parametrize(
    "words,expected",
    [
        ("device=gpu devices=1", True),
        ("device=gpu devices=8", True),
        ("device=gpu devices=8 parallel.optimizer_shard=4 parallel.micro_batches=2", True),
        ("device=gpu devices=8 parallel.tensor=2", False),
        ("device=gpu devices=8 parallel.pipeline=2 parallel.micro_batches=2", False),
        ("device=ascend devices=8", False),
        ("device=cpu devices=2", False),
    ],
)
def test_gpus_that_share_no_matrix_have_cells_of_their_own(words, expected):
    assert flat_cells(load_config(None, ["training.steps=1", "training.global_batch=32", *words.split()])) == expected


@pytest.mark.parametrize("device,name", [("gpu", "ascend910b"), ("ascend", "a100")])
def test_a_run_on_another_kind_of_device_than_it_names_is_refused(device, name):
    with pytest.raises(UserError, match=f"^parallel.hardware: {name} is not what device: {device} runs on"):
        resolve_node(run(device, name))
    check_kind(run("cpu", name))


@pytest.mark.parametrize(
    "driver,expected",
    [
        ("Ascend910A", "ascend910"),
        ("Ascend910PremiumA", "ascend910"),
        ("Ascend910B", "ascend910"),  # a part of the first generation
        ("Ascend910B1", "ascend910b"),
        ("Ascend910B2C", "ascend910b"),
        ("Ascend910B4", "ascend910b"),
        ("Ascend910B4-1", "ascend910b"),
        ("Ascend910_9392", "ascend910c"),
    ],
)
def test_the_driver_names_the_hardware(driver, expected):
    assert driver_hardware(run("ascend"), driver) == driver_hardware(run("ascend", expected), driver) == expected


def test_an_unknown_or_contradicting_driver_is_refused_unless_the_hardware_is_named():
    for driver, lacking in (("Ascend310P3", r"known to train \(docs/hardware.md\)"), ("Ascend950PR", "known")):
        expected = rf"^parallel.hardware: the driver's name .* '{driver}', is not {lacking}; "
        with pytest.raises(UserError, match=expected):
            driver_hardware(run("ascend"), driver)
        assert driver_hardware(run("ascend", "ascend910b"), driver) == "ascend910b"
    assert driver_hardware(run("ascend", "Ascend910B4"), "Ascend910B4") == "Ascend910B4"  # its part, by its own name
    for name, driver, known in (
        ("ascend910b", "Ascend910_9392", "ascend910c"),
        ("Ascend910B4", "Ascend910B2", "ascend910b"),
        ("ascend910", "Ascend910B2", "ascend910b"),
    ):
        expected = rf"^parallel.hardware: {name}, but the driver says {driver}, which is {known}.* set it to {known} or"
        with pytest.raises(UserError, match=expected):
            driver_hardware(run("ascend", name), driver)


def test_a_note_says_which_mindspore_a_chip_is_named_with_and_which_is_installed(monkeypatch):
    versions = {"mindspore": "2.9.0"}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert software_note("ascend910") == (
        "Ascend 910: the newest MindSpore that a published page names for it is 2.2.14 (CANN 7.0.0, Python 3.7 to "
        "3.9); installed: 2.9.0, not verified on it (docs/hardware.md)"
    )
    assert software_note("Ascend910ProB") == software_note("ascend910")
    assert software_note("ascend910b").startswith("Ascend 910B: ")
    assert software_note("Ascend910_9391").startswith("Ascend 910C: ")
    assert software_note("Ascend910_9391").endswith("; installed: 2.9.0 (docs/hardware.md)")
    assert "names for it, for inference, is 2.2.14 (" in software_note("Ascend310P3")
    assert software_note("a100") is software_note("") is None
    versions.clear()
    assert software_note("ascend910b").endswith("; installed: none, not verified on it (docs/hardware.md)")
