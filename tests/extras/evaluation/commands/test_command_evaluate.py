"""`ms-codegeex evaluate` as users run it: a model's samples, judged in the sandbox, and the report, for every task.
`evaluate reproduce` is killed and continued in test_command_reproduce.py."""

import json
import math
import shutil

import pytest
import small_benchmarks
from conftest import ROOT, command, command_here
from openai_server import Server

from ms_codegeex.base.reading import read_json
from ms_codegeex.cli import main
from ms_codegeex.extras.evaluation.jsonl import read_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_benchmarks.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def generators():
    """Models that were read and compiled before: most of a test's time."""
    return {}


@pytest.fixture(autouse=True)
def _one_generator(generators, monkeypatch):
    from ms_codegeex.generation import engine

    make = engine.Generator
    monkeypatch.setattr(
        engine, "Generator", lambda path, **_: generators.get(path) or generators.setdefault(path, make(path, slots=3))
    )


@pytest.fixture
def evaluate(tmp_path, capsys):
    """Run the command; its report as an object, or the message of a refusal."""

    def call(*words, status=0):
        capsys.readouterr()
        assert main(["evaluate", *map(str, words), "--output", str(tmp_path / "out"), "--json"]) == status
        captured = capsys.readouterr()
        return json.loads(captured.out) if status == 0 else captured.err

    return call


SHORT = ("--n", 2, "--temperature", 0.8, "--max-new-tokens", 6, "--workers", 2)


@pytest.mark.strict_sandbox
def test_humaneval_from_the_model_to_the_report(model, evaluate, tmp_path):
    data = small_benchmarks.humaneval(tmp_path)
    report = evaluate("humaneval", "--model", model, "--data", data, *SHORT, "--check-references")
    assert report["references"]["all"] == {"total": 2, "passed": 2, "defects": {}, "failing": {}}
    score = report["scores"]["strict"]["all"]
    assert (score["problems"], score["samples"]) == (2, 4)
    assert report["settings"]["recipe"]["temperature"] == 0.8 and len(report["settings"]["model"]["sha256"]) == 64
    assert set(report["settings"]["machine"]["sandbox"].values()) == {"active"}
    assert "HumanEval" in (tmp_path / "out" / "report.html").read_text()

    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    (tmp_path / "out" / "samples.jsonl").write_bytes(before[:-20])  # as a kill leaves it
    evaluate("humaneval", "--model", model, "--data", data)
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before
    reported = evaluate("humaneval", "--model", model, "--data", data, "--temperature", 0.2, status=2)
    assert "recipe.temperature is 0.8, now 0.2" in reported
    other = small_benchmarks.write_model(tmp_path, seed=6)
    assert "model.sha256 is" in evaluate("humaneval", "--model", other, "--data", data, status=2)


@pytest.mark.strict_sandbox
def test_humaneval_x_in_two_languages(model, evaluate, tmp_path):
    data = small_benchmarks.humaneval_x(tmp_path)
    report = evaluate(
        "humaneval-x", "--model", model, "--data", data, *SHORT, "--tag", "--language", "python", "JavaScript"
    )
    assert [each["passed"] for each in report["references"].values()] == [2, 2]
    assert report["samples"]["judged"] == 8 and set(report["scores"]["strict"]["by"]["language"]) == {"python", "js"}
    prompts = [row["prompt"] for row in read_rows(tmp_path / "out" / "samples.jsonl")]
    assert prompts[0].startswith("# language: Python\n") and prompts[-1].startswith("// language: JavaScript\n")


@pytest.mark.strict_sandbox
@pytest.mark.skipif(shutil.which("perl") is None, reason="needs perl")
def test_a_seventh_language(evaluate):
    data = ROOT / "configs" / "evaluation" / "perl"
    done = command_here("evaluate", "check-problems", "--data", data)
    assert done.returncode == 0 and done.stdout == "5 problems, 25 answers judged, 0 faults\n"

    def answer(body):
        right = "sub add" in body["prompt"] and body["seed"] % 2 == 0
        return ("    return $x + $y;\n}\nsub more {" if right else "    return 'none';\n}\n"), "stop"

    with Server(answer) as server:
        words = ("--url", server.url, "--data", data, "--n", 10, "--tag", "--temperature", 0.8)
        report = evaluate("own-problems", *words)
        assert server.requests[0]["prompt"].startswith("# language: Perl\n# Given a positive")
    assert report["references"]["Perl"]["passed"] == 5
    passed = {row["task_id"]: row["passed"]["strict"] for row in report["by_problem"]}
    assert 0 < passed["Perl/53"] < 10 and sum(passed.values()) == passed["Perl/53"]
    assert report["scores"]["strict"]["by"]["language"]["Perl"]["pass_at"]["10"]["value"] == pytest.approx(1 / 5)


