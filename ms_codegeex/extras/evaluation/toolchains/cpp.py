"""C++: g++, with the nine headers of every program compiled in advance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits
from ms_codegeex.extras.evaluation.toolchains.base import ALONE, Program, RunPlan, ToolChain

# Reaching the end of a function without a return is undefined. These flags end the program; otherwise it might
# return the content of a register, which may be right by chance.
FLAGS = ("-w", "-fsanitize=return", "-fsanitize-undefined-trap-on-error")
INCLUDES = ("/usr/include", "/usr/local/include", "/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu")
HEADERS = ("stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream")


class Cpp(ToolChain):
    """`g++ -std=c++11`, as published."""

    language = "cpp"
    install = "apt-get install g++ libboost-dev libssl-dev"
    programs: ClassVar[Mapping[str, str]] = {"g++": "g++"}
    libraries: ClassVar[Mapping[str, str]] = {"boost/any.hpp": "libboost-dev", "openssl/md5.h": "libssl-dev"}
    sources = ("witness.cpp", "values.h")
    failed_assertion = (b": Assertion `",)
    no_memory = (b"std::bad_alloc",)
    standard: ClassVar[str] = "-std=c++11"
    headers: ClassVar[tuple[str, ...]] = HEADERS

    def has(self, name: str) -> bool:
        if name in self.programs:
            return super().has(name)
        return any((Path(directory) / name).exists() for directory in INCLUDES)

    def make(self, cache: Path) -> None:
        super().make(cache)
        headers = "".join(f"#include<{name}>\n" for name in self.headers)
        (cache / "headers.h").write_text(f'{headers}#include "values.h"\n')
        compiler = [str(self.tool), self.standard, *FLAGS]
        self.run_tool([*compiler, "-x", "c++-header", "headers.h", "-o", "headers.h.gch"], cache)
        self.run_tool([*compiler, "-c", "witness.cpp", "-o", "witness.o"], cache)

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        words = [str(self.tool), self.standard, *FLAGS, "-pipe", "-include", f"{self.inside}/headers.h", "main.cpp"]
        words += [f"{self.inside}/witness.o", "-o", "main", *program.libraries]
        build = Command(words, self.compiling, {"LC_ALL": "C"})
        run = Command(["./main"], ResourceLimits(wall=seconds, processes=ALONE), {}, challenge)
        return RunPlan([build, run], program.files("main.cpp", token), compiling=1)
