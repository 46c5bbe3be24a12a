"""The operators of training against NumPy in float64, forward and backward, without MindSpore."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from ms_codegeex.formats.rounding import halves, quantise

EXACT = 1e-6  # of the largest number of a result
SUMMED = 4e-6  # the same of products of hundreds of terms, which are added one after the other


def numbers(seed: int, *shape: int) -> np.ndarray:
    """FP32, in memory of exactly this size: a sanitizer sees who reads beyond."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float = EXACT) -> None:
    """Each array as in float64."""
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() <= tolerance * np.abs(theirs).max()


def same_bits(kernels, run: Callable[[], Sequence[np.ndarray]]) -> Sequence[np.ndarray]:
    """The results of a run, which are the same for any number of threads."""
    expected = run()
    for threads in (1, 3, kernels.threads):
        kernels._library.use_threads(threads)
        assert all(np.array_equal(a, b) for a, b in zip(expected, run(), strict=True))
    return expected


def positions_of(ids: np.ndarray, end: int) -> np.ndarray:
    """How many earlier tokens of its document a token sees."""
    found = np.zeros_like(ids)
    for row, places in zip(ids, found, strict=True):
        for i in range(1, len(row)):
            places[i] = 0 if row[i - 1] == end else places[i - 1] + 1
    return found


