"""A problem of our own in each language of MultiPL-E, in its format: the larger one of two numbers comes first. And
answers to it, right and wrong."""

import json
from pathlib import Path
from typing import Any

STOP = ["\n}"]


def _row(language: str, prompt: str, tests: str, stops: list[str]) -> dict[str, Any]:
    name = "HumanEval_900_swapped"
    common = {"doctests": "transform", "original": "none", "prompt_terminology": "reworded"}
    return {"name": name, "language": language, "prompt": prompt, "tests": tests, "stop_tokens": stops, **common}


ROWS = {
    "python": _row(
        "py",
        'from typing import Tuple\n\ndef swapped(a: int, b: int) -> Tuple[int, int]:\n    """Larger first."""\n',
        "def check(candidate):\n    assert candidate(1, 2) == (2, 1)\n    assert candidate(4, 3) == (4, 3)\n\n"
        "def test_check():\n    check(swapped)\n\ntest_check()\n",
        ["\ndef", "\n#", "\nif", "\nclass"],
    ),
    "cpp": _row(
        "cpp",
        "#include<assert.h>\n#include<bits/stdc++.h>\n// Larger first.\n"
        "std::tuple<long, long> swapped(long a, long b) {\n",
        "}\nint main() {\n    auto candidate = swapped;\n    assert(candidate((1), (2)) == (std::make_tuple(2, 1)));\n"
        "    assert(candidate((4), (3)) == (std::make_tuple(4, 3)));\n}\n",
        STOP,
    ),
    "java": _row(
        "java",
        "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n    // Larger first.\n"
        "    public static Pair<Long, Long> swapped(long a, long b) {\n",
        "    }\n    public static void main(String[] args) {\n"
        "    assert(swapped((1l), (2l)).equals((Pair.with(2l, 1l))));\n"
        "    assert(swapped((4l), (3l)).equals((Pair.with(4l, 3l))));\n    }\n\n}\n",
        ["\n    }\n"],
    ),
    "js": _row(
        "js",
        "//Larger first.\nfunction swapped(a, b){\n",
        "const assert = require('node:assert');\n\n\nfunction test() {\n  let candidate = swapped;\n"
        "  assert.deepEqual(candidate(1, 2),[2, 1]);\n  assert.deepEqual(candidate(4, 3),[4, 3]);\n}\n\ntest();",
        ["\nfunction ", "\n/*", "\n//", "\nconsole.log"],
    ),
    "go": _row(
        "go_test.go",
        'package swapped_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// Larger first.\n'
        "func swapped(a int, b int) []interface{} {\n",
        "func TestSwapped(t *testing.T) {\n  candidate := swapped\n\ttype test struct {\n\t\tactual   interface{}\n"
        "\t\texpected interface{}\n\t}\n   tests := []test{\n"
        "     { actual: candidate(1, 2), expected: []interface{}{2, 1} },\n"
        "     { actual: candidate(4, 3), expected: []interface{}{4, 3} },\n   }\n\n\tfor i, tc := range tests {\n"
        '\t\tt.Run(fmt.Sprintf("test num % d", i), func(t *testing.T) {\n'
        '\t\t\tif fmt.Sprintf("%v", tc.actual) != fmt.Sprintf("%v", tc.expected) {\n'
        "\t\t\t\tt.Errorf(\"expected '%s', got '%s'\", tc.expected, tc.actual)\n\t\t\t}\n\t\t})\n\t}\n}\n",
        ["\nfunc", "struct", "\n// "],
    ),
    "rust": _row(
        "rs",
        "/// Larger first.\nfn swapped(a: isize, b: isize) -> (isize, isize) {\n",
        "}\n\nfn main() {\n    let candidate = swapped;\n    assert_eq!(candidate(1, 2), (2, 1));\n"
        "    assert_eq!(candidate(4, 3), (4, 3));\n}\n",
        STOP,
    ),
    "bash": _row(
        "sh",
        "#!/bin/bash\n# Larger first.\n#\n# $1 is an integer\n# $2 is an integer\nswapped() {\n",
        '}\n\ncandidate() {\n    swapped "$@"\n}\n\nset -e\nrun_test() {\n'
        '    [[ $(candidate "1" "2") = "2 1" ]]\n    [[ $(candidate "4" "3") = "4 3" ]]\n}\n\nrun_test\n',
        STOP,
    ),
    "ts": _row(
        "ts",
        "//Larger first.\nfunction swapped(a: number, b: number): [number, number] {\n",
        "declare var require: any;\nconst assert = require('node:assert');\n\n\nfunction test() {\n"
        "  let candidate = swapped;\n  assert.deepEqual(candidate(1, 2),[2, 1]);\n"
        "  assert.deepEqual(candidate(4, 3),[4, 3]);\n}\n\ntest();",
        ["\nfunction ", "\n/*", "\n//", "\nclass"],
    ),
    "lua": _row(
        "lua",
        "-- Larger first.\nlocal function swapped(a, b)\n",
        "lu = require('luaunit')\n\nfunction test_humaneval()\nlocal candidate = swapped\n"
        "    lu.assertEquals(candidate(1, 2), {2, 1})\n    lu.assertEquals(candidate(4, 3), {4, 3})\nend\n\n"
        "os.exit(lu.LuaUnit.run())",
        ["\nlocal", "\nfunction", "\n--", "\n\n"],
    ),
}
# Three times a number: language -> what differs from the problem above.
TRIPLE = {
    "cpp": [
        ("std::tuple<long, long> swapped(long a, long b)", "long triple(long number)"),
        ("(1), (2)) == (std::make_tuple(2, 1))", "(2)) == (6)"),
        ("(4), (3)) == (std::make_tuple(4, 3))", "(-1)) == (-3)"),
    ],
    "java": [
        ("import org.javatuples.*;", "import java.util.stream.*;"),
        ("Pair<Long, Long> swapped(long a, long b)", "long triple(long number)"),
        ("swapped((1l), (2l)).equals((Pair.with(2l, 1l)))", "triple((2l)) == (6l)"),
        ("swapped((4l), (3l)).equals((Pair.with(4l, 3l)))", "triple((-1l)) == (-3l)"),
    ],
    "js": [("(a, b)", "(number)"), ("(1, 2),[2, 1]", "(2),6"), ("(4, 3),[4, 3]", "(-1),-3")],
    "go": [
        ("package swapped_test", "package triple_test"),
        ("swapped(a int, b int) []interface{} {", "Triple(number int) int {"),
        ("candidate := swapped", "candidate := Triple"),
        ("Swapped(t ", "Triple(t "),
        ("(1, 2), expected: []interface{}{2, 1}", "(2), expected: 6"),
        ("(4, 3), expected: []interface{}{4, 3}", "(-1), expected: -3"),
    ],
    "rust": [
        ("(a: isize, b: isize) -> (isize, isize)", "(number: isize) -> isize"),
        ("(1, 2), (2, 1)", "(2), 6"),
        ("(4, 3), (4, 3)", "(-1), -3"),
    ],
    "bash": [
        ("# $2 is an integer\n", ""),
        ('"1" "2") = "2 1"', '"2") = "6"'),
        ('"4" "3") = "4 3"', '"-1") = "-3"'),
    ],
}


