import random

import numpy as np
import pytest

from ms_codegeex.extras.corpus.minhash import are_similar, band_keys, bands_for, signature


def words(count, seed):
    generator = random.Random(seed)
    return [f"name{generator.randrange(5000)}" for _ in range(count)]


def text(items):
    return " ".join(items).encode()


def shingles(items):
    return {tuple(items[i : i + 5]) for i in range(len(items) - 4)}


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


def test_threshold_decides():
    original = words(200, 1)
    other = list(original)
    other[50] = other[100] = other[150] = "changed"  # 15 of 196 shingles differ: 181 / 211 = 0.858
    pair = [signature(text(items))[None] for items in (original, other)]
    estimate = float(np.mean(pair[0] == pair[1]))
    assert are_similar(*pair, 0.6).tolist() == [True] and not are_similar(*pair, 0.99).any()
    assert are_similar(*pair, estimate).all() and not are_similar(*pair, estimate + 1e-6).any()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.85, 0.95, 1.0])
def test_signatures_that_are_similar_share_a_band(threshold):
    """However the differences are spread; dissimilar ones share none by chance."""
    generator, bands = np.random.default_rng(1), bands_for(threshold)
    differing = int((1 - threshold) * 128 + 1e-9)
    rows = generator.integers(0, 2**32, (200, 128), np.uint32)
    others = rows.copy()
    for number, row in enumerate(others):
        places = generator.permutation(128)[:differing] if number % 2 else np.linspace(0, 127, differing).astype(int)
        row[places] += 1
    assert are_similar(rows, others, threshold).all()
    keys, found = band_keys(rows, bands), band_keys(others, bands)
    assert keys.shape == (200, bands) and (keys == found).any(axis=1).all()
    assert len(np.unique(keys)) == keys.size  # no key of one band is that of another


def test_documents_without_or_with_few_words():
    assert signature(b"()[]") is None is signature(b"")
    assert (signature(b"a b") == signature(b"a, b")).all() and (signature(b"a b") != signature(b"b a")).any()


def test_long_documents_are_cut_into_steps():
    """The lowest value of each permutation over all shingles, whatever the step."""
    items = words(5000, 4)
    whole = signature(text(items))
    parts = [signature(text(items[start : start + 1204])) for start in range(0, 5000, 1200)]  # all 5-grams are in one
    assert (np.min(parts, axis=0) == whole).all()


SCRIPTS = {
    "Arabic": "الفرن ساخن انتظر حتى يبرد ثم افتح الباب ببطء وأخرج كل وعاء بكلتا يديك قبل المساء",
    "Cyrillic": "печь горячая подожди пока она остынет затем медленно открой дверь и вынь каждую миску двумя руками",
    "Han": "窑炉很热请等待直到冷却然后慢慢打开门用双手取出每一个碗在晚上之前完成这项工作并记录温度",
    "Kana": "かまはあついのでさめるまでまってからゆっくりとびらをあけてうつわをりょうてでだしてください",
    "Devanagari": "भट्टी गर्म है ठंडा होने तक प्रतीक्षा करें फिर धीरे से दरवाजा खोलें और हर कटोरा दोनों हाथों से निकालें",
    "Thai": "เตาเผาร้อนรอจนเย็นแล้วค่อยๆเปิดประตูและนำชามแต่ละใบออกด้วยมือทั้งสองข้างก่อนเย็น",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_in_any_script(script):
    """Texts of other words are not similar; a text with one word more is."""
    pick, parts = random.Random(script), SCRIPTS[script].split() if " " in SCRIPTS[script] else list(SCRIPTS[script])
    first, other = ((" " if " " in SCRIPTS[script] else "").join(pick.choices(parts, k=400)) for _ in range(2))
    rows = [signature(f"x = 1\n{each}\ny = 2\n".encode())[None] for each in (first, other, f"{first} {parts[0]}")]
    assert not are_similar(rows[0], rows[1], 0.5) and are_similar(rows[0], rows[2], 0.85)
