"""pass@k against the enumeration of every draw, and the bootstrap against the distribution it stands for."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ms_codegeex.extras.evaluation.reports.estimators import (
    curve,
    difference_interval,
    interval,
    pass_at_k,
    pass_rate,
    pass_rates,
    rate_interval,
    table,
)

DRAWS = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(DRAWS)
def test_pass_at_k_is_the_share_of_draws_with_a_pass(draw):
    n, c, k = draw
    draws = list(combinations([True] * c + [False] * (n - c), k))
    exact = Fraction(sum(map(any, draws)), len(draws))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_stays_exact_for_many_samples(draw):
    n, c, k = draw
    assert pass_at_k(n, c, k) == pytest.approx(float(1 - Fraction(comb(n - c, k), comb(n, k))), abs=1e-11)


@pytest.mark.parametrize("wrong", [(3, 4, 1), (3, 1, 4), (3, 1, 0), (3, -1, 1), (0, 0, 1)])
def test_draws_that_do_not_exist(wrong):
    with pytest.raises(ValueError):
        pass_at_k(*wrong)


def test_means_over_problems_and_why_a_k_is_missing():
    counts = [(4, 1), (2, 2), (4, 0)]
    rates = pass_rates(counts, [1, 2, 10])
    assert rates["1"]["value"] == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert rates["2"]["value"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert rates["10"] == {"missing": "a problem has 2 samples, pass@10 needs 10 of each"}
    assert curve(counts) == pytest.approx([rates["1"]["value"], rates["2"]["value"]])
    assert pass_rate(counts)["value"] == rates["1"]["value"]
    assert table(counts, [1]).shape == (3, 1)


def test_interval_is_that_of_the_binomial_it_resamples():
    """50 problems of which 20 are solved: resampled means are Binomial(50, 0.4) / 50."""
    values = np.array([[1.0]] * 20 + [[0.0]] * 30)
    low, high = interval(values)[:, 0]
    exact = np.cumsum([comb(50, i) * 0.4**i * 0.6 ** (50 - i) for i in range(51)])
    assert low == pytest.approx(np.searchsorted(exact, 0.025) / 50, abs=0.021)
    assert high == pytest.approx(np.searchsorted(exact, 0.975) / 50, abs=0.021)
    assert (interval(values) == interval(values)).all()
    many = interval(np.repeat(values, 40, axis=0))[:, 0]  # so many that it is normal: 95 %, not 90 %
    assert many == pytest.approx(0.4 + np.array([-1.96, 1.96]) * np.sqrt(0.4 * 0.6 / 2000), abs=0.0015)
    assert (interval(np.ones((5, 2))) == 1).all()


@pytest.mark.parametrize("count", [1, 3, 20, 164])
@pytest.mark.parametrize("passed", [0.0, 1.0, 0.5])
def test_nothing_is_certain(count, passed):
    """Wilson's interval holds the shares p for which the normal test of p does not reject what was seen."""
    low, high = rate_interval(np.full(count, passed))
    assert low < high and low <= passed <= high
    for bound in (low, high):
        if 0 < bound < 1:
            deviations = abs(passed - bound) / np.sqrt(bound * (1 - bound) / count)
            assert deviations == pytest.approx(stats.norm.ppf(0.975))
    assert pass_rate([(1, int(passed))] * count)["high"] == rate_interval(np.full(count, float(int(passed))))[1]


def test_away_from_the_ends_the_bootstrap_stays():
    values = np.arange(60) % 2 / 1.0
    assert rate_interval(values) == tuple(interval(values[:, None])[:, 0])


def test_what_is_rounded_to_certainty_is_not_certain_either():
    """pass@10 of three problems of which three quarters of 200 samples pass, as published settings draw them."""
    near = pass_rates([(200, 150), (200, 151), (200, 152)], [10])["10"]
    assert near["value"] > 0.99999 and near["low"] < 0.5
    low, high = difference_interval(np.array([0.5, 0.5, 0.5000001]))
    assert low < 0 and high == 1.0
    low, high = rate_interval(np.array([0.9, 0.9, 0.91]))
    assert (low, high) == pytest.approx(rate_interval(np.full(3, 0.90333)), abs=1e-4) and high - low > 0.5
    assert difference_interval(np.array([1, 0.9, 1]))[0] < 0.5


def test_equal_differences_are_not_certain_either():
    assert difference_interval(np.zeros(3)) == pytest.approx((-0.5615, 0.5615), abs=1e-4)
    low, high = difference_interval(np.ones(164))
    assert 0.97 < low < high == 1.0
