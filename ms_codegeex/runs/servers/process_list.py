"""Output of `train --dry-run`: the processes of this server as a list or as JSON, or a script that starts the run."""

from __future__ import annotations

import json
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from ms_codegeex.base.printing import table
from ms_codegeex.base.processes import import_variables
from ms_codegeex.runs.servers.node import Node
from ms_codegeex.runs.servers.workers import WorkerSpec

WIDTH = 110


def processes_as_json(directory: Path, specs: Sequence[WorkerSpec]) -> str:
    processes = [
        {
            "name": _name(spec),
            "command": list(spec.command),
            "directory": str(spec.directory),
            "log": str(spec.log),
            "environment": dict(spec.environment),
            "program_folder": spec.program_folder,
        }
        for spec in specs
    ]
    return json.dumps({"directory": str(directory), "processes": processes})


def start_script(words: Sequence[str], node: Node, *_: object) -> str:
    """Return a shell script that runs `train` with these words, in this folder, with this Python. On several servers,
    each runs the script with its own number as the argument."""
    lines = ["#!/bin/sh"]
    if node.count > 1:
        lines.append(f"# This starts server {node.rank} of {node.count}; with a number as its argument, that server.")
    settings = [f"{name}={shlex.quote(value)}" for name, value in import_variables().items()]
    command = ["exec env", *settings, shlex.join([sys.executable, "-m", "ms_codegeex.cli", "train", *words])]
    if node.count > 1:
        command.append(f'--node-rank "${{1:-{node.rank}}}"')
    return "\n".join([*lines, f"cd {shlex.quote(os.getcwd())} || exit 2", " ".join(command)])


def list_of_processes(directory: Path, specs: Sequence[WorkerSpec]) -> str:
    """Return what all processes share, then a line for each with the differences. Paths are relative to the run."""
    names = dict.fromkeys(name for spec in specs for name in spec.environment)
    variables = {name: [spec.environment.get(name, "") for spec in specs] for name in names}
    words = list(zip(*(spec.command for spec in specs), strict=True))  # the same program, so equally many words
    settings = [f"{name}={_quoted(values[0])}" for name, values in variables.items() if _equal(values)]
    if folder := specs[0].program_folder:
        settings.append(f'PATH={_quoted(folder)}:"$PATH"')
    labels = [_name(spec).partition(", ") for spec in specs]
    columns = {
        "process": [name for name, _, _ in labels],
        "cores": [where.removeprefix("cores ") for _, _, where in labels],
        **{name: values for name, values in variables.items() if not _equal(values)},
        "directory": [str(spec.directory) for spec in specs],
        "log": [str(spec.log) for spec in specs],
    }
    shown = {head: [cell.replace(f"{directory}/", "") for cell in cells] for head, cells in columns.items()}
    shared = {head: shown.pop(head)[0] for head in ("cores", "directory") if _equal(shown[head])}
    return "\n".join(
        [
            f"processes: {len(specs)} on this server, for the run {directory}",
            *_wrapped("command:", [_quoted(each[0]) if _equal(each) else "CORES" for each in words]),
            *_wrapped("variables:", settings),
            *(f"{head}: {value}" for head, value in shared.items() if value),
            table(list(shown), list(zip(*shown.values(), strict=True)), left=len(shown)),
        ]
    )


def _equal(values: Sequence[str]) -> bool:
    return len(set(values)) == 1


def _quoted(word: str) -> str:
    return word if word == "$$" else shlex.quote(word)


def _wrapped(head: str, words: Sequence[str]) -> list[str]:
    options = {"initial_indent": f"{head} ", "subsequent_indent": " " * (len(head) + 1)}
    return textwrap.wrap(" ".join(words), WIDTH, break_long_words=False, break_on_hyphens=False, **options)


def _name(spec: WorkerSpec) -> str:
    return spec.label.partition(", log")[0]
