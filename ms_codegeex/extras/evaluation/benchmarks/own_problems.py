"""Own problems as a task: for each language a directory has its description, `perl.yaml`, and its `perl.jsonl`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.printing import print_error
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import read_yaml
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.problems import KEYS, MAX_BYTES, identity, texts_of
from ms_codegeex.extras.evaluation.benchmarks.tables import listed, parsed_rows
from ms_codegeex.extras.evaluation.jsonl import stem
from ms_codegeex.extras.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict, open_sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Reference, Sample, TextSource
from ms_codegeex.extras.evaluation.toolchains import Program, ToolChain
from ms_codegeex.extras.evaluation.toolchains.base import RunPlan, ToolChainTask, program_of, with_libraries
from ms_codegeex.extras.shared.records import archive_kind
from ms_codegeex.generation.stopping import Rule

PARTS = ("prompt", "answer", "test", "end")
PLACE = re.compile(r"\{(" + "|".join(PARTS) + r")\}")
TOKEN = "{token}"
NAME = re.compile(r"[A-Za-z][\w+#.-]{0,39}")
BLOCKS = {"braces": stop_rules.closed, "indentation": stop_rules.unindented}
PROGRAM = re.compile(r"[A-Za-z][\w.+-]{0,79}")
FILE = re.compile(r"[A-Za-z_][\w.-]{0,79}")


@dataclass(frozen=True)
class LanguageDescription:
    """A language. Every key of its YAML file is one of these."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}
    name: str
    """As people write it. The ids of its problems begin with it: `Perl/13`."""
    file: str
    """The program's file, in the directory where it runs."""
    run: tuple[str, ...]
    """The words that run it. The first is looked up in PATH unless it begins with `./`."""
    end: str
    """A statement that prints the line `witness-{token}-`, followed by the first line of standard input. It runs after
    the last test."""
    install: str
    """The command that installs the language."""
    compile: tuple[str, ...] = ()
    """The words that compile it first."""
    version: tuple[str, ...] = ()
    """The words that print its version (default: the compiler or interpreter with `--version`)."""
    program: str = "{prompt}{answer}\n{test}\n{end}\n"
    """How a program is put together."""
    comment: str = "#"
    """What begins a comment, such as the line with CodeGeeX's tag."""
    block: Literal["braces", "indentation", "none"] = "none"
    """Where an answer ends: with the brace that closes the function, before a line in the first column, or nowhere."""
    stops: tuple[str, ...] = ()
    """Texts that end an answer, too, and are not part of it."""
    empty: str = ""
    """The shortest answer that compiles. The checker expects it to fail."""
    exit: str = ""
    """An answer that ends the program with status 0. The checker expects it to fail; empty: it is not tried."""
    failed: tuple[str, ...] = ()
    """What a program prints when a test fails: the verdict is then `wrong`, and otherwise `error`."""
    syntax: tuple[str, ...] = ()
    """What an interpreter prints if a program is none: `compile error`."""
    seconds: float = 5.0
    """The time limit of a run."""

    @property
    def tag(self) -> str:
        return f"{self.comment} language: {self.name}"

    @property
    def tool(self) -> str:
        return (self.compile or self.run)[0]

    def assemble(self, prompt: str, answer: str, test: str, whole: bool = False) -> Program:
        """The program that judges an answer. `whole`: the answer is a program, which takes the prompt's place."""
        given = {"prompt": "" if whole else prompt, "answer": answer, "test": test}
        before, after = (
            PLACE.sub(lambda place: given[place[1]], text) for text in re.split(r"\{end\}", self.program, maxsplit=1)
        )
        return Program(before, self.end.replace("%", "%%").replace(TOKEN, "%s"), after)

    def stop(self) -> Rule | None:
        """When an answer has ended; None: only with the text."""
        stops = [BLOCKS[self.block]] if self.block in BLOCKS else []
        stops += [stop_rules.words(self.stops)] if self.stops else []
        return stop_rules.first_of(*stops) if stops else None

    def clean(self, text: str) -> str:
        """The answer in the text that a model wrote."""
        text = stop_rules.cut(text, self.stops)
        if self.block == "braces":
            return text[: stop_rules.closed.scan()(text)]
        return text[: stop_rules.first_unindented(text)] if self.block == "indentation" else text


