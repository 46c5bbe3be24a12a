"""The description of a language, `perl.yaml` beside `perl.jsonl`: how its programs are put together, run and judged."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import read_yaml
from ms_codegeex.evaluation import stop_rules
from ms_codegeex.evaluation.toolchains import Program

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
    """Texts that end an answer, too, and are no part of it."""
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
        """CodeGeeX's kind of line before a prompt."""
        return f"{self.comment} language: {self.name}"

    @property
    def tool(self) -> str:
        """The compiler or interpreter."""
        return (self.compile or self.run)[0]

    def assemble(self, prompt: str, answer: str, test: str, whole: bool = False) -> Program:
        """The program that judges an answer. `whole`: the answer is a program, which takes the prompt's place."""
        given = {"prompt": "" if whole else prompt, "answer": answer, "test": test}
        before, after = (
            PLACE.sub(lambda place: given[place[1]], text) for text in re.split(r"\{end\}", self.program, maxsplit=1)
        )
        return Program(before, self.end.replace("%", "%%").replace(TOKEN, "%s"), after)

    def stop(self) -> stop_rules.Stop | None:
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
    """The description in a YAML file.

    Raises:
        UserError: it is not readable, or a key is unknown, missing or wrong.
    """
    values = read_yaml(path)
    try:
        check_tree(LanguageDescription, values)
        for key in (each.name for each in fields(LanguageDescription) if each.default is MISSING):
            if key not in values:
                raise UserError(f"{key}: missing; docs/own-problems.md has an example")
        language = validated(LanguageDescription, values)
        _check(language)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return language


def _check(language: LanguageDescription) -> None:
    for key, pattern in (("name", NAME), ("file", FILE)):
        if not pattern.fullmatch(getattr(language, key)):
            raise UserError(f"{key}: {getattr(language, key)[:60]!r} is no name; expected letters and digits")
    if not language.run:
        raise UserError("run: found nothing, expected a program and its arguments")
    for key in ("run", "compile", "version"):
        words = getattr(language, key)
        own = key == "run" and language.compile and words[0].startswith("./") and FILE.fullmatch(words[0][2:])
        if words and not own and not PROGRAM.fullmatch(words[0]):
            raise UserError(f"{key}: {words[0][:60]!r} is no program in PATH; with `compile`, `run` may begin with ./")
    if sorted(PLACE.findall(language.program)) != sorted(PARTS):
        expected = ", ".join(f"{{{part}}}" for part in PARTS)
        raise UserError(f"program: expected each of {expected} once")
    if language.end.count(TOKEN) != 1 or "witness-" not in language.end:
        raise UserError(f"end: expected a statement that prints witness-{TOKEN}- and the first line of its input")
    if not 0 < language.seconds <= 3600:
        raise UserError(f"seconds: found {language.seconds}, expected more than 0 and at most 3600")
