import random

import numpy as np
import pytest

from ms_codegeex.data.corpus.deduplicate import find_near_duplicates, signature


def words(count, seed):
    generator = random.Random(seed)
    return [f"name{generator.randrange(5000)}" for _ in range(count)]


def text(items):
    return " ".join(items).encode()


def shingles(items):
    return {tuple(items[i : i + 5]) for i in range(len(items) - 4)}


def near(documents, threshold):
    """What `find_near_duplicates` drops among texts."""
    return find_near_duplicates(np.array([signature(item) for item in documents]), range(len(documents)), threshold)


@pytest.mark.parametrize("changed", [0, 2, 10, 40])
def test_signatures_estimate_jaccard(changed):
    original = words(1000, 1)
    other = list(original)
    for place in random.Random(changed).sample(range(1000), changed):
        other[place] = "changed"
    a, b = shingles(original), shingles(other)
    exact = len(a & b) / len(a | b)
    estimate = np.mean(signature(text(original)) == signature(text(other)))
    assert abs(estimate - exact) < 0.15  # three and a half standard deviations of 128 samples at worst


def test_estimates_are_unbiased():
    """Pairs of all similarities: the mean error over many pairs is far below that of one pair."""
    generator, errors = random.Random(5), []
    for pair in range(60):
        original = words(400, pair)
        other = list(original)
        for place in generator.sample(range(400), generator.randrange(120)):
            other[place] = f"changed{place}"
        a, b = shingles(original), shingles(other)
        estimate = np.mean(signature(text(original)) == signature(text(other)))
        errors.append(estimate - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 0.02 and np.std(errors) < 0.06


def test_the_first_of_several_alike_is_kept():
    original, other = words(400, 1), words(400, 2)
    changed = [*original[:399], "different"]
    documents = [text(original), text(other), text(changed), text(words(400, 3)), text(changed)]
    assert near(documents, 0.85) == {2: 0, 4: 0}
    signatures = np.array([signature(item) for item in documents])
    assert find_near_duplicates(signatures, [2, 1, 0], 0.85) == {0: 2}


def test_threshold_decides():
    original = words(200, 1)
    other = list(original)
    other[50] = other[100] = other[150] = "changed"  # 15 of 196 shingles differ: 181 / 211 = 0.858
    pair = [text(original), text(other)]
    estimate = float(np.mean(signature(pair[0]) == signature(pair[1])))
    assert near(pair, 0.6) and not near(pair, 0.99)
    assert near(pair, estimate) and not near(pair, estimate + 1e-6)


def test_word_order_counts():
    items = words(300, 1)
    assert not near([text(items), text(sorted(items))], 0.5)


def test_documents_without_or_with_few_words():
    assert signature(b"()[]") is None is signature(b"")
    assert near([b"a b", b"a, b", b"b a"], 0.85) == {1: 0}


def test_long_documents_are_cut_into_steps():
    """The lowest value of each permutation over all shingles, whatever the step."""
    items = words(5000, 4)
    whole = signature(text(items))
    parts = [signature(text(items[start : start + 1204])) for start in range(0, 5000, 1200)]  # all 5-grams are in one
    assert (np.min(parts, axis=0) == whole).all()


@pytest.mark.parametrize("threshold", [0.5, 0.85, 0.95])
def test_kept_documents_are_not_alike(threshold):
    """A chain of ever more changed copies: whatever is kept is pairwise below the threshold."""
    current, documents = words(300, 1), []
    for step in range(30):
        current[step * 9] = "changed"
        documents.append(text(current))
    dropped = near(documents, threshold)
    kept = [signature(item) for number, item in enumerate(documents) if number not in dropped]
    assert 1 < len(kept) < 30
    for i, a in enumerate(kept):
        assert all(np.mean(a == b) < threshold for b in kept[:i])
