"""Tokens drawn by the compiled operator and by its twin of MindSpore's operators, against the exact distribution.

The twin's graph takes seconds to compile for each shape of its inputs, so one of the largest shape serves all tests.
"""

from functools import cache

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import chisquare

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.generation.choice import TokenChoice, check_finite, logit_edits, pack, token_choice, uniform, unpack
from ms_codegeex.generation.composite import CompositeChoice
from ms_codegeex.generation.kernels.library import Library
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.kernels.compiling import library_path

LOGITS = np.log([0.4, 0.3, 0.15, 0.1, 0.05, 1e6])  # the last id has no token
ALLOWED = 5
NEUTRAL = {"temperature": 1.0, "top_p": 1.0}


def token_probabilities(logits: np.ndarray, settings: SamplingSettings, allowed: int) -> np.ndarray:
    """Probabilities float64 [V] after temperature, top-k, top-p and min-p, in that order; ids from `allowed` on get 0.

    Top-p keeps the smallest set of likeliest tokens whose probability reaches p, so the token that crosses p stays
    (CodeGeeX release). Ties at the top-k border all stay. Min-p keeps tokens at least p times as probable as the
    likeliest (Nguyen et al., 2024, section 3).
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
    probabilities[probabilities < settings.min_p * probabilities.max()] = 0.0
    probabilities /= probabilities.sum()
    return probabilities


def probabilities(**changes):
    return token_probabilities(LOGITS, SamplingSettings(**{**NEUTRAL, **changes}), ALLOWED)


def test_the_oracle_by_hand():
    np.testing.assert_allclose(probabilities(), [0.4, 0.3, 0.15, 0.1, 0.05, 0.0])
    np.testing.assert_allclose(probabilities(top_k=2), np.array([4, 3, 0, 0, 0, 0]) / 7)
    expected = np.array([0.4, 0.3, 0.15, 0.1, 0.05, 0.0]) ** 2
    np.testing.assert_allclose(probabilities(temperature=0.5), expected / expected.sum())
    kept = {p: (probabilities(top_p=p) > 0).sum() for p in (0.3, 0.39, 0.41, 0.7, 0.85001, 1.0)}
    assert list(kept.values()) == [1, 1, 2, 2, 4, 5]  # the token that crosses p stays
    kept = {p: (probabilities(min_p=max(0, p - 1e-9)) > 0).sum() for p in (0.0, 0.125, 0.2, 0.3, 0.75, 0.76, 1.0)}
    assert list(kept.values()) == [5, 5, 4, 3, 2, 1, 1]


@pytest.fixture(scope="module")
def composite(graph_mode_throughout):
    """What the graph that draws chooses. A further row has the most edits and likeliest tokens of all."""
    cell, further = CompositeChoice(draws=True), TokenChoice(edits=np.array([[3, 1.0, 0.0], [4, 1.0, 0.0]]), best=60)

    def choose(logits, choices, allowed):
        assert allowed == further.best
        padding = np.zeros((ROWS + 1 - len(logits), IDS), np.float32)
        found = output(cell, np.concatenate([logits, padding]), [*choices, *[further] * len(padding)], allowed)
        return unpack(found, choices)

    return choose


@pytest.fixture(scope="module", params=["compiled", "composite"])
def operator(request):
    """What is chosen for rows of logits."""
    if request.param == "composite":
        return request.getfixturevalue("composite")
    if library_path() is None:
        pytest.skip("no C++ compiler")
    library = Library(library_path(), 2)

    def compiled(logits, choices, allowed):
        settings, edits, places = pack(choices, len(logits), allowed)
        found = np.empty((len(logits), len(places), 2))
        library.run("choose", np.asarray(logits, np.float32), settings, edits, places, found)
        return unpack(found, choices)

    return compiled


def output(cell, logits, choices, allowed):
    """What the operator gives."""
    settings, edits, places = pack(choices, len(logits), allowed)
    inputs = (Tensor(settings, ms.float32), Tensor(edits, ms.float32), Tensor(places))
    return cell(Tensor(np.asarray(logits, np.float32)), *inputs).asnumpy()


def test_without_a_draw_nothing_needs_to_be_sorted(composite):
    logits = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    edits = np.array([[3, 1.0, 9.0], [5, 1.0, 0.0]])
    hot = TokenChoice(temperature=1.0, given=63)
    choices = [TokenChoice(best=2), TokenChoice(given=7), hot, TokenChoice(edits=edits)]
    found = unpack(output(CompositeChoice(draws=False), logits, choices, 60), choices)
    assert found == composite(logits, choices, 60) and [one.token for one in found[1:]] == [7, 63, 3]


ROWS, IDS = 1200, 64
CASES = [
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 2.5, "top_k": 7},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.6},
    {"temperature": 1.5, "min_p": 0.1},
    {"temperature": 0.4, "top_k": 100, "top_p": 0.95},
    {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.3},
    {"top_k": 1},
    {"top_p": 1e-6},
    {"min_p": 1.0},
]


def distribution(logits, case, allowed=60):
    return token_probabilities(logits, SamplingSettings(**{**NEUTRAL, **case}), allowed)


def drawn(case: dict[str, float], number: float, **others) -> TokenChoice:
    """The choice that `number` in [0, 1) makes."""
    return TokenChoice(**{**NEUTRAL, **case}, uniform=number, **others)


def random_rows():
    return np.random.default_rng(3).normal(size=(ROWS, IDS)).astype(np.float32) * 2


def test_each_number_draws_the_token_of_the_exact_distribution(operator):
    logits, numbers = random_rows(), np.random.default_rng(4).random(ROWS)
    cases = [CASES[i % len(CASES)] for i in range(ROWS)]
    found = operator(logits, [drawn(case, u) for case, u in zip(cases, numbers, strict=True)], 60)
    ids, scores = np.array([one.token for one in found]), np.array([one.score for one in found])
    expected = []
    for row, case, u in zip(logits, cases, numbers, strict=True):
        sums = distribution(row, case).cumsum()
        expected.append(int((sums / sums[-1]).searchsorted(u, side="right")))
    assert (ids != expected).sum() <= 2  # numbers that fall on a border to FP32 precision
    wide = logits.astype(np.float64)
    log_sums = np.log(np.exp(wide).sum(1))  # over all rows of the table, without a temperature
    assert np.abs(scores - (wide[np.arange(ROWS), ids] - log_sums)).max() < 1e-5


def test_greedy_and_given_tokens_and_equal_ones(operator):
    logits = random_rows()
    logits[:, 60:] += 100  # ids without a token
    logits[0, :] = 0.0
    logits[1, [5, 9]] = 50.0
    choices = [TokenChoice() for _ in range(ROWS)]
    choices[2] = TokenChoice(given=63)
    half = drawn({"top_p": 0.5}, 0.999999)  # of 60 equal ones the first 30 make up the half
    choices[0] = half
    ids = [one.token for one in operator(logits, choices, 60)]
    expected = logits[:, :60].argmax(1)
    expected[0], expected[2] = 29, 63
    assert ids == expected.tolist() and ids[1] == 5


PENALTIES = {
    "repetition": {"repetition_penalty": 1.3},
    "less than 1": {"repetition_penalty": 0.6},
    "frequency": {"frequency_penalty": 0.7, "presence_penalty": -0.2},
    "bias": {"logit_bias": {3: 2.5, 59: -100.0, 7: -1.0}},
}
PENALTIES["all"] = {"repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.3}
PENALTIES["all"]["logit_bias"] = {0: 1.0, 5: -100.0}


def processed(logits, settings, prompt, output):
    """One row of logits after transformers' processors, in OpenAI's formulas where it has none."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    scores, ids = torch.tensor(logits)[None], torch.tensor([[*prompt, *output]])
    if settings.repetition_penalty != 1:
        scores = transformers.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)(ids, scores)
    scores = scores.numpy().copy()
    for i in range(len(logits)):
        scores[0, i] -= output.count(i) * settings.frequency_penalty + (output.count(i) > 0) * settings.presence_penalty
    if settings.logit_bias:
        bias = {(i,): value for i, value in settings.logit_bias.items()}
        scores = transformers.SequenceBiasLogitsProcessor(bias)(ids, torch.tensor(scores)).numpy()
    return scores[0]