@pytest.mark.strict_sandbox
@pytest.mark.skipif(shutil.which("perl") is None, reason="needs perl")
def test_problems_that_are_not_fit_for_use(tmp_path):
    data = tmp_path / "perl"
    shutil.copytree(ROOT / "configs" / "evaluation" / "perl", data)
    text = (data / "perl.jsonl").read_text()
    (data / "perl.jsonl").write_text(text.replace("return $x + $y", "return $x * $y"))
    done = command_here("evaluate", "check-problems", "--data", data, "--workers", 2)
    assert done.returncode == 1 and f"{data}/perl.jsonl:5: Perl/53: the reference fails: strict wrong" in done.stdout
    assert "1 faults; fix them" in done.stderr


def test_a_summary_that_is_the_description_is_perfect(evaluate, tmp_path):
    """No program runs, so no sandbox is needed."""
    pytest.importorskip("sacrebleu")
    data = small_benchmarks.humaneval_x(tmp_path)

    def answer(body):
        right = "Add one." if "x + 1" in body["prompt"] else "Double."
        return f" {right}\n\nint x;" if "//" in body["prompt"] else " something else entirely", "stop"

    with Server(answer) as server:
        report = evaluate("humaneval-x-summary", "--url", server.url, "--data", data, "--tag")
    prompt = "# language: Python\ndef f0(x):\n    return x + 1\n\n# Summary:"
    assert prompt in [request["prompt"] for request in server.requests]
    assert report["scores"] == {} and report["failed"] == [] and report["samples"]["judged"] == 4
    measured = report["measures"]
    assert {name: each["problems"] for name, each in measured.items()} == {"all": 4, "python": 2, "js": 2}
    assert measured["js"]["chrF"]["value"] == 1 and measured["python"]["chrF"]["value"] < 0.3
    assert measured["all"]["chrF"]["value"] == pytest.approx((1 + measured["python"]["chrF"]["value"]) / 2)
    for found in (measured["python"]["BLEU-4"], measured["all"]["chrF"]):
        assert found["low"] <= found["value"] <= found["high"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "chrF" in page and "Nothing has been judged" not in page


@pytest.mark.strict_sandbox
@pytest.mark.parametrize("turns", ["multi", "single"])
def test_mtpb_from_the_model_to_the_report(model, evaluate, tmp_path, turns):
    data = small_benchmarks.mtpb(tmp_path)
    words = ("--model", model, "--data", data, "--turns", turns, "--temperature", 0.8, "--limit", 1)
    report = evaluate("mtpb", *words, "--generate-only")
    assert report["scores"] == {} and report["samples"]["drawn"] == 5
    report = evaluate("mtpb", "--data", data, "--turns", turns, "--judge-only")
    score = report["scores"]["strict"]["all"]
    assert (score["problems"], score["samples"]) == (1, 5) and "pass_at" not in score
    assert list(report["scores"]["published"]["by"]["category"]) == ["math"]


@pytest.mark.strict_sandbox
def test_prompt_perplexity_beside_the_scores(model, evaluate, tmp_path):
    data = small_benchmarks.mtpb(tmp_path)
    words = ("--model", model, "--data", data, "--temperature", 0.8, "--limit", 1, "--prompt-perplexity")
    report = evaluate("mtpb", *words)
    found = report["perplexity"]
    assert found["problems, all"] == 1 and found["problems, solved"] + found["problems, unsolved"] == 1
    assert report["by_problem"][0]["prompt_perplexity"] == found["prompt perplexity, all"] > 1
    assert "prompt perplexity, all" in (tmp_path / "out" / "report.html").read_text()
    assert evaluate("mtpb", *words[:-1])["perplexity"] == found


def test_perplexity_of_a_corpus(model, evaluate, tmp_path):
    text = tmp_path / "text.py"
    text.write_text("def f(x):\n    return x + 1\n" * 20)
    found = evaluate("perplexity", "--model", model, "--data", text, "--window", 64, "--stride", 32)["perplexity"]
    assert found["bytes"] == text.stat().st_size and found["documents"] == 1 and found["window"] == 64
    assert math.log(found["perplexity"]) == pytest.approx(found["loss (nats per token)"])
    assert "bits per byte" in (tmp_path / "out" / "report.html").read_text()
    assert "has no such option" in evaluate("perplexity", "--url", "http://x/v1", "--data", text, status=2)


def test_infilling_by_a_model_that_reads_prefixes_only(model, evaluate, tmp_path):
    text = tmp_path / "text.py"
    text.write_text("".join(f"def f{n}(x):\n    return x + {n}\n" for n in range(20)))
    report = evaluate("infilling", "--model", model, "--data", text, "--limit", 1)
    assert report["infill"] == "prefix-only" and [*report["infilling"]] == ["single-line", "multi-line", "random"]
    found = report["infilling"]["single-line"]["prefix"]
    assert found["spans"] == 1 and math.log(found["perplexity"]) == pytest.approx(found["loss (nats per token)"])
    assert "Asked by prefix" in (tmp_path / "out" / "report.html").read_text()
    assert "has no such option" in evaluate("infilling", "--url", "http://x/v1", "--data", text, status=2)
    assert "--model: missing" in evaluate("infilling", "--data", text, status=2)


@pytest.mark.strict_sandbox
def test_ds1000_from_the_model_to_the_report(model, evaluate, tmp_path):
    pytest.importorskip("pandas", reason="which DS-1000 needs beside NumPy")
    data = small_benchmarks.ds1000(tmp_path)
    report = evaluate("ds1000", "--model", model, "--data", data, *SHORT, "--check-references")
    assert report["references"]["Numpy"]["passed"] == 2
    by = report["scores"]["strict"]["by"]
    assert set(by["perturbation"]) == {"Origin", "Surface"} and by["library"]["Numpy"]["samples"] == 4


@pytest.mark.strict_sandbox
def test_a_server_and_a_process_of_its_own(tmp_path):
    data = small_benchmarks.humaneval(tmp_path)
    key = tmp_path / "key"
    key.write_text("secret\n")
    answers = {"Add": "    return x + 1\n\nprint(f0(1))\n", "Double": "    return x\n"}

    def answer(body):
        return next(text for word, text in answers.items() if word in body["prompt"]), "stop"

    with Server(answer, models=("a", "b")) as server:
        words = ("--url", server.url, "--url-model", "b", "--url-field", "top_k=-1", "--api-key-file", key, "--n", "2")
        result = command("evaluate", "humaneval", "--data", data, "--output", tmp_path / "out", *words)
        assert result.returncode == 0, result.stderr
        assert server.authorizations == {"Bearer secret"}
        assert {(body["model"], body["top_k"]) for body in server.requests} == {("b", -1)}
    assert "failed HumanEval/1: wrong: AssertionError; its answer ends: return x\n" in result.stdout
    assert "strict, all: pass@1 50.00 %" in result.stdout and "report.html" in result.stdout
    assert "secret" not in (tmp_path / "out" / "evaluation.json").read_text()
    assert [row["passed"]["strict"] for row in read_json(tmp_path / "out" / "report.json")["by_problem"]] == [2, 0]
    again = command_here("evaluate", "humaneval", "--data", data, "--output", tmp_path / "out")
    assert again.returncode == 0 and again.stdout == result.stdout


@pytest.mark.strict_sandbox
def test_a_chat_model(evaluate, tmp_path):
    """The whole function in a block; the second reply has no code."""
    data = small_benchmarks.humaneval(tmp_path)

    def answer(body):
        prompt = body["messages"][0]["content"].partition("```\n")[2].removesuffix("\n```")
        return (f"Here:\n```python\nimport os\n{prompt}    return x + 1\n```" if "Add" in prompt else "Sorry."), "stop"

    with Server(answer) as server:
        evaluate("humaneval", "--data", data, "--url", server.url, "--chat")
    assert [row["passed"]["strict"] for row in read_json(tmp_path / "out" / "report.json")["by_problem"]] == [1, 0]


@pytest.mark.strict_sandbox
def test_a_reference_that_fails_is_status_1(evaluate, tmp_path):
    data, why = small_benchmarks.humaneval(tmp_path), "the guard of the published runner has taken os.getcwd away"
    data.write_text(data.read_text().replace("return 2 * x", "import os; os.getcwd(); return 2 * x"))
    *reported, last = evaluate("humaneval", "--data", data, "--check-references", status=1).splitlines()
    assert "HumanEval/1 FAILS (strict " in reported[-1] and why in reported[-1]
    assert "not judged: all: references fail: HumanEval/1 (strict " in last and last.endswith(
        "; write the canonical solution without what is taken away"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "--model: missing; give --model, --url or --samples"),
        (("--model", "m", "--judge-only"), "--judge-only: draws no samples"),
        (("--model", "m", "--n", "0"), "--n: 0 is out of range"),
        (("--model", "m", "--recipe", "codegen_mtpb_t02"), "--recipe: codegen_mtpb_t02 is for mtpb, not for humaneval"),
        (("--url", "http://x/v1", "--url-field", "top_k"), "--url-field: top_k: expected NAME=VALUE"),
        (("--url", "http://x/v1", "--api-key-file", "/nowhere"), "--api-key-file: /nowhere cannot be read"),
        (("--model", "/nowhere"), "/nowhere"),
        (("--model", "m", "--data", "/nowhere"), "--data: /nowhere does not exist"),
        (("--judge-only",), "samples are missing"),
        (("--url", "http://h/v1", "--chat-template", "t"), "--chat-template: is for --chat"),
        (("--model", "m", "--chat"), "--chat: only for --url, a server"),
        (("--url", "http://h/v1", "--chat", "--chat-template", "/none"), "--chat-template: /none cannot be read"),
    ],
)
def test_mistakes_are_reported_in_a_line(evaluate, tmp_path, words, message):
    data = small_benchmarks.humaneval(tmp_path)
    reported = evaluate("humaneval", "--data", data, "--sandbox", "best-effort", *words, status=2)
    assert message in reported and len(reported.strip().splitlines()) == 1
