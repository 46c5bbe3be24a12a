"""A problem of our own in the six languages, in HumanEval-X's form: the tests need no file of the benchmark."""

import gzip
import json
from pathlib import Path

PYTHON = {
    "task_id": "Python/7",
    "prompt": 'def triple(number: int) -> int:\n    """ Three times the number. """\n',
    "declaration": "def triple(number: int) -> int:\n",
    "canonical_solution": "    return 3 * number\n",
    "test": "\ndef check(triple):\n    assert triple(2) == 6\n    assert triple(-1) == -3\n\ncheck(triple)\n",
}
CPP = {
    "task_id": "CPP/7",
    "prompt": "/*\nThree times the number.\n*/\n#include<stdio.h>\nusing namespace std;\nint triple(int number){\n",
    "declaration": "#include<stdio.h>\nusing namespace std;\nint triple(int number){\n",
    "canonical_solution": "    return 3*number;\n}\n",
    "test": (
        "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (triple(2) == 6);\n"
        "    assert (triple(-1) == -3);\n}\n"
    ),
}
JAVA = {
    "task_id": "Java/7",
    "prompt": (
        "import java.util.*;\n\nclass Solution {\n    /** Three times the number. */\n"
        "    public int triple(int number) {\n"
    ),
    "declaration": "import java.util.*;\n\nclass Solution {\n    public int triple(int number) {\n",
    "canonical_solution": "        return 3 * number;\n    }\n}",
    "test": (
        "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        List<Boolean> correct = Arrays.asList(s.triple(2) == 6, s.triple(-1) == -3);\n"
        "        if (correct.contains(false)) {\n            throw new AssertionError();\n        }\n    }\n}\n"
    ),
}
JS = {
    "task_id": "JavaScript/7",
    "prompt": "/* Three times the number. */\nconst triple = (number) => {\n",
    "declaration": "\nconst triple = (number) => {\n",
    "canonical_solution": "  return 3 * number;\n}\n\n",
    "test": (
        "const testTriple = () => {\n  console.assert(triple(2) === 6)\n  console.assert(triple(-1) === -3)\n}\n\n"
        "testTriple()\n"
    ),
}
GO = {
    "task_id": "Go/7",
    "import": 'import (\n    "math"\n)\n',
    "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
    "prompt": 'import (\n    "math"\n)\n\n// Three times the number.\nfunc Triple(number int) int {\n',
    "declaration": "\nfunc Triple(number int) int {\n",
    "canonical_solution": "    return int(math.Round(3 * float64(number)))\n}\n\n",
    "test": (
        "func TestTriple(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(6, Triple(2))\n"
        "    assert.Equal(-3, Triple(-1))\n}\n"
    ),
}
RUST_DECLARATION = "\nuse rand::Rng;\nuse regex::Regex;\nuse md5;\n\nfn triple(number: i32) -> i32 {\n"
RUST = {
    "task_id": "Rust/7",
    "prompt": f"\n/*\n Three times the number.\n*/\n{RUST_DECLARATION}",
    "declaration": RUST_DECLARATION,
    "canonical_solution": "\n    3 * number\n}\n",
    "test": (
        "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_triple() {\n"
        "        let x: i32 = rand::thread_rng().gen_range(1, 2);\n"
        "        assert_eq!(triple(2), 6);\n        assert!(triple(-x) == -3)\n    }\n\n}\n"
    ),
}


def asked(row: dict, head: str, solution: str, test: str) -> dict:
    """Another question in the language of `row`: `head` is its prompt and its declaration."""
    return {**row, "prompt": head, "declaration": head, "canonical_solution": solution, "test": test}


ROWS = {"python": PYTHON, "cpp": CPP, "java": JAVA, "js": JS, "go": GO, "rust": RUST}


def write(directory: Path, language: str, *rows: dict, packed: bool = True) -> Path:
    """Write rows as a file of the benchmark; by default the language's row."""
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows or (ROWS[language],))
    path = directory / f"{language}.jsonl{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path