def histories(count):
    generator = np.random.default_rng(9)
    for _ in range(count):
        prompt, output = (generator.integers(0, 60, generator.integers(minimum, 40)).tolist() for minimum in (1, 0))
        yield prompt, output


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_and_bias_are_those_of_transformers_processors(name):
    settings, logits = SamplingSettings(**PENALTIES[name]), random_rows()
    for row, (prompt, output) in zip(logits, histories(50), strict=False):
        edited, edits = row.copy(), logit_edits(settings, prompt, output)
        for i, factor, term in edits:
            x = edited[int(i)]
            edited[int(i)] = (x / np.float32(factor) if x > 0 else x * np.float32(factor)) + np.float32(term)
        assert len(set(edits[:, 0])) == len(edits)
        np.testing.assert_allclose(edited, processed(row, settings, prompt, output), rtol=0, atol=1e-5)


@cache
def edited_rows():
    """Choices with penalties and biases for the rows, and the ids that they choose by transformers' processors."""
    logits, rows = random_rows(), list(histories(ROWS))
    cases = [
        SamplingSettings(temperature=0.9, top_p=0.9, seed=i, **list(PENALTIES.values())[i % 5]) for i in range(ROWS)
    ]
    choices = [token_choice(case, *history) for case, history in zip(cases, rows, strict=True)]
    expected = []
    for row, case, history, choice in zip(logits, cases, rows, choices, strict=True):
        sums = token_probabilities(processed(row, case, *history), case, 60).cumsum()
        expected.append(int((sums / sums[-1]).searchsorted(choice.uniform, side="right")))
    return choices, expected


