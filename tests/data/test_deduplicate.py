import random

import numpy as np
import pytest

from ms_codegeex.data.deduplicate import digest, find_duplicates


def words(count, seed):
    generator = random.Random(seed)
    return [f"name{generator.randrange(5000)}" for _ in range(count)]


def text(items):
    return " ".join(items).encode()


def shingles(items):
    return {tuple(items[i : i + 5]) for i in range(len(items) - 4)}


@pytest.mark.parametrize("changed", [0, 2, 10, 40])
def test_signatures_estimate_jaccard(changed):
    original = words(1000, 1)
    other = list(original)
    for place in random.Random(changed).sample(range(1000), changed):
        other[place] = "changed"
    a, b = shingles(original), shingles(other)
    exact = len(a & b) / len(a | b)
    estimate = np.mean(digest(text(original)).signature == digest(text(other)).signature)
    assert abs(estimate - exact) < 0.15  # three and a half standard deviations of 128 samples at worst


def test_the_first_of_several_alike_is_kept():
    original, other = words(400, 1), words(400, 2)
    near = [*original[:399], "different"]
    documents = [text(original), text(other), text(near), text(original), text(words(400, 3))]
    found = find_duplicates([digest(document) for document in documents], 0.85)
    assert {number: (item.kept, item.exact) for number, item in found.items()} == {2: (0, False), 3: (0, True)}
    found = find_duplicates([digest(document) for document in documents], 2)
    assert {number: item.exact for number, item in found.items()} == {3: True}


def test_threshold_decides():
    original = words(200, 1)
    other = list(original)
    other[50] = other[100] = other[150] = "changed"  # 15 of 196 shingles differ: 181 / 211 = 0.858
    pair = [digest(text(original)), digest(text(other))]
    estimate = float(np.mean(pair[0].signature == pair[1].signature))
    assert find_duplicates(pair, 0.6) and not find_duplicates(pair, 0.99)
    assert bool(find_duplicates(pair, estimate)) and not find_duplicates(pair, estimate + 1e-6)


def test_word_order_counts():
    items = words(300, 1)
    assert not find_duplicates([digest(text(items)), digest(text(sorted(items)))], 0.5)


def test_documents_without_or_with_few_words():
    signs = [digest(b"()[]"), digest(b"{}{}"), digest(b"()[]")]
    assert signs[0].signature is None
    assert {n: d.exact for n, d in find_duplicates(signs, 0.85).items()} == {2: True}
    few = [digest(b"a b"), digest(b"a, b"), digest(b"b a")]
    assert {n: d.kept for n, d in find_duplicates(few, 0.85).items()} == {1: 0}


@pytest.mark.parametrize("threshold", [0.5, 0.85, 0.95])
def test_kept_documents_are_not_alike(threshold):
    """A chain of ever more changed copies: whatever is kept is pairwise below the threshold."""
    current, documents = words(300, 1), []
    for step in range(30):
        current[step * 9] = "changed"
        documents.append(digest(text(current)))
    dropped = find_duplicates(documents, threshold)
    kept = [item for number, item in enumerate(documents) if number not in dropped]
    assert 1 < len(kept) < 30
    for i, a in enumerate(kept):
        assert all(np.mean(a.signature == b.signature) < threshold for b in kept[:i])
