"""L(N, D) = E + A / N^alpha + B / D^beta, the law of Hoffmann et al. 2022, fitted to the losses of small runs.

For given exponents the law is linear in E, A and B, which least squares find exactly; the exponents are searched on a
grid that is refined. Errors are relative to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ms_codegeex.base.errors import UserError

MINIMUM, MAXIMUM, POINTS, ROUNDS = 0.02, 2.0, 9, 9  # exponents
MARGIN = 0.01  # an exponent this near to an end of its range counts as at that end
FEWEST = 3  # sizes, and numbers of tokens: with two, any exponent fits
FLOPS_PER_WEIGHT_AND_TOKEN = 6  # forward and backward
INTERVAL = (5.0, 95.0)  # per cent


@dataclass(frozen=True)
class Point:
    """A finished run."""

    parameters: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law; losses in nats per token."""

    e: float
    a: float
    alpha: float
    b: float
    beta: float

    @property
    def undetermined(self) -> tuple[str, ...]:
        """Exponents at an end of their range: the runs do not determine them."""
        ends = MINIMUM * (1 + MARGIN), MAXIMUM * (1 - MARGIN)
        return tuple(name for name in ("alpha", "beta") if not ends[0] < getattr(self, name) < ends[1])

    def loss(self, parameters: float, tokens: float) -> float:
        """The loss of a model with this many parameters after this many tokens."""
        return float(self.e + self.a * parameters**-self.alpha + self.b * tokens**-self.beta)

    def best(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss for this compute, 6 FLOPs per parameter and token."""
        product = flops / FLOPS_PER_WEIGHT_AND_TOKEN
        parameters = np.exp(np.linspace(np.log(1e3), np.log(product / 1e3), 4000))
        losses = self.e + self.a * parameters**-self.alpha + self.b * (product / parameters) ** -self.beta
        chosen = float(parameters[int(np.argmin(losses))])
        return chosen, product / chosen


def fit(points: Sequence[Point]) -> PowerLaw:
    """The law with the smallest squared relative error, E, A and B not negative.

    Raises:
        UserError: fewer than three sizes or numbers of tokens, which any exponent would fit.
    """
    for name, distinct in (("sizes", {p.parameters for p in points}), ("tokens", {p.tokens for p in points})):
        if len(distinct) < FEWEST:
            raise UserError(f"{name}: finished runs have {len(distinct)}; a fit needs at least {FEWEST} different ones")
    return _fit(*_columns(points))


def _columns(points: Sequence[Point]) -> np.ndarray:
    """Parameters, tokens and losses: [3, n]."""
    return np.array([(p.parameters, p.tokens, p.loss) for p in points], float).T


def _fit(sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray) -> PowerLaw:
    # geometric means keep the columns of the linear problem near 1
    size, token = (float(np.exp(np.log(values).mean())) for values in (sizes, tokens))
    low, high = np.full(2, MINIMUM), np.full(2, MAXIMUM)
    for _ in range(ROUNDS):
        axes = [np.linspace(low[i], high[i], POINTS) for i in range(2)]
        alphas, betas = (grid.ravel() for grid in np.meshgrid(*axes, indexing="ij"))
        of_size, of_token = (sizes / size) ** -alphas[:, None], (tokens / token) ** -betas[:, None]
        columns = np.stack([np.ones_like(of_size), of_size, of_token], -1)
        errors, solutions = _least_squares(columns / losses[:, None])
        best = int(np.argmin(errors))
        centre, step = np.array([alphas[best], betas[best]]), (high - low) / (POINTS - 1)
        low, high = np.maximum(centre - 2 * step, MINIMUM), np.minimum(centre + 2 * step, MAXIMUM)
    e, a, b = solutions[best]
    alpha, beta = centre
    return PowerLaw(float(e), float(a * size**alpha), float(alpha), float(b * token**beta), float(beta))


def _least_squares(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each [n, 3] of `columns` the non-negative x with the smallest |columns x - 1|², and that square."""
    count, _, width = columns.shape
    errors, solutions = np.full(count, np.inf), np.zeros((count, width))
    for size in range(width, 0, -1):  # fewer columns cannot improve on a solution above zero
        rows = np.flatnonzero(np.isinf(errors))
        for chosen in map(list, combinations(range(width), size)):
            part = columns[rows][:, :, chosen]
            gram = part.swapaxes(1, 2) @ part
            gram = gram + 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            x = np.linalg.solve(gram, part.sum(1)[..., None])[..., 0]
            error = np.square((part @ x[..., None])[..., 0] - 1).sum(1)
            better = (x >= 0).all(1) & (error < errors[rows])
            errors[rows[better]] = error[better]
            solutions[rows[better]] = 0.0
            solutions[np.ix_(rows[better], chosen)] = x[better]
    return errors, solutions


def bootstrap(points: Sequence[Point], law: PowerLaw, count: int = 100, seed: int = 0) -> list[PowerLaw]:
    """Laws fitted again to what the runs might have given: each loss of the law, times the error of a random run.

    Errors are scaled up, because fitting five numbers has made them smaller.
    """
    sizes, tokens, losses = _columns(points)
    expected = np.array([law.loss(p.parameters, p.tokens) for p in points])
    errors = losses / expected - 1
    errors = (errors - errors.mean()) * np.sqrt(len(points) / max(1, len(points) - 5))
    generator = np.random.default_rng(seed)
    return [_fit(sizes, tokens, expected * (1 + generator.choice(errors, len(errors)))) for _ in range(count)]


def band(laws: Sequence[PowerLaw], parameters: float, tokens: float) -> tuple[float, float]:
    """The interval that holds nine in ten of the laws' losses for this size and number of tokens."""
    low, high = np.percentile([law.loss(parameters, tokens) for law in laws], INTERVAL)
    return float(low), float(high)
