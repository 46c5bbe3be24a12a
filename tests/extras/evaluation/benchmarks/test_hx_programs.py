"""Programs: what they contain, and that the witness comes after the last test."""

import re

import pytest
from humaneval_x_rows import GO, ROWS
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks.blocks import at_end_of_block
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import problems, programs


def row(language: str, **changes: str) -> problems.HumanEvalXProblem:
    return problems.parse({**ROWS[language], **changes}, "here:1")


def source(language: str, answer: str, **changes: str) -> str:
    """The program of an answer, with the token T."""
    return programs.assemble(row(language, **changes), answer).source("T").decode()


def other(language: str, answer: str, name: str) -> str:
    return programs.assemble(row(language), answer).files("main", "T")[name].decode()


PYTHON_PROGRAM = """def triple(number: int) -> int:
    \""" Three times the number. \"""
    return 3 * number

"""
PYTHON_TESTS = """def check(triple):
    ms_codegeex_say(triple(2))
    ms_codegeex_say(triple(-1))
check(triple)

"""
PYTHON_IMPORTS = """import math
import re
import sys
import copy
import datetime
import itertools
import collections
import heapq
import statistics
import functools
import hashlib
import string
from typing import *
from collections import *
"""


def test_python():
    """Cut at the first line in the first column; NumPy if it may be used. The tests are a separate file."""
    answer = "    return 3 * number\nprint(triple(1))\n"
    assert other("python", answer, "program.py") == PYTHON_IMPORTS + PYTHON_PROGRAM
    assert source("python", answer) == PYTHON_TESTS
    numpy = PYTHON_IMPORTS.replace("import string", "import numpy\nimport numpy as np\nimport string")
    for word in ("np", "numpy"):
        assert other("python", f"    return {word}.sum([number] * 3)\n", "program.py").startswith(numpy + "def triple")


def test_cpp():
    """Nine includes without those of the prompt; the function is declared, then come the tests, then the answer. Tests
    that are left have an assert of ours and the witness as main's last statement."""
    loop = ROWS["cpp"]["test"].replace("    assert (triple(-1)", "for (int x=-1;x<0;x++) assert (triple(x)")
    left = source("cpp", "}", test=loop)
    assert "say(triple(2));\nfor (int x=-1;x<0;x++) assert (triple(x) == -3);\n;\nvoid ms_codegeex_tests_ended(" in left
    assert "#undef assert\nvoid ms_codegeex_test_failed(const char *);\n#define assert(test) (static_cast<" in left
    assert source("cpp", "    return 3*number;\n}\n") == (
        "#include<stdlib.h>\n#include<algorithm>\n#include<math.h>\n#include<vector>\n#include<string>\n"
        "#include<climits>\n#include<cstring>\n#include<iostream>\n"
        "/*\nThree times the number.\n*/\n#include<stdio.h>\nusing namespace std;\nint triple(int number);\n"
        "#undef NDEBUG\n\nint main(){\n    ms_codegeex::say(triple(2));\n    ms_codegeex::say(triple(-1));\n}\n\n"
        "#undef assert\nint triple(int number){\n    return 3*number;\n}\n\n"
    )
    with pytest.raises(UserError, match="CPP/7: no function in `prompt`"):
        source("cpp", "", prompt="nothing")
    asserts = ROWS["cpp"]["prompt"].replace("<stdio.h>", "<cassert>")
    assert "#undef assert\n#include<assert.h>\nint triple(int number){\n}" in source("cpp", "}", prompt=asserts)
    libraries = [programs.assemble(row("cpp", task_id=f"CPP/{n}"), "").libraries for n in (161, 162)]
    assert libraries == [(), ("-lcrypto", "-lssl")]


def test_java():
    """Tests and answer are separate files; the tests import each class by name."""
    assert other("java", "ANSWER", "Solution.java") == ROWS["java"]["prompt"] + "ANSWER\n"
    text = source("java", "ANSWER")
    assert text.startswith("import java.util.*;\nimport java.lang.String;\npublic class Main {")
    assert "ms_codegeex.Values.say(s.triple(2));\nms_codegeex.Values.say(s.triple(-1));\n" in text
    assert "AssertionError" not in text


def test_javascript():
    said = ROWS["js"]["test"]
    for value in (6, -3):
        said = re.sub(rf"console\.assert\((.*) === {value}\)", r"ms_codegeex_say(\1)", said)
    tests = f"\n;let testTriple\nms_codegeex_values((JSON, Math, ms_codegeex_say) => {{\n{said}\n}})\n"
    assert source("js", "ANSWER") == ROWS["js"]["prompt"] + "ANSWER" + tests


