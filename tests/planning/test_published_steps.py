"""What published steps say about a step beyond its roofline, against numbers worked out here."""

import math

import pytest

from ms_codegeex.base.hardware import DEVICES
from ms_codegeex.planning.published_steps import (
    Scaling,
    beyond_roofline,
    fit_scaling,
    published_scaling,
    published_steps,
    spread,
)

MINDSPEED = {128: 0.538, 512: 0.532, 1024: 0.527, 2048: 0.515, 7968: 0.505}  # GPT3-175B, its README


def test_a_line_through_two_points_is_found():
    line = fit_scaling({8: 0.5, 64: 0.4})  # 2.0 and 2.5, three doublings apart
    assert line == Scaling(pytest.approx(1.5), pytest.approx(1 / 9))
    assert [line.mfu(8), line.mfu(64), line.mfu(512)] == pytest.approx([0.5, 0.4, 1 / 3])


@pytest.mark.parametrize("pair", [(a, b) for a in MINDSPEED for b in MINDSPEED if a < b])
def test_two_points_of_mindspeed_llm_predict_the_other_three_within_three_points_of_mfu(pair):
    line = fit_scaling({devices: MINDSPEED[devices] for devices in pair})
    for devices, mfu in MINDSPEED.items():
        assert abs(line.mfu(devices) - mfu) < 0.03, devices


def test_the_published_curve_is_the_one_of_mindspeed_llm():
    line = published_scaling()
    assert line == fit_scaling(MINDSPEED)
    assert all(abs(line.mfu(devices) - mfu) < 0.007 for devices, mfu in MINDSPEED.items())


def test_the_interval_of_three_factors():
    """With Student's t for two degrees of freedom, 1.886."""
    deviation = math.log(1.1)
    found = spread([1.2 / 1.1, 1.2, 1.2 * 1.1])
    width = 1.886 * deviation * math.sqrt(1 + 1 / 3)
    assert (found.value, found.low, found.high) == pytest.approx((1.2, 1.2 * math.exp(-width), 1.2 * math.exp(width)))


def test_a_single_factor_and_close_ones_have_the_spread_of_all():
    others = [[1.0, 1.2], [0.9, 1.1]]
    alone, close = spread([1.5], others), spread([1.5, 1.5], others)
    assert alone.high / alone.value > close.high / close.value > 1.1
    assert spread([1.5]).low == spread([1.5]).high
    wide = spread([1.0, 2.0], [[1.0, 1.0, 1.0, 1.0]])
    assert wide.high == spread([1.0, 2.0]).high  # more than that of all together


def test_each_published_run_is_between_the_limits_that_the_others_set_in_eight_of_ten_cases():
    inside = []
    for name in DEVICES:
        runs = published_steps(name)
        for run in runs if len(runs) > 1 else ():
            others = [[x.times_roofline for x in published_steps(chip)] for chip in DEVICES if chip != name]
            found = spread([x.times_roofline for x in runs if x != run], others)
            inside.append(found.low <= run.times_roofline <= found.high)
    assert len(inside) == 10 and sum(inside) >= 8


def test_on_more_devices_a_step_takes_longer_by_the_published_curve():
    growth = published_scaling().growth
    one, many = beyond_roofline("ascend910b", 8), beyond_roofline("ascend910b", 512)
    ratio = (1 + 9 * growth) / (1 + 3 * growth)
    assert 1.05 < ratio < 1.09
    for name in ("value", "low", "high"):
        assert getattr(many, name) / getattr(one, name) == pytest.approx(ratio)
    assert beyond_roofline("ascend910", 1536).value == pytest.approx(1.6155)
