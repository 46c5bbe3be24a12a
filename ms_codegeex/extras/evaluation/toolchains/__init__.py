"""Compilers and interpreters of two benchmarks: their places, their calls, and the files prepared once."""

from __future__ import annotations

from ms_codegeex.extras.evaluation.toolchains.base import Program, ToolChain
from ms_codegeex.extras.evaluation.toolchains.cpp import Cpp
from ms_codegeex.extras.evaluation.toolchains.go import Go
from ms_codegeex.extras.evaluation.toolchains.java import Java
from ms_codegeex.extras.evaluation.toolchains.javascript import JavaScript
from ms_codegeex.extras.evaluation.toolchains.multipl_e import PLAIN
from ms_codegeex.extras.evaluation.toolchains.python import Python
from ms_codegeex.extras.evaluation.toolchains.rust import Rust

__all__ = ["PLAIN_TOOL_CHAINS", "TOOL_CHAINS", "Program", "ToolChain"]

TOOL_CHAINS: dict[str, type[ToolChain]] = {kind.language: kind for kind in (Python, Cpp, Java, JavaScript, Go, Rust)}
PLAIN_TOOL_CHAINS: dict[str, type[ToolChain]] = {kind.language: kind for kind in PLAIN}
