# ruff: noqa: E501 - programs, some of one line
"""Programs of chat models in languages of compilers: what of a reply is run, and that the known cheats do not pass as
whole programs either."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import benchmark_data
import cheating_answers
import forged_answers
import humaneval_x_rows
import multipl_e_rows
import pytest
from broken_answers import TRICKS
from chains import open_task
from humaneval_x_rows import write

from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation.benchmarks import multipl_e
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.programs import pointer
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.replies.code import code_of
from ms_codegeex.extras.evaluation.replies.trees import leaves_open, parts, uses
from ms_codegeex.extras.evaluation.sandbox import Sandbox, Verdict
from ms_codegeex.extras.evaluation.task import Sample, SampledAnswer

FENCE = "```"
PROMPTS = {
    "cpp": "#include<vector>\nusing namespace std;\nint add(int a, int b){\n",
    "java": "import java.util.*;\n\nclass Solution {\n    public int add(int a, int b) {\n",
    "js": "const add = (a, b) => {\n",
    "go": 'import (\n    "math"\n)\n\nfunc Add(a int, b int) int {\n',
    "rust": "use std::cmp::{max, self};\n\nfn add(a: i32, b: i32) -> i32 {\n",
    "bash": "#!/bin/bash\nadd() {\n",
    "lua": "local function add(a, b)\n",
}
# language, the reply's code, what the program has, and what it lacks
KEPT = [
    ("cpp", "struct P { int x; };\nint add(int a, int b) { P p{a}; return p.x + b; }\nint main() {}", ["struct P", "#include<vector>"], ["main"]),
    ("cpp", "#define ll long long\nll add(ll a, ll b) { return a + b; }\nvoid test() { add(1, 2); }", ["#define ll"], ["test"]),
    ("cpp", "namespace std { template<> struct hash<int*> {}; }\nint add(int a, int b) { return a + b; }", ["hash"], []),
    ("cpp", "namespace n { int add(int a, int b) { return a + b; } }", ["return n::add(a, b)"], []),
    ("cpp", "struct S { int add(int, int); };\nint S::add(int a, int b) { return a + b; }", ["return S().add(a, b)"], []),
    ("cpp", "auto add = [](int a, int b) { return a + b; };", ["return their_add(a, b)"], []),
    ("cpp", "auto add(int a, int b) { return a + b; }", ["int add(int a, int b) { return a"], ["auto"]),
    ("cpp", "#include <gtest/gtest.h>\nauto add(int a, int b) -> int { return a + b; }\nTEST(A, B) {}", ["-> int"], ["gtest", "TEST"]),
    ("cpp", "int add(int a, int b) { /* see main */ return a + b; }\nint main() {}", ["see main"], ["main()"]),
    ("cpp", "#ifndef A\n#define A\n#include <map>\nusing namespace std;\nint add(int a, int b) { return a + b; }\n#endif", ["#endif"], []),
    ("cpp", "#include &lt;map&gt;\nint add(int a, int b) { return a &lt; b &amp;&amp; a ? a + b : b + a; }", ["#include <map>", "a < b &&"], ["&amp;"]),
    ("java", "import static org.junit.Assert.*;\nclass Solution { private int add(int a, int b) { return a + b; } }", ["{ int add"], ["junit"]),
    ("java", "package a.b;\npublic class Main { static int add(int a, int b) { return a + b; } }", ["class Solution"], ["package", "Main", "public"]),
    ("java", "int add(int a, int b) { return a + b; }", ["class Solution {", "import java.util.*;"], []),
    ("java", "class H {}\nclass Solution { int add(int a, int b) { new H(); return a + b; } }\nclass Main {}", ["class H"], ["Main"]),
    ("js", "import fs, { a as b } from 'x';\nexport default function add(a, b) { return a + b; }", ["const fs = require('x')", "{ a : b }"], ["export"]),
    ("js", "const n = [];\nn.push(1);\nfunction add(a, b) { return a + b + n[0]; }\nconsole.log(add(1, 2));", ["n.push"], ["console"]),
    ("js", "module.exports = { add(a, b) { return a + b; } };", ["const add =", "their_exports.add"], ["module"]),
    ("js", "const s = { add: (a, b) => a + b, n: 1 };", ["const add =", "s.add("], []),
    ("js", "function add(a, b) { return a + b; }\nmodule.exports = { add: (a) => add(a, 1) };", ["function add"], ["their_exports"]),
    ("js", "const add = (a, b) => a - b;\n```\nThat subtracts. Corrected:\n```js\nconst add = (a, b) => a + b;", ["a + b"], ["a - b"]),
    ("js", "class S { add(a, b) { return a + b; } }", ["const add =", "new S()"], []),
    ("go", 'package main\nimport (\n "fmt"\n m "math"\n)\nfunc Add(a, b int) int { return a + int(m.Abs(0)) }\nfunc main() { fmt.Println(1) }', ['import m "math"'], ["fmt", "package", "main"]),
    ("go", 'import "fmt"\nfunc Add(a, b int) int { /* no fmt here */ return a + b }\nfunc main() { fmt.Println(1) }', ["no fmt"], ['"fmt"']),
    ("go", "type S int\nfunc Add(a, b int) int { return a + b }\nfunc (s S) Add(a int) int { return 0 }", ["func Add"], ["S)"]),
    ("rust", "#![allow(x)]\nuse std::cmp::max;\npub fn add(a: i32, b: i32) -> i32 { a + b }\n#[cfg(test)]\nmod tests {}\nfn main() {}", ["use std::cmp;"], ["#!", "tests", "main"]),
    ("bash", 'set -e\nplus() { echo $(($1+$2)); }\nadd() { plus $1 $2; }\nadd "$@"', ["set -e", "plus"], ['add "$@"']),
    ("lua", "local M = {}\nfunction M.add(a, b) return a + b end\nprint(M.add(1, 2))\nreturn M", ["local add = M.add"], ["return M\n", "print"]),
]  # fmt: skip


@pytest.mark.parametrize(("language", "code", "has", "lacks"), KEPT)
def test_a_program_is_what_its_entry_point_needs(language: str, code: str, has: list[str], lacks: list[str]):
    """With the prompt's imports, without main functions, tests and drivers; with and without a fence."""
    for reply in (f"Here it is:\n\n{FENCE}\n{code}\n{FENCE}\nThis adds both.", f"<think>no</think>{FENCE}\n{code}"):
        found = code_of(reply, CodeRequest(language, PROMPTS[language]))
        assert found.whole and not found.lacking
        assert not [each for each in has if each not in found.text] and not [e for e in lacks if e in found.text]


