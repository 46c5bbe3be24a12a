"""The Kneser-Ney n-gram against the definition, counted with dictionaries."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from ms_codegeex.extras.evaluation.perplexity.ngram import KneserNey


class Definition:
    """P(w | h) = max(c(hw) - D, 0) / c(h·) + D N(h·) / c(h·) P(w | h without its first token), word by word: Chen and
    Goodman (1999), section 2.8. Shorter n-grams count the different tokens before them."""

    def __init__(self, rows, order, vocabulary):
        self.order, self.vocabulary = order, vocabulary
        self.counts, self.after, self.discounts = [Counter() for _ in range(order + 1)], [], []
        for row in rows:
            for end in range(order, len(row) + 1):
                self.counts[order][tuple(row[end - order : end])] += 1
        for n in range(order - 1, 0, -1):
            longer = {tuple(row[i : i + n + 1]) for row in rows for i in range(len(row) - n)}
            for gram in longer:
                self.counts[n][gram[1:]] += 1
        for n in range(order + 1):
            after = defaultdict(list)
            for gram, count in self.counts[n].items():
                after[gram[:-1]].append(count)
            values = list(self.counts[n].values())
            once, twice = values.count(1), values.count(2)
            self.after.append(after)
            self.discounts.append(once / (once + 2 * twice) if once else 0.5)

    def probability(self, history, token):
        if len(history) >= self.order:
            history = history[len(history) - self.order + 1 :]
        lower = self.probability(history[1:], token) if history else 1 / self.vocabulary
        n = len(history) + 1
        counts, discount = self.after[n].get(history, []), self.discounts[n]
        if not counts:
            return lower
        own = max(self.counts[n][(*history, token)] - discount, 0)
        return (own + discount * len(counts) * lower) / sum(counts)


def texts(generator, rows, length, vocabulary):
    """Rows with repetitions: a random walk that mostly takes the first of three ways."""
    follow = generator.integers(0, vocabulary, (vocabulary, 3))
    result = np.empty((rows, length), np.int64)
    result[:, 0] = generator.integers(0, vocabulary, rows)
    for place in range(1, length):
        way = generator.choice(3, rows, p=(0.7, 0.2, 0.1))
        result[:, place] = follow[result[:, place - 1], way]
    return result


@pytest.mark.parametrize(("order", "length"), [(1, 9), (2, 9), (3, 9), (5, 9), (5, 3)])
def test_every_probability_is_that_of_the_definition(order, length):
    generator, vocabulary = np.random.default_rng(order), 7
    rows = texts(generator, 12, length, vocabulary - 1)  # the last token is never seen
    model, definition = KneserNey(rows, order, vocabulary), Definition(rows.tolist(), min(order, length), vocabulary)
    drawn = generator.integers(0, vocabulary, (4, 8))
    new = np.concatenate([texts(generator, 4, 8, vocabulary), drawn, rows[:2, :1] + np.zeros((2, 8), int)])
    found = model.log_probabilities(new)
    expected = [[math.log(definition.probability(tuple(row[:i]), row[i])) for i in range(1, 8)] for row in new.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_numbers_beyond_32_bits():
    """Thousands of contexts in a large vocabulary."""
    generator, vocabulary = np.random.default_rng(1), 1 << 20
    rows = generator.integers(0, vocabulary, (600, 10)).astype(np.int32)
    model, definition = KneserNey(rows, 3, vocabulary), Definition(rows.tolist(), 3, vocabulary)
    found = model.log_probabilities(rows[-20:])
    chosen = rows[-20:].tolist()
    expected = [[math.log(definition.probability(tuple(row[:i]), row[i])) for i in range(1, 10)] for row in chosen]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_probabilities_after_a_context_add_up_to_one():
    rows = texts(np.random.default_rng(0), 30, 12, 20)
    model = KneserNey(rows, 4, 25)
    for context in (rows[3, :5], rows[4, 2:3], np.array([24, 1, 2]), np.array([0, 0, 0, 0])):
        every = np.concatenate([np.tile(context, (25, 1)), np.arange(25)[:, None]], 1)
        assert np.exp(model.log_probabilities(every)[:, -1]).sum() == pytest.approx(1, abs=1e-12)
