"""Duplicates found in phases, against the plain rule: in order, drop what is similar to one that is kept."""

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepare_inputs import shard

from ms_codegeex.extras.corpus import duplicates, phases
from ms_codegeex.extras.corpus.duplicates import BAND, exact_duplicates, find_duplicates
from ms_codegeex.extras.corpus.minhash import signature
from ms_codegeex.extras.corpus.phases import Documents, Phases

WORDS = [f"name{number}" for number in range(3000)]


def families(seed, count=160):
    """Texts, many of them changed copies of earlier ones, copies of copies, or equal."""
    generator, texts = random.Random(seed), []
    for _ in range(count):
        if texts and generator.random() < 0.6:
            items = list(generator.choice(texts))
            for place in generator.sample(range(len(items)), generator.choice((0, 1, 1, 2, 4, 8))):
                items[place] = generator.choice(WORDS)
        else:
            items = generator.choices(WORDS, k=150)
        texts.append(items)
    texts[7] = texts[20] = []  # no words
    return [" ".join(items).encode() for items in texts]


def expected(texts, threshold):
    """By comparing every document with all that are kept, the largest first."""
    seen, kept, exact, near = {}, [], {}, set()
    for number, data in enumerate(texts):
        if data in seen:
            exact[number] = seen[data]
        seen.setdefault(data, number)
    for number in sorted(seen.values(), key=lambda number: (-len(texts[number]), number)):
        own = signature(texts[number])
        if own is not None and any(np.mean(own == other) >= threshold for other in kept):
            near.add(number)
        elif own is not None:
            kept.append(own)
    return exact, near


def corpus(texts, folder, per_shard=13):
    """The documents of `texts` in finished shards."""
    made = []
    for start in range(0, len(texts), per_shard):
        part = texts[start : start + per_shard]
        signatures = [signature(data) for data in part]
        blank = np.zeros(128, np.uint32)
        rows = [(f"f{start + row}", "C", None, 0, len(data), 1) for row, data in enumerate(part)]
        columns = {
            "signature": np.array([blank if row is None else row for row in signatures], np.uint32),
            "text_sha256": np.array([list(hashlib.sha256(data).digest()) for data in part], np.uint8),
        }
        made.append(shard(rows, folder / f"shard{start:04d}", **columns))
    return Documents(made)


@pytest.mark.parametrize(("threshold", "rounds"), [(0.5, 1), (0.85, 0), (0.85, 3)])
def test_duplicates_of_many_blocks_and_parts_are_those_of_the_plain_rule(tmp_path, monkeypatch, threshold, rounds):
    monkeypatch.setattr(phases, "PART_ROWS", 500)
    monkeypatch.setattr(phases, "BLOCK_DOCUMENTS", 40)
    monkeypatch.setattr(duplicates, "ROUNDS", rounds)
    monkeypatch.setattr(duplicates, "_PAIRS", 50)
    texts = families(int(threshold * 100))
    exact, near = expected(texts, threshold)
    assert len(exact) > 10 and len(near) > 30
    found = find_duplicates(corpus(texts, tmp_path), threshold, tmp_path / "work", map)
    assert found["exact duplicate"].dropped.first(len(texts)) == sorted(exact)
    assert found["exact duplicate"].examples == dict(sorted(exact.items())[:3])
    assert found["near duplicate"].dropped.first(len(texts)) == sorted(near)
    dropped = {*exact, *near}
    for number, representative in found["near duplicate"].examples.items():
        assert number in sorted(near)[:3] and representative not in dropped
        assert (len(texts[representative]), -representative) > (len(texts[number]), -number)
        assert np.mean(signature(texts[number]) == signature(texts[representative])) >= threshold


@given(st.lists(st.binary(min_size=32, max_size=32) | st.sampled_from([b"\0" * 32, b"\0" * 31 + b"\1"]), max_size=40))
def test_exact_duplicates_against_a_dictionary(hashes):
    rows = np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 4)
    first, wanted = {}, {}
    for number, item in enumerate(hashes):
        if item in first:
            wanted[number] = first[item]
        first.setdefault(item, number)
    repeated, kept = exact_duplicates(rows)
    assert dict(zip(repeated.tolist(), kept.tolist(), strict=True)) == wanted
    assert repeated.tolist() == sorted(wanted)


def test_a_second_call_uses_the_results_of_the_first_and_makes_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "PART_ROWS", 400)
    documents, called = corpus(families(3), tmp_path), []

    def mapper(function, tasks):
        for task in tasks:
            called.append(task[0].name)
            yield function(task)

    first = find_duplicates(documents, 0.85, tmp_path / "work", mapper)
    assert len(called) > 10
    called.clear()
    second = find_duplicates(documents, 0.85, tmp_path / "work", mapper)
    assert not called
    lost = tmp_path / "work" / "pairs0-000002"
    lost.unlink()
    third = find_duplicates(documents, 0.85, tmp_path / "work", mapper)
    assert set(called) == {"bands0-000000", lost.name}
    for other in (second, third):
        assert (other["near duplicate"].dropped.bits == first["near duplicate"].dropped.bits).all()
        assert other["near duplicate"].examples == first["near duplicate"].examples


def test_no_documents_have_no_duplicates(tmp_path):
    documents = Documents([shard([], signature=np.zeros((0, 128), np.uint32))])
    found = find_duplicates(documents, 0.9, tmp_path / "work", map)
    assert not found["near duplicate"].dropped.any()


def test_one_part_for_each_million_rows():
    work = Phases(None, map, [])
    parts = [work.keyed("rows", BAND, rows).parts for rows in (0, 1, 1 << 20, (1 << 20) + 1)]
    assert parts == [1, 1, 1, 2]
