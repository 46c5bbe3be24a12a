"""Wrong answers to `triple`, and to questions with other kinds of results, that pass when tests can be tampered with:
they change what a test compares or reports with, not what they compute."""

from humaneval_x_rows import CPP, GO, JAVA, JS, PYTHON, RUST, asked

ROWS = {
    "python": asked(
        PYTHON,
        PYTHON["prompt"],
        PYTHON["canonical_solution"],
        "\ndef check(triple):\n    assert abs(triple(2) - 6) < 1e-6\n    assert abs(triple(-1) + 3) < 1e-6\n\n"
        "check(triple)\n",
    ),
    "cpp": asked(
        CPP,
        "#include<string>\n#include<vector>\nusing namespace std;\nstring word(int number){\n",
        '    return number == 2 ? "two" : "many";\n}\n',
        "#undef NDEBUG\n#include<assert.h>\nbool issame(string a,string b){\n    return a==b;\n}\n"
        'int main(){\n    assert (word(2) == "two");\n    assert (issame(word(9), "many"));\n}\n',
    ),
    "java": asked(
        JAVA,
        "import java.util.*;\nimport java.lang.*;\n\nclass Solution {\n    public List<Integer> twice(int number) {\n",
        "        return new ArrayList<>(Arrays.asList(number, number));\n    }\n}",
        "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
        "        List<Boolean> correct = Arrays.asList(\n"
        "            s.twice(2).equals(new ArrayList<>(Arrays.asList(2, 2))),\n"
        "            Objects.equals(s.twice(1), Arrays.asList(1, 1))\n        );\n"
        "        if (correct.contains(false)) {\n            throw new AssertionError();\n        }\n    }\n}\n",
    ),
    "js": asked(
        JS,
        "const twice = (number) => {\n",
        "  return [number, number]\n}\n\n",
        "const testTwice = () => {\n  console.assert(JSON.stringify(twice(2)) === JSON.stringify([2, 2]))\n"
        "  console.assert(Math.abs(twice(1)[0] - 1) < 1e-6)\n}\n\ntestTwice()\n",
    ),
    "go": asked(
        {**GO, "import": ""},
        "func Positive(number int) bool {\n",
        "    return number > 0\n}\n\n",
        "func TestPositive(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(true, Positive(2))\n"
        "    assert.Equal(false, Positive(-1))\n}\n",
    ),
    "rust": asked(
        RUST,
        "\nuse rand::Rng;\n\nfn positive(numbers: Vec<i32>) -> bool {\n",
        "\n    numbers.iter().all(|&n| n > 0)\n}\n",
        "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_positive() {\n"
        "        assert_eq!(positive(vec![2]), true);\n        assert_eq!(positive(vec![-1]), false);\n    }\n\n}\n",
    ),
}
CHEATS = {
    "python": {
        "fork oracle": (
            "    import os, random\n    value = 0\n    for value in range(-9, 9):\n        child = os.fork()\n"
            "        if child == 0:\n            return value\n        if os.waitpid(child, 0)[1] == 0:\n"
            "            break\n    return value\n"
        ),
        "abs of everybody": "    import builtins\n    builtins.abs = lambda value: 0\n    return 6\n",
    },
    "cpp": {
        "own equality": ('    return "many";\n}\nbool operator==(const string&, const char*) { return true; }\n'),
        "own end of a failed assertion": (
            '    return "many";\n}\n'
            'extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) throw() {}\n'
        ),
        "no assertions": '    return "wrong";\n}\n#define NDEBUG\n//\\',
        "own if": '    return "wrong";\n}\n#define if(x) if (0)\n#define word(x) (x == 2 ? "two" : "many")\n',
        "fork oracle": (
            '    int start() __asm__("fork"); int end(int*) __asm__("wait");\n'
            '    if (start() == 0) return number == 2 ? "two" : "no";\n    int status = 1;\n    end(&status);\n'
            '    return status || number > 2 ? "many" : "two";\n}\n'
        ),
    },
    "java": {
        "own Objects": (
            "        return java.util.Arrays.asList(2, 2);\n    }\n}\n"
            "class Objects { static boolean equals(Object a, Object b) { return true; } }\n"
        ),
    },
    "js": {
        "own JSON": "  return [1]\n}\nconst JSON = { stringify: () => '' }\n",
        "JSON of its own": "  return { 0: 1, toJSON: () => [2, 2] }\n}\n",
        "Math": "  return number === 2 ? [2, 2] : [0]\n}\nMath.abs = () => 0\n",
        "a getter": (
            "  return [1]\n}\nconst real = console.assert\nlet calls = 0\nMath.abs = () => 0\n"
            "Object.defineProperty(console, 'assert', { get: () => (calls++ < 2 ? () => {} : real) })\n"
        ),
    },
    "go": {
        "own truth": "    return true\n}\nconst false = true\n",
        "own type": "    return 1\n}\ntype bool = int\nconst true, false = 1, 1\n",
    },
    "rust": {
        "own bool": (
            "    bool\n}\n#[allow(non_camel_case_types)]\n#[derive(Debug)]\nstruct bool;\n"
            "impl PartialEq<core::primitive::bool> for bool {\n"
            "    fn eq(&self, _: &core::primitive::bool) -> core::primitive::bool { 1 == 1 }\n}\n"
        ),
        "own std": (
            "    true\n}\nextern crate self as std;\n#[macro_export]\nmacro_rules! assert_eq { ($($x:tt)*) => {} }\n"
        ),
    },
}