def read_language(path: Path) -> LanguageDescription:
    """The description in a YAML file; `UserError` if a key is unknown, missing or wrong."""
    values = read_yaml(path)
    with located(path):
        values = check_tree(LanguageDescription, values)
        for key in (each.name for each in fields(LanguageDescription) if each.default is MISSING):
            if key not in values:
                raise UserError(f"{key}: missing; docs/benchmarks.md has an example")
        language = validated(LanguageDescription, values)
        _check(language)
        return language


def _check(language: LanguageDescription) -> None:
    for key, pattern in (("name", NAME), ("file", FILE)):
        if not pattern.fullmatch(getattr(language, key)):
            raise UserError(f"{key}: {getattr(language, key)[:60]!r} is not a name; expected letters and digits")
    if not language.run:
        raise UserError("run: found nothing, expected a program and its arguments")
    for key in ("run", "compile", "version"):
        words = getattr(language, key)
        own = key == "run" and language.compile and words[0].startswith("./") and FILE.fullmatch(words[0][2:])
        if words and not own and not PROGRAM.fullmatch(words[0]):
            raise UserError(f"{key}: {words[0][:60]!r} is not a name in PATH; give one, or ./NAME after `compile`")
    if sorted(PLACE.findall(language.program)) != sorted(PARTS):
        raise UserError(f"program: expected each of {', '.join(f'{{{part}}}' for part in PARTS)} once")
    if language.end.count(TOKEN) != 1 or "witness-" not in language.end:
        raise UserError(f"end: expected a statement that prints witness-{TOKEN}- and the first line of its input")
    if not 0 < language.seconds <= 3600:
        raise UserError(f"seconds: found {language.seconds}, expected more than 0 and at most 3600")


BROKEN = "broken"  # the key of wrong solutions


@dataclass(frozen=True)
class OwnProblem:
    """A problem as in the file. `broken`: wrong solutions, each of which the tests must find."""

    language: str
    number: int
    prompt: str
    declaration: str
    solution: str
    test: str
    broken: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.language}/{self.number}"


@dataclass(frozen=True)
class DescribedFile:
    """A language's description and the file of its problems."""

    language: LanguageDescription
    path: Path


def described_files(data: Path) -> list[DescribedFile]:
    """The languages of a directory. `UserError`: a description is wrong or without problems, or two have one name."""
    files = dict[str, DescribedFile]()
    here = sorted(data.iterdir()) if data.is_dir() else []
    for path in (file for file in here if file.suffix in (".yaml", ".yml")):
        language = read_language(path)
        found = [file for file in here if archive_kind(file.name) and stem(file) == path.stem]
        if not found:
            raise UserError(f"{path}: no {path.stem}.jsonl beside it, which has the problems")
        if len(found) > 1:
            raise UserError(f"{path}: its problems are in {listed(file.name for file in found)}; keep one of them")
        if language.name in files:
            raise UserError(f"{path}: name: {language.name} occurs twice here; change this one, and its task_ids")
        files[language.name] = DescribedFile(language, found[0])
    return list(files.values())


def rows(file: DescribedFile) -> Iterator[tuple[int, OwnProblem | UserError]]:
    """The problems of a file with their lines; in place of one that is wrong, the reason."""
    found = parsed_rows(file.path, MAX_BYTES, partial(parse, file.language))
    yield next(found, (1, UserError(f"{file.path}: no problems; expected one JSON object a line")))
    yield from found


def parse(language: LanguageDescription, row: Mapping[str, Any], where: str) -> OwnProblem:
    """The problem in a row."""
    if unknown := row.keys() - {*KEYS, BROKEN, "example_test", "text", "docstring"}:
        raise UserError(f"{where}: {min(unknown)}: unknown key; known: {', '.join((*KEYS, BROKEN))}")
    _, number = identity(row, where, {language.name: language.name})
    broken = [] if row.get(BROKEN) is None else row[BROKEN]
    if not isinstance(broken, list) or not all(isinstance(each, str) for each in broken):
        raise UserError(f"{where}: {BROKEN} is not a list of texts")
    return OwnProblem(language.name, number, *texts_of(row, KEYS[1:], where, blank=False), tuple(broken))


