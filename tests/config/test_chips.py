import importlib.util
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.config.chips import ASCEND_CHIPS
from ms_codegeex.config.software import pairs, pairs_note


def test_the_page_has_the_table_of_chips_and_a_source_for_each_row():
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    cell, version = r"([^|]+) \|", r"([\d.]+) \|"
    rows = re.findall(rf"^\| (Ascend \w+) \| {version} {version} {cell} {cell} {cell}$", page, re.M)
    assert [row[:4] for row in rows] == [(chip.name, chip.mindspore, chip.cann, chip.python) for chip in ASCEND_CHIPS]
    assert ["".join(re.findall(r"`(\w+)`", row[4])) for row in rows] == [chip.hardware or "" for chip in ASCEND_CHIPS]
    listed = re.findall(r"^(\d+)\. (?:Primary|Secondary|Indirect)\. ", page, re.M)
    assert listed == [str(number) for number in range(1, len(listed) + 1)]
    assert all(re.findall(r"\[(\d+)\]", row[5]) for row in rows)
    assert set(re.findall(r"\[(\d+)\]\(#sources\)", page)) == set(listed)
    ours = {chip.name for chip in CHIPS.values() if chip.kind == "ascend"}
    assert {chip.hardware for chip in ASCEND_CHIPS} - {None} == ours


def test_the_page_has_the_pairs_that_doctor_names():
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    for pair in pairs():
        sources = " ".join(f"[{number}](#sources)" for number in pair["sources"].split())
        cells = [*(pair[key] for key in ("mindspore", "cann", "driver", "accepts", "mindformers", "chips")), sources]
        assert f"| {' | '.join(cell or '—' for cell in cells)} | " in page
        assert f"MindSpore {pair['mindspore']} with {pair['cann']}" in pairs_note()
    assert len(re.findall(r"^\| 2\.\d+", page, re.M)) == len(pairs())


@pytest.mark.skipif(sys.platform != "linux", reason="MindSpore's plugin for Ascend is in its wheels for Linux")
def test_every_name_that_mindspores_plugin_knows_is_of_one_chip():
    """The plugin lists the driver's names that it takes. The page is not about its others, 310, 310B and 950."""
    folder = Path(importlib.util.find_spec("mindspore").submodule_search_locations[0]) / "lib" / "plugin"
    (plugin,) = folder.glob("libmindspore_ascend.so.*")
    names = {name.decode() for name in re.findall(rb"(?<![\w-])(Ascend(?:910|310P)[\w-]*)(?=\0)", plugin.read_bytes())}
    chips = {
        name: [chip.name.removeprefix("Ascend ") for chip in ASCEND_CHIPS if re.fullmatch(chip.driver, name)]
        for name in names
    }
    assert {"Ascend910A", "Ascend910B", "Ascend910B4-1", "Ascend910_9391", "Ascend310P3"} <= chips.keys()
    for name, found in chips.items():
        first = name in ("Ascend910A", "Ascend910B") or "Pr" in name
        assert found == ["910" if first else "310P" if "310P" in name else "910C" if "_" in name else "910B"], name
