"""MultiPL-E's files, and its rules in every language, with a problem of our own."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from multipl_e_rows import ANSWERS, ROWS, write

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.extras.evaluation.benchmarks import multipl_e
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer
from ms_codegeex.extras.evaluation.toolchains import PLAIN_TOOL_CHAINS
from ms_codegeex.extras.evaluation.toolchains.multipl_e import PlainJava, PlainRust

SLOW = ("java", "go", "cpp", "rust", "ts")  # tool chains that take seconds to prepare or to compile


@pytest.mark.parametrize(
    "language", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in ROWS]
)
def test_verdicts(tmp_path, sandbox, language):
    """Also of a right answer with its prompt that is cut at a stop word, as others write it, and of a chat's body."""
    task = multipl_e.build(write(tmp_path / "m.jsonl"), [language])
    if PLAIN_TOOL_CHAINS[language]().found is None:
        pytest.skip(f"needs {PLAIN_TOOL_CHAINS[language].install}")
    (problem,) = task.problems

    def judged(answer):
        found = task.judge(problem, Sample(problem.id, 0, problem.data.prompt, answer, "stop"), sandbox)
        return (found.verdicts["published"].value, found.verdicts["strict"].value), found.stderr

    assert task.prepare(task.problems) == {} and set(task.tools()) == {language}
    assert task.judge(problem, task.trial(problem), sandbox).verdicts["strict"].value == "passed"
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(ANSWERS[language], pool.map(judged, ANSWERS[language]), strict=True))
    expected = ANSWERS[language]
    assert {answer: each for answer, each in found.items() if each[0] != expected[answer]} == {}
    text = next(iter(expected))
    given = Sample(problem.id, 0, "", f"{problem.data.prompt}{text}", "given", {"whole": True})
    for each in (given, task.produce(problem, 0, 0, lambda *_, **__: SampledAnswer(f"```\n{text}\n```", "eos", True))):
        assert task.judge(problem, each, sandbox).verdicts["strict"].value == "passed"


def test_an_archive_that_is_not_the_library_is_named(tmp_path, monkeypatch):
    archive, java = tmp_path / "javatuples-1.2.jar", PLAIN_TOOL_CHAINS["java"]()
    monkeypatch.setenv("CLASSPATH", f"/nowhere/other.jar:/nowhere/javatuples.jar:{archive}")

    def content(member):
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr(member, "x")
        return archive.read_bytes()

    right = content("org/javatuples/Pair.class")
    for wrong in (content("org/javatuples/Triplet.class"), right[:-30], b""):
        archive.write_bytes(wrong)
        assert not java.has("javatuples")
    task = multipl_e.build(write(tmp_path / "m.jsonl", "java"))
    with pytest.raises(UserError, match=rf"java: {archive} is not javatuples, or was cut off; put the right one there"):
        task.missing()
    archive.write_bytes(right)
    assert java.has("javatuples") and PlainJava(tmp_path).jars() == [archive]


def test_answers_end_at_the_problems_stop_words(tmp_path):
    task = multipl_e.build(write(tmp_path / "m.jsonl", "js", "rust"))
    text = "  return [a, b];\n}\nfunction more() {}\n"
    kept = []
    for problem in task.problems:

        def complete(prompt, *, seed, stop, max_new_tokens=None, problem=problem):
            assert prompt == problem.data.prompt and stop(text) and not stop("  return [a")
            return SampledAnswer(text, "stop")

        kept.append(task.produce(problem, 0, 0, complete).generation)
    assert kept == ["  return [a, b];\n}", "  return [a, b];"]
    assert [(p.id, p.labels["language"], p.labels["benchmark"]) for p in task.problems] == [
        ("js/HumanEval_900_swapped", "js", "humaneval"), ("rust/HumanEval_900_swapped", "rust", "humaneval"),
    ]  # fmt: skip


def test_languages_without_a_tool_chain_are_left_out_only_by_name(tmp_path, monkeypatch):
    path = write(tmp_path / "m.jsonl", "js", "rust")
    with open(path, "a") as stream:
        stream.write(json.dumps({**ROWS["js"], "language": "rkt"}) + "\n")
    with pytest.raises(UserError, match=r"no tool chain for rkt; leave them out .*: --language js rust$"):
        multipl_e.build(path)
    task = multipl_e.build(path, ["js", "rust"])
    monkeypatch.setattr(PlainRust, "version", lambda self: None)
    with pytest.raises(UserError, match=r"missing on this machine: rust: apt-get install rustc, or .*--language js$"):
        task.missing()
    assert multipl_e.build(path, ["js"]).missing() == {}
    with pytest.raises(UserError, match=r"has no problems in cpp; it has js, rust"):
        multipl_e.build(path, ["cpp"])


def test_the_command_judges_samples_from_elsewhere(tmp_path, sandbox, capsys):
    data = write(tmp_path / "m.jsonl", "js", "bash")
    samples = [
        {"task_id": f"{name}/HumanEval_900_swapped", "completion": answer}
        for name in ("js", "bash")
        for answer in list(ANSWERS[name])[:2]
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    words = ["evaluate", "multipl-e", "--data", data, "--samples", tmp_path / "s.jsonl", "--output", tmp_path / "o"]
    if any(PLAIN_TOOL_CHAINS[name]().found is None for name in ("js", "bash")):
        pytest.skip("needs Node.js and bash")
    assert main([str(word) for word in [*words, "--json"]]) == 0
    by = json.loads(capsys.readouterr().out)["scores"]["strict"]["by"]["language"]
    assert {name: by[name]["pass_rate"]["value"] for name in by} == {"js": 0.5, "bash": 0.5}