class DescribedToolChain(ToolChain):
    """Compiles, if the description says so, and runs. `cache`: see `ToolChain`."""

    sources = ()
    no_memory = (b"out of memory", b"Out of memory")
    shows_tool = True

    def __init__(self, description: LanguageDescription, cache: Path | None = None) -> None:
        super().__init__(cache)
        self._description = description
        self.language = description.name.lower()  # type: ignore[misc]
        self.install = description.install  # type: ignore[misc]
        self.failed_assertion = tuple(each.encode() for each in description.failed)  # type: ignore[misc]

    @property
    def tool(self) -> Path | None:
        return program_of(self._description.tool)

    def lacking(self) -> dict[str, str]:
        words = [command[0] for command in (self._description.compile, self._description.run) if command]
        return {word: word for word in words if not word.startswith("./") and program_of(word) is None}

    @property
    def remedy(self) -> str:
        return self.install

    def version(self) -> str | None:
        """The first line that its command for that prints, in a sandbox; None if something is missing."""
        if self.lacking():
            return None
        words = self._description.version or (self._description.tool, "--version")
        sandbox = open_sandbox("best-effort")  # a missing layer is refused where the programs are run
        (done,) = sandbox.run([Command(self._resolved(words))], {}, with_libraries(self.tool))
        lines = (done.stdout or done.stderr).decode("utf-8", "replace").strip().splitlines()
        return lines[0] if done.succeeded and lines else None

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        compile_words = self._description.compile
        commands = [Command(self._resolved(compile_words), self.compiling)] if compile_words else []
        run = Command(self._resolved(self._description.run), ResourceLimits(wall=seconds), {}, challenge + b"\n")
        return RunPlan([*commands, run], program.files(self._description.file, token), compiling=len(commands))

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """As in the base class; what the description calls a syntax error counts as a compile error."""
        text = executions[-1].stderr + executions[-1].stdout
        syntax = any(words.encode() in text for words in self._description.syntax)
        return Verdict.COMPILE_ERROR if verdict is Verdict.ERROR and syntax else super().named(verdict, executions)

    @staticmethod
    def _resolved(words: Sequence[str]) -> list[str]:
        path = None if words[0].startswith("./") else program_of(words[0])
        return [str(path or words[0]), *words[1:]]


class OwnProblems(ToolChainTask):
    """The problems of all languages that a directory describes, such as perl.yaml and perl.jsonl. `tag`: put a
    tag line like CodeGeeX's before the prompt. `timeout`: seconds of a run; None: each description's."""

    name = "own-problems"

    def __init__(self, data: Path, tag: bool = False, timeout: float | None = None, cache: Path | None = None) -> None:
        files = described_files(data)
        if not files:
            remedy = "for problems in Python, C++, Java, JavaScript, Go or Rust give the task humaneval-x instead"
            raise UserError(f"{data}: no description of a language, such as perl.yaml (docs/benchmarks.md); {remedy}")
        self.languages = {file.language.name: file.language for file in files}
        super().__init__({name: DescribedToolChain(each, cache) for name, each in self.languages.items()}, timeout)
        self._tag = tag
        self.problems, self.places = [], {}
        for file in files:
            for line, row in rows(file):
                if isinstance(row, UserError):
                    raise row
                self.problems.append(Problem(row.id, {"language": row.language}, row))
                self.places[row.id] = f"{file.path}:{line}"
        used = {file.path for file in files}
        if left := [each for each in sorted(data.iterdir()) if archive_kind(each.name) and each not in used]:
            print_error(f"{data}: passed over, without a description: {listed(each.name for each in left)}")
        self.provenance = {file.language.name: {"path": str(file.path), "sha256": sha256(file.path)} for file in files}

    def prompt(self, row: OwnProblem) -> str:
        return f"{self.languages[row.language].tag}\n{row.prompt}" if self._tag else row.prompt.strip()

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        language, prompt = self.languages[problem.data.language], self.prompt(problem.data)
        done = complete(prompt, seed=seed, stop=language.stop())
        return self.sample(problem, completion_id, prompt, done, language.clean)

    def reference(self, problem: Problem) -> Sample:
        return Reference(problem.id, 0, self.prompt(problem.data), problem.data.solution, "eos", {"reference": True})

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program with its tests. Published: exit status 0. Strict: and their end was reached."""
        row, language = problem.data, self.languages[problem.data.language]
        program = language.assemble(row.prompt, sample.generation, row.test, sample.whole)
        return self.judge_program(problem, sample, program, sandbox, self.wall(sample, language.seconds))


build = OwnProblems
