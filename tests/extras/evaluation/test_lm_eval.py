"""lm-evaluation-harness, released: it asks a model of ours through `serve`; its figures and answers are ours."""

import json
import math
import os
import re
import subprocess

import pytest
import small_benchmarks
from conftest import ROOT, command
from own_environment import own_environment
from recited_model import save_recited
from served import served

from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.generation.engine import Generator

pytestmark = [pytest.mark.slow, pytest.mark.strict_sandbox]
CHOICES = [
    ("def add(a, b):\n    return", ["a + b", "a - b", "print"]),
    ("The capital of France is", ["Rome", "Paris", "a river"]),
    ("for i in", ["range(10):", "import", "42"]),
    ("x = [", ["1, 2]", "媽 🤗", "]"]),
]
TASK = """task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return own_environment(tmp_path_factory.mktemp("lm_eval"), "lm-eval[api]==0.4.13")


def evaluated(python, url, output, task, *words):
    name = f"model=model,base_url={url}/v1/completions,tokenizer_backend=remote,max_length=256"
    line = [python, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", name, "--tasks", task]
    line += ["--output_path", output, "--log_samples", *words]
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    environment = {**os.environ, **offline, "PYTHONPATH": str(ROOT), "HF_HOME": str(output / "home")}
    done = subprocess.run([str(word) for word in line], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,), (samples,) = output.glob("*/results_*.json"), output.glob("*/samples_*.jsonl")
    return read_json(results)["results"][task], [json.loads(line) for line in samples.read_text().splitlines()]


def summed(generator, question, choice):
    """Our engine's log-probability of " choice" after the question."""
    ids = generator.tokenizer.encode(f"{question} {choice}")
    first = len(generator.tokenizer.encode(question))
    return math.fsum(float(score) for score in generator.log_probabilities(ids)[first - 1 :])


def chosen(python, model, tmp_path, rows):
    """The accuracy of a model in a multiple-choice task of these rows, and the scores of the choices by row."""
    data = small_benchmarks.write_rows(tmp_path / "choices.jsonl", rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "choices.yaml").write_text(TASK.format(data=data))
    with served(model, tmp_path / "log") as server:
        words = ("--include_path", tmp_path / "tasks")
        results, samples = evaluated(python, server.url, tmp_path / "out", "choices", *words)
    scores = {each["doc_id"]: [float(found[0]) for found in each["filtered_resps"]] for each in samples}
    return results["acc,none"], [scores[number] for number in range(len(rows))]


def test_a_multiple_choice_task(python, tmp_path):
    model = small_benchmarks.write_model(tmp_path)
    generator = Generator(model)
    expected = [[summed(generator, question, choice) for choice in choices] for question, choices in CHOICES]
    best = [max(range(len(each)), key=each.__getitem__) for each in expected]
    gold = [best[0], best[1], best[2], (best[3] + 1) % 3]  # right in three of four
    rows = [
        {"question": question, "choices": choices, "gold": number}
        for (question, choices), number in zip(CHOICES, gold, strict=True)
    ]
    accuracy, scores = chosen(python, model, tmp_path, rows)
    assert accuracy == 0.75
    for found, each in zip(scores, expected, strict=True):
        assert found == pytest.approx(each, abs=1e-3)


def test_a_text_that_the_model_would_end(python, tmp_path):
    """After the first choice the likeliest token is the end; the harness still gets each of the choice's tokens."""
    prompt, choices = "Three times:", ["3*n", "3*m"]
    model = save_recited(tmp_path / "model", prompt, f" {choices[0]}")
    accuracy, (scores,) = chosen(python, model, tmp_path, [{"question": prompt, "choices": choices, "gold": 0}])
    generator = Generator(model)
    assert scores == pytest.approx([summed(generator, prompt, choice) for choice in choices], abs=1e-3)
    assert accuracy == 1


PROMPT, ANSWER = 'def triple(n):\n    """Three times."""\n', "    return 3 * n"
PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
(PROGRAMS,) = re.findall(r"^```yaml\n(task: programs\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_answers_that_it_draws_are_judged_as_ours(python, tmp_path, name):
    """By the task of docs/evaluation.md: a model that knows the first of two answers. MBPP: the text and the tests are
    the prompt's docstring."""
    prompt = PROMPT if name == "humaneval" else '"""\nWrite triple.\nassert triple(2) == 6\n"""\n'
    answer = ANSWER if name == "humaneval" else "triple = lambda n: 3*n"
    rows = [
        {"task_id": f"{name}/{number}", "prompt": prompt, "test": text, "entry_point": "triple"}
        for number, text in enumerate(["assert triple(2) == 6\n", "assert triple(2) == 5\n"])
    ]
    data = small_benchmarks.write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "programs.yaml").write_text(PROGRAMS.replace("HumanEval.jsonl.gz", str(data)))

    def judged(output, *words):
        done = command("evaluate", "humaneval", "--data", data, "--output", tmp_path / output, *words)
        assert done.returncode == 0, done.stderr
        return [row["passed"]["strict"] for row in read_json(tmp_path / output / "report.json")["by_problem"]]

    with served(save_recited(tmp_path / "model", prompt, answer), tmp_path / "log") as server:
        words = ("--include_path", tmp_path / "tasks", "--gen_kwargs", "max_gen_toks=40")
        _, samples = evaluated(python, server.url, tmp_path / "theirs", "programs", *words)
        assert judged("ours", "--url", f"{server.url}/v1", "--max-new-tokens", 40) == [1, 0]
    assert {each["doc"]["task_id"]: each["resps"][0][0] for each in samples} == {
        row["task_id"]: row["generation"] for row in read_rows(tmp_path / "ours" / "samples.jsonl")
    }
    assert judged("judged", "--samples", tmp_path / "theirs" / "model") == [1, 0]
