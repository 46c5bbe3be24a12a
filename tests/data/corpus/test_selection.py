import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ms_codegeex.data.corpus.merge import _runs, counts, describe_split, length_histogram, write_splits
from ms_codegeex.data.corpus.selection import DROPPED, TRAIN, VALIDATION, exact_duplicates, join, select
from ms_codegeex.data.corpus.settings import PrepareSettings
from ms_codegeex.data.corpus.shards import Shard
from ms_codegeex.data.corpus.tally import Tally
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.errors import UserError


def shard(rows, path=None, signatures=None):
    """A shard of `(source, language, group or None, content number, bytes, tokens)`."""
    languages = list(dict.fromkeys(row[1] for row in rows))
    groups = list(dict.fromkeys(row[2] for row in rows if row[2] is not None))
    sources = [row[0].encode() for row in rows]
    columns = {
        "source": np.frombuffer(b"".join(sources), np.uint8),
        "source_end": np.cumsum([len(source) for source in sources], dtype=np.int64),
        "language": np.array([languages.index(row[1]) for row in rows], np.int64),
        "group": np.array([-1 if row[2] is None else groups.index(row[2]) for row in rows], np.int64),
        "sha256": np.array([[row[3]] * 32 for row in rows], np.uint8).reshape(-1, 32),
        "bytes": np.array([row[4] for row in rows], np.int64),
        "tokens": np.array([row[5] for row in rows], np.int64),
    }
    if signatures is not None:
        columns["signature"] = np.array(signatures, np.uint32)
        columns["signed"] = np.array([any(row) for row in signatures])
    return Shard(path, columns, languages, groups, Tally())


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


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=30))
def test_runs(values):
    pieces = list(_runs(np.array(values)))
    assert [values[start] for start, end in pieces for _ in range(start, end)] == values
    assert all(len(set(values[start:end])) == 1 for start, end in pieces)
    assert all(values[end - 1] != values[end] for _, end in pieces[:-1])


@hypothesis_settings(max_examples=30, deadline=None)  # every example waits for the disk
@given(st.data())
def test_merging_against_single_documents(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("merge")
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    shards, texts = [], []
    for number in range(data.draw(st.integers(1, 3))):
        rows = []
        with open(directory / f"{number}.bin", "wb") as stream:
            for row in range(data.draw(st.integers(0, 6))):
                ids = generator.integers(0, 60000, generator.integers(1, 9)).astype("<u2")
                stream.write(ids.tobytes())
                texts.append(ids.tolist())
                rows.append((f"{number}/{row}", "C", None, row, 5, ids.size))
        shards.append(shard(rows, directory / str(number)))
    documents = join(shards)
    placed = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=len(texts), max_size=len(texts))), np.int8)
    write_splits(directory, documents, placed, ("a", "b"), np.dtype("<u2"))
    for side, name in enumerate("ab"):
        written = IndexedDataset(directory / name)
        expected = [ids for ids, place in zip(texts, placed.tolist(), strict=True) if place == side]
        assert [written.document(n).tolist() for n in range(len(written))] == expected


def test_counts():
    documents = join([shard([("a", "C", "x", 1, 10, 3), ("b", "", None, 2, 20, 5), ("c", "C", "y", 3, 30, 7)])])
    chosen = np.array([True, True, False])
    assert counts(documents, chosen) == {"documents": 2, "tokens": 8, "bytes": 30}
    described = describe_split(documents, chosen)
    assert list(described["languages"]) == ["unknown", "C"] and described["packages"] == ["x"]


@given(st.lists(st.integers(0, 5000), max_size=40))
def test_histogram(lengths):
    histogram = length_histogram(np.array(lengths, np.int64))
    edges, found = histogram["edges"], histogram["documents"]
    assert len(edges) == len(found) + 1 and edges[:2] == [0, 16]
    for start, end, count in zip(edges[:-1], edges[1:], found, strict=True):
        assert count == sum(start <= length < end for length in lengths)
    assert sum(found) == len(lengths)