def triple(language: str) -> dict[str, Any]:
    texts = {key: ROWS[language][key] for key in ("prompt", "tests")}
    for old, new in [*TRIPLE[language], ("swapped", "triple"), ("Larger first.", "Three times the number.")]:
        texts = {key: text.replace(old, new) for key, text in texts.items()}
    return {**ROWS[language], **texts, "name": "HumanEval_900_triple", "stop_tokens": STOP}


# Language -> answer -> verdicts, published and strict.
ANSWERS = {
    "python": {
        "    return (a, b) if a > b else (b, a)\n": ("passed", "passed"),
        "    return b, a\n": ("wrong", "wrong"),
        "    return (a, b if a\n": ("compile error", "compile error"),
        "    import os\n    os._exit(0)\n": ("passed", "error"),
        "    raise SystemExit\n": ("passed", "error"),
        "    raise SystemExit('no')\n": ("error", "error"),
    },
    "cpp": {
        "  return a > b ? std::make_tuple(a, b) : std::make_tuple(b, a);": ("passed", "passed"),
        "  return {b, a};": ("wrong", "wrong"),
        "  return a;": ("compile error", "compile error"),
        "  exit(0);": ("passed", "error"),
        "  return {a, b};\n}\n#undef assert\n#define assert(x)\nvoid other() {": ("wrong", "wrong"),
    },
    "java": {
        "        return a > b ? Pair.with(a, b) : Pair.with(b, a);": ("passed", "passed"),
        "        return new Pair<Long, Long>(b, a);": ("wrong", "wrong"),
        "        return b;": ("compile error", "compile error"),
        "        System.exit(0); return null;": ("passed", "error"),
    },
    "js": {
        "  return a > b ? [a, b] : [b, a];\n}": ("passed", "passed"),
        "  return [b, a];\n}": ("wrong", "wrong"),
        "  return [b, a;\n}": ("compile error", "compile error"),
        "  process.exit(0);\n}": ("passed", "error"),
        "  console.log(a);\n  return a > b ? [a, b] : [b, a];\n}": ("passed", "passed"),
    },
    "go": {
        "\tif a > b {\n\t\treturn []interface{}{a, b}\n\t}\n\treturn []interface{}{b, a}\n}": ("passed", "passed"),
        "\treturn []interface{}{b, a}\n}": ("wrong", "wrong"),
        "\treturn b\n}": ("compile error", "compile error"),
        '\tpanic("no")\n}': ("error", "error"),
    },
    "rust": {
        "    if a > b { (a, b) } else { (b, a) }": ("passed", "passed"),
        "    (b, a)": ("wrong", "wrong"),
        "    b": ("compile error", "compile error"),
        "    std::process::exit(0)": ("passed", "error"),
    },
    "bash": {
        '    if [ "$1" -gt "$2" ]; then echo "$1 $2"; else echo "$2 $1"; fi': ("passed", "passed"),
        '    echo "$2 $1"': ("wrong", "wrong"),
        '    if [ "$1" -gt "$2" ]; then': ("compile error", "compile error"),
        '    exit\n}\nexit 0\nmore() {\n    :': ("passed", "error"),
        "    no-such-command": ("error", "error"),
    },
    "ts": {
        "  return a > b ? [a, b] : [b, a];\n}": ("passed", "passed"),
        "  return [b, a];\n}": ("wrong", "wrong"),
        "  return [b, a;\n}": ("compile error", "compile error"),
        "  return a;\n}": ("compile error", "compile error"),
        "  throw new Error('no');\n}": ("error", "error"),
        "  (globalThis as any).process.exit(0);\n  return [a, b];\n}": ("passed", "error"),
    },
    "lua": {
        "  if a > b then return {a, b} end\n  return {b, a}\nend": ("passed", "passed"),
        "  return {b, a}\nend": ("wrong", "wrong"),
        "  return {b, a\nend": ("compile error", "compile error"),
        "  return no.such\nend": ("error", "error"),
        "  return {}\nend\nos.exit(0)": ("passed", "error"),
        "  return {a, b}\nend\nfunction ms_codegeex_tests_ended() end": ("wrong", "wrong"),
        "  return {math.max(a, b), math.min(a, b)}\nend\nassert(not debug.getupvalue and not io.read())":
            ("passed", "passed"),
    },
}  # fmt: skip


def write(path: Path, *languages: str) -> Path:
    """A .jsonl file with the problem in these languages (default: all)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(ROWS[name]) + "\n" for name in languages or ROWS))
    return path
