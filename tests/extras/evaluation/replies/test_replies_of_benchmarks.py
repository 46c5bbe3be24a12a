"""What a chat model is asked, and what benchmarks make of its replies."""

import json

import pytest
from ds1000_data import PROMPT as DS1000
from fake_backend import FakeBackend, fake_model
from openai_server import Server
from over_http import served
from python_replies import CODE, DRAFT, PROMPT, fenced

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.extras.evaluation.benchmarks import ds1000 as answers
from ms_codegeex.extras.evaluation.benchmarks import mtpb as turns
from ms_codegeex.extras.evaluation.benchmarks.humaneval import HumanEval
from ms_codegeex.extras.evaluation.benchmarks.sql import Sql
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.replies.code import code_of
from ms_codegeex.extras.evaluation.sampling import samplers
from ms_codegeex.extras.evaluation.sampling.samplers import ServerSampler
from ms_codegeex.extras.evaluation.session import Options, evaluate
from ms_codegeex.extras.evaluation.stop_rules import words
from ms_codegeex.extras.evaluation.task import SampledAnswer

RECIPE = Recipe("humaneval", max_new_tokens=60)
REPLY = f"Sure:\n{fenced(CODE)}"


def test_what_a_server_is_asked():
    with Server(lambda body: (REPLY, "stop")) as server:
        sampler = ServerSampler(server.url + "/chat/completions", RECIPE, "m", template="Go on: {prompt}!")
        done = sampler(PROMPT, seed=7, stop=words(["Sure"]))  # the task's rule is for code, not for a reply
        assert done == SampledAnswer(REPLY, "eos", is_reply=True)
        (body,) = server.requests
        assert sampler.identity == {"url": server.url, "model": "m", "chat": "Go on: {prompt}!"}
    assert body["messages"] == [{"role": "user", "content": f"Go on: {PROMPT}!"}] and "prompt" not in body
    assert (body["seed"], body["max_tokens"], body["temperature"]) == (7, 60, 0)


def test_our_own_server():
    model = fake_model(chat=TEMPLATES["codegeex2"], context=512)
    with served(lambda: FakeBackend(model=model, text=REPLY)) as server:
        sampler = ServerSampler(f"{server.url}/v1", RECIPE, template=samplers.TEMPLATE)
        assert sampler(CODE, seed=1) == SampledAnswer(REPLY, "eos", is_reply=True)
    with served() as server, pytest.raises(UserError, match=r"is a base model.*; leave out --chat"):
        ServerSampler(f"{server.url}/v1", RECIPE, template=samplers.TEMPLATE)(CODE, seed=1)


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "message.txt"
    path.write_text("Complete {this}: {prompt}\n")
    assert samplers.chat_message(samplers.read_template(path), "{x}") == "Complete {this}: {x}\n"
    path.write_text("Complete.\n")
    with pytest.raises(UserError, match=r"--chat-template: .* lacks"):
        samplers.read_template(path)
    assert PROMPT in samplers.chat_message(samplers.read_template(None), PROMPT)


# reply, why it ended: what ran, the strict verdict
JUDGED = [
    (REPLY, "eos", "program", "passed"),
    (fenced(DRAFT), "eos", "program", "wrong"),
    ("    return a + b\n", "eos", "continuation", "passed"),
    ("", "eos", "nothing: empty", "error"),
    ("I cannot.", "eos", "nothing: prose only", "error"),
    (f"<think>\n{REPLY}", "length", "nothing: cut off by the limit of tokens", "error"),
    # cheats, whole programs: all are refused
    (fenced(f"import sys\n{DRAFT}\nsys.exit(0)"), "eos", "program", "wrong"),
    (fenced("import os\n\ndef add(a, b):\n    os._exit(0)"), "eos", "program", "error"),
    (fenced("def add(a, b):\n    raise SystemExit(0)"), "eos", "program", "error"),
    (fenced(f"def check(candidate):\n    pass\n\n{DRAFT}"), "eos", "program", "wrong"),
    (fenced(f"import atexit, os\natexit.register(os._exit, 0)\n{DRAFT}"), "eos", "program", "wrong"),
]  # fmt: skip


@pytest.mark.strict_sandbox
def test_verdicts_and_reports(tmp_path):
    test = "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert double(2) == 4\n"
    row = {"prompt": PROMPT, "entry_point": "add", "test": test}
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps({**row, "task_id": f"T/{number}"}) + "\n" for number in range(len(JUDGED))))
    left = iter(JUDGED)

    class Replies:
        identity, concurrency = {"model": "m"}, 1

        def __call__(self, prompt, **_):
            reply, finish, *_ = next(left)
            return SampledAnswer(reply, finish, is_reply=True)

    result = evaluate(HumanEval(path), RECIPE, Options(tmp_path / "out", sampler=Replies, workers=2, progress=False))
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    assert [(row["extra"]["ran"], row["verdicts"]["strict"]) for row in rows] == [each[2:] for each in JUDGED]
    assert result["no_code"] == {"empty": 1, "prose only": 1, "cut off by the limit of tokens": 1}
    assert read_json(tmp_path / "out" / "report.json")["no_code"] == result["no_code"]
    assert "3 of 11 replies have no code: 1 empty" in (tmp_path / "out" / "report.html").read_text()


