"""The fitted law against synthetic losses whose law is known."""

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.ladder.fit import Point, PowerLaw, band, bootstrap, fit

TRUE = PowerLaw(e=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28)  # Hoffmann et al. 2022
SIZES, TOKENS = (1e5, 3e5, 1e6, 3e6), (1e6, 3e6, 1e7, 3e7)
LARGER = (3e7, 3e8)  # a hundred times the compute of the largest run


def runs(noise=0.0, seed=0, seeds=1, law=TRUE):
    generator = np.random.default_rng(seed)
    return [
        Point(int(n), int(d), law.loss(n, d) * (1 + noise * generator.normal()))
        for n in SIZES
        for d in TOKENS
        for _ in range(seeds)
    ]


@pytest.mark.parametrize("law", [TRUE, PowerLaw(0.9, 30.0, 0.2, 3000.0, 0.45)], ids=["chinchilla", "another"])
def test_the_law_of_exact_losses_is_found(law):
    found = fit(runs(law=law))
    for name in ("e", "alpha", "beta"):
        assert getattr(found, name) == pytest.approx(getattr(law, name), rel=0.02), name
    assert found.loss(*LARGER) == pytest.approx(law.loss(*LARGER), rel=1e-3)


def test_a_term_that_is_not_there_gets_no_weight_below_zero():
    found = fit(runs(law=PowerLaw(2.0, 0.0, 0.3, 410.7, 0.28)))
    assert found.a >= 0 and found.e >= 0
    assert found.loss(*LARGER) == pytest.approx(2.0 + 410.7 * LARGER[1] ** -0.28, rel=1e-3)


def test_the_band_contains_the_truth_about_as_often_as_it_says_and_grows_with_distance():
    inside = 0
    for seed in range(8):
        points = runs(0.003, seed, seeds=2)
        law = fit(points)
        laws = bootstrap(points, law, count=30)
        low, high = band(laws, *LARGER)
        near = band(laws, SIZES[-1], TOKENS[-1])
        assert low < law.loss(*LARGER) < high and near[1] - near[0] < high - low
        inside += low <= TRUE.loss(*LARGER) <= high
    assert inside >= 5  # seven are expected


def test_more_noise_gives_a_wider_band():
    widths = []
    for noise in (0.001, 0.01):
        points = runs(noise, seed=1)
        low, high = band(bootstrap(points, fit(points), count=40), *LARGER)
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def test_the_best_size_is_where_both_terms_fall_alike():
    """The minimum of A/N^a + B/D^b with N D = C / 6 has N = G (C / 6)^(b / (a + b)), G^(a + b) = a A / (b B)."""
    flops = 1e18
    parameters, tokens = TRUE.best(flops)
    total = TRUE.alpha + TRUE.beta
    g = (TRUE.alpha * TRUE.a / (TRUE.beta * TRUE.b)) ** (1 / total)
    assert parameters == pytest.approx(g * (flops / 6) ** (TRUE.beta / total), rel=0.02)
    assert 6 * parameters * tokens == pytest.approx(flops)


def test_an_exponent_at_the_end_of_its_range_is_reported():
    assert fit(runs()).undetermined == ()
    points = [Point(p.parameters, p.tokens, 2.0 + 410.7 * p.tokens**-0.28) for p in runs()]
    assert "beta" not in fit(points).undetermined
    steep = [Point(p.parameters, p.tokens, 2.0 + (1e5 / p.parameters) ** 3 + 410.7 * p.tokens**-0.28) for p in runs()]
    assert fit(steep).undetermined == ("alpha",)


@pytest.mark.parametrize("key,place", [("sizes", 0), ("tokens", 1)])
def test_two_sizes_or_two_token_counts_are_too_few_for_a_fit(key, place):
    two = (SIZES, TOKENS)[place][:2]
    points = [p for p in runs() if (p.parameters, p.tokens)[place] in two]
    with pytest.raises(UserError, match=f"{key}: finished runs have 2; a fit needs at least 3"):
        fit(points)
