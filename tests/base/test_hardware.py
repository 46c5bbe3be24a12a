from dataclasses import fields

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import CHIPS, GIB, PARTS, chip_named
from ms_codegeex.planning.hardware_files import sources_of, uncertain_of

KNOWN = [*CHIPS.values(), *PARTS.values()]


@pytest.mark.parametrize("chip", KNOWN, ids=lambda chip: chip.name)
def test_every_figure_has_a_source(chip):
    numbers = {field.name for field in fields(chip)} - {"name", "kind", "fused", "calibration"}
    assert set(sources_of(chip)) == numbers
    assert all(len(text) > 10 for text in sources_of(chip).values())
    assert uncertain_of(chip) <= numbers


@pytest.mark.parametrize("chip", KNOWN, ids=lambda chip: chip.name)
def test_figures_are_in_the_range_of_accelerators(chip):
    assert 1e14 < chip.peak_fp16 < 1e15 and 1e12 < chip.peak_fp32 <= chip.peak_fp16
    assert 28 * GIB <= chip.usable_memory < chip.memory <= 80 * GIB
    assert 1e12 <= chip.memory_bandwidth < 4e12
    assert chip.board_bandwidth >= chip.server_bandwidth >= chip.cluster_bandwidth
    assert chip.server_devices % chip.board_devices == 0


def test_the_papers_device_can_reach_the_measured_products():
    assert chip_named("ascend910").peak("fp16") > 2 * 16384 * 2560 * 5120 / 1529e-6  # 281 TFLOP/s were measured


def test_unknown_devices_and_precisions_are_the_users_mistake():
    with pytest.raises(UserError, match=r"parallel.hardware: 'ascend910x' is unknown; did you mean 'ascend910'\?"):
        chip_named("ascend910x")
    with pytest.raises(UserError, match="known here: ascend910, ascend910b, ascend910c, a100, h100"):
        chip_named("tpu")
    with pytest.raises(UserError, match=r"training\.precision: ascend910 has no bf16"):
        chip_named("ascend910").peak("bf16")