FUNCTION = (
    "Problem:\nSum.\nA:\n<code>\nimport numpy as np\nk = 2\ndef f(x=[1], n=k):\n    # return it\n    ### BEGIN SOLUTION"
)


@pytest.mark.parametrize(
    ("prompt", "reply", "code"),
    [
        (DS1000, fenced("y = 2 * x"), "y = 2 * x\n"),
        (DS1000, fenced("x = load()\ny = 2 * x"), "y = 2 * x\n"),
        (DS1000, fenced("# the data\nx = load( )\n\ny = 2 * x\nprint(y)"), "y = 2 * x\nprint(y)\n"),
        (DS1000, fenced("import math\nx = load()\nx = load()\ny = x"), "import math\nx = load()\ny = x\n"),
        (DS1000, "The answer:\n\ny = 2 * x\n</code>\nEND SOLUTION", "y = 2 * x\n"),
        (DS1000, f"{fenced('y = 2 * x')}\nwhich gives\n{fenced('[2, 4]', '')}", "y = 2 * x\n"),
        (FUNCTION, fenced('n = """\na"""\nreturn sum(x)'), '    n = """\na"""\n    return sum(x)\n'),
        (DS1000, f"{fenced('y = 2 * x')}For example:\n{fenced('z = [1]')}", "y = 2 * x\n"),
        (FUNCTION, fenced("    return sum(x)"), "    return sum(x)\n"),
        (FUNCTION, fenced("total = sum(x)\nreturn total"), "    total = sum(x)\n    return total\n"),
        (FUNCTION, fenced("k = 2\ndef f(data, n):\n    return sum(data)\n\nprint(f([1]))"),
         "    def f(data, n):\n        return sum(data)\n    return f(x, n)\n"),
    ],
)  # fmt: skip
def test_ds1000_without_the_given_code(prompt, reply, code):
    asked = CodeRequest("python", "", variable="y" * bool(answers.WANTED.search(prompt)))
    found = answers.from_code(code_of(reply, asked).text, prompt)
    assert [line for line in found.split("\n") if line.strip()] == code.strip("\n").split("\n")


def test_turns_of_mtpb():
    replies = iter([fenced("x = 1"), fenced(f"{turns.HISTORY}# a\nx = 1\n\ny = x + 1\nprint(y)"), "No."])
    made = turns.multi_turn(["a", "b", "c"], 9, 1, lambda *_, **__: SampledAnswer(next(replies), "eos", is_reply=True))
    assert [turn["text"].split() for turn in made] == [["x", "=", "1"], ["y", "=", "x", "+", "1", "print(y)"], []]
    assert made[2]["lacking"] == "prose only"


@pytest.fixture(scope="module")
def sql(tmp_path_factory):
    path = tmp_path_factory.mktemp("sql") / "sql.jsonl"
    queries = ("SELECT 1", "WITH t AS (SELECT 1) SELECT * FROM t")
    rows = [{"question": "How many?", "schema": "CREATE TABLE a (b);", "query": query} for query in queries]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Sql(path)


QUERIES = [
    (fenced("SELECT b FROM a;", "sql"), "SELECT b FROM a"),
    (fenced("with t(b) as (select 1)\n\nselect b from t", "sqlite"), "with t(b) as (select 1)\n\nselect b from t"),
    (fenced("-- first\nVALUES (1);", ""), "-- first\nVALUES (1)"),
    (fenced("CREATE TABLE a (b);\n/* it; */ SELECT ';' FROM a; -- end", "sql"), "/* it; */ SELECT ';' FROM a"),
    ("With a query:\n\nSELECT b\nFROM a\n\nIt selects.", "SELECT b\nFROM a"),
    ("WITH RECURSIVE t(b) AS (SELECT 1) SELECT b FROM t; Done.", "WITH RECURSIVE t(b) AS (SELECT 1) SELECT b FROM t"),
    ("`SELECT b FROM a`", "SELECT b FROM a"),
    ("<think>SELECT 2</think>\nselect 3", "select 3"),
    (fenced("SELECT 2", "sql") + fenced("SELECT 3", "sql"), "SELECT 3"),
]


@pytest.mark.parametrize(
    ("text", "is_reply", "generation", "ran"),
    [
        *((reply, True, query, "program") for reply, query in QUERIES),
        (fenced("count(b) FROM a;", "sql"), True, "count(b) FROM a", "continuation"),
        ("I do not know.", True, "", "nothing: prose only"),
        (" b FROM a; SELECT 1", False, " b FROM a", "continuation"),
        ("select b from a; drop", False, "select b from a", "program"),
        ("-- it\nWITH t AS (SELECT 1) SELECT * FROM t;", False, "WITH t AS (SELECT 1) SELECT * FROM t", "program"),
    ],
)
def test_queries(sql, text, is_reply, generation, ran):
    sample = sql.produce(sql.problems[0], 0, 0, lambda *_, **__: SampledAnswer(text, "eos", is_reply))
    assert (sample.generation.strip("\n"), sample.ran) == (generation, ran)


@pytest.mark.strict_sandbox
def test_references_that_begin_otherwise(sql, sandbox):
    for problem in sql.problems:
        assert sql.judge(problem, sql.reference(problem), sandbox).verdicts["strict"].value == "passed"
