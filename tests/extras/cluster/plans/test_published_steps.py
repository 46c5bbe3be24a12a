"""What published steps say about a step beyond its roofline, against numbers worked out here."""

import math

import pytest
from published_spread import MINDSPEED, Scaling, fit_scaling, limits, residuals, spread

from ms_codegeex.extras.cluster.plans.published import PublishedStep, beyond_roofline, published_steps

CHIPS = ("ascend910", "ascend910b", "a100")


def test_a_line_through_two_points_is_found():
    line = fit_scaling({8: 0.5, 64: 0.4})  # 2.0 and 2.5, three doublings apart
    assert line == Scaling(pytest.approx(1.5), pytest.approx(1 / 9))
    assert [line.mfu(8), line.mfu(64), line.mfu(512)] == pytest.approx([0.5, 0.4, 1 / 3])


@pytest.mark.parametrize("pair", [(a, b) for a in MINDSPEED for b in MINDSPEED if a < b])
def test_two_points_of_mindspeed_llm_predict_the_other_three_within_three_points_of_mfu(pair):
    line = fit_scaling({devices: MINDSPEED[devices] for devices in pair})
    for devices, mfu in MINDSPEED.items():
        assert abs(line.mfu(devices) - mfu) < 0.03, devices


@pytest.mark.parametrize("chip", CHIPS)
def test_the_stored_factors_are_those_of_the_runs(chip):
    found = spread(published_steps(chip), [published_steps(name) for name in CHIPS])
    stored = beyond_roofline(chip, 1)
    assert (stored.value, stored.low, stored.high) == pytest.approx((found.value, found.low, found.high), rel=1e-8)


def on_pages(**pages):
    """Runs on one device, by page."""
    return [PublishedStep("", 1, x, "", page) for page, factors in pages.items() for x in factors]


def test_the_limits_leave_out_a_tenth_of_one_more_value_on_each_side():
    assert limits(range(1, 20)) == (2, 18)  # of 20 places that one more can have, 2 are below and 2 above
    assert limits(range(9)) == (0, 8)
    with pytest.raises(ValueError, match="8 values, expected at least 9"):
        limits(range(8))


def test_a_residual_is_over_the_median_of_the_other_pages():
    found = residuals(on_pages(a=[1.0, 1.2], b=[1.1]))
    assert found == pytest.approx([math.log(x) for x in (1.0 / 1.1, 1.2 / 1.1, 1.1 / 1.1)])
    assert residuals(on_pages(a=[1.0, 1.2])) == []


def test_a_chip_with_one_page_has_the_spread_of_the_others():
    alone = on_pages(a=[1.5])
    many = on_pages(**{str(page): [1 + page / 10] for page in range(9)})
    low, high = limits(residuals(many))
    found = spread(alone, [alone, many])
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5 * math.exp(low), 1.5 * math.exp(high)))
    assert spread(many, [alone, many]).value == pytest.approx(1.4)


def test_on_more_devices_a_step_takes_longer_by_the_published_curve():
    growth = fit_scaling(MINDSPEED).growth
    one, many = beyond_roofline("ascend910b", 8), beyond_roofline("ascend910b", 512)
    ratio = (1 + 9 * growth) / (1 + 3 * growth)
    assert 1.05 < ratio < 1.09
    for name in ("value", "low", "high"):
        assert getattr(many, name) / getattr(one, name) == pytest.approx(ratio)
    assert beyond_roofline("ascend910", 1536).value == pytest.approx(1.6155)
