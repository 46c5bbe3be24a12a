"""Memory and speed of a model in each precision, measured by `generate` in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import python_path
from ms_codegeex.generation.loading import load_model

PRECISIONS = {"as stored": "", "8 bits": "8", "4 bits": "4"}
PROMPT = "# language: Python\n"
FEW, MANY = 8, 72  # tokens of two answers: what is done once, such as compiling, takes as long in both


def measured(model: Path, adapter: Path | None, directory: Path) -> list[dict[str, Any]]:
    """For each precision, the peak memory in bytes of a process that answers, and its tokens a second. What could not
    run has None and the reason. Rounded models are in `directory` meanwhile."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="precisions.", dir=directory) as temporary:
        for name, bits in PRECISIONS.items():
            print_error(f"memory and speed: {name}")
            row = {"precision": name, "peak_bytes": None, "tokens_per_second": None, "reason": ""}
            try:
                stored = _rounded(model, bits, Path(temporary)) if bits else model
                row |= _row(stored, adapter, Path(temporary))
            except (_Failed, UserError) as error:
                row["reason"] = str(error)
            rows.append(row)
    return rows


class _Failed(Exception):
    """A command's last line."""


def _rounded(model: Path, bits: str, directory: Path) -> Path:
    output = directory / bits
    _answer(["quantize", "--model", str(model), "--bits", bits, "--output", str(output), "--json"], directory)
    return output


def _row(model: Path, adapter: Path | None, directory: Path) -> dict[str, Any]:
    line = ["generate", "--model", str(model), "--prompt", PROMPT, "--greedy", "--json"]
    line += ["--adapter", str(adapter)] if adapter else []
    line += ["--logit-bias", f"{load_model(model).tokenizer.eos_id}=-100"]  # or rounded weights may end an answer early
    (few, _), (many, peak) = (_answer([*line, "--max-new-tokens", str(n)], directory) for n in (FEW, MANY))
    more, longer = many["new_tokens"] - few["new_tokens"], many["seconds"] - few["seconds"]
    return {"peak_bytes": peak, "tokens_per_second": more / longer if more > 0 and longer > 0 else None}


def _answer(words: Sequence[str], directory: Path) -> tuple[dict[str, Any], int]:
    """What the command printed as JSON, and its peak memory in bytes."""
    with tempfile.TemporaryFile(dir=directory) as output, tempfile.TemporaryFile(dir=directory) as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "ms_codegeex.cli", *words],
            env={**os.environ, "PYTHONPATH": python_path()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            said = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise _Failed(said[-1] if said else "it failed")
        return json.loads(output.read()), usage.ru_maxrss << 10
