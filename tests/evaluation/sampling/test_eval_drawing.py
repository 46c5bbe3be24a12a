import pytest
from fake_task import Doubling, Seeded, samples_of

from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.evaluation.sampling.drawing import sample_seed


def test_seeds_depend_on_nothing_but_what_they_are_for():
    seeds = {sample_seed(s, t, c) for s in range(5) for t in ("a/1", "a/11", "b/1") for c in range(20)}
    assert len(seeds) == 300 and all(0 <= seed < 2**31 for seed in seeds)
    assert sample_seed(42, "Python/0", 0) == sample_seed(42, "Python/0", 0) == 30292175


@pytest.mark.parametrize("concurrency", [1, 3])
def test_samples_are_the_same_however_they_come_about(tmp_path, concurrency):
    whole = samples_of(tmp_path / "whole.jsonl", Seeded(concurrency))
    rows = read_rows(tmp_path / "whole.jsonl")
    order = [(problem.id, i) for problem in Doubling().problems for i in range(4)]
    assert [(row["task_id"], row["completion_id"]) for row in rows] == order
    assert whole == samples_of(tmp_path / "again.jsonl", Seeded())
    assert whole != samples_of(tmp_path / "other.jsonl", Seeded(), seed=2)

    with pytest.raises(KeyboardInterrupt):
        samples_of(tmp_path / "cut.jsonl", Seeded(concurrency, limit=7))
    cut = tmp_path / "cut.jsonl"
    assert len(read_rows(cut)) in range(7 - concurrency + 1, 8)
    cut.write_bytes(cut.read_bytes()[:-5])
    left, rest = len(cut.read_bytes().splitlines()) - 1, Seeded(concurrency)
    assert samples_of(cut, rest) == whole and len(rest.calls) == 24 - left


def test_more_samples_are_added_to_those_that_are_there(tmp_path):
    few, more = Seeded(), Seeded()
    samples_of(tmp_path / "few.jsonl", few, n=2)
    assert samples_of(tmp_path / "few.jsonl", more, n=5) == samples_of(tmp_path / "all.jsonl", Seeded(), n=5)
    assert len(more.calls) == 6 * 3
