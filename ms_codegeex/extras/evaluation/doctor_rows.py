"""Rows of `doctor` on sandbox and tool chains: name, what was found, what is wrong, and how to fix it."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.evaluation import sandbox, toolchains

Row = tuple[str, str, str, str]


def layers() -> Iterator[Row]:
    """Yield the layers in which `evaluate` runs programs."""
    name = "strict sandbox"
    if platform.system() != "Linux":
        yield name, "", "Linux only", "run `evaluate` in a Linux container or machine"
        return
    try:
        found = sandbox.open_sandbox("best-effort").layers
    except (UserError, RunFailure) as error:
        yield name, "", str(error), ""
        return
    for name, state in found.items():
        problem, _, fix = ("" if state == "active" else state).partition("; ")
        yield name, state, problem, fix or "judge with --sandbox best-effort, or on another machine"


def tool_chains() -> Iterator[Row]:
    """Yield the compilers and interpreters that judge HumanEval-X."""
    for language, kind in toolchains.TOOL_CHAINS.items():
        chain = kind()
        lacking = "" if chain.found else ", ".join(chain.lacking()) or "a working version"
        problem = lacking and f"not installed: {lacking}"
        yield language, chain.found, problem, chain.remedy if problem else ""  # `remedy` asks the tools again
