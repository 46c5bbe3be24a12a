"""Tokens drawn by the compiled operator and by its twin of MindSpore's operators, against the exact distribution."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor
from scipy.stats import chisquare

from ms_codegeex.errors import UserError
from ms_codegeex.generation.composite import CompositeChoice
from ms_codegeex.generation.kernels.cells import KernelChoice
from ms_codegeex.generation.kernels.compiling import library_path
from ms_codegeex.generation.kernels.library import Library
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.slots import TokenChoice

LOGITS = np.log([0.4, 0.3, 0.15, 0.1, 0.05, 1e6])  # the last id has no token
ALLOWED = 5


def token_probabilities(logits: np.ndarray, settings: SamplingSettings, allowed: int) -> np.ndarray:
    """Probabilities float64 [V] after temperature, top-k and top-p, in that order; ids from `allowed` on get 0.

    Top-p keeps the smallest set of likeliest tokens whose probability reaches p, so the token that crosses p stays
    (CodeGeeX release). Ties at the top-k border all stay.
    """
    scores = np.asarray(logits, np.float64).copy()
    scores[allowed:] = -np.inf  # rows of the table that no token has
    if settings.temperature == 0:
        chosen = np.zeros_like(scores)
        chosen[int(np.argmax(scores))] = 1.0
        return chosen
    scores /= settings.temperature
    if 0 < settings.top_k < allowed:
        scores[scores < np.partition(scores, -settings.top_k)[-settings.top_k]] = -np.inf
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if settings.top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        probabilities[order[before >= settings.top_p]] = 0.0
        probabilities /= probabilities.sum()
    return probabilities


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


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.floats(0.05, 5), st.integers(0, 25), st.floats(0.01, 1.0)
)
def test_always_a_distribution_over_allowed_ids_that_keeps_the_best(logits, temperature, top_k, top_p):
    allowed = len(logits) - 1
    p = token_probabilities(np.array(logits), SamplingSettings(5, temperature, top_k, top_p), allowed)
    assert p.sum() == pytest.approx(1.0) and (p >= 0).all() and (p[allowed:] == 0).all()
    assert p[:allowed][np.isclose(logits[:allowed], max(logits[:allowed]))].max() > 0


@pytest.fixture(scope="module", params=["compiled", "composite"])
def operator(request):
    """Ids and log-probabilities of rows of logits."""
    ms.set_context(mode=ms.GRAPH_MODE)
    if request.param == "composite":
        graph, dtype = CompositeChoice(), ms.float32
    elif library_path() is None:
        pytest.skip("no C++ compiler")
    else:
        graph, dtype = KernelChoice(Library(library_path(), 2)), ms.float64

    def choose(logits, choices, allowed):
        rows = np.array([choice.row(allowed) for choice in choices])
        out = graph(Tensor(np.asarray(logits, np.float32)), Tensor(rows, dtype)).asnumpy()
        return out[:, 0].astype(int), out[:, 1]

    return choose


ROWS, IDS = 1200, 64
CASES = [(1.0, 0, 1.0), (0.7, 0, 0.9), (2.5, 7, 1.0), (1.3, 20, 0.6), (0.4, 100, 0.95), (1.0, 1, 1.0), (1.0, 0, 1e-6)]


def distribution(logits, case, allowed=60):
    temperature, top_k, top_p = case
    return token_probabilities(logits, SamplingSettings(5, temperature, top_k, top_p), allowed)


def random_rows():
    return np.random.default_rng(3).normal(size=(ROWS, IDS)).astype(np.float32) * 2


def test_each_number_draws_the_token_of_the_exact_distribution(operator):
    logits, uniform = random_rows(), np.random.default_rng(4).random(ROWS)
    cases = [CASES[i % len(CASES)] for i in range(ROWS)]
    ids, scores = operator(logits, [TokenChoice(*case, u) for case, u in zip(cases, uniform, strict=True)], 60)
    expected = []
    for row, case, u in zip(logits, cases, uniform, strict=True):
        sums = distribution(row, case).cumsum()
        expected.append(int((sums / sums[-1]).searchsorted(u, side="right")))
    assert (ids != expected).sum() <= 2  # numbers that fall on a border to FP32 precision
    wide = logits.astype(np.float64)
    log_sums = np.log(np.exp(wide).sum(1))  # over all rows of the table, without a temperature
    assert np.abs(scores - (wide[np.arange(ROWS), ids] - log_sums)).max() < 1e-5


@pytest.mark.parametrize("case", CASES[1:4])
def test_draws_follow_the_distribution(operator, case):
    row = np.random.default_rng(5).normal(size=IDS).astype(np.float32)
    uniform = np.random.default_rng(6).random(ROWS)
    ids, _ = operator(np.tile(row, (ROWS, 1)), [TokenChoice(*case, u) for u in uniform], 60)
    p = distribution(row, case)
    counts = np.bincount(ids, minlength=IDS)
    assert counts[p == 0].sum() == 0
    assert chisquare(counts[p > 0], p[p > 0] * ROWS).pvalue > 0.001


def test_greedy_and_given_tokens_and_equal_ones(operator):
    logits = random_rows()
    logits[:, 60:] += 100  # ids without a token
    logits[0, :] = 0.0
    logits[1, [5, 9]] = 50.0
    choices = [TokenChoice() for _ in range(ROWS)]
    choices[2] = TokenChoice(given=63)
    half = TokenChoice(1.0, 0, 0.5, 0.999999)  # of 60 equal ones the first 30 make up the half
    choices[0] = half
    ids, _ = operator(logits, choices, 60)
    expected = logits[:, :60].argmax(1)
    expected[0], expected[2] = 29, 63
    assert ids.tolist() == expected.tolist() and ids[1] == 5


@pytest.mark.parametrize("field,value", [("max_new_tokens", 0), ("temperature", -1), ("top_k", -2), ("top_p", 0.0)])
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=field):
        SamplingSettings(**{field: value})
