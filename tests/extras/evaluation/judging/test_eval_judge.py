import pytest
from fake_task import Doubling, Seeded, samples_of

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.extras.evaluation.jsonl import RowFile, read_rows
from ms_codegeex.extras.evaluation.judging import reasons
from ms_codegeex.extras.evaluation.judging.engines import LocalEngine
from ms_codegeex.extras.evaluation.judging.judge import judge_samples
from ms_codegeex.extras.evaluation.rows import judgement_from, sample_from


def judged(path, samples, task, workers=1):
    rows = [sample_from(row) for row in read_rows(samples)]
    judge_samples(task, task.problems, LocalEngine(task, None, workers), rows, RowFile(path), progress=False)
    return path.read_bytes()


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
    assert len(rows) == 12 and not task.judged and rows[0]["stderr"] == "nothing: prompt: 9 tokens"
    assert rows[0]["verdicts"] == {"strict": "error", "published": "error"}


GUARDED = "the guard of the published runner has taken {} away"
REASONS = {  # the end of an error: the line that says most, and the remedy if there are both options
    "a.cpp:1:2: error: no y\n 1 | y\n   | ^\n1 error\n": ("a.cpp:1:2: error: no y", "mend the tool chain"),
    "  File\nModuleNotFoundError: No module named 'a.b'": (
        "ModuleNotFoundError: No module named 'a.b'",
        "give --python FILE, an interpreter that has a",
    ),
    "    import resource\nModuleNotFoundError: import of resource halted; None in sys.modules": (
        f"ModuleNotFoundError: import of resource halted; None in sys.modules: {GUARDED.format('resource')}",
        "write the canonical solution without",
    ),
    "    shutil.rmtree(x)\n    ~~~~^^^\nTypeError: 'NoneType' object is not callable\n": (
        f"TypeError: 'NoneType' object is not callable: {GUARDED.format('shutil.rmtree')}",
        "write the canonical solution without",
    ),
    "    f(x)\nTypeError: 'NoneType' object is not callable": (
        "TypeError: 'NoneType' object is not callable",
        "mend the tool chain",
    ),
    "RuntimeError: the timeout\n": ("RuntimeError: the timeout", "mend the tool chain"),
    "": ("", "mend the tool chain"),
}


@pytest.mark.parametrize("stderr", REASONS)
def test_the_reason_of_a_failure_and_its_remedy(stderr):
    line, remedy = REASONS[stderr]
    assert reasons.last_line(stderr) == line
    why = reasons.reason({"strict": "error", "base": "wrong"}, stderr)
    assert why == "strict error, base wrong" + (f": {line}" if line else "")
    assert reasons.remedy([why], ("timeout", "python")).startswith(remedy)
    assert "--python" not in reasons.remedy([why], ())
    assert reasons.remedy(["strict timeout"], ("timeout",)) == "give a longer --timeout S"
