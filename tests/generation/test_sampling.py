import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.errors import UserError
from ms_codegeex.generation.sampling import SamplingSettings, sample, token_probabilities

LOGITS = np.log([0.4, 0.3, 0.15, 0.1, 0.05, 1e6])  # the last id has no token
ALLOWED = 5


def probabilities(**changes):
    return token_probabilities(LOGITS, SamplingSettings(**{"temperature": 1.0, "top_p": 1.0, **changes}), ALLOWED)


def test_plain_sampling_is_the_softmax_over_allowed_ids():
    np.testing.assert_allclose(probabilities(), [0.4, 0.3, 0.15, 0.1, 0.05, 0.0])


def test_temperature_divides_the_logits():
    expected = np.array([0.4, 0.3, 0.15, 0.1, 0.05]) ** 2
    np.testing.assert_allclose(probabilities(temperature=0.5)[:5], expected / expected.sum())


def test_top_k_keeps_the_likeliest():
    np.testing.assert_allclose(probabilities(top_k=2), np.array([4, 3, 0, 0, 0, 0]) / 7)


@pytest.mark.parametrize("p,kept", [(0.3, 1), (0.39, 1), (0.41, 2), (0.7, 2), (0.85001, 4), (1.0, 5)])
def test_top_p_keeps_the_token_that_crosses_p(p, kept):
    assert (probabilities(top_p=p) > 0).sum() == kept


def test_greedy_takes_the_likeliest_allowed_id():
    settings_ = SamplingSettings(temperature=0.0)
    assert sample(LOGITS, settings_, ALLOWED, np.random.default_rng(0)) == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.floats(0.05, 5), st.integers(0, 25), st.floats(0.01, 1.0)
)
def test_always_a_distribution_over_allowed_ids_that_keeps_the_best(logits, temperature, top_k, top_p):
    allowed = len(logits) - 1
    p = token_probabilities(np.array(logits), SamplingSettings(5, temperature, top_k, top_p), allowed)
    assert p.sum() == pytest.approx(1.0) and (p >= 0).all() and (p[allowed:] == 0).all()
    assert p[:allowed][np.isclose(logits[:allowed], max(logits[:allowed]))].max() > 0


def test_samples_follow_the_distribution_and_the_seed():
    setting = SamplingSettings(temperature=1.0, top_p=1.0)
    draws = [[sample(LOGITS, setting, ALLOWED, g) for _ in range(3000)] for g in map(np.random.default_rng, (1, 1, 2))]
    assert draws[0] == draws[1] != draws[2]
    shares = np.bincount(draws[0], minlength=6) / 3000
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.15, 0.1, 0.05, 0.0], atol=0.03)


@pytest.mark.parametrize("field,value", [("max_new_tokens", 0), ("temperature", -1), ("top_k", -2), ("top_p", 0.0)])
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=field):
        SamplingSettings(**{field: value})
