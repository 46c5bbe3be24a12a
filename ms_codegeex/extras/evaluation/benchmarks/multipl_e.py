"""MultiPL-E as a task: a function is completed, and its tests run in its own language.

A program is the prompt, the answer, a line break and the benchmark's tests, with the witness after the last test. The
tests begin with the brace that closes the answer's function where that is a stop word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks import blocks
from ms_codegeex.extras.evaluation.benchmarks.tables import ProblemFiles, values_of
from ms_codegeex.extras.evaluation.recipe import ALIASES
from ms_codegeex.extras.evaluation.replies import trees
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest, ReplyCode
from ms_codegeex.extras.evaluation.sandbox import Sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Reference, Sample, SampledAnswer, TextSource
from ms_codegeex.extras.evaluation.toolchains import PLAIN_TOOL_CHAINS, Program
from ms_codegeex.extras.evaluation.toolchains.base import ToolChainTask

# `language` is as in file names: cpp, rs, go_test.go
KEYS = {"name": str, "language": str, "prompt": str, "tests": str, "stop_tokens": object}
FORM = f"has {', '.join(KEYS)}"
FILES = ProblemFiles("MultiPL-E", (), tuple(KEYS), FORM, "huggingface.co/datasets/nuprl/MultiPL-E")


@dataclass(frozen=True)
class MultiPlEProblem:
    """A row."""

    language: str
    prompt: str
    tests: str
    stops: tuple[str, ...]


def read_problems(data: Path, languages: Sequence[str]) -> list[Problem]:
    """The problems in these languages (none: in all that the data has). `UserError` if a language has no problems, or
    lacks a tool chain and `languages` is not given."""
    problems = FILES.problems(data, _problem)
    names = dict.fromkeys(problem.labels["language"] for problem in problems)
    known, foreign = (sorted(name for name in names if (name in PLAIN_TOOL_CHAINS) is own) for own in (True, False))
    if foreign and not (known and languages):
        others = f"leave them out by naming the others: --language {' '.join(known)}"
        remedy = others if known else f"give problems in some of {', '.join(PLAIN_TOOL_CHAINS)}"
        raise UserError(f"{data}: there is no tool chain for {', '.join(foreign)}; {remedy}")
    if absent := [name for name in languages if name not in known]:
        raise UserError(f"--language: {data} has no problems in {', '.join(absent)}; it has {', '.join(known)}")
    return [problem for problem in problems if problem.labels["language"] in (languages or known)]


def _problem(row: Mapping[str, Any], where: str, _: int) -> Problem:
    name, given, prompt, tests, stops = values_of(row, KEYS, where, FORM)
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError(f"{where}: stop_tokens is not a list of texts; a row {FORM}")
    language = "go" if given == "go_test.go" else ALIASES.get(given, given)
    labels = {"language": language, "benchmark": name.partition("_")[0].lower()}
    return Problem(f"{language}/{name}", labels, MultiPlEProblem(language, prompt, tests, tuple(stops)))


CLOSES = re.compile(r"\A\s*\}")  # tests that close the answer's function
GO_PACKAGE = re.compile(r"^package\s+\w+[ \t]*\n", re.MULTILINE)
TS_REQUIRE = "declare var require: any;"
JAVA_CLASS = "Problem"
LUA_RUN = re.compile(r"\bos\.exit\(\s*lu\.LuaUnit\.run\(\)\s*\)")
RUST_MAIN = r"\bfn\s+main\s*\(\s*\)\s*\{"


def assemble(row: MultiPlEProblem, answer: str, name: str, whole: bool = False) -> Program:
    """The program that judges an answer; `name` names the problem in an error message. `whole`: the answer is a
    program, which takes the prompt's place, so no test closes its function, unless it was cut at a stop word."""
    text = answer if whole else f"{row.prompt}{answer}"
    tests = CLOSES.sub("", row.tests)
    if not whole or (tests != row.tests and trees.leaves_open(answer, row.language)):
        return ASSEMBLERS[row.language](row, f"{text}\n", name)
    row = replace(row, tests=tests)
    made = trees.parts([answer], CodeRequest(row.language, row.prompt)) if row.language in WHOLE else None
    return ASSEMBLERS[row.language](row, WHOLE[row.language](row, made) if made else f"{answer}\n", name)


def in_class(row: MultiPlEProblem, made: trees.ReplyProgram) -> str:
    text = trees.TreeReader("java").renamed(made.text, JAVA_CLASS, f"Their{JAVA_CLASS}")
    return f"{text}\nclass {JAVA_CLASS} {{\n    {made.called(f'Their{JAVA_CLASS}')}\n"


def in_package(row: MultiPlEProblem, made: trees.ReplyProgram) -> str:
    """Go's tests need the prompt's package and imports."""
    given = trees.TreeReader("go").outline(row.prompt + "}")
    head = "".join(f"{each.text}\n" for each in given if each.role == "import")
    package = GO_PACKAGE.search(row.prompt)
    others = "".join(f"{each.text}\n" for each in trees.new_imports(row.prompt + "}", made))
    return f"{package[0] if package else ''}{head}{others}\n{made.code}\n"


WHOLE = {"java": in_class, "go": in_package}


def python(row: MultiPlEProblem, text: str, name: str) -> Program:
    return Program(f"{row.tests}\n", f'{blocks.CALL}("%s")', "\n", others={"program.py": text})


def cpp(row: MultiPlEProblem, text: str, name: str) -> Program:
    """The tests call our own `assert`, in case the answer has defined another."""
    head, tail = blocks.at_end_of_block(row.tests, blocks.CPP_MAIN, name)
    main = list(re.finditer(blocks.CPP_MAIN, head))[-1].start()
    head = f"{head[:main]}\n{blocks.OUR_ASSERT}\nvoid {blocks.CALL}(const char *);\n{head[main:]}"
    return Program(f"{text}{head}", f';\n{blocks.CALL}("%s");\n', tail)