def turned(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """x cos + swapped(x) sin, as `models.layers.Rotary`"""
    swapped, even = x.copy(), x.shape[-1] // 2 * 2
    swapped[..., 0:even:2], swapped[..., 1:even:2] = x[..., 1:even:2], x[..., 0:even:2]
    return x * cos + swapped * sin


def turned_back(y: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """the gradient of `turned`"""
    return turned(y, cos, turned(sin, np.zeros_like(sin), np.ones_like(sin)))


def attention(q, k, v, positions, heads, to_out, cos, sin) -> list[np.ndarray]:
    """Output and gradients with the whole matrix of scores, in float64."""
    (batch, seq), size = positions.shape, q.shape[1] // heads
    groups = k.shape[1] // size
    shared = heads // groups
    q, k, v, to_out = (
        x.astype(np.float64).reshape(batch, seq, -1, size).transpose(0, 2, 1, 3) for x in (q, k, v, to_out)
    )
    cos, sin = cos.astype(np.float64), sin.astype(np.float64)
    q, k = turned(q, cos, sin), turned(k, cos, sin)
    keys, values = k.repeat(shared, 1), v.repeat(shared, 1)
    i = np.arange(seq)
    visible = (i <= i[:, None]) & (i >= (i - positions)[:, :, None])
    scores = np.where(visible[:, None], q @ keys.swapaxes(2, 3) / math.sqrt(size), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    to_weights = to_out @ values.swapaxes(2, 3)
    to_scores = weights * (to_weights - (weights * to_weights).sum(-1, keepdims=True)) / math.sqrt(size)
    to_k, to_v = (
        x.reshape(batch, groups, shared, seq, size).sum(2)
        for x in (to_scores.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ to_out)
    )
    results = weights @ values, turned_back(to_scores @ keys, cos, sin), turned_back(to_k, cos, sin), to_v
    return [x.transpose(0, 2, 1, 3).reshape(batch * seq, -1) for x in results]


def check_whole_attention(kernels, shape: tuple[int, int], heads: int, groups: int, size: int, rotary: bool) -> None:
    """`shape`: sequences and tokens. Documents end in the middle of sequences."""
    batch, seq = shape
    q, to_out = (numbers(seed, batch * seq, heads * size) for seed in (1, 2))
    k, v = (numbers(seed, batch * seq, groups * size) for seed in (3, 4))
    ids = np.random.default_rng(5).integers(0, 40, (batch, seq)).astype(np.int32)
    positions = np.empty_like(ids)
    assert not kernels.call("positions", None, ids, np.array([7], np.int32), positions)
    assert np.array_equal(positions, positions_of(ids, 7))
    angles = numbers(6, batch, 1, seq, size) * rotary
    cos, sin = np.cos(angles), np.sin(angles)
    cos[..., size // 2 * 2 :], sin[..., size // 2 * 2 :] = 1, 0
    given = (cos, sin) if rotary else (np.zeros(1, np.float32),) * 2

    def run() -> list[np.ndarray]:
        out, lse = np.empty_like(q), np.empty((batch, heads, seq), np.float32)
        assert not kernels.call("attend_whole", None, q, k, v, positions, *given, out, lse)
        gradients = [np.empty_like(x) for x in (q, k, v)]
        inputs = q, k, v, positions, *given, out, lse, to_out
        assert not kernels.call("attend_whole_back", None, *inputs, *gradients)
        return [out, *gradients]

    close(same_bits(kernels, run), attention(q, k, v, positions, heads, to_out, cos, sin))


def check_whole_norm(kernels, rows: int, h: int, rms: bool) -> None:
    """Forward and gradients of x, weight and bias."""
    x, to_y, weight = 3 * numbers(1, rows, h) + 1, numbers(2, rows, h), numbers(3, h)
    bias, epsilon = np.zeros(1, np.float32) if rms else numbers(4, h), np.array([1e-2], np.float32)

    def run() -> list[np.ndarray]:
        y, kept = np.empty_like(x), np.empty((rows, 2), np.float32)
        assert not kernels.call("norm_whole", None, x, weight, bias, epsilon, y, kept)
        gradients = [np.empty_like(each) for each in (x, weight, bias)]
        assert not kernels.call("norm_whole_back", None, x, weight, bias, epsilon, kept, to_y, *gradients)
        return [y, *gradients]

    wide, slope = x.astype(np.float64), to_y.astype(np.float64) * weight
    centred = wide if rms else wide - wide.mean(1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + np.float64(epsilon[0]))
    normal = centred * inverse
    to_x = slope - normal * (slope * normal).mean(1, keepdims=True)
    to_x = inverse * (to_x if rms else to_x - slope.mean(1, keepdims=True))
    y, *gradients = same_bits(kernels, run)
    expected = [normal * weight + bias, to_x, (to_y * normal).sum(0), to_y.astype(np.float64).sum(0)]
    if rms:
        assert not gradients.pop()
        expected = [normal * weight, *expected[1:3]]
    close([y, *gradients], expected)


def check_activation(kernels, rows: int, n: int, kind: int) -> None:
    """`kind`: the place in `ACTIVATIONS`."""
    x, to_y, bias = 2 * numbers(1, rows, n), numbers(2, rows, n), numbers(3, n)
    number, (formula, slope) = np.array([kind], np.int32), ACTIVATIONS[kind]

    def run() -> list[np.ndarray]:
        y, to_x, to_bias = np.empty_like(x), np.empty_like(x), np.empty_like(bias)
        assert not kernels.call("activate", None, x, bias, number, y)
        assert not kernels.call("activate_back", None, x, bias, number, to_y, to_x, to_bias)
        return [y, to_x, to_bias]

    wide = x.astype(np.float64) + bias
    to_x = to_y * slope(wide)
    close(same_bits(kernels, run), [formula(wide), to_x, to_x.sum(0)])


def orthogonalised(matrix: np.ndarray) -> np.ndarray:
    """Five Newton-Schulz iterations (Jordan, Muon) in float64, from the left: a tall matrix is transposed."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


# Rounding of 2^-24 in a singular value near zero grows by 3.4445, the polynomial's greatest slope, in each iteration.
ORTHOGONAL = 3.4445**5 * 2.0**-24


def check_optimizer(kernels, shapes: Sequence[tuple[int, ...]], steps: int = 2) -> None:
    """Updates of parameters with and without decay, matrices by Muon; gradients are scaled first. And the squares of
    gradients. Muon's rate and small weights let its direction prevail."""
    n, muon = len(shapes), [len(shape) == 2 for shape in shapes]
    decays = np.array([0.1 * (i % 2) for i in range(n)], np.float32)
    scales = np.array([0.2 * max(shape) ** 0.5 * it for shape, it in zip(shapes, muon, strict=True)], np.float32)
    fixed = np.array([0.9, 0.95, 0.93, 3.4445, -4.7750, 2.0315, 5], np.float32)
    settings = np.array([1e-2, 1e-8, 0.5, 0.3, 0.7], np.float32)
    gradients = [[numbers(100 * step + i, *shape) for i, shape in enumerate(shapes)] for step in range(steps)]
    begin = [numbers(300 + i, *shape) * np.float32(0.01 if muon[i] else 1) for i, shape in enumerate(shapes)]
    blank = [[np.zeros(s, np.float32) for s in some] for some in (shapes, [s for s in shapes if len(s) == 1])]

    def run() -> list[np.ndarray]:
        state = [x.copy() for x in (*begin, *blank[0], *blank[1])]
        for given in gradients:
            inputs = *state, *given, decays, scales, fixed, settings
            assert not kernels.call("optimize", None, *inputs, np.zeros(1, np.float32))
        total = np.zeros(1, np.float32)
        assert not kernels.call("squares", None, *gradients[0], total)
        return [*state, total]

    beta1, beta2, momentum, *_ = fixed.astype(np.float64)
    rate, epsilon, relative, of_muon, factor = settings.astype(np.float64)
    weights, firsts, seconds = [], [], []
    for i, weight in enumerate(begin):
        w, m, v = weight.astype(np.float64), 0.0, 0.0
        for given in gradients:
            gradient = factor * given[i]
            if muon[i]:
                m = momentum * m + (1 - momentum) * gradient
                direction = orthogonalised(momentum * m + (1 - momentum) * gradient)
                w = w - of_muon * (np.float64(scales[i]) * direction + np.float64(decays[i]) * w)
                continue
            m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
            w = w - rate * (m / (np.sqrt(v) + epsilon) + relative * decays[i] * w)
        weights, firsts, seconds = [*weights, w], [*firsts, m], seconds if muon[i] else [*seconds, v]
    found = same_bits(kernels, run)
    for i in range(n):
        close(found[i : i + 1], weights[i : i + 1], ORTHOGONAL if muon[i] else EXACT)
    total = sum((gradient.astype(np.float64) ** 2).sum() for gradient in gradients[0])
    close(found[n:], [*firsts, *seconds, np.array([total])])
    given = [*begin, *blank[0], *blank[1], *gradients[0]]
    assert kernels.call("optimize", None, *given, decays, scales, fixed, settings[:4].copy(), np.zeros(1, np.float32))
    scales = np.array([not it for it in muon], np.float32)  # of a vector, and none for a matrix
    assert kernels.call("optimize", None, *given, decays, scales, fixed, settings, np.zeros(1, np.float32))


def check_numbers_without_an_orthogonal_matrix(kernels) -> None:
    """Zeros move nothing, an infinite norm neither; what is not a number spreads over its matrix, and only there."""
    for number, spreads in ((0.0, False), (3e38, False), (np.inf, True), (np.nan, True)):
        state = [np.zeros(shape, np.float32) for shape in ((40, 30), (20, 30)) * 2]
        gradients = [np.full((40, 30), number if number < 4e38 else 1.0, np.float32), numbers(1, 20, 30)]
        gradients[0][7, 9] = number
        constants = [np.array(x, np.float32) for x in ([0, 0], [1, 1], [0.9, 0.9, 0.5, 3, -4, 2, 5], [1, 1, 1, 1, 1])]
        assert not kernels.call("optimize", None, *state, *gradients, *constants, np.zeros(1, np.float32))
        assert np.isnan(state[0]).all() if spreads else not state[0].any()
        assert np.isfinite(state[1]).all() and state[1].all()


def _sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def _gelu_inner(v: np.ndarray) -> np.ndarray:
    return math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)


ACTIVATIONS = (  # a formula and its derivative, in the operators' order
    (lambda v: v, np.ones_like),
    (
        lambda v: 0.5 * v * (1 + np.tanh(_gelu_inner(v))),
        lambda v: (
            0.5 * (1 + np.tanh(_gelu_inner(v)))
            + 0.5 * v * (1 - np.tanh(_gelu_inner(v)) ** 2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * v**2)
        ),
    ),
    (
        lambda v: v * _sigmoid(1.702 * v),
        lambda v: _sigmoid(1.702 * v) * (1 + 1.702 * v * (1 - _sigmoid(1.702 * v))),
    ),
    (lambda v: v * _sigmoid(v), lambda v: _sigmoid(v) * (1 + v * (1 - _sigmoid(v)))),
)


def held(bits: int, n: int, k: int) -> tuple[list[np.ndarray], np.ndarray]:
    """A frozen matrix as its operator takes it, and its numbers in float64."""
    rounded = quantise(numbers(bits, n, k), bits)
    values = rounded.values
    if bits == 16:
        return [values], values.astype(np.float64)
    scales = rounded.scales.astype(np.float64)
    scales = scales[:, None] if bits == 8 else scales.repeat(64, 1)[:, :k]
    return [values if bits == 8 else halves(values), rounded.scales], values * scales


def check_linear(kernels, rows: int, n: int, k: int, biased: bool) -> None:
    """x wᵀ + bias and its gradients."""
    x, w, to_y = numbers(1, rows, k), numbers(2, n, k), numbers(3, rows, n)
    bias = numbers(4, n) if biased else np.zeros((1, 1), np.float32)

    def run() -> list[np.ndarray]:
        y, to_x, to_w, to_bias = np.empty_like(to_y), np.empty_like(x), np.empty_like(w), np.empty_like(bias)
        assert not kernels.call("linear_whole", None, x, w, bias, y)
        assert not kernels.call("linear_whole_to_x", None, to_y, w, to_x)
        assert not kernels.call("linear_whole_to_weights", None, x, to_y, bias, to_w, to_bias)
        return [y, to_x, to_w, to_bias]

    wide, slope = x.astype(np.float64), to_y.astype(np.float64)
    to_bias = slope.sum(0) if biased else np.zeros((1, 1))
    close(same_bits(kernels, run), [wide @ w.T + bias, slope @ w, slope.T @ wide, to_bias], SUMMED)


def check_active_linear(kernels, rows: int, n: int, k: int, kind: int) -> None:
    """activation(x + shift) wᵀ + bias and its gradients."""
    formula, slope = ACTIVATIONS[kind]
    x, shift, w, bias, to_y = numbers(1, rows, k), numbers(2, k), numbers(3, n, k), numbers(4, n), numbers(5, rows, n)
    given = x, shift, np.array([kind], np.int32)

    def run() -> list[np.ndarray]:
        y, *gradients = [np.empty_like(each) for each in (to_y, x, shift, w, bias)]
        assert not kernels.call("linear_active", None, *given, w, bias, y)
        assert not kernels.call("linear_active_to_x", None, *given, w, to_y, *gradients[:2])
        assert not kernels.call("linear_active_to_weights", None, *given, to_y, *gradients[2:])
        return [y, *gradients]

    wide, back = x.astype(np.float64) + shift, to_y.astype(np.float64)
    to_x = back @ w * slope(wide)
    expected = [formula(wide) @ w.T + bias, to_x, to_x.sum(0), back.T @ formula(wide), back.sum(0)]
    close(same_bits(kernels, run), expected, SUMMED)


def check_entropy(kernels, rows: int, h: int, v: int, biased: bool, z_loss: float) -> None:
    """Cross entropy and its gradients; a logit that is not finite shows in its row and in the sum."""
    hidden, table, mask = numbers(1, rows, h), numbers(2, v, h), np.abs(numbers(3, rows))
    bias = numbers(4, v) if biased else np.zeros((1, 1), np.float32)
    labels, weight = np.random.default_rng(5).integers(0, v, rows).astype(np.int32), np.array([z_loss], np.float32)

    def run(rest=(labels, mask, weight)) -> list[np.ndarray]:
        results = [np.empty(1, np.float32), *(np.empty_like(each) for each in (hidden, table, bias))]
        assert not kernels.call("entropy_whole", None, hidden, table, bias, *rest, *results)
        return results

    wide, known = hidden.astype(np.float64), (np.arange(rows), labels)
    logits = wide @ table.T.astype(np.float64) + bias
    top = logits.max(1, keepdims=True)
    log_z = (np.log(np.exp(logits - top).sum(1, keepdims=True)) + top)[:, 0]
    loss = (mask * (log_z - logits[known] + float(weight[0]) * log_z**2)).sum()
    slope = np.exp(logits - log_z[:, None]) * (1 + 2 * float(weight[0]) * log_z)[:, None]
    slope[known] -= 1
    slope *= mask[:, None]
    to_bias = slope.sum(0) if biased else np.zeros((1, 1))
    close(same_bits(kernels, run), [np.array([loss]), slope @ table, slope.T @ wide, to_bias], 4 * SUMMED)
    assert kernels.call("entropy_whole", None, hidden, table, bias, labels + v, mask, weight, *run())
    for number in (np.inf, np.nan):
        hidden[0, 0] = number
        total, to_hidden, *_ = run()
        assert np.isnan(total[0]) and np.isnan(to_hidden[0]).all() and np.isfinite(to_hidden[1:]).all()


def check_held(kernels, rows: int, n: int, k: int, bits: int) -> None:
    """The product with a frozen matrix [n, k] in fewer bits, and the gradient of its other factor."""
    x, to_y, (given, wide) = numbers(1, rows, k), numbers(2, rows, n), held(bits, n, k)

    def run() -> list[np.ndarray]:
        y, to_x = np.empty_like(to_y), np.empty_like(x)
        assert not kernels.call("held_product", None, x, *given, y)
        assert not kernels.call("held_product_back", None, to_y, *given, to_x)
        return [y, to_x]

    close(same_bits(kernels, run), [x @ wide.T, to_y @ wide])


def check_refused_matrices(kernels) -> None:
    """Frozen matrices of other shapes and types, or with too many or too few scales."""
    x, to_y = numbers(1, 3, 70), numbers(2, 3, 9)
    for bits in (16, 8, 4):
        given, _ = held(bits, 9, 70)
        wrong = [[given[0][:, :-1].copy(), *given[1:]], [given[0].astype(np.float32), *given[1:]], given[:1] + [x] * 2]
        wrong += [[given[0], given[1][:-1].copy()], given[:1]] if bits < 16 else [[*given, numbers(3, 9)]]
        for operands in wrong:
            assert kernels.call("held_product", None, x, *operands, to_y)
            assert kernels.call("held_product_back", None, to_y, *operands, x)


def check_refused(kernels) -> None:
    """Shapes and types that do not fit together are errors, not accesses to other memory."""
    q, lse = numbers(1, 8, 6), np.empty((2, 3, 4), np.float32)
    places, none, out = np.zeros((2, 4), np.int32), np.zeros(1, np.float32), np.empty((8, 6), np.float32)
    right = [q, q, q, places, none, none, out, lse]
    assert not kernels.call("attend_whole", None, *right)
    wrong = {0: numbers(1, 8, 7), 1: numbers(1, 8, 3), 2: numbers(1, 7, 6), 3: places + 1, 4: numbers(1, 2)}
    wrong |= {6: np.empty((8, 5), np.float32), 7: np.empty((2, 4, 4), np.float32)}
    for place, array in wrong.items():
        assert kernels.call("attend_whole", None, *right[:place], array, *right[place + 1 :])
    x, w, bias, y = numbers(1, 5, 6), numbers(2, 7, 6), numbers(3, 7), np.empty((5, 7), np.float32)
    shorter = (x, w, bias[:6].copy()), (x, w[:, :5].copy(), bias), (x[:4].copy(), w, bias), (x, w, x[:, :1].copy())
    for inputs in shorter:
        assert kernels.call("linear_whole", None, *inputs, y)
    assert kernels.call("linear_whole_to_x", None, y, w, x[:4].copy())
    assert kernels.call("linear_whole_to_weights", None, x[:4].copy(), y, bias, w, bias)
    kind, empty = np.ones(1, np.int32), np.empty((5, 0), np.float32)
    assert kernels.call("linear_whole", None, empty, np.empty((7, 0), np.float32), bias, y)
    assert kernels.call("linear_active", None, x, bias, kind, w, bias, y)
    assert kernels.call("linear_active_to_x", None, x, w[0], kind, w, y, x, bias)
    assert kernels.call("linear_active_to_weights", None, x, w[0], kind, y, w[:6].copy(), bias)
    x, w, epsilon = numbers(1, 4, 6), numbers(2, 6), np.array([1e-5], np.float32)
    kept, y = np.empty((4, 2), np.float32), np.empty_like(x)
    assert kernels.call("norm_whole", None, x, w[:4].copy(), w, epsilon, y, kept)
    assert kernels.call("norm_whole", None, x, w, w, epsilon, y, kept[:3].copy())
    assert kernels.call("activate", None, x, w[:5].copy(), np.zeros(1, np.int32), y)
    assert kernels.call("positions", None, places.astype(np.int64), np.zeros(1, np.int32), places)


SHAPES = (  # sequences and tokens, heads, groups, channels, rotary
    ((2, 70), 4, 4, 32, False),
    ((1, 257), 2, 2, 16, False),
    ((2, 33), 4, 2, 20, True),
    ((1, 5), 3, 1, 7, True),
    ((1, 1), 2, 2, 8, False),
    ((2, 160), 2, 1, 64, True),
)


# rows, columns of the result, terms
PRODUCTS = (1, 1, 1), (8, 32, 256), (67, 37, 513), (130, 70, 1030), (33, 300, 1024), (200, 128, 128)
# rows, channels, ids, bias, z-loss
ENTROPIES = (5, 3, 7, False, 0.0), (70, 24, 77, True, 0.1), (600, 32, 1024, False, 1e-3), (130, 16, 9001, True, 0.0)
UPDATED = ((1, 1), (3, 7), (7, 3), (12,), (1, 512), (512, 1), (128, 128), (300, 200), (130, 310), (40_000,), (65, 64))


def training_cases() -> Iterator[tuple[Any, ...]]:
    """Each check with its arguments but the first, the kernels."""
    kinds = range(len(ACTIVATIONS))
    yield from ((check_linear, *sizes, biased) for sizes, biased in product(PRODUCTS, (False, True)))
    yield from ((check_active_linear, *sizes, kind) for sizes, kind in product(PRODUCTS, kinds))
    yield from ((check_entropy, *sizes) for sizes in ENTROPIES)
    yield from ((check_whole_attention, *shape) for shape in SHAPES)
    yield from ((check_whole_norm, *x, rms) for x, rms in product(((300, 128), (70, 20), (1, 7)), (False, True)))
    yield from ((check_activation, *sizes, kind) for sizes, kind in product(((200, 37), (3, 64)), kinds))
    for shapes in ([(1,)], [(37,), (40_000,), (5,), (16_384,)], UPDATED):
        yield check_optimizer, shapes
    yield check_optimizer, [(160, 3300), (150, 20)], 1  # all threads work on the first
    yield (check_numbers_without_an_orthogonal_matrix,)
    sizes = (9, 38, 132), (1, 5, 66), (70, 300, 64), (4, 33, 7)
    yield from ((check_held, *each, bits) for each, bits in product(sizes, (16, 8, 4)))
    yield (check_refused_matrices,)
    yield (check_refused,)
