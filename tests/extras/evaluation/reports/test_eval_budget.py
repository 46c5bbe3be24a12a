"""Budgets over languages against enumeration."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.extras.evaluation.reports import budget


def enumerated(counts: budget.LanguageCounts, parts: dict[str, int]) -> float:
    draws = []
    for language, part in parts.items():
        drawn, passed = counts[language]
        draws.append(list(itertools.combinations([True] * passed + [False] * (drawn - passed), part)))
    choices = list(itertools.product(*draws))
    return sum(any(any(draw) for draw in choice) for choice in choices) / len(choices)


COUNTS = st.integers(1, 5).flatmap(lambda drawn: st.tuples(st.just(drawn), st.integers(0, drawn)))


@settings(max_examples=60)
@given(st.fixed_dictionaries({"cpp": COUNTS, "go": COUNTS, "js": COUNTS}), st.data())
def test_solve_rate_equals_enumeration(counts, data):
    parts = {name: data.draw(st.integers(0, drawn)) for name, (drawn, _) in counts.items()}
    assert budget.solve_rate(counts, parts) == pytest.approx(enumerated(counts, parts), abs=1e-12)


@pytest.mark.parametrize(
    ("samples", "weights", "parts"),
    [
        (10, (1, 1, 1, 1, 1), [2, 2, 2, 2, 2]),
        (100, budget.WEIGHTS["CodeGeeX"], [33, 6, 20, 32, 9]),
        (10, budget.WEIGHTS["CodeGeeX"], [3, 1, 2, 3, 1]),  # 3.3 0.6 2.0 3.2 0.9
        (10, budget.WEIGHTS["CodeGen"], [4, 1, 3, 1, 1]),  # 3.8 0.8 2.9 1.7 0.8: 11, of which 1.7 gives most
        (15, budget.WEIGHTS["InCoder"], [2, 0, 1, 7, 5]),  # 1.8 0.6 0.75 6.75 5.1: 16, of which 0.6 gives most
        (1, (1, 1), [0, 1]),
        (2, (1, 1, 1), [0, 1, 1]),
        (0, (3, 1), [0, 0]),
    ],
)
def test_split(samples: int, weights: tuple[int, ...], parts: list[int]):
    assert budget.split(samples, weights) == parts


@given(st.integers(0, 300), st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_split_is_whole_and_near(samples: int, weights: list[int]):
    parts = budget.split(samples, weights)
    assert sum(parts) == samples
    assert all(abs(part - samples * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True))


def test_published_weights_are_per_cent():
    assert [sum(weights) for weights in budget.WEIGHTS.values()] == [100, 100, 100]


def test_strategies_by_hand():
    """Two problems, two languages: C++ solves the first with half of its samples, Go the second with all."""
    problems = [{"cpp": (4, 2), "go": (4, 0)}, {"cpp": (4, 0), "go": (4, 4)}]
    rows = {row["strategy"]: row["rate"] for row in budget.strategies(problems, 2, {"cpp": 1, "go": 1})}
    half = 1 - 1 / 6  # two of four, of which two pass
    assert rows == pytest.approx({"best single": 0.5, "uniform": 0.75, "weighted": 0.75, "max": (half + 1) / 2})


def test_table_of_a_report():
    """Only problems of all languages and affordable budgets count; Rust is not one of the paper's languages."""
    counts = {"cpp": {1: (20, 3), 2: (20, 0), 9: (20, 1)}, "python": {1: (20, 20), 2: (10, 0)}}
    counts |= {"rust": {1: (20, 20)}, "js": {}}
    rows = budget.table(counts, budgets=(5, 10, 15))
    assert [(row["samples"], row["strategy"]) for row in rows] == [
        (samples, name) for samples in (5, 10) for name in ("best single", "uniform", "weighted", "max")
    ]
    assert rows[0]["rate"] == 0.5 and rows[0]["split"] == "python 5"
    assert rows[6]["split"] == "cpp 5, python 5"
    assert budget.table({"cpp": counts["cpp"], "rust": counts["rust"]}) == []
