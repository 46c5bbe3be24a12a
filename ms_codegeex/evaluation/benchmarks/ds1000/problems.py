"""The two formats of DS-1000: a directory per problem (original, 2022), or one JSONL file (simplified, 2024)."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import ProblemFiles, value_of
from ms_codegeex.evaluation.task import Problem

# in a problem's directory: what no program may see, or needs
HIDDEN = (
    "ans",
    "test_code.py",
    "reference_code.txt",
    "test_generate_pickle.py",
    "prompt.txt",
    "code_context.txt",
    ".cfg",
)


@dataclass(frozen=True)
class Ds1000Problem:
    """A problem in either format. `test_type` 3 also has a test of the answer's text.

    In the original format, `files` are the content of the program's directory, and `answers` the files of `ans`:
    pickles, which must be opened only in a sandbox.
    """

    id: str
    library: str
    perturbation: str
    prompt: str
    context: str
    reference: str
    cases: int = 1
    test_type: int = 1
    test_code: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    answers: Mapping[str, bytes] = field(default_factory=dict)


FORM = "has prompt, code_context, reference_code and metadata"
FILES = ProblemFiles(
    "DS-1000", ("ds1000",), ("prompt", "code_context", "metadata"), FORM, "github.com/xlang-ai/DS-1000"
)


def read_problems(data: Path, mode: str) -> tuple[str, list[Problem]]:
    """The format, "original" or "simplified", whose figures are not comparable, and the problems of a directory in the
    original layout, or of a file of the simplified format or a directory with one.

    Raises:
        UserError: there are none, a problem is damaged, or the format does not have this mode.
    """
    if data.is_dir() and (found := _original(data, mode)):
        return "original", found
    if mode != "completion":
        raise UserError(f"{data}: the simplified format has no insertion problems; give ds1000_data or mode completion")
    return "simplified", FILES.problems(data, _row)


def _labelled(problem: Ds1000Problem) -> Problem:
    return Problem(problem.id, {"library": problem.library, "perturbation": problem.perturbation}, problem)


def _original(root: Path, mode: str) -> list[Problem]:
    paths = [path for path in root.glob(f"*/{mode.capitalize()}/q*") if re.fullmatch(r"q\d+", path.name)]
    paths.sort(key=lambda path: (path.parts[-3], int(path.name[1:])))
    return [_labelled(_directory(path, mode)) for path in paths]


def _directory(path: Path, mode: str) -> Ds1000Problem:
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read_string((path / ".cfg").read_text("utf-8"))
        library = config["library"]["lib"]
        files = {
            file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
        }
        texts = {
            name: (path / f"{name}.txt").read_text("utf-8") for name in ("prompt", "code_context", "reference_code")
        }
        if "[insert]" not in texts["code_context"]:
            raise ValueError(f"{path.name}/code_context.txt has no [insert]")
        return Ds1000Problem(
            f"{library}/{mode}/{path.name[1:]}",
            library,
            config["perturbation"]["perturbation_type"],
            texts["prompt"],
            texts["code_context"],
            texts["reference_code"],
            int(config["test"]["test_case_cnt"]),
            int(config["test"]["test_type"]),
            (path / "test_code.py").read_text("utf-8"),
            {"result/.keep": b"", **{name: data for name, data in files.items() if name.split("/")[0] not in HIDDEN}},
            {name[4:]: data for name, data in files.items() if name.startswith("ans/")},
        )
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a problem of DS-1000 ({type(error).__name__} {error}); restore it") from None


def _row(row: Mapping[str, Any], where: str, _: int) -> Problem:
    about = row["metadata"]
    library = str(about["library"])
    texts = (
        value_of(row, key, str, where, f"{FORM}; restore it") for key in ("prompt", "code_context", "reference_code")
    )
    cases, origin = int(about["test_case_cnt"]), str(about["perturbation_type"])
    return _labelled(Ds1000Problem(f"{library}/{about['problem_id']}", library, origin, *texts, cases))
