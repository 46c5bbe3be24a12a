"""Answers that must not pass: six mechanical ways to break any problem, and tricks against the judges."""

import re

from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.problems import HumanEvalXProblem

KINDS = ("empty", "constant", "loop", "exception", "exit", "success")
END = {"python": "", "cpp": "}\n", "java": "    }\n}\n", "js": "}\n", "go": "}\n", "rust": "}\n"}
BODIES = {
    "python": {
        "empty": "    pass\n",
        "constant": "    return 424242\n",
        "loop": "    while True:\n        pass\n",
        "exception": "    raise ValueError('no')\n",
        "exit": "    import os\n    os._exit(0)\n",
        "success": "    print('passed')\n    raise SystemExit(0)\n",
    },
    "cpp": {
        "empty": "",
        "constant": "    return {};\n",
        "loop": "    volatile int endless = 1;\n    while (endless) {}\n    return {};\n",
        "exception": "    throw 1;\n",
        "exit": "    exit(0);\n",
        "success": '    puts("passed");\n    fflush(stdout);\n    _Exit(0);\n',
    },
    "java": {
        "empty": "",
        "constant": "        return @;\n",
        "loop": "        while (true) {}\n",
        "exception": '        throw new RuntimeException("no");\n',
        "exit": "        System.exit(0);\n        return @;\n",
        "success": '        System.out.println("passed");\n        Runtime.getRuntime().halt(0);\n        return @;\n',
    },
    "js": {
        "empty": "",
        "constant": "  return 424242\n",
        "loop": "  while (true) {}\n",
        "exception": "  throw new Error('no')\n",
        "exit": "  process.exit(0)\n",
        "success": "  console.log('passed')\n  process.exit(0)\n",
    },
    "go": {
        "empty": "",
        "constant": "    return @\n",
        "loop": "    for {\n    }\n",
        "exception": '    panic("no")\n',
        "exit": "    os.Exit(0)\n    return @\n",
        "success": '    fmt.Println("PASS")\n    return @\n',
    },
    "rust": {
        "empty": "",
        "constant": "    return Default::default();\n",
        "loop": "    loop {}\n",
        "exception": '    panic!("no");\n',
        "exit": "    std::process::exit(0);\n",
        "success": '    println!("test result: ok. 1 passed");\n    std::process::exit(0);\n',
    },
}


def broken(row: HumanEvalXProblem, kind: str) -> str:
    return BODIES[row.language][kind].replace("@", zero(row)) + END[row.language]


def zero(row: HumanEvalXProblem) -> str:
    """A value of the type that the last function of the declaration returns."""
    last = row.declaration.rstrip().splitlines()[-1]
    if row.language == "java":
        kind = (re.findall(r"public\s+(?:static\s+)?([\w<>\[\], .]+?)\s+\w+\s*\(", row.declaration) or [""])[-1]
        return {"boolean": "false", "int": "424242", "long": "424242", "double": "424242", "char": "'x'"}.get(
            kind, "null"
        )
    kind = last[last.rfind(")") + 1 : -1].strip() or last[last.rfind("(") : -1].strip()
    simple = {"bool": "false", "int": "424242", "float64": "424242", "string": '"424242"'}
    return ", ".join(simple.get(part.strip().split(" ")[-1], "nil") for part in kind.strip("()").split(","))


# Against `triple` of `humaneval_x_rows`. Each leaves early, pretends, or keeps the tests from running.
TRICKS = {
    "python": {
        "exit handler": "    import atexit, os\n    atexit.register(print, 'passed')\n    os._exit(0)\n",
        "open text": "    return 0\n    '''\n",
        "open bracket": "    return 0\n    x = (\n",
        "own source": "    print(open('program.py').read())\n    raise SystemExit\n",
        "killed": "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n",
        "no assertions": "    import builtins\n    builtins.AssertionError = SystemExit\n    return 0\n",
        "silent error": "    import sys\n    sys.excepthook = lambda *_: None\n    return 0\n",
        "end of a thread": "    import _thread\n    _thread.exit()\n",
    },
    "cpp": {
        "open comment": "    return 0;\n}\n/*",
        "open text": '    return 0;\n}\nconst char *text = R"x(',
        "own main": "    return 0;\n}\nint main(){ return 0; }\n",
        "own main, no tests": "    return 0;\n}\nint main(){ return 0; }\n#if 0\n",
        "before main": "    return 0;\n}\nstruct Early { Early() { _Exit(0); } } early;\n",
        "no assertions": "    return 0;\n}\n#define NDEBUG\n#define assert(x)\n",
        "exit handler": '    atexit([]() { puts("passed"); _Exit(0); });\n    return 0;\n}\n',
        "signal": "    quick_exit(0);\n}\n",
        "input": "    char line[99];\n    while (fgets(line, 99, stdin)) puts(line);\n    exit(0);\n}\n",
    },
    "java": {
        "open comment": "        return 0;\n    }\n}\n/*",
        "own main": "        return 0;\n    }\n}\nclass Main { public static void main(String[] a) {} }\n",
        "own main, no tests": (
            "        return 0;\n    }\n}\nclass Main { public static void main(String[] a) {} }\n/*"
        ),
        "static": "        return 0;\n    }\n    static { System.exit(0); }\n}\n",
        "hook": (
            "        Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(0)));\n"
            "        return 0;\n    }\n}\n"
        ),
        "handler": (
            "        Thread.setDefaultUncaughtExceptionHandler((t, e) -> System.exit(0));\n"
            "        return 0;\n    }\n}\n"
        ),
    },
    "js": {
        "return": "  return 0\n}\nreturn\n",
        "open comment": "  return 0\n}\n/*",
        "open template": "  return 0\n}\nconst text = `",
        "no assertions": "  console.assert = () => {}\n  return 0\n}\n",
        "own console": "  return 0\n}\nconst console = { assert() {} }\n",
        "no output": "  process.stderr.write = () => true\n  return 0\n}\n",
        "later": "  process.nextTick(() => process.exit(0))\n  return 0\n}\n",
        "on exit": "  process.on('exit', () => process.reallyExit(0))\n  throw 1\n}\n",
        "caught": "  process.on('uncaughtException', () => {})\n  throw 1\n}\n",
    },
    "go": {
        "open comment": "    return 0\n}\n/*",
        "open text": "    return 0\n}\nvar text = `",
        "own test": "    return 0\n}\nfunc TestTriple(t *testing.T) {}\n",
        "own main test": "    return 0\n}\nfunc TestMain(m *testing.M) {}\n",
        "own assert": "    return 0\n}\nfunc init() { panic(nil) }\n",
        "skips": "    return 0\n}\ntype T = testing.T\nfunc (t T) Failed() bool { return false }\n",
    },
    "rust": {
        "open comment": "    0\n}\n/*",
        "open text": '    0\n}\nconst TEXT: &str = r##"',
        "own main": "    0\n}\nfn main() {}\n",
        "no assertions": (
            "    0\n}\nmacro_rules! assert_eq { ($($x:tt)*) => {} }\nmacro_rules! assert { ($($x:tt)*) => {} }\n"
        ),
        "no tests": "    0\n}\n#[cfg(any())]\n",
        "abort": "    std::process::abort();\n}\n",
    },
}
