"""Chat models: what they are asked, and the continuation in what they reply."""

import re

import pytest
from benchmark_data import benchmark
from chains import answer, judge_all, open_task
from fake_backend import FakeBackend, fake_model
from humaneval_x_rows import ROWS, write
from openai_server import Server
from over_http import served

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.evaluation.benchmarks.humaneval_x import rules
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.evaluation.sampling import chat
from ms_codegeex.evaluation.sampling.samplers import ServerSampler
from ms_codegeex.evaluation.task import SampledAnswer

RECIPE = Recipe("humaneval", max_new_tokens=60)
PROMPT = 'def triple(x: int) -> int:\n    """Three times, see f({}).\n    """\n'
BODY = "    return 3 * x\n"


def same(text):
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (BODY, BODY),
        (f"Sure!\n```python\n{PROMPT}{BODY}```\nIt works.", BODY),
        (f"```python\n{PROMPT}{BODY}", BODY),  # cut off by the limit of tokens
        (f"<think>def triple(x):\n```\nno\n```</think>\n~~~py\n{PROMPT}{BODY}~~~", BODY),
        (f"```bash\npip install numpy numpy numpy numpy numpy numpy\n```\n```\ndef triple(x):\n{BODY}```", BODY),
        ("```\ndef triple(x): return 3 * x\n```", BODY),
        ("```\ndef triple(\n    x: dict[str, int] = {},\n) -> int:\n  y = 3\n  return y * x\n```",
         "    y = 3\n    return y * x\n"),
        ("```\nimport os\nfrom a import b\n\nA = 3\n\ndef triple(x):\n    return A * x\n\nprint(triple(1))\n```",
         "    import os\n    from a import b\n    A = 3\n    return A * x\n"),
        ("```\ndef triple(x):\n    return g(x)\n\n@cache\ndef g(x):\n    return 3 * x\n\nassert triple(1) == 3\n```",
         "    @cache\n    def g(x):\n        return 3 * x\n    return g(x)\n"),
    ],
)  # fmt: skip
def test_the_body_in_a_reply(reply, expected):
    got = chat.continuation(reply, PROMPT)
    assert got.replace("\n\n", "\n").strip("\n") == expected.strip("\n")


def test_a_text_that_leaves_no_function_open():
    prompt = "-- How many are there?\nSELECT"
    assert chat.continuation("```sql\nSELECT count(*) FROM t;\n```", prompt).strip() == "count(*) FROM t;"
    assert chat.continuation("count(*) FROM t;", prompt) == "count(*) FROM t;"


HELPED = {
    "cpp": ("#include <map>\n#include<stdio.h>\nusing namespace std;\n"
            "int times(int a, int b) {\n    return a * b;\n}\n\n"
            "int triple(int number) {\n    std::map<int, int> m;\n    return times(3, number);\n}\n\n"
            "int main() {\n    triple(1);\n}\n"),
    "java": ("import java.util.concurrent.atomic.AtomicInteger;\nimport java.util.*;\n\nclass Solution {\n"
             "    /* A {\n    part. */\n    private int times(int a, int b) {\n        return a * b;\n    }\n\n"
             "    public int triple(int number) {\n"
             "        return times(3, new AtomicInteger(number).get());\n    }\n\n"
             "    public static void main(String[] a) {\n    }\n}\n"),
    "js": "const three = 3;\nfunction times(a, b) {\n  return a * b;\n}\n\nfunction triple(number) {\n"
          "  return times(three, number); // }\n}\n",
    "go": ("package main\n\nimport (\n    \"fmt\"\n)\n\nfunc times(a int, b int) int {\n    return a * b\n}\n\n"
           "func Triple(number int) int {\n    return times(3, number)\n}\n\nfunc main() {\n    fmt.Println(1)\n}\n"),
    "rust": ("use std::collections::BTreeMap;\n\nfn times(a: i32, b: i32) -> i32 {\n    a * b\n}\n\n"
             "fn triple(number: i32) -> i32 {\n    let _m: BTreeMap<i32, i32> = BTreeMap::new();\n"
             "    times(3, number)\n}\n\nfn main() {}\n"),
    "python": "import math\n\ndef times(a, b):\n    return a * b\n\ndef triple(number):\n    return times(3, number)\n",
}  # fmt: skip


@pytest.mark.strict_sandbox
@pytest.mark.parametrize("language", HELPED)
def test_helpers_and_imports_work_after_the_prompt(sandbox, tmp_path, language):
    task = open_task(write(tmp_path, language), language)
    (problem,) = task.problems
    prompt = task.prompt(problem.data)
    code = chat.continuation(f"Here:\n```\n{HELPED[language]}```\n", prompt)
    found = task.judge(problem, answer(problem, rules.clean(code, language, "codegeex2")), sandbox)
    assert found.verdicts["strict"].value == "passed", (code, found.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("language", ROWS)
def test_whole_programs_pass_as_references_do(sandbox, language):
    """The references, as a chat model would write them: the declaration again, and the body. The first 40 problems."""
    task = open_task(benchmark(""), language)
    left_out = {*task.known_defects(), "CPP/38"}  # its declaration goes on into the body
    chosen = [problem for problem in task.problems if problem.id not in left_out][:40]
    samples = []
    for problem in chosen:
        row, prompt = problem.data, task.prompt(problem.data)
        reply = f"```\n{row.declaration}{row.solution}\n```"
        samples.append((problem, answer(problem, rules.clean(chat.continuation(reply, prompt), language, "codegeex2"))))
    found = judge_all(task, sandbox, samples)
    assert [each.task_id for each in found if each.verdicts["strict"].value != "passed"] == []


def test_what_a_server_is_asked():
    with Server(lambda body: (f"```\n{PROMPT}{BODY}```\nDone.", "stop")) as server:
        sampler = ServerSampler(server.url + "/chat/completions", RECIPE, "m", template="Go on: {prompt}!")
        done = sampler(PROMPT, seed=7, stop=lambda text: True)  # the task's rule is for code, not for a reply
        assert (same(done.text), done.finish) == (same(BODY), "eos")
        (body,) = server.requests
        assert sampler.identity == {"url": server.url, "model": "m", "chat": "Go on: {prompt}!"}
    assert body["messages"] == [{"role": "user", "content": f"Go on: {PROMPT}!"}] and "prompt" not in body
    assert (body["seed"], body["max_tokens"], body["temperature"]) == (7, 60, 0)


def test_our_own_server():
    reply = f"```python\n{PROMPT}{BODY}```"
    model = fake_model(chat=TEMPLATES["codegeex2"], context=512)
    with served(lambda: FakeBackend(model=model, text=reply)) as server:
        sampler = ServerSampler(f"{server.url}/v1", RECIPE, template=chat.TEMPLATE)
        assert sampler(PROMPT, seed=1) == SampledAnswer(BODY, "eos")
    with served() as server, pytest.raises(UserError, match=r"is a base model.*; leave out --chat"):
        ServerSampler(f"{server.url}/v1", RECIPE, template=chat.TEMPLATE)(PROMPT, seed=1)


def test_a_template_of_ones_own(tmp_path):
    path = tmp_path / "message.txt"
    path.write_text("Complete {this}: {prompt}\n")
    assert chat.message(chat.read_template(path), "{x}") == "Complete {this}: {x}\n"
    path.write_text("Complete.\n")
    with pytest.raises(UserError, match=r"--chat-template: .* lacks"):
        chat.read_template(path)
    assert PROMPT in chat.message(chat.read_template(None), PROMPT)
