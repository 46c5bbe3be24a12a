"""Memory and speed of a model in each precision, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import import_variables

PRECISIONS = {"as stored": "", "8 bits": "8", "4 bits": "4"}


def measured(model: Path, adapter: Path | None, directory: Path) -> list[dict[str, Any]]:
    """For each precision, the peak memory in bytes of a process that answers, and its tokens a second. What could not
    run has None and the reason. Rounded models are in `directory` meanwhile."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="precisions.", dir=directory) as temporary:
        for name, bits in PRECISIONS.items():
            print_error(f"memory and speed: {name}")
            row = {"precision": name, "peak_bytes": None, "tokens_per_second": None, "reason": ""}
            stored, words = model, ["quantize", "--model", str(model), "--bits", bits, "--json"]
            try:
                if bits:
                    stored = Path(temporary) / bits
                    _run(["ms_codegeex.cli", *words, "--output", str(stored)], temporary)
                speed = [
                    "ms_codegeex.extras.evaluation.reproduction.speed",
                    str(stored),
                    *([str(adapter)] if adapter else []),
                ]
                answer, row["peak_bytes"] = _run(speed, temporary)
                row |= answer
            except _ProcessFailure as error:
                row["reason"] = str(error)
            rows.append(row)
    return rows


class _ProcessFailure(Exception):
    """A process's last line."""


def _run(words: Sequence[str], directory: str) -> tuple[dict[str, Any], int]:
    """What a module printed as JSON, and its peak memory in bytes."""
    with tempfile.TemporaryFile(dir=directory) as output, tempfile.TemporaryFile(dir=directory) as errors:
        how = {"env": {**os.environ, **import_variables()}, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen([sys.executable, "-m", *words], stdout=output, stderr=errors, **how)
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
            raise _ProcessFailure(said[-1] if said else "it failed")
        return parse_json(output.read()), usage.ru_maxrss << 10
