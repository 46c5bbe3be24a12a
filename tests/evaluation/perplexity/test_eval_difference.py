"""Two models compared: figures against NumPy over whole arrays, one model in memory at a time."""

import weakref
from typing import ClassVar

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.evaluation.perplexity.corpus import measure
from ms_codegeex.evaluation.perplexity.difference import STEP, STEPS, compare

TEXTS = ("def f(x):\n    return x + 1\n" * 4, "import os\n", "x")
DEAD = 7  # rows of the table without a token


class Known:
    """A model whose logits depend on the last token, its place and a seed."""

    alive: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, tokenizer, seed, seq_length=16):
        self.tokenizer, self.seed, self.seq_length = tokenizer, seed, seq_length
        self.alive.add(self)
        assert len(self.alive) == 1

    def all_logits(self, ids):
        assert 1 <= len(ids) <= self.seq_length
        return np.stack([self.row(token, place) for place, token in enumerate(ids)])

    def row(self, token, place):
        shape = self.tokenizer.vocab_size + DEAD
        row = np.random.default_rng((5, token, place)).normal(size=shape, scale=2)
        row += np.random.default_rng((self.seed, token, place)).normal(size=shape, scale=0.2)
        row[-DEAD:] += 5
        return (row + self.seed).astype(np.float32)  # a constant has no effect


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("codegeex")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    for number, text in enumerate(TEXTS):
        (directory / f"{number}.py").write_text(text)
    return directory


def log_softmax(rows):
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


def test_figures_are_numpys(tokenizer, corpus, tmp_path):
    found = compare(lambda: Known(tokenizer, 1), lambda: Known(tokenizer, 2), corpus, tmp_path, 10)
    assert not list(tmp_path.iterdir())
    windows = []
    for text in TEXTS:
        ids = [tokenizer.eos_id, *tokenizer.encode(text)]
        windows += [ids[begin : begin + 10] for begin in range(0, len(ids) - 1, 9)]
    one, two = (Known(tokenizer, 1), None)
    first = np.concatenate([one.all_logits(ids[:-1]) for ids in windows]).astype(np.float64)
    one = None
    two = Known(tokenizer, 2)
    second = np.concatenate([two.all_logits(ids[:-1]) for ids in windows]).astype(np.float64)
    targets = np.array([target for ids in windows for target in ids[1:]])
    scores = [log_softmax(rows)[np.arange(len(rows)), targets] for rows in (first, second)]
    for scored, result in zip(scores, (found.first, found.second), strict=True):
        assert result.score.tokens == len(targets) and result.stride == 9
        assert result.score.perplexity == pytest.approx(np.exp(-scored.mean()), rel=1e-5)
    a, b = first[:, :-DEAD], second[:, :-DEAD]
    error = (b - b.mean(1, keepdims=True)) - (a - a.mean(1, keepdims=True))
    row = found.row()
    assert row["logit error, root mean square"] == pytest.approx(np.sqrt((error**2).mean()))
    assert row["logit error, largest"] == pytest.approx(np.abs(error).max())
    equal = (a.argmax(1) == b.argmax(1)).mean()
    assert row["same likeliest token"] == pytest.approx(equal) and 0 < equal < 1
    p, q = log_softmax(a), log_softmax(b)
    assert row["Kullback-Leibler divergence (nats)"] == pytest.approx((np.exp(p) * (p - q)).sum(1).mean())
    assert row["perplexity over the other's"] == pytest.approx(np.exp(scores[0].mean() - scores[1].mean()), rel=1e-5)
    shares = [(np.abs(scores[0] - scores[1]) <= STEP * (number + 1)).mean() for number in range(STEPS)]
    assert found.within == pytest.approx(shares, abs=1.5 / len(targets)) and 0 < shares[0] < shares[-1]
    two = None


def test_a_model_does_not_differ_from_itself(tokenizer, corpus, tmp_path):
    found = compare(*[lambda: Known(tokenizer, 1)] * 2, corpus, tmp_path, max_tokens=10)
    row = found.row()
    assert row["logit error, largest"] == 0 == row["Kullback-Leibler divergence (nats)"]
    assert row["same likeliest token"] == 1 == row["perplexity over the other's"] == found.within[0]
    assert (found.first.score.tokens, found.first.whole, found.first.window) == (10, False, 16)


def test_other_tokenizers_are_refused(tokenizer, corpus, tmp_path):
    other = load_tokenizer("codegen-multi")
    with pytest.raises(UserError, match="--against: its tokenizer is not that of --model"):
        compare(lambda: Known(tokenizer, 1), lambda: Known(other, 1), corpus, tmp_path)


def test_the_windows_are_those_of_a_scorer(tokenizer, corpus, tmp_path):
    """The perplexity in a comparison is what `measure` gives by itself for the same windows."""

    class Scorer(Known):
        def log_probabilities(self, ids):
            rows = self.all_logits(ids).astype(np.float64)[:-1]
            return log_softmax(rows)[np.arange(len(rows)), ids[1:]].astype(np.float32)

    expected = measure(Scorer(tokenizer, 1), [corpus], 12, 11).row()
    found = compare(*[lambda: Known(tokenizer, 1)] * 2, corpus, tmp_path, 12).second.row()
    assert found == pytest.approx(expected)