@pytest.mark.parametrize("language", ["cpp", "java", "js", "go", "rust"])
def test_a_body_continues_the_prompt(language: str):
    """With the braces that it leaves open."""
    found = code_of(f"{FENCE}\n    return a + b;\n{FENCE}", CodeRequest(language, PROMPTS[language]))
    assert not found.whole and found.text.count("}") == PROMPTS[language].count("{") - (language == "rust")


TWO_HEADS = "#if 1\n    if (a) {\n#else\n    if (b) {\n#endif\n        return a + b;\n    }\n    return b;\n}"
UNREAD = [  # code on which a grammar fails, and a compiler does not
    (
        "cpp",
        "#define DECLARE(name) static int name = 0;\nDECLARE(ZERO)\nint add(int a, int b) { return a + b + ZERO; }",
    ),
    ("cpp", f"static int sum(int a, int b) {{\n{TWO_HEADS}\n\nint add(int a, int b) {{\n    return sum(a, b);\n}}"),
    ("cpp", f"int add(int a, int b) {{\n{TWO_HEADS}"),
    ("cpp", "int add(int a, int b) <% return a + b; %>"),
]


@pytest.mark.parametrize(("language", "code"), UNREAD)
def test_code_that_a_grammar_cannot_read_stays_as_it_came(language: str, code: str):
    """With the prompt's imports and without a main function; a sentence in its place is no code."""
    for more in ("", "\nint main() { return add(1, 2); }\n"):
        found = code_of(f"So:\n{FENCE}cpp\n{code}{more}\n{FENCE}\n", CodeRequest(language, PROMPTS[language]))
        assert found.whole and found.text.strip().endswith(code) and "main" not in found.text
        assert found.text.startswith("#include<vector>") and not leaves_open(found.text, language)
    broken = "It adds both numbers.\nint add(int a, int b) { return a + b; }\nint unused( {"
    found = code_of(f"{FENCE}\n{broken}\n{FENCE}", CodeRequest(language, PROMPTS[language]))
    assert "It adds" not in found.text


ODD = read_yaml_file(Path(__file__).with_name("odd_programs.yaml"))
SLOW = ("cpp", "java", "rust")


