"""C++: g++, with the nine headers of every program compiled in advance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ms_codegeex.evaluation.sandbox import Command
from ms_codegeex.evaluation.toolchains.base import ALONE, INSIDE, Program, RunPlan, TimeLimits, ToolChain
from ms_codegeex.evaluation.toolchains.installed import output_of, program_of

# Reaching the end of a function without a return is undefined. These flags end the program; otherwise it might
# return the content of a register, which may be right by chance.
FLAGS = ("-w", "-fsanitize=return", "-fsanitize-undefined-trap-on-error")
HEADERS = ("stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream")
LIBRARIES = {"boost/any.hpp": "libboost-dev", "openssl/md5.h": "libssl-dev"}


class Cpp(ToolChain):
    """`g++ -std=c++11`, as published."""

    language = "cpp"
    install = "apt-get install g++ libboost-dev libssl-dev"
    sources = ("witness.cpp",)
    failed_assertion = (b": Assertion `",)
    no_memory = (b"std::bad_alloc",)
    standard: ClassVar[str] = "-std=c++11"
    headers: ClassVar[tuple[str, ...]] = HEADERS
    libraries: ClassVar[Mapping[str, str]] = LIBRARIES  # header -> package

    def version(self) -> str | None:
        """The compiler's version, None if it or a library is missing."""
        return None if self.lacking() else output_of(self.compiler, "--version")

    def lacking(self) -> dict[str, str]:
        """The compiler, and headers of libraries."""
        headers = {
            name: package
            for name, package in self.libraries.items()
            if not any((Path(place) / name).exists() for place in includes())
        }
        return headers if program_of("g++") else {"g++": "g++", **headers}

    def make(self, cache: Path) -> None:
        """Compile the headers and the witness."""
        (cache / "headers.h").write_text("".join(f"#include<{name}>\n" for name in self.headers))
        shutil.copy(INSIDE / "witness.cpp", cache)
        compiler = self.compiler
        self.run_tool([compiler, self.standard, *FLAGS, "-x", "c++-header", "headers.h", "-o", "headers.h.gch"], cache)
        self.run_tool([compiler, self.standard, *FLAGS, "-c", "witness.cpp", "-o", "witness.o"], cache)

    @property
    def compiler(self) -> str:
        """The compiler's path."""
        return str(program_of("g++"))

    def plan(self, program: Program, token: str, challenge: bytes, seconds: TimeLimits) -> RunPlan:
        """Compile, then run."""
        words = [self.compiler, self.standard, *FLAGS, "-pipe", "-include", f"{self.inside}/headers.h", "main.cpp"]
        words += [f"{self.inside}/witness.o", "-o", "main", *program.libraries]
        build = Command(words, self.limits(seconds.compile), {"LC_ALL": "C"})
        run = Command(["./main"], self.limits(seconds.run, processes=ALONE), {}, challenge)
        return RunPlan([build, run], program.files("main.cpp", token), compiling=1)


def includes() -> tuple[str, ...]:
    """The directories with libraries' headers."""
    return ("/usr/include", "/usr/local/include", "/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu")
