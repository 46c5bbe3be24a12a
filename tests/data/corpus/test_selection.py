import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepare_inputs import shard

from ms_codegeex.data.corpus.joining import join
from ms_codegeex.data.corpus.selection import DROPPED, TRAIN, VALIDATION, exact_duplicates, select
from ms_codegeex.data.corpus.settings import PrepareSettings
from ms_codegeex.data.corpus.tally import Tally
from ms_codegeex.errors import UserError


def settings(**changes):
    return PrepareSettings(**{"max_bytes": None, "near_duplicates": 0, "validation_share": 0, **changes})


def test_join_gives_common_codes():
    documents = join(
        [
            shard([("a", "C", "x", 1, 10, 3), ("ü", "Go", None, 2, 20, 5)]),
            shard([]),
            shard([("c", "Go", "y", 3, 30, 7), ("d", "C", "x", 4, 40, 9)]),
        ]
    )
    assert [documents.languages[code] for code in documents.language] == ["C", "Go", "Go", "C"]
    assert [documents.groups[code] if code >= 0 else None for code in documents.group] == ["x", None, "y", "x"]
    assert list(documents.sources()) == ["a", "ü", "c", "d"] == [documents.source(n) for n in range(4)]
    assert documents.starts.tolist() == [0, 2, 2, 4] and len(documents) == 4
    assert documents.bytes.tolist() == [10, 20, 30, 40] and documents.tokens.tolist() == [3, 5, 7, 9]


@given(st.lists(st.binary(min_size=32, max_size=32) | st.sampled_from([b"\0" * 32, b"\0" * 31 + b"\1"]), max_size=40))
def test_exact_duplicates_against_a_dictionary(hashes):
    rows = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
    first, expected = {}, {}
    for number, item in enumerate(hashes):
        if item in first:
            expected[number] = first[item]
        first.setdefault(item, number)
    repeated, kept = exact_duplicates(rows)
    assert dict(zip(repeated.tolist(), kept.tolist(), strict=True)) == expected
    assert repeated.tolist() == sorted(expected)


def test_duplicates_across_shards():
    documents = join(
        [
            shard([("a", "C", None, 1, 10, 1), ("b", "C", None, 2, 20, 1)]),
            shard([("c", "C", None, 2, 20, 1), ("d", "C", None, 1, 10, 1), ("e", "C", None, 3, 5, 1)]),
        ]
    )
    tally = Tally()
    placed, split_by = select(documents, settings(), False, tally)
    assert placed.tolist() == [TRAIN, TRAIN, DROPPED, DROPPED, TRAIN] and split_by == "document"
    examples = [{"source": "c", "detail": "like b", "excerpt": ""}, {"source": "d", "detail": "like a", "excerpt": ""}]
    assert tally.dropped == {"exact duplicate": {"documents": 2, "bytes": 30, "examples": examples}}


def test_near_duplicates_skip_documents_without_words():
    row = list(range(1, 129))
    near = [*row[:-3], 7, 7, 7]
    signatures = [[0] * 128, row, [0] * 128, near]
    rows = [(name, "C", None, number, 10, 1) for number, name in enumerate("abcd")]
    tally = Tally()
    placed, _ = select(join([shard(rows, signatures=signatures)]), settings(near_duplicates=0.9), False, tally)
    assert placed.tolist() == [TRAIN, TRAIN, TRAIN, DROPPED]
    assert tally.dropped["near duplicate"]["examples"][0]["detail"] == "like b"


def many(count):
    rows = [(f"file{number}", "C", f"group{number % 20}", number, 100 + number, 10) for number in range(count)]
    return join([shard(rows[:77]), shard(rows[77:])])


@pytest.mark.parametrize("limit", [99, 1000, 10_000, 10**9])
def test_sampling(limit):
    documents, tally = many(200), Tally()
    placed, _ = select(documents, settings(max_bytes=limit), True, tally)
    kept = placed >= 0
    total = int(documents.bytes[kept].sum())
    assert total <= limit and (kept.all() or limit - total < 300)
    if not kept.all():
        assert tally.dropped["not sampled"]["documents"] == np.count_nonzero(~kept)
        other, _ = select(documents, settings(max_bytes=limit, seed=1), True, Tally())
        assert limit < 100 or (other >= 0).tolist() != kept.tolist()
    smaller, _ = select(documents, settings(max_bytes=limit), False, Tally())
    assert (smaller >= 0).all()  # done before


def test_the_sample_does_not_depend_on_shards():
    documents = many(200)
    rows = [(f"file{number}", "C", f"group{number % 20}", number, 100 + number, 10) for number in range(200)]
    whole = select(join([shard(rows)]), settings(max_bytes=5000), True, Tally())[0]
    assert (select(documents, settings(max_bytes=5000), True, Tally())[0] == whole).all()


def test_groups_are_not_torn():
    documents = many(200)
    placed, split_by = select(documents, settings(validation_share=0.2), False, Tally())
    assert split_by == "package"
    sides = {}
    for group, side in zip(documents.group.tolist(), placed.tolist(), strict=True):
        sides.setdefault(group, set()).add(side)
    assert all(len(side) == 1 for side in sides.values())
    share = documents.bytes[placed == VALIDATION].sum() / documents.bytes.sum()
    assert 0.1 < share < 0.3


def test_documents_of_their_own_beside_groups():
    rows = [(f"own{n}", "C", None, n, 100, 1) for n in range(50)] + [
        (f"g{n}", "C", "g", 60 + n, 100, 1) for n in range(5)
    ]
    placed, split_by = select(join([shard(rows)]), settings(validation_share=0.2), False, Tally())
    assert split_by == "package" and len(set(placed[50:].tolist())) == 1
    assert set(placed[:50].tolist()) == {TRAIN, VALIDATION}


def test_one_group_is_split_by_document():
    rows = [(f"f{n}", "C", "only", n, 100, 1) for n in range(10)]
    placed, split_by = select(join([shard(rows)]), settings(validation_share=0.2), False, Tally())
    assert split_by == "file" and np.count_nonzero(placed == VALIDATION) == 2
    placed, split_by = select(join([shard(rows)]), settings(), False, Tally())
    assert split_by == "package" and (placed == TRAIN).all()


def test_one_document_cannot_be_split():
    with pytest.raises(UserError, match="f0: the only document left"):
        select(join([shard([("f0", "C", "x", 1, 10, 1)])]), settings(validation_share=0.1), False, Tally())


def test_nothing_is_left_of_nothing():
    placed, _ = select(join([shard([])]), settings(validation_share=0.1), False, Tally())
    assert placed.size == 0
