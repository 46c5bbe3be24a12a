"""The table of replies: what a transformation makes of right programs is right, and of wrong ones wrong."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
from dataclasses import replace
from replies import Solved, mutants, reply_of, shown, transformations
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.replies.code import code_of

HEAD, DOC = "from typing import List\\n\\n\\n", '    "Three times each."\\n'
right = Solved("python", "triple", HEAD, "def triple(numbers: List[int]) -> List[int]:\\n", DOC,
               "    return [3 * number for number in numbers]\\n", "assert triple([]) == []")
prompt = HEAD + right.signature + DOC
wrong = replace(right, body=right.body.replace("3", "4"))
for what in transformations("python"):
    for solved in (right, wrong):
        code, space = code_of(reply_of(what, solved), CodeRequest("python", prompt, "triple")), {}
        exec(code.text if code.whole else prompt + code.text, space)
        assert (space["triple"]([1, 2]) == [3, 6]) is (solved is right), (what, code)

BRACED = {
    "cpp": ("#include <vector>\\n", "int triple(int x) {\\n", "    return 3 * x;\\n}\\n"),
    "java": ("import java.util.*;\\n\\nclass Solution {\\n", "    public int triple(int x) {\\n",
             "        return 3 * x;\\n    }\\n}\\n"),
    "js": ("", "const triple = (x) => {\\n", "  return 3 * x;\\n}\\n"),
    "go": ("", "func triple(x int) int {\\n", "    return 3 * x\\n}\\n"),
    "rust": ("", "fn triple(x: i32) -> i32 {\\n", "    3 * x\\n}\\n"),
}
counts = [len(transformations("python"))]
for language, (head, signature, body) in BRACED.items():
    solved = Solved(language, "triple", head, signature, "", body)
    for what in transformations(language):
        code = code_of(reply_of(what, solved), CodeRequest(language, head + signature, "triple"))
        assert code.whole is (what != "the body alone") and code.text.count("3 * x") == 1, (language, what, code)
        assert what != "a helper in a first block" or "ame" in code.text, (language, code)
    counts.append(len(transformations(language)))
assert list(mutants("a == b + 1", "")) and all(len(each) > 3 for each in mutants("a == b + 1", ""))
rows = [{"language": "python", "what": what, "right": right} for what in "ab" for right in (True, False)]
assert list(shown({"ours": [True, False, False, True]}, rows))[2:] == [
    "| a | 1 + 1 | 1 | 1 |", "| b | 1 + 1 | 0 | 0 |", "| all | 2 + 2 | 1 | 1 |"
]
print(counts)
"""


def test_transformations_keep_programs_right_and_wrong():
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[30, 21, 22, 23, 21, 22]"
