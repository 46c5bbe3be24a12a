"""Distribute a budget of samples over languages: how often is a problem solved in at least one of them?

CodeGeeX (KDD 2023), section 4.3: the paper's five languages, budgets of 10 to 200 samples per problem. The published
values are in `published.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ms_codegeex.extras.evaluation.reports.estimators import pass_at_k

LANGUAGES = ("cpp", "go", "java", "python", "js")
# The published shares of the `weighted` strategy, by model, in the order of LANGUAGES.
WEIGHTS = {"CodeGeeX": (33, 6, 20, 32, 9), "CodeGen": (38, 8, 29, 17, 8), "InCoder": (12, 4, 5, 45, 34)}
BUDGETS = (10, 100)
LanguageCounts = Mapping[str, tuple[int, int]]  # language -> samples drawn, samples passed, of one problem


def split(budget: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights that sum to the budget. Shares are rounded; while the sum is off,
    the share with the largest error in that direction changes by one."""
    exact = [budget * weight / sum(weights) for weight in weights]
    parts = [int(share + 0.5) for share in exact]
    while (excess := sum(parts) - budget) != 0:
        step = 1 if excess > 0 else -1
        errors = [step * (part - share) for part, share in zip(parts, exact, strict=True)]
        parts[errors.index(max(errors))] -= step
    return parts


def solve_rate(counts: LanguageCounts, parts: Mapping[str, int]) -> float:
    """The probability that at least one sample passes if `parts` samples are drawn per language, without
    replacement: 1 - product of C(n-c, k) / C(n, k). `ValueError` if there are too few samples."""
    return 1.0 - math.prod(1.0 - pass_at_k(*counts[language], part) for language, part in parts.items() if part)


def mean_rate(problems: Sequence[LanguageCounts], parts: Mapping[str, int]) -> float:
    return sum(solve_rate(counts, parts) for counts in problems) / len(problems)


def strategies(problems: Sequence[LanguageCounts], budget: int, weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The rates of the four strategies over the languages that have weights. `best single` spends everything on the
    language with the best mean, `max` on the best language of each problem, which nobody knows in advance."""
    names = list(weights)
    alone = {name: mean_rate(problems, {name: budget}) for name in names}
    best = max(names, key=lambda name: alone[name])
    oracle = sum(max(solve_rate(counts, {name: budget}) for name in names) for counts in problems) / len(problems)
    rows = [{"samples": budget, "strategy": "best single", "rate": alone[best], "split": f"{best} {budget}"}]
    for strategy, shares in (("uniform", [1.0] * len(names)), ("weighted", list(weights.values()))):
        parts = dict(zip(names, split(budget, shares), strict=True))
        shown = ", ".join(f"{name} {part}" for name, part in parts.items())
        rows.append({"samples": budget, "strategy": strategy, "rate": mean_rate(problems, parts), "split": shown})
    return [*rows, {"samples": budget, "strategy": "max", "rate": oracle, "split": "the best language of each problem"}]


def table(counts: Mapping[str, Mapping[int, Any]], budgets: Sequence[int] = BUDGETS) -> list[dict[str, Any]]:
    """Rows of a report from language -> problem number -> (samples, passed). They cover the paper's languages found
    here, the problems that all have, and the budgets with enough samples; no rows for fewer than two languages."""
    weights = {name: share for name, share in zip(LANGUAGES, WEIGHTS["CodeGeeX"], strict=True) if counts.get(name)}
    if len(weights) < 2:
        return []
    common = sorted(set.intersection(*(set(counts[name]) for name in weights)))
    problems = [{name: counts[name][number] for name in weights} for number in common]
    fewest = min((drawn for each in problems for drawn, _ in each.values()), default=0)
    return [row for budget in budgets if budget <= fewest for row in strategies(problems, budget, weights)]
