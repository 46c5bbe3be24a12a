"""The two formats of DS-1000: a directory per problem (original, 2022), or one JSONL file (simplified, 2024)."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import value_of
from ms_codegeex.evaluation.jsonl import read_rows

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


def read_problems(data: Path, mode: str) -> list[Ds1000Problem]:
    """The problems of a directory in the original layout, or of a .jsonl(.gz) file or a directory with one.

    Raises:
        UserError: there are none, a problem is damaged, or the format does not have this mode.
    """
    if not data.exists():
        raise UserError(f"{data}: no such file or directory; give DS-1000's ds1000_data or ds1000.jsonl.gz")
    if data.is_dir() and (files := sorted(data.glob("*.jsonl*"))):
        data = files[0]
    if data.is_dir():
        return _original(data, mode)
    if mode != "completion":
        raise UserError(f"{data}: the simplified format has no insertion problems; give ds1000_data or mode completion")
    return [_row(row, f"{data}:{number}") for number, row in enumerate(read_rows(data), 1)]


def format_of(data: Path) -> str:
    """ "original" or "simplified"; figures of the two are not comparable."""
    return "original" if data.is_dir() and not list(data.glob("*.jsonl*")) else "simplified"


def _original(root: Path, mode: str) -> list[Ds1000Problem]:
    paths = [path for path in root.glob(f"*/{mode.capitalize()}/q*") if re.fullmatch(r"q\d+", path.name)]
    if not paths:
        raise UserError(f"{root}: no LIBRARY/{mode.capitalize()}/qN; give DS-1000's ds1000_data directory")
    return [_directory(path, mode) for path in sorted(paths, key=lambda path: (path.parts[-3], int(path.name[1:])))]


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


def _row(row: Mapping[str, Any], where: str) -> Ds1000Problem:
    try:
        about = row["metadata"]
        library = str(about["library"])
        prompt, context, reference = (
            value_of(row, key, str, where, "of DS-1000 has text there; restore it")
            for key in ("prompt", "code_context", "reference_code")
        )
        cases, origin = int(about["test_case_cnt"]), str(about["perturbation_type"])
        return Ds1000Problem(f"{library}/{about['problem_id']}", library, origin, prompt, context, reference, cases)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: not a problem of DS-1000 ({type(error).__name__} {error}); restore it") from None
