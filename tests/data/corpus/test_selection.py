import numpy as np
import pytest
from prepare_inputs import shard

from ms_codegeex.data.corpus.duplicates import Duplicates
from ms_codegeex.data.corpus.joining import join
from ms_codegeex.data.corpus.selection import DROPPED, TRAIN, VALIDATION, choose_validation
from ms_codegeex.data.corpus.selection import select as select_among
from ms_codegeex.data.corpus.settings import PrepareSettings
from ms_codegeex.data.corpus.tally import Tally
from ms_codegeex.errors import UserError


def settings(**changes):
    return PrepareSettings(**{"max_bytes": None, "near_duplicates": 0, "validation_share": 0, **changes})


def select(documents, settings, sampling, tally):
    """`select` among documents of which none repeats another."""
    return select_among(documents, settings, {}, sampling, tally)


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


def test_duplicates_are_dropped_and_counted():
    documents = join(
        [
            shard([("a", "C", None, 1, 10, 1), ("b", "C", None, 2, 20, 1)]),
            shard([("c", "C", None, 2, 20, 1), ("d", "C", None, 1, 10, 1), ("e", "C", None, 3, 5, 1)]),
        ]
    )
    tally = Tally()
    duplicates = {
        "exact duplicate": Duplicates(np.array([False, False, True, True, False]), {2: 1, 3: 0}),
        "near duplicate": Duplicates(np.array([False, False, False, False, True]), {4: 1}),
    }
    placed, split_by = select_among(documents, settings(), duplicates, False, tally)
    assert placed.tolist() == [TRAIN, TRAIN, DROPPED, DROPPED, DROPPED] and split_by == "document"
    examples = [
        {"source": "c", "detail": "identical to b", "excerpt": ""},
        {"source": "d", "detail": "identical to a", "excerpt": ""},
    ]
    assert tally.dropped["exact duplicate"] == {"documents": 2, "bytes": 30, "examples": examples}
    assert tally.dropped["near duplicate"]["examples"] == [{"source": "e", "detail": "similar to b", "excerpt": ""}]


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


class TestValidation:
    many = (*range(1000, 1200), 400_000)

    @staticmethod
    def choose(sizes, share=0.05, seed=0):
        """Sizes of the groups that are chosen, in an order by chance."""
        keys = np.random.default_rng(seed).integers(0, 2**63, len(sizes)).astype(np.uint64)
        return np.array(sizes)[choose_validation(keys, np.array(sizes, np.int64), share)].tolist()

    def test_several_small_groups_about_the_share(self):
        chosen = self.choose(self.many)
        assert len(chosen) >= 3 and 400_000 not in chosen and 0.04 < sum(chosen) / sum(self.many) < 0.07
        assert self.choose(self.many, seed=1) != chosen

    def test_the_order_of_groups_does_not_matter(self):
        keys, sizes = np.arange(200, dtype=np.uint64), np.arange(1000, 1200)
        shuffled = np.random.default_rng(0).permutation(200)
        chosen = choose_validation(keys, sizes, 0.05)
        assert (choose_validation(keys[shuffled], sizes[shuffled], 0.05) == chosen[shuffled]).all()

    def test_groups_of_one_key_stay_together(self):
        keys, sizes = np.repeat(np.arange(50, dtype=np.uint64), 4), np.full(200, 100)
        chosen = choose_validation(keys, sizes, 0.1).reshape(50, 4)
        assert (chosen.all(axis=1) == chosen.any(axis=1)).all() and np.count_nonzero(chosen) == 20

    def test_small_groups_come_before_middling_ones(self):
        sizes = (*self.many, *[40_000] * 5)
        for seed in range(10):
            chosen = self.choose(sizes, seed=seed)
            assert len(chosen) >= 3 and max(chosen) <= 0.05 * sum(sizes) / 3

    @pytest.mark.parametrize("sizes", [(100, 100), (10**6, 10**6, 10**6), (1, 10**9)])
    def test_both_sides_get_something(self, sizes):
        for seed in range(5):
            assert 0 < len(self.choose(sizes, seed=seed)) < len(sizes)

    def test_the_largest_only_if_there_is_no_other_way(self):
        assert self.choose((900, 100)) == [100]

    def test_no_validation(self):
        assert self.choose(self.many, share=0.0) == []