@pytest.mark.strict_sandbox
@pytest.mark.parametrize("language", [pytest.param(each, marks=[pytest.mark.slow] * (each in SLOW)) for each in ODD])
def test_what_a_compiler_accepts_is_not_cut(language: str, tmp_path: Path, sandbox: Sandbox):
    """Each program passes as it is, and so does a chat's reply with it between sentences."""
    if language == "bash":
        task = multipl_e.build(benchmark_data.write(tmp_path / "m.jsonl", multipl_e_rows.triple("bash")))
    else:
        write(tmp_path / "data", language)
        task = open_task(tmp_path / "data", language)
    (problem,) = task.problems
    assert task.prepare([problem]) == {}

    def verdicts(text: str) -> list[str]:
        reply = SampledAnswer(f"Here it is:\n\n{FENCE}\n{text}{FENCE}\nThis multiplies.", "eos", is_reply=True)
        drawn = task.produce(problem, 0, 0, lambda *_, **__: reply)
        whole = Sample(problem.id, 0, "", text, "eos", {"whole": True})
        return [task.judge(problem, each, sandbox).verdicts["strict"].value for each in (whole, drawn)]

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(ODD[language], pool.map(verdicts, ODD[language].values()), strict=True))
    assert {name: each for name, each in found.items() if each != ["passed", "passed"]} == {}


def test_sentences_around_a_function_are_no_code():
    reply = "Here's the function add:\nint add(int a, int b) {\n  return a + b;\n}\n\nThis works since it adds.\n"
    found = code_of(reply, CodeRequest("cpp", PROMPTS["cpp"]))
    assert found.whole and "Here" not in found.text and "works" not in found.text
    assert code_of("I cannot help with that.", CodeRequest("cpp", PROMPTS["cpp"])).lacking


@pytest.mark.parametrize(
    ("signature", "type_"),
    [
        ("fn add(a: u8, mut b: i64) -> Option<u64>", "fn(u8, i64) -> Option<u64>"),
        ("fn add<'a, T: Into<i32>>(a: T, b: &'a str) -> &'a str", "for<'a> fn(i32, &'a str) -> &'a str"),
        ("fn add(a: impl Into<i32>, b: i32) -> &'static str", "fn(i32, i32) -> &'static str"),
        ("fn add(a: i32, b: i32) -> Sum", ""),
        ("fn add(a: i32, b: i32) -> impl PartialEq<i32>", ""),
    ],
)
def test_types_of_rust_that_a_program_may_have(signature: str, type_: str):
    """Only the standard library's are returned; others can be equal to everything."""
    made = parts([f"{signature} {{ todo!() }}"], CodeRequest("rust", PROMPTS["rust"]))
    assert made is not None and pointer(made) == type_


def test_imports_of_rust_are_names():
    assert dict(uses("a::{b, c::{self, d as e}, f::*}")) == {"a::b": "b", "a::c": "c", "a::c::d": "e", "a::f::*": "*"}


@pytest.mark.parametrize("language", PROMPTS)
@pytest.mark.parametrize("text", ["(" * 1_000_000, "{" * 30_000, "a<" * 15_000, "a<;" * 9_000, "a<?," * 9_000])
def test_hostile_texts_are_not_read(language: str, text: str):
    """They cost little, and the reason is reported."""
    found = code_of(f"{FENCE}\n{text}\n{FENCE}", CodeRequest(language, PROMPTS[language]))
    assert found.lacking and not found.text
    assert parts([text], CodeRequest(language, PROMPTS[language])) is None


def whole_cheats(language: str) -> list[tuple[dict, str]]:
    """All known cheats in a language, each with its problem."""
    listed = [(humaneval_x_rows.ROWS[language], TRICKS[language])]
    listed += [(cheating_answers.ROWS[language], cheating_answers.CHEATS[language])]
    listed += [(forged_answers.ROWS[language], forged_answers.FORGED[language])]
    return [(row, text) for row, texts in listed for text in texts.values()]


@pytest.mark.parametrize(
    ("language", "step"),
    [("js", 9), *(pytest.param(each, 1, marks=pytest.mark.slow) for each in humaneval_x_rows.ROWS)],
)
def test_no_cheat_passes_as_a_whole_program(tmp_path: Path, sandbox, language: str, step: int):
    """The problem's solution does, in the same form."""
    for number, (row, text) in enumerate(whole_cheats(language)[::step]):
        write(tmp_path / str(number), language, row)
        task = open_task(tmp_path / str(number), language, timeout=4)
        (problem,) = task.problems
        for answer, passes in ((row["canonical_solution"], True), (text, False))[number > 0 :]:
            reply = f"{FENCE}{language}\n{row['prompt']}{answer}\n{FENCE}"
            sample = task.produce(problem, 0, 0, lambda *_, reply=reply, **__: SampledAnswer(reply, "eos", True))
            verdict = (
                task.judge(problem, sample, sandbox).verdicts["strict"]
                if not sample.ran.startswith("nothing")
                else Verdict.ERROR
            )
            assert (verdict is Verdict.PASSED) == passes, text