def test_go():
    """The prompt's imports are removed; what the answer uses and the set-up lacks is added. Without assertions, their
    library is not imported."""
    bare = GO["test_setup"].replace('    "github.com/stretchr/testify/assert"\n', "")
    assert "sort" not in source("go", "    // no sort.\n    return 3 * number\n}\n").replace("no sort", "")
    assert source("go", "    return int(math.Round(rand.Float64()))\n}\n") == (
        f'{bare}\nimport ms_codegeex_values "ms_codegeex/witness"\n'
        'import (\n    "math"\n    "math/rand"\n)\n\n'
        "\n// Three times the number.\nfunc Triple(number int) int {\n"
        "    return int(math.Round(rand.Float64()))\n}\n\n"
        "func TestTriple(t *testing.T) {\n    ms_codegeex_values.Say(Triple(2))\n"
        "    ms_codegeex_values.Say(Triple(-1))\n}\n"
    )
    assert not programs.assemble(row("go"), "}").others
    left = GO["test"].replace("assert.Equal(6", "for x := 2; x < 3; x++ { assert.Equal(true").replace("(2))", "(x)) }")
    changed = programs.assemble(row("go", test=left), "}")
    assert 'if !t.Failed() {\nms_codegeex_tests_ended.Tell("T")\n}\n}\n' in changed.source("T").decode()
    assert changed.others["names_test.go"] == ('package main\n\nimport true "ms_codegeex/witness"\nvar _ = true.Ours\n')
    setup = GO["test_setup"].replace('"testing"', '"testing"\n    "math"')
    assert "import (\n" not in source("go", "    return math.MaxInt\n}", test_setup=setup).split('"math"')[1]


def test_rust():
    """The declaration once, whether it is in the prompt or not; the tests first, with the function, its type and the
    prompt's imports."""
    text = source("rust", "    3 * number\n}\n")
    assert text.startswith("fn main() {}\n\n#[cfg(test)]\nmod tests {\n    use super::{triple};\nuse rand::Rng;\n")
    assert "const _: fn(number: i32) -> i32  = triple;" in text and text.count("fn triple(") == 1
    assert text.endswith(ROWS["rust"]["prompt"] + "    3 * number\n}\n\n")
    comment = source("rust", "    3 * number\n}\n", prompt="/* Three times. */\n")
    assert comment.endswith(ROWS["rust"]["declaration"] + "/* Three times. */\n    3 * number\n}\n\n")
    assert comment.count("fn triple(") == 1
    said = [f"::ms_codegeex_tests_ended::say(&(triple({each})))" for each in ("2", "-x")]
    assert ";\n        ".join(said) in text
    left = source("rust", "}", test=ROWS["rust"]["test"].replace("== -3", "== triple(-1)"))
    assert 'assert!(triple(-x) == triple(-1))\n    ;\n::ms_codegeex_tests_ended::tell("T");\n}\n\n}\n' in left
    takes = source("rust", "}", declaration="fn triple(mut number: i32) -> i32 {\n", prompt="/* */\n")
    assert "const _: fn(number: i32) -> i32  = triple;" in takes


def test_rust_checks_without_tests_where_that_differs():
    plain, conditional = (programs.assemble(row("rust"), text) for text in ("}", "}\n#[cfg(test)]\nfn f() {}"))
    assert (plain.check, conditional.check) == (False, True)


def test_a_commented_test_of_rust_is_replaced():
    """Rust/32 as published."""
    changed = {"task_id": "Rust/32", "test": f"\n/*{ROWS['rust']['test']}*/\n"}
    program = programs.assemble(row("rust", **changed), "}")
    source = program.source("T")
    assert program.only_compiles and b"say(&(find_zero(&vec![1.0, 2.0])))" in source and b"triple(2)" not in source
    assert not programs.assemble(row("rust", task_id="Rust/32"), "}").only_compiles


def test_strlen_of_cpp_is_the_answers():
    """CPP/23: the published tests call the C library."""
    test = 'int main(){ assert (strlen("") == 0); assert (strlen("x") == 1); }'
    program = programs.assemble(row("cpp", task_id="CPP/23", test=test), "}")
    assert program.only_compiles
    said = 'ms_codegeex::say(strlen(std::string(""))); ms_codegeex::say(strlen(std::string("x"))); '
    assert program.before.endswith(said) and [check.expected for check in program.checks] == [0, 1]


def test_tests_without_a_function_are_reported():
    for language in ("cpp", "go", "rust"):
        with pytest.raises(UserError, match="no test function"):
            source(language, "", test="nothing {")


WORDS = ["{ }", '"}"', "'}'", "// }\n", "/* } */", r'"\"}"', "x", "\n", "{ { } }"]


@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_the_end_of_main_is_found(body: str):
    """Braces in strings, characters and comments do not count."""
    test = f"int main(){{ {body} }} /* more }} */"
    head, tail = at_end_of_block(test, r"\bint\s+main\s*\(\s*\)\s*\{", "it")
    assert (head, tail) == (f"int main(){{ {body} ", "} /* more } */")
