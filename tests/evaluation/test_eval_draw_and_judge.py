from dataclasses import replace

import pytest
from fake_task import Doubling, Seeded

from ms_codegeex.errors import PromptTooLong
from ms_codegeex.evaluation.jsonl import RowFile, read_rows
from ms_codegeex.evaluation.judging.judge import judge
from ms_codegeex.evaluation.rows import fingerprint, judgement_from, sample_from
from ms_codegeex.evaluation.sampling.drawing import generate, sample_seed
from ms_codegeex.evaluation.task import Sample
from ms_codegeex.evaluation.threads import in_parallel


def samples_of(path, sampler, task=None, n=4, seed=1):
    task = task or Doubling()
    generate(task, task.problems, n, seed, sampler, RowFile(path), progress=False)
    return path.read_bytes()


def judged(path, samples, task, workers=1):
    rows = [sample_from(row) for row in read_rows(samples)]
    judge(task, task.problems, None, rows, RowFile(path), workers, progress=False)
    return path.read_bytes()


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


@pytest.mark.parametrize("workers", [1, 4])
def test_each_program_is_judged_once_and_every_sample_has_a_verdict(tmp_path, workers):
    samples_of(tmp_path / "s.jsonl", Seeded(), n=20)
    task = Doubling()
    judged(tmp_path / "r.jsonl", tmp_path / "s.jsonl", task, workers)
    samples, results = read_rows(tmp_path / "s.jsonl"), read_rows(tmp_path / "r.jsonl")
    assert len(results) == 120 and len(task.judged) == len(set(task.judged))
    assert set(task.judged) == {(row["task_id"], row["generation"]) for row in samples}
    for sample, result in zip(samples, results, strict=True):
        assert (sample["task_id"], sample["completion_id"]) == (result["task_id"], result["completion_id"])
        right = sample["generation"] == str(2 * int(sample["task_id"].split("/")[1]))
        assert result["verdicts"] == {"strict": "passed" if right else "wrong", "published": "passed"}
        assert judgement_from(result).verdicts["strict"].value == result["verdicts"]["strict"]


def test_how_a_text_came_about_makes_it_no_other_program():
    notes = [Sample("cpp/1", i, "p", "2", "eos", {"case": 0, "raw": f"2{i}", "turns": [i]}) for i in range(3)]
    assert len({fingerprint(sample) for sample in notes}) == 1
    others = [
        *notes[:1],
        replace(notes[0], generation="3"),
        replace(notes[0], prompt="q"),
        replace(notes[0], task_id="a"),
    ]
    others += [replace(notes[0], extra={"case": 1}), replace(notes[0], finish="too long")]
    assert len({fingerprint(sample) for sample in others}) == 6


def test_judging_goes_on_where_it_was(tmp_path):
    samples_of(tmp_path / "s.jsonl", Seeded(), n=6)
    whole = judged(tmp_path / "r.jsonl", tmp_path / "s.jsonl", Doubling(), 3)
    lines = whole.splitlines(keepends=True)
    (tmp_path / "r.jsonl").write_bytes(b"".join(lines[::2]) + lines[1][:9])
    task = Doubling()
    assert judged(tmp_path / "r.jsonl", tmp_path / "s.jsonl", task) == whole
    assert 0 < len(task.judged) < len({line[:20] for line in lines}) * 6
    again = Doubling()
    assert judged(tmp_path / "r.jsonl", tmp_path / "s.jsonl", again) == whole and not again.judged


def test_a_verdict_is_not_kept_for_another_text(tmp_path):
    samples_of(tmp_path / "s.jsonl", Seeded(), n=3)
    judged(tmp_path / "r.jsonl", tmp_path / "s.jsonl", Doubling())
    samples_of(tmp_path / "t.jsonl", Seeded(), n=3, seed=9)
    fresh = judged(tmp_path / "f.jsonl", tmp_path / "t.jsonl", Doubling())
    assert judged(tmp_path / "r.jsonl", tmp_path / "t.jsonl", Doubling()) == fresh


def test_a_prompt_without_room_is_a_sample_that_is_not_run(tmp_path):
    def small(prompt, **_):
        raise PromptTooLong("prompt: 9 tokens")

    small.concurrency = 1
    samples_of(tmp_path / "s.jsonl", small, n=2)
    task = Doubling()
    judged(tmp_path / "r.jsonl", tmp_path / "s.jsonl", task)
    rows = read_rows(tmp_path / "r.jsonl")
    assert len(rows) == 12 and not task.judged
    assert rows[0]["verdicts"] == {"strict": "error", "published": "error"} and rows[0]["stderr"] == "prompt: 9 tokens"


def test_an_error_in_a_thread_is_raised_and_nothing_new_is_started():
    started = []

    def fail(number):
        started.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(in_parallel(range(1000), fail, 2, "", False))
    assert len(started) < 20
