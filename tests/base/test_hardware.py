import importlib.util
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import CHIPS, DEVICES, GIB, device
from ms_codegeex.planning.hardware_sources import sources_of, uncertain_of


@pytest.mark.parametrize("chip", DEVICES.values(), ids=lambda chip: chip.name)
def test_every_figure_has_a_source(chip):
    numbers = {field.name for field in fields(chip)} - {"name", "kind", "fused", "calibration"}
    assert set(sources_of(chip)) == numbers
    assert all(len(text) > 10 for text in sources_of(chip).values())
    assert uncertain_of(chip) <= numbers


@pytest.mark.parametrize("chip", DEVICES.values(), ids=lambda chip: chip.name)
def test_figures_are_in_the_range_of_accelerators(chip):
    assert 1e14 < chip.peak_fp16 < 1e15 and 1e12 < chip.peak_fp32 <= chip.peak_fp16
    assert 30 * GIB <= chip.usable_memory < chip.memory <= 80 * GIB
    assert 1e12 <= chip.memory_bandwidth < 4e12
    assert chip.board_bandwidth >= chip.server_bandwidth >= chip.cluster_bandwidth
    assert chip.server_devices % chip.board_devices == 0


def test_the_papers_device_can_reach_the_measured_products():
    assert device("ascend910").peak("fp16") > 2 * 16384 * 2560 * 5120 / 1529e-6  # 281 TFLOP/s were measured


def test_unknown_devices_and_precisions_are_the_users_mistake():
    with pytest.raises(UserError, match=r"parallel.hardware: 'ascend910x' is unknown; did you mean 'ascend910'\?"):
        device("ascend910x")
    with pytest.raises(UserError, match="choose one of ascend910, ascend910b, ascend910c, a100, h100"):
        device("tpu")
    with pytest.raises(UserError, match=r"training\.precision: ascend910 has no bf16"):
        device("ascend910").peak("bf16")


def test_the_page_has_the_table_of_chips_and_a_source_for_each_row():
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    cell, version = r"([^|]+) \|", r"([\d.]+) \|"
    rows = re.findall(rf"^\| (Ascend \w+) \| {version} {version} {cell} {cell} {cell}$", page, re.M)
    assert [row[:4] for row in rows] == [(chip.name, chip.mindspore, chip.cann, chip.python) for chip in CHIPS]
    assert ["".join(re.findall(r"`(\w+)`", row[4])) for row in rows] == [chip.hardware or "" for chip in CHIPS]
    listed = re.findall(r"^(\d+)\. (?:Primary|Secondary|Indirect)\. ", page, re.M)
    assert listed == [str(number) for number in range(1, len(listed) + 1)]
    assert all(re.findall(r"\[(\d+)\]", row[5]) for row in rows)
    assert set(re.findall(r"\[(\d+)\]\(#sources\)", page)) == set(listed)
    assert {chip.hardware for chip in CHIPS} - {None} == {one.name for one in DEVICES.values() if one.kind == "ascend"}


@pytest.mark.skipif(sys.platform != "linux", reason="MindSpore's plugin for Ascend is in its wheels for Linux")
def test_every_name_that_mindspores_plugin_knows_is_of_one_chip():
    """The plugin lists the driver's names that it takes. The page is not about its others, 310, 310B and 950."""
    folder = Path(importlib.util.find_spec("mindspore").submodule_search_locations[0]) / "lib" / "plugin"
    (plugin,) = folder.glob("libmindspore_ascend.so.*")
    names = {name.decode() for name in re.findall(rb"\0(Ascend(?:910|310P)[\w-]*)(?=\0)", plugin.read_bytes())}
    chips = {name: [chip.name[len("Ascend ") :] for chip in CHIPS if re.fullmatch(chip.driver, name)] for name in names}
    assert {"Ascend910A", "Ascend910B", "Ascend910B4-1", "Ascend910_9391", "Ascend310P3"} <= chips.keys()
    for name, found in chips.items():
        first = name in ("Ascend910A", "Ascend910B") or "Pr" in name
        assert found == ["910" if first else "310P" if "310P" in name else "910C" if "_" in name else "910B"], name
