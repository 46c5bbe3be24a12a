"""HumanEval-X's files: their rows, checked; their published versions, and the defects of these."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.evaluation.benchmarks.tables import ProblemFiles, parsed_rows
from ms_codegeex.extras.evaluation.jsonl import record_files

PUBLISHED = Path(__file__).parents[1] / "published.yaml"

# The tests of Rust/32 are commented out in the published files, with reason: on random polynomials Newton's method, as
# in the reference, need not converge. `published` can only check that an answer compiles. `strict` uses the polynomials
# of `inputs`, on which it converges.
RUST_32 = "find_zero()"

# With <cstring>, which the published runner includes, the tests of CPP/23 call the C library's strlen, never the
# answer's, which takes a std::string. So `published` passes everything that compiles.
CPP_23 = re.compile(r"\bstrlen\((\"[^\"]*\")\)")


def tests_of(row: HumanEvalXProblem) -> tuple[str, bool]:
    """The tests that `strict` runs, and whether they replace published tests that check nothing."""
    if (row.language, row.number) == ("rust", 32) and row.test.strip().startswith("/*"):
        return RUST_32, True
    if (row.language, row.number) == ("cpp", 23):
        text, count = CPP_23.subn(r"strlen(std::string(\1))", row.test)
        return text, count > 0
    return row.test, False


def known_defects(files: Mapping[str, ProblemFile]) -> dict[str, str]:
    """Problem -> reason, for references that cannot pass, or not always."""
    known = shipped_table(PUBLISHED)["humaneval-x"]["defects"]
    names = (name for language, file in files.items() for name in (language, file.version))
    return {task_id: reason for name in names for task_id, reason in known.get(name, {}).items()}


# language -> the beginning of its problems' ids, as in `CPP/12`
PREFIXES = {"python": "Python", "cpp": "CPP", "java": "Java", "js": "JavaScript", "go": "Go", "rust": "Rust"}
KEYS = ("task_id", "prompt", "declaration", "canonical_solution", "test")
KEYS_OF = {"go": ("import", "test_setup")}  # those that only rows of one language have
MAX_BYTES = 64 << 20  # uncompressed; the published files have less than one million
WHERE = "github.com/THUDM/CodeGeeX and CodeGeeX2 (benchmark/humanevalx)"
FORM = f"has {', '.join(KEYS)}"
FILES = ProblemFiles("HumanEval-X", (), ("task_id", "declaration", "canonical_solution", "test"), FORM, WHERE)


@dataclass(frozen=True)
class HumanEvalXProblem:
    """A problem in one language, as in the file. `imports` and `test_setup` are Go's, empty elsewhere."""

    language: str
    number: int
    prompt: str
    declaration: str
    solution: str
    test: str
    imports: str = ""
    test_setup: str = ""

    @property
    def id(self) -> str:
        return f"{PREFIXES[self.language]}/{self.number}"


@dataclass(frozen=True)
class ProblemFile:
    """A file that was read. The version is "unknown" unless the hash is that of a published file."""

    path: Path
    sha256: str
    version: str
    rows: tuple[HumanEvalXProblem, ...]


def read(data: Path, languages: Sequence[str] = ()) -> dict[str, ProblemFile]:
    """Language -> file, for these languages (none: those that have one). `data` is a directory or one of the files. A
    file is known by its name, or else by its rows, as in `data/python/data/humaneval.jsonl` of Hugging Face."""
    wanted = dict.fromkeys(languages or PREFIXES)
    for name in wanted:
        if name not in PREFIXES:
            raise UserError(f"language {name!r}: HumanEval-X has {', '.join(PREFIXES)}")
    files: dict[str, ProblemFile] = {}
    below = record_files(data) if data.is_dir() else ()
    for name in wanted:
        # CodeGeeX2's before CodeGeeX's, which `js.jsonl.gz` counts as
        if path := FILES.named(below, (f"humanevalx_{name}", f"humaneval_{name}", name)):
            files[name] = read_file(path, name)[name]
    for path in () if files else FILES.find(data):
        for name, file in read_file(path).items():
            if name in files:
                raise UserError(f"{path}: has {name} like {files[name].path}; give --data one of the files")
            files[name] = file
    for name in languages:
        if name not in files:
            raise UserError(f"{data}: no file of HumanEval-X for {name}, such as {name}.jsonl.gz; it is in {WHERE}")
    return {name: files[name] for name in wanted if name in files}


def provenance(files: Mapping[str, ProblemFile]) -> dict[str, dict[str, str]]:
    return {
        name: {"path": str(file.path), "sha256": file.sha256, "version": file.version} for name, file in files.items()
    }


def read_file(path: Path, language: str | None = None) -> dict[str, ProblemFile]:
    """All rows of a file by language; `language`: it must be of this one. Anything invalid is a `UserError`."""
    rows: dict[str, list[HumanEvalXProblem]] = {}
    for _, row in parsed_rows(path, MAX_BYTES, partial(parse, wanted=language)):
        if isinstance(row, UserError):
            raise row
        rows.setdefault(row.language, []).append(row)
    if not rows:
        raise UserError(f"{path}: no problems; a row {FORM}, see {WHERE}")
    digest = sha256(path)
    version = shipped_table(PUBLISHED)["humaneval-x"]["files"].get(digest, "unknown")
    return {name: ProblemFile(path, digest, version, tuple(each)) for name, each in rows.items()}


def parse(record: Mapping[str, Any], where: str, wanted: str | None = None) -> HumanEvalXProblem:
    """A row of a file; `wanted`: it must be in this language."""
    language, number = identity(record, where, PREFIXES)
    if language != (wanted or language):
        raise UserError(f"{where}: a problem in {language} in a file for {wanted}; give each its own file")
    return HumanEvalXProblem(language, number, *texts_of(record, (*KEYS[1:], *KEYS_OF.get(language, ())), where))


def identity(record: Mapping[str, Any], where: str, prefixes: Mapping[str, str]) -> tuple[str, int]:
    """The language and number of a row's id such as `CPP/12`. `prefixes`: language -> prefix."""
    task_id = record.get("task_id")
    prefix, _, number = task_id.partition("/") if isinstance(task_id, str) else ("", "", "")
    language = next((name for name, known in prefixes.items() if known == prefix), None)
    if language is None or not (number.isascii() and number.isdigit() and len(number) < 7):
        expected = ", ".join(f"{name}/0" for name in prefixes.values())
        raise UserError(f"{where}: task_id is {str(task_id)[:80]!r}; expected one such as {expected}")
    return language, int(number)


def texts_of(record: Mapping[str, Any], keys: Iterable[str], where: str, blank: bool = True) -> list[str]:
    """The texts of a row; `blank`: they may be."""
    for key in keys:
        if not isinstance(record.get(key), str) or not (blank or record[key].strip()):
            raise UserError(f"{where}: {key} is missing or not text; this row needs it")
    return [record[key] for key in keys]
