import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prepare_inputs import shard

from ms_codegeex.extras.corpus.summary import MAX_PACKAGES, Summary, describe_splits, summarise


def with_columns(rows, licence_bytes, redacted):
    """A shard of `rows`, from which these licence headers and texts were taken."""
    return shard(rows, licence_bytes=np.array(licence_bytes, np.int64), redacted=np.array(redacted, np.int64))


FIRST = with_columns(
    [("a", "C", "x", 1, 10, 3), ("b", "", None, 2, 20, 5), ("c", "C", "y", 3, 30, 7)],
    [4, 0, 1],
    [[1, 0], [0, 2], [8, 8]],
)
SECOND = with_columns([("d", "Go", "x", 4, 5, 40), ("e", "C", "z", 5, 7, 16)], [2, 0], [[0, 1], [0, 0]])
PLACED = np.array([0, 0, -1, 1, 0], np.int8)


def test_counts():
    summary = summarise([(FIRST, PLACED[:3]), (SECOND, PLACED[3:])])
    assert summary.counts(0) == {"documents": 3, "tokens": 24, "bytes": 37}
    assert summary.counts(0, 1) == {"documents": 4, "tokens": 64, "bytes": 42}
    assert summary.counts(-1)["bytes"] == 30 and summary.counts(-2)["documents"] == 0
    train, validation = describe_splits(summary).values()
    assert list(train["languages"]) == ["unknown", "C"] and train["languages"]["C"]["bytes"] == 17
    assert validation == {**summary.counts(1), "languages": {"Go": summary.counts(1)}}
    assert summary.packages == {0: ["x", "z"], 1: ["x"]}
    assert summary.redacted == [1, 3] and summary.licences == {"documents": 2, "bytes": 6}
    assert summary.licence_counts() == {"MIT": {"documents": 4, "bytes": 42}}


def test_sums_of_parts_are_those_of_the_whole():
    whole = summarise([(FIRST, PLACED[:3]), (SECOND, PLACED[3:])])
    added = Summary()
    for part, placed in ((FIRST, PLACED[:3]), (SECOND, PLACED[3:])):
        stored = json.dumps(vars(summarise([(part, placed)])))
        added.add(Summary.from_json(json.loads(stored)))
    assert added == whole


def test_only_the_first_packages_are_named():
    names = [f"p{number:05d}" for number in range(MAX_PACKAGES + 50)]
    summary = Summary()
    for part in (names[600:], names[:700]):
        rows = [(f"f{name}", "C", name, 1, 1, 1) for name in reversed(part)]
        summary.add(summarise([(shard(rows), np.zeros(len(rows), np.int8))]))
    assert summary.packages == {0: names[:MAX_PACKAGES]}


def test_packages_are_counted_beyond_those_that_are_named():
    names = [f"p{number:05d}" for number in range(MAX_PACKAGES)]
    found = describe_splits(Summary(packages={0: names, 1: ["x", "y"]}), (MAX_PACKAGES + 50, 2)).values()
    assert [entry["package_count"] for entry in found] == [MAX_PACKAGES + 50, 2]
    assert [entry["packages"] for entry in found] == [names, ["x", "y"]]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(-1, 1)), max_size=40))
def test_histogram(documents):
    rows = [(f"f{number}", "C", None, 1, 1, tokens) for number, (tokens, _) in enumerate(documents)]
    half, placed = len(rows) // 2, np.array([place for _, place in documents], np.int8)
    histogram = summarise([(shard(rows[:half]), placed[:half]), (shard(rows[half:]), placed[half:])]).length_histogram()
    lengths = [tokens for tokens, place in documents if place >= 0]
    edges, found = histogram["edges"], histogram["documents"]
    assert len(edges) == len(found) + 1 and edges[:2] == [0, 16]
    for start, end, count in zip(edges[:-1], edges[1:], found, strict=True):
        assert count == sum(start <= length < end for length in lengths)
    assert sum(found) == len(lengths)
    assert len(found) == 1 or found[-1]
