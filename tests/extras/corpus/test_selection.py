"""Selection in phases, against the plain rules on lists."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prepare_inputs import shard

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus import phases as module
from ms_codegeex.extras.corpus.duplicates import Duplicates
from ms_codegeex.extras.corpus.phases import Documents, Flags, Phases
from ms_codegeex.extras.corpus.selection import (
    SUM,
    TRAIN,
    VALIDATION,
    choose_validation,
    placed_documents,
    selection_name,
)
from ms_codegeex.extras.corpus.selection import select as select_among
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.extras.corpus.summary import summarise_in_phases


def settings(**changes):
    return PrepareSettings(**{"max_bytes": None, "near_duplicates": 0, "validation_share": 0, **changes})


def flags(values):
    made = Flags(len(values))
    made.set(np.flatnonzero(values))
    return made


@pytest.fixture
def select(tmp_path):
    """`select`, its decisions as a list, and the summary."""
    calls = iter(range(1000))

    def run(documents, settings, sampling=False, duplicates=None, mapper=map):
        phases = Phases(tmp_path / f"phases{next(calls)}", mapper, documents.blocks())
        selection = select_among(documents, settings, duplicates or {}, sampling, phases)
        placed = [number for _, numbers in placed_documents(phases) for number in numbers.tolist()]
        return placed, selection, summarise_in_phases(phases)

    return run


def test_documents_are_numbered():
    first = shard([("a", "C", "x", 1, 10, 3), ("ü", "Go", None, 2, 20, 5)])
    last = shard([("c", "Go", "y", 3, 30, 7), ("d", "C", "x", 4, 40, 9)])
    documents = Documents([first, shard([]), last])
    assert [documents.source(number) for number in range(4)] == ["a", "ü", "c", "d"]
    assert documents.starts.tolist() == [0, 2, 2, 4] and len(documents) == 4
    (block,) = documents.blocks()
    assert [values.tolist() for _, values in block.by_shard(np.arange(4))] == [[0, 1], [], [2, 3]]


def test_duplicates_are_dropped_and_counted(select):
    first = shard([("a", "C", None, 1, 10, 1), ("b", "C", None, 2, 20, 1)])
    last = shard([("c", "C", None, 2, 20, 1), ("d", "C", None, 1, 10, 1), ("e", "C", None, 3, 5, 1)])
    duplicates = {
        "exact duplicate": Duplicates(flags([False, False, True, True, False]), {2: 1, 3: 0}),
        "near duplicate": Duplicates(flags([False, False, False, False, True]), {4: 1}),
    }
    placed, selection, summary = select(Documents([first, last]), settings(), duplicates=duplicates)
    assert placed == [TRAIN, TRAIN, -1, -1, -2] and selection.split_by == "document"
    assert selection.dropped == {"exact duplicate": [(2, 1), (3, 0)], "near duplicate": [(4, 1)]}
    assert summary.counts(-1) == {"documents": 2, "tokens": 2, "bytes": 30}


def many(count, groups=20):
    rows = [(f"file{number}", "C", f"group{number % groups}", number, 100 + number, 10) for number in range(count)]
    return Documents([shard(rows[:77]), shard([]), shard(rows[77:])])


@pytest.mark.parametrize("limit", [99, 10_000, 10**9])
def test_sampling(select, limit):
    documents = many(200)
    placed, selection, summary = select(documents, settings(max_bytes=limit), True)
    total, left_out = summary.counts(TRAIN)["bytes"], placed.count(-3)
    assert total <= limit and (not left_out or limit - total < 300)
    assert ("not sampled" in selection.dropped) == bool(left_out)
    if left_out:
        first = [number for number, place in enumerate(placed) if place == -3][:3]
        assert selection.dropped["not sampled"] == [(number, None) for number in first]
        assert limit < 100 or select(documents, settings(max_bytes=limit, seed=1), True)[0] != placed
    assert select(documents, settings(max_bytes=limit))[0] == [TRAIN] * 200  # done before


def sampled(names, sizes, limit, seed):
    """The plain rule: in the order of the hashes, take what fits."""
    order = sorted(range(len(names)), key=lambda n: hashlib.sha256(f"{seed}:{names[n]}".encode()).digest()[:8])
    taken = set()
    for number in order:
        if sizes[number] <= limit:
            taken.add(number)
            limit -= sizes[number]
    return taken


@hypothesis_settings(max_examples=20)  # every example waits for the disk
@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 1500), st.integers(0, 5))
def test_the_sample_is_that_of_the_plain_rule_in_any_blocks_and_parts(tmp_path_factory, sizes, limit, seed):
    names = [f"file{number}" for number in range(len(sizes))]
    rows = [(name, "C", None, 0, size, 1) for name, size in zip(names, sizes, strict=True)]
    documents = Documents([shard(rows[start : start + 5]) for start in range(0, len(rows), 5)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_DOCUMENTS", 12)
        patch.setattr(module, "PART_ROWS", 7)
        phases = Phases(tmp_path_factory.mktemp("work") / "phases", map, documents.blocks())
        chosen = settings(max_bytes=limit, seed=seed)
        select_among(documents, chosen, {}, True, phases)
    found = [number for _, numbers in placed_documents(phases) for number in numbers.tolist()]
    assert {number for number, place in enumerate(found) if place == TRAIN} == sampled(names, sizes, limit, seed)


def test_groups_are_not_torn_in_any_blocks_and_parts(select, monkeypatch):
    documents = many(200)
    placed, selection, summary = select(documents, settings(validation_share=0.2))
    sides = {}
    for number, side in enumerate(placed):
        sides.setdefault(number % 20, set()).add(side)
    assert selection.split_by == "package" and all(len(side) == 1 for side in sides.values())
    assert 0.1 < summary.counts(VALIDATION)["bytes"] / summary.counts(TRAIN, VALIDATION)["bytes"] < 0.3
    in_validation = sum(side == {VALIDATION} for side in sides.values())
    assert selection.packages == (20 - in_validation, in_validation)
    assert [len(summary.packages[side]) for side in (TRAIN, VALIDATION)] == [20 - in_validation, in_validation]
    monkeypatch.setattr(module, "BLOCK_DOCUMENTS", 30)
    monkeypatch.setattr(module, "PART_ROWS", 9)
    rows = [(f"file{number}", "C", f"group{number % 20}", number, 100 + number, 10) for number in range(200)]
    torn = Documents([shard(rows[start : start + 11]) for start in range(0, 200, 11)])
    again, other, added = select(torn, settings(validation_share=0.2))
    assert (again, other.packages, added) == (placed, selection.packages, summary)


def test_documents_of_their_own_beside_groups(select):
    rows = [(f"own{n}", "C", None, n, 100, 1) for n in range(50)]
    rows += [(f"g{n}", "C", "g", 60 + n, 100, 1) for n in range(5)]
    placed, selection, _ = select(Documents([shard(rows)]), settings(validation_share=0.2))
    assert selection.split_by == "package" and len(set(placed[50:])) == 1 and sum(selection.packages) == 1
    assert set(placed[:50]) == {TRAIN, VALIDATION}


def test_one_group_is_split_by_document(select):
    documents = Documents([shard([(f"f{n}", "C", "only", n, 100, 1) for n in range(10)])])
    placed, selection, _ = select(documents, settings(validation_share=0.2))
    assert selection.split_by == "file" and placed.count(VALIDATION) == 2 and selection.packages == (1, 1)
    placed, selection, _ = select(documents, settings())
    assert selection.split_by == "package" and set(placed) == {TRAIN}


def test_a_group_of_which_all_but_one_are_dropped_is_split_by_document(select):
    rows = [(f"f{n}", "C", "other" if n == 3 else "only", n, 100, 1) for n in range(10)]
    dropped = {"exact duplicate": Duplicates(flags([n == 3 for n in range(10)]), {3: 0})}
    placed, selection, _ = select(Documents([shard(rows)]), settings(validation_share=0.2), duplicates=dropped)
    assert selection.split_by == "file" and placed.count(VALIDATION) == 2 and placed[3] == -1


def test_a_document_with_the_name_of_the_only_group_is_in_that_group(select):
    rows = [("name", "C", None, 1, 100, 1), ("f", "C", "name", 2, 100, 1)]
    placed, selection, _ = select(Documents([shard(rows)]), settings(validation_share=0.2))
    assert selection.split_by == "folder" and set(placed) == {TRAIN, VALIDATION}


@pytest.mark.parametrize(
    ("packages", "unit", "held_out", "said"),
    [
        ({name: {f"{name}/{n}": [10] * 4 for n in range(5)} for name in "ab"}, "folder", 40, "split by folder, 10.0%"),
        ({"a": {"a": [10] * 20}, "b": {"b": [10] * 20}}, "file", 40, "split by file, 10.0% of the text; related files"),
        ({"a": {"a": [10] * 20}, "b": {"b": [2]}}, "file", 22, "split by file, 10.9%"),  # b alone is too little
        ({"a": {"a": [100]}, "b": {"b": [100]}, "c": {"c": [100]}}, "package", 100, "not divided, and has 33%"),
        ({"a": {"a": [300]}, "b": {"b/x": [60], "b/y": [40]}}, "package", 100, "b is not divided, and has 25%"),
    ],
)
def test_the_coarsest_unit_that_meets_the_share(select, packages, unit, held_out, said):
    folders = [(name, *folder) for name, inside in packages.items() for folder in inside.items()]
    files = [(f"{folder}/f{n}", name, size) for name, folder, sizes in folders for n, size in enumerate(sizes)]
    rows = [(source, "C", name, n, size, 1) for n, (source, name, size) in enumerate(files)]
    placed, selection, _ = select(Documents([shard(rows[:2]), shard(rows[2:])]), settings(validation_share=0.1))
    assert selection.split_by == unit and said in selection.remarks[0]
    assert sum(row[4] for row, side in zip(rows, placed, strict=True) if side == VALIDATION) in (held_out, held_out - 2)


def test_one_document_cannot_be_split(select):
    with pytest.raises(UserError, match="f0: the only document left"):
        select(Documents([shard([("f0", "C", "x", 1, 10, 1)])]), settings(validation_share=0.1))


def test_nothing_is_left_of_nothing(select):
    placed, _, summary = select(Documents([shard([])]), settings(validation_share=0.1))
    assert placed == [] and summary.counts(TRAIN, VALIDATION)["documents"] == 0


def test_a_second_call_uses_the_results_of_the_first(tmp_path):
    documents, called = many(200), []

    def mapper(function, tasks):
        for task in tasks:
            called.append(task[0].name)
            yield function(task)

    phases = Phases(tmp_path / "phases", mapper, documents.blocks())
    chosen = settings(validation_share=0.2, max_bytes=10_000)
    first = select_among(documents, chosen, {}, True, phases)
    assert {"sampled-000000", "sums-package-000000", "placed-000000"} <= set(called)
    called.clear()
    second = select_among(documents, chosen, {}, True, phases)
    assert not called and (second.packages, second.dropped) == (first.packages, first.dropped)


def test_the_directory_depends_on_what_decides():
    changes = ({}, {"seed": 1}, {"validation_share": 0.5}, {"max_bytes": 1})
    names = {selection_name("b", settings(), True), *(selection_name("a", settings(**it), True) for it in changes)}
    assert len(names) == 5
    assert selection_name("a", settings(max_bytes=1), False) == selection_name("a", settings(max_bytes=2), False)


def sums(keys, sizes):
    """Groups as `choose_validation` reads them."""
    rows = np.zeros(len(keys), SUM)
    rows["key"], rows["bytes"] = keys, sizes
    return rows[np.argsort(rows["key"])]


def plain_choice(rows, share):
    """The same rule on all groups at once."""
    sizes = rows["bytes"].tolist()
    target, chosen = share * sum(sizes), set()
    if not target:
        return []
    nearest = min(range(len(sizes)), key=lambda place: (abs(sizes[place] - target), place))
    found = [(abs(sizes[nearest] - target), [nearest])]
    for limit in (target / 3, target, 3 * target):
        chosen, total = set(), 0
        for place, size in enumerate(sizes):
            if size > limit:
                continue
            if total >= target or len(chosen) == len(sizes) - 1:
                break
            if not chosen or total + size <= 1.5 * target:
                chosen.add(place)
                total += size
        if total >= target / 2:
            return rows["key"][sorted(chosen)].tolist()
        if chosen:
            found.append((abs(total - target), sorted(chosen)))
    return rows["key"][min(found, key=lambda each: each[0])[1]].tolist()


@given(st.lists(st.integers(1, 1000) | st.just(50_000), min_size=2, max_size=80), st.floats(0, 0.9), st.integers(1, 90))
def test_groups_in_parts_are_chosen_like_all_at_once(sizes, share, part):
    rows = sums(np.arange(len(sizes)) * 7 + 3, sizes)
    parts = [rows[start : start + part] for start in range(0, len(rows), part)]
    chosen = choose_validation(lambda: iter([rows[:0], *parts]), share)
    assert chosen.tolist() == plain_choice(rows, share)
    assert len(chosen) < len(sizes) and (len(chosen) > 0) == (share > 0)


def test_only_one_part_of_the_groups_is_in_memory_at_a_time():
    def parts():
        for part in range(40):
            yield sums(np.arange(part * 10_000, (part + 1) * 10_000), np.full(10_000, 5))

    tracemalloc.start()
    chosen = choose_validation(parts, 0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chosen.tolist() == list(range(4000))
    assert peak < 10 * 10_000 * SUM.itemsize  # of 40 parts


def test_a_package_with_more_than_twice_the_share_is_named(select):
    documents = Documents([shard([("a", "C", "x/small", 1, 120, 3), ("b", "C", "x/large", 2, 880, 5)])])
    _, selection, _ = select(documents, settings(validation_share=0.05))
    assert selection.remarks == ("--validation-share 0.05: x/small is not divided, and has 12% of the text",)
    assert select(documents, settings(validation_share=0.07))[1].remarks == ()
