"""pass@k against the enumeration of every draw, and the bootstrap against the distribution it stands for."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.evaluation.reports.estimators import curve, interval, pass_at_k, pass_rate, pass_rates, table

DRAWS = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@settings(deadline=None)
@given(DRAWS)
def test_pass_at_k_is_the_share_of_draws_with_a_pass(draw):
    n, c, k = draw
    outcomes = [True] * c + [False] * (n - c)
    draws = list(combinations(outcomes, k))
    exact = Fraction(sum(map(any, draws)), len(draws))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


@settings(deadline=None)
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
    assert (interval(np.ones((5, 2))) == 1).all()