def test_edited_logits_decide_and_the_others_are_reported(operator):
    logits, (choices, expected) = random_rows(), edited_rows()
    found = operator(logits, choices, 60)
    ids = np.array([one.token for one in found])
    assert (ids != expected).sum() <= 2
    wide = logits.astype(np.float64)
    scores = wide[np.arange(ROWS), ids] - np.log(np.exp(wide).sum(1))
    assert np.abs(scores - [one.score for one in found]).max() < 1e-5


def test_the_likeliest_tokens_are_reported_for_those_who_ask(operator):
    logits = random_rows()[:8]
    logits[:, 60:] += 100
    logits[1, [5, 9, 30]] = 50.0  # equal ones by id
    edits = np.array([[5.0, 1.0, -1e5]])
    asked = [0, 5, 3, 1, 0, 8, 2, 7]
    found = operator(logits, [TokenChoice(edits=edits, best=k) for k in asked], 60)
    wide = logits.astype(np.float64)
    scores = wide - wide.max(1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    for row, k, one in zip(scores, asked, found, strict=True):
        order = np.argsort(-row[:60], kind="stable")[:k]
        assert [i for i, _ in one.best] == order.tolist()
        np.testing.assert_allclose([p for _, p in one.best], row[order], atol=2e-5)
    assert found[1].token == 9 and found[1].best[0][0] == 5  # what is edited is reported as it was
    (alone,) = operator(logits[:1], [TokenChoice(best=200)], 60)
    assert len(alone.best) == 60  # all that there are


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_one_logit_that_is_not_finite_spoils_its_row_alone(operator, odd):
    """Of any id: one that may not be chosen takes part in the softmax too."""
    logits = random_rows()[:12]
    choices = [TokenChoice(temperature=1.0, uniform=0.3), TokenChoice(), TokenChoice(given=7), TokenChoice(best=3)] * 3
    sound = operator(logits, choices, 60)
    for row, place in enumerate((0, 9, 30, 59, 60, 63)):
        wrong = logits.copy()
        wrong[row, place] = odd
        found = operator(wrong, choices, 60)
        assert np.isnan(found[row].score) and all(np.isnan(score) for _, score in found[row].best)
        for one, other in zip(found[:row] + found[row + 1 :], sound[:row] + sound[row + 1 :], strict=True):
            assert one.token == other.token and one.score == pytest.approx(other.score, abs=1e-5)
            assert [number for number, _ in one.best] == [number for number, _ in other.best]
        with pytest.raises(RunFailure, match="not finite"):
            check_finite(found[row].score)


def test_a_number_depends_on_the_seed_and_the_place_only():
    numbers = {(s, i): uniform(s, i) for s in (0, 1, 2**64 - 1) for i in range(30)}
    assert len(set(numbers.values())) == len(numbers) and all(0 <= u < 1 for u in numbers.values())
    found = [token_choice(SamplingSettings(seed=1), [5], [6] * i).uniform for i in (0, 7)]
    assert found == [numbers[1, 0], numbers[1, 7]] == [uniform(1, 0), uniform(1, 7)]


def test_numbers_are_uniform():
    counts = np.histogram([uniform(n, i) for i in range(500) for n in range(4)], bins=20, range=(0, 1))[0]
    assert chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    "field,value",
    [
        ("temperature: 1000000.0 is out of range; give 0 to less than 100", 1e6),
        ("max_new_tokens", 0),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_k", -2),
        ("top_k", 2**30 + 1),
        ("top_p", 0.0),
        ("seed", -1),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", float("inf")),
        ("presence_penalty", 101),
        ("logit_bias", {-1: 2.0}),
        ("logit_bias", {3: float("nan")}),
        ("log_probabilities", 257),
        ("stop", ("a", "")),
        ("n", 0),
        ("beams", 65),
        ("length_penalty", float("nan")),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(UserError, match=field):
        SamplingSettings(**{field.partition(":")[0]: value})


def test_no_more_edits_are_packed_than_there_are_ids():
    for count, width in ((0, 1), (1, 1), (2, 64), (300, 512), (32768, 32768), (32769, 52224), (52224, 52224)):
        edits = np.stack([np.arange(count), np.ones(count), np.zeros(count)], 1)
        assert pack([TokenChoice(edits=edits)], 1, 52224)[1].shape == (1, width, 3)


@pytest.mark.parametrize("more", [{"n": 5}, {"repetition_penalty": 1.1}, {"logit_bias": {3: 1.0}}])
def test_what_a_beam_search_does_not_take_is_refused(more):
    SamplingSettings(beams=4, n=4)
    with pytest.raises(UserError, match="beams"):
        SamplingSettings(beams=4, **more)
