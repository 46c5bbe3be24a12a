"""Reading HumanEval-X."""

from pathlib import Path

import pytest
from benchmark_data import benchmark
from humaneval_x_rows import GO, ROWS, write

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x import build
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems


@pytest.mark.parametrize("language", ROWS)
def test_a_file_given_itself(tmp_path: Path, language: str):
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