def java(row: MultiPlEProblem, text: str, name: str) -> Program:
    return Program(f"{text}{row.tests}", "", "")


def js(row: MultiPlEProblem, text: str, name: str) -> Program:
    return Program(f"{text};ms_codegeex_tests(", '"%s"', f", (console, JSON, Math) => {{\n{row.tests}\n}})\n")


def ts(row: MultiPlEProblem, text: str, name: str) -> Program:
    """As in JavaScript. The declaration of `require` may not stand in a function."""
    tests = row.tests.replace(TS_REQUIRE, "", 1)
    declared = f"{TS_REQUIRE}\n" if tests != row.tests else ""
    witness = f"declare function ms_codegeex_tests(token: string, tests: any): void;\n{declared}"
    head = f"{text};{witness}ms_codegeex_tests("
    return Program(head, '"%s"', f", (console: any, JSON: any, Math: any) => {{\n{tests}\n}})\n")


def go(row: MultiPlEProblem, text: str, name: str) -> Program:
    """The witness is imported right after the package's name."""
    head, tail = blocks.at_end_of_block(row.tests, blocks.GO_TEST, name)
    text, replaced = GO_PACKAGE.subn(lambda line: line.group() + blocks.GO_IMPORT, text, count=1)
    if not replaced:
        raise UserError(f"{name}: no package in its prompt, expected one as in the published files")
    return Program(f"{text}{head}", blocks.GO_CALL, tail)


def rust(row: MultiPlEProblem, text: str, name: str) -> Program:
    head, tail = blocks.at_end_of_block(row.tests, RUST_MAIN, name)
    return Program(f"{text}{head}", blocks.RUST_CALL, f"{tail}\nextern crate {blocks.CALL};\n")


def bash(row: MultiPlEProblem, text: str, name: str) -> Program:
    return Program(f"{text}{row.tests}\n", "printf '%s' >&3\n", "")


def lua(row: MultiPlEProblem, text: str, name: str) -> Program:
    """The witness is a global function, called if luaunit counts no failed test."""
    runs = list(LUA_RUN.finditer(row.tests))
    if not runs:
        raise UserError(f"{name}: its tests do not end with os.exit(lu.LuaUnit.run()); fetch the file again")
    head, tail = row.tests[: runs[-1].start()], row.tests[runs[-1].end() :]
    head = f"{text}{head}local ms_codegeex_failed = lu.LuaUnit.run()\nif ms_codegeex_failed == 0 then\n"
    return Program(head, f'{blocks.CALL}("%s")\n', f"end\nos.exit(ms_codegeex_failed){tail}\n")


ASSEMBLERS = {each.__name__: each for each in (python, cpp, java, js, go, rust, bash, ts, lua)}

RUN_SECONDS = 15.0  # as published, and the languages that have others
OTHER_RUN_SECONDS = {"go": 30.0, "js": 5.0, "rust": 5.0}


@cache
def trial(language: str) -> MultiPlEProblem:
    texts = read_yaml_file(Path(__file__).with_name("multipl_e_trials.yaml"))[language]
    return MultiPlEProblem(language, texts["function"], texts["tests"], ())


class MultiPlE(ToolChainTask):
    """The problems of a file or directory, in the languages that are named (none: in all of them). `timeout`: seconds
    of a run; None: the published ones. `cache`: see `ToolChain`."""

    name = "multipl-e"

    def __init__(
        self, data: Path, languages: Sequence[str] = (), timeout: float | None = None, cache: Path | None = None
    ) -> None:
        self.problems = read_problems(data, languages)
        names = dict.fromkeys(problem.labels["language"] for problem in self.problems)
        super().__init__({name: PLAIN_TOOL_CHAINS[name](cache) for name in names}, timeout)
        for problem in self.problems:  # a damaged row is found before any sample is drawn
            assemble(problem.data, "", problem.id)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        """One completion, truncated at the first of the problem's stop words."""
        words = problem.data.stops
        answer = complete(problem.data.prompt, seed=seed, stop=stop_rules.words(words))
        return self.sample(problem, completion_id, problem.data.prompt, answer, partial(stop_rules.cut, known=words))

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        """The code in a reply. A body, which comes closed, is a program with the prompt if the tests would close it."""
        code = super().read(problem, prompt, done)
        body = not (code.whole or code.lacking) and CLOSES.match(problem.data.tests)
        return ReplyCode(prompt + code.text, True) if body else code

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program with its tests. Published: exit status 0. Strict: and their end was reached."""
        row = trial(problem.labels["language"]) if isinstance(sample, Reference) else problem.data
        program = assemble(row, sample.generation, problem.id, sample.whole)
        wall = self._timeout or OTHER_RUN_SECONDS.get(problem.labels["language"], RUN_SECONDS)
        return self.judge_program(problem, sample, program, sandbox, wall)

    def trial(self, problem: Problem) -> Sample:
        return Reference(problem.id, 0, trial(problem.labels["language"]).prompt, "", "eos")

    def missing(self) -> Mapping[str, str]:
        """Nothing. If tool chains are lacking, a `UserError` names the languages, which the user has to leave out
        explicitly: a mean over fewer languages is a different score."""
        if lacking := super().missing():
            rest = " ".join(name for name in self._chains if name not in lacking)
            lines = "; ".join(f"{name}: {line}" for name, line in lacking.items())
            remedy = f", or leave them out: --language {rest}" if rest else ""
            raise UserError(f"tool chains are missing on this machine: {lines}{remedy}")
        return {}


build = MultiPlE
