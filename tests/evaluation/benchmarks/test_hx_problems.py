"""Reading HumanEval-X."""

import gzip
import json
from pathlib import Path

import pytest
from benchmark_data import benchmark
from humaneval_x_rows import CPP, GO, PYTHON, ROWS, write

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.humaneval_x import problems
from ms_codegeex.evaluation.benchmarks.humaneval_x.task import build


@pytest.mark.parametrize("language", ROWS)
def test_a_file_given_itself(tmp_path: Path, language: str):
    """Compressed or not, under each of its names."""
    for packed in (True, False):
        path = write(tmp_path, language, packed=packed)
        path = path.rename(tmp_path / "anything")
        (file,) = problems.read(path).values()
        assert [row.number for row in file.rows] == [7] and file.version == "unknown"
        assert (file.rows[0].language, file.rows[0].prompt) == (language, ROWS[language]["prompt"])
        assert file.rows[0].solution == ROWS[language]["canonical_solution"]
    assert file.rows[0].imports == (GO["import"] if language == "go" else "")


def test_files_of_codegeex2_come_first(tmp_path: Path):
    write(tmp_path / "humaneval-x", "js")
    newer = {**ROWS["js"], "prompt": "// newer\nconst triple = (number) => {\n"}
    write(tmp_path / "other" / "below", "js", newer).rename(tmp_path / "other" / "below" / "humanevalx_js.jsonl.gz")
    assert problems.read(tmp_path)["js"].rows[0].prompt.startswith("// newer")


def test_languages_that_are_asked_for(tmp_path: Path):
    write(tmp_path, "cpp")
    write(tmp_path, "python")
    assert list(problems.read(tmp_path)) == ["python", "cpp"]
    assert list(problems.read(tmp_path, ["cpp"])) == ["cpp"]
    with pytest.raises(UserError, match="for java"):
        problems.read(tmp_path, ["java"])
    with pytest.raises(UserError, match="pyton"):
        problems.read(tmp_path, ["pyton"])
    with pytest.raises(UserError, match="no such file"):
        problems.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("line", "reported"),
    [
        ("{", "2: invalid JSON"),
        ("[" * 100_000, "2: invalid JSON"),
        ("[1]", "2: found list, expected an object"),
        (json.dumps({**PYTHON, "task_id": "Pyton/1"}), "2: task_id is 'Pyton/1'"),
        (json.dumps({**PYTHON, "task_id": "Python/x"}), "2: task_id"),
        (json.dumps({**PYTHON, "task_id": "Python/²"}), "2: task_id"),
        (json.dumps({**PYTHON, "task_id": 3}), "2: task_id"),
        (json.dumps({key: value for key, value in PYTHON.items() if key != "test"}), "2: test is missing"),
        (json.dumps({**PYTHON, "prompt": 5}), "2: prompt is missing or no text"),
        (json.dumps(PYTHON), "2: Python/7 is also in line 1"),
        (json.dumps(CPP), "2: a problem in cpp in a file for python"),
    ],
)
def test_bad_rows_are_reported_with_their_line(tmp_path: Path, line: str, reported: str):
    path = tmp_path / "python.jsonl"
    path.write_text(json.dumps(PYTHON) + "\n" + line + "\n")
    with pytest.raises(UserError, match=r"^[^\n]*$") as error:
        problems.read(tmp_path)
    assert f"{path}:{reported}" in str(error.value)


BAD_FILES = {
    "empty": b"",
    "no gzip after its magic number": b"\x1f\x8bnothing",
    "gzip that breaks off": gzip.compress(b"x" * 99, mtime=0)[:-9],
    "not UTF-8": b"\xff\xfe",
    "empty lines": b"\n\n",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_reported(tmp_path: Path, kind: str):
    path = tmp_path / "python.jsonl.gz"
    path.write_bytes(BAD_FILES[kind])
    with pytest.raises(UserError, match=r"python\.jsonl\.gz"):
        problems.read(tmp_path)


def test_go_needs_its_setup(tmp_path: Path):
    with pytest.raises(UserError, match="test_setup is missing"):
        problems.read_file(write(tmp_path, "go", {key: value for key, value in GO.items() if key != "test_setup"}))


def test_published_files_are_known():
    """164 problems each, of known versions; Rust's and JavaScript's are CodeGeeX2's."""
    benchmark("humaneval-x")
    benchmark("humanevalx-codegeex2")
    files = problems.read(benchmark(""))
    assert {name: len(file.rows) for name, file in files.items()} == dict.fromkeys(ROWS, 164)
    versions = {name: file.version for name, file in files.items()}
    old = {name: f"CodeGeeX v1, {name}" for name in ("python", "cpp", "java", "go")}
    assert versions == {**old, "js": "CodeGeeX2, js", "rust": "CodeGeeX2, rust"}
    assert not any("v1" in why for why in build(benchmark("")).known_defects().values())
    older = build(benchmark("humaneval-x"))
    assert older.provenance["rust"]["version"] == "CodeGeeX v1, rust"
    assert {"JavaScript/112", "JavaScript/155"} <= older.known_defects().keys()


def test_tests_cannot_end_a_comment_or_a_text_of_an_answer():
    """What swallows the tests, a comment or a text over several lines that the answer leaves open, stays open: nothing
    in the tests ends it. Only then does a call after them say that they have run."""
    for name, file in problems.read(benchmark("")).items():
        for row in file.rows:
            if (name, row.number) != ("rust", 32):  # is a comment; has a test of ours
                ends = ['"""', "'''"] if name == "python" else ["*/", "`", '"""']
                assert not any(end in row.test for end in ends), (name, row.number)
