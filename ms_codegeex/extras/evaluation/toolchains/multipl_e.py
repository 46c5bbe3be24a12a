"""Tool chains of programs that are one text with their tests, without libraries: those of MultiPL-E."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ms_codegeex.extras.evaluation.sandbox import Command, End, Execution, ResourceLimits, Verdict
from ms_codegeex.extras.evaluation.toolchains.base import (
    Program,
    RunPlan,
    ToolChain,
    output_of,
    outside_system,
    program_of,
)
from ms_codegeex.extras.evaluation.toolchains.cpp import Cpp
from ms_codegeex.extras.evaluation.toolchains.go import Go
from ms_codegeex.extras.evaluation.toolchains.java import Java
from ms_codegeex.extras.evaluation.toolchains.javascript import JavaScript, version_of
from ms_codegeex.extras.evaluation.toolchains.python import Python
from ms_codegeex.extras.evaluation.toolchains.rust import Rustc

TUPLES = "javatuples"
WITNESS = "ms_codegeex_tests_ended"
LUA = ("lua", "lua5.4", "lua5.3")
LUAUNIT = "print((package.searchpath or function() end)('luaunit', package.path) or '')"


class PlainPython(Python):
    """`python`: exit status 0. It may start processes, whose tests it could read anyway."""

    how = "main"
    limits = ResourceLimits()
    notices_exit = False

    def published(self, plan: RunPlan, executions: Sequence[Execution], witness: bytes) -> Verdict:
        return ToolChain.published(self, plan, executions, witness)


class PlainCpp(Cpp):
    """`g++ -std=c++17`, with all of the standard library's headers compiled in advance."""

    install = "apt-get install g++"
    standard = "-std=c++17"
    headers = ("bits/stdc++.h",)
    libraries: ClassVar[Mapping[str, str]] = {}


class PlainJava(Java):
    """`javac`, then `java -ea Problem`, with the library javatuples."""

    install = f"apt-get install default-jdk-headless lib{TUPLES}-java (or name {TUPLES}.jar in CLASSPATH)"
    libraries: ClassVar[Mapping[str, str]] = {TUPLES: f"lib{TUPLES}-java"}
    main = "Problem"
    run_options = ("-ea",)

    def has(self, name: str) -> bool:
        return bool(self.jars()) and not self._wrong if name == TUPLES else super().has(name)

    def jars(self) -> list[Path]:
        """Javatuples, where CLASSPATH names it or where Debian puts it."""
        named = (Path(part) for part in os.environ.get("CLASSPATH", "").split(os.pathsep) if TUPLES in part)
        paths = (*named, Path(f"/usr/share/java/{TUPLES}.jar"))
        return [path.resolve() for path in paths if path.is_file()][:1]

    @property
    def _wrong(self) -> str:
        for path in self.jars():
            with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as opened:
                if f"org/{TUPLES}/Pair.class" in opened.namelist():
                    break
            return f"{path} is not {TUPLES}, or was cut off; put the right one there, or take it out of CLASSPATH and "
        return ""

    @property
    def remedy(self) -> str:
        """As in the base class; a wrong archive would hide the right one."""
        return self._wrong + super().remedy

    def readable(self) -> dict[str, Path]:
        return {**super().readable(), **outside_system(*self.jars())}


class PlainJavaScript(JavaScript):
    """`node test.js`: exit status 0."""

    failed_assertion = (b"AssertionError",)

    def published(self, plan: RunPlan, executions: Sequence[Execution], witness: bytes) -> Verdict:
        return ToolChain.ended(self, plan, executions)


class TypeScript(PlainJavaScript):
    """`tsc --target esnext`, whose exit status must be 0, then `node`."""

    language = "ts"
    install = "apt-get install nodejs node-typescript (or npm install -g typescript)"
    libraries: ClassVar[Mapping[str, str]] = {"tsc": "node-typescript"}

    @property
    def package(self) -> Path | None:
        """The directory of TypeScript, None without it."""
        compiler = program_of("tsc")
        package = compiler.parent.parent if compiler else None
        return package if package and (package / "lib/tsc.js").is_file() else None

    def version(self) -> str | None:
        node = super().version()
        return node and f"{node}, TypeScript {version_of(self.package)}"

    def has(self, name: str) -> bool:
        return self.package is not None if name == "tsc" else super().has(name)

    def make(self, cache: Path) -> None:
        """Copy the witness, the compiler and the types of the standard library."""
        super().make(cache)
        assert self.package is not None
        library = cache / "typescript"
        library.mkdir()
        for pattern in ("tsc.js", "_tsc.js", "lib*.d.ts"):
            for file in (self.package / "lib").glob(pattern):
                shutil.copy(file, library)

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        words = [str(self.tool), f"{self.inside}/typescript/tsc.js", "--target", "esnext", "test.ts"]
        (run,) = super().plan(program, token, challenge, seconds).commands
        return RunPlan([Command(words, self.compiling), run], program.files("test.ts", token), compiling=1)


class Lua(ToolChain):
    """`lua`, with the library luaunit: exit status 0, which is the number of failed tests."""

    language = "lua"
    install = "apt-get install lua5.4 lua-unit (or name luaunit.lua in LUA_PATH)"
    version_option = "-v"
    sources = (f"{WITNESS}.lua",)
    failed_assertion = (b"expected: ",)
    no_memory = (b"not enough memory",)
    no_program = re.compile(rb"program\.lua:\d+: [^\n]* near ['<]")
    shows_tool = True

    @cached_property
    def lua(self) -> tuple[Path, Path] | None:
        """The paths of Lua and of luaunit's file, where Lua itself finds it; None without them."""
        for name in LUA:
            program = program_of(name)
            if program and (library := output_of(program, "-e", LUAUNIT)):
                return program, Path(library)
        return None

    @property
    def tool(self) -> Path | None:
        return self.lua[0] if self.lua else None

    def lacking(self) -> dict[str, str]:
        if self.lua:
            return {}
        return {"luaunit": "lua-unit"} if any(map(program_of, LUA)) else {"lua": "lua5.4 lua-unit"}

    def make(self, cache: Path) -> None:
        """Copy the witness and luaunit."""
        assert self.lua is not None
        super().make(cache)
        shutil.copy(self.lua[1], cache / "luaunit.lua")

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        words = [str(self.tool), "-l", WITNESS, "program.lua"]
        environment = {"LUA_PATH": f"{self.inside}/?.lua"}
        run = Command(words, ResourceLimits(wall=seconds), environment, challenge + b"\n")
        return RunPlan([run], program.files("program.lua", token))


class PlainGo(Go):
    """`go test` with the standard library alone."""

    install = "apt-get install golang-go"
    libraries: ClassVar[Mapping[str, str]] = {}
    failed_assertion = (b": expected '",)


class PlainRust(Rustc):
    """`rustc` of one file, without crates and in its default edition, 2015."""

    install = "apt-get install rustc"
    programs: ClassVar[Mapping[str, str]] = {"rustc": "rustc"}
    sources = ("witness.rs",)

    def has(self, name: str) -> bool:
        return self.root is not None

    def make(self, cache: Path) -> None:
        super().make(cache)
        words = [self.tool, "--edition", "2021", "--crate-type", "rlib", "--crate-name", WITNESS, "witness.rs"]
        self.run_tool(words, cache, **self.environment)

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        words = [str(self.tool), "-A", "warnings", "-C", "debuginfo=0", "main.rs", "-o", "main"]
        words += ["--extern", f"{WITNESS}={self.inside}/lib{WITNESS}.rlib"]
        build = Command(words, self.compiling, self.environment)
        run = Command(["./main"], ResourceLimits(wall=seconds), {}, challenge)
        return RunPlan([build, run], program.files("main.rs", token), compiling=1)


class Bash(ToolChain):
    """`bash`: exit status 0. A test that fails writes nothing."""

    language = "bash"
    install = "apt-get install bash"
    programs: ClassVar[Mapping[str, str]] = {"bash": "bash"}
    sources = ("witness.sh",)
    failed_assertion = ()
    no_memory = (b"cannot allocate",)
    no_program = re.compile(rb"syntax error")

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        words = [str(self.tool), f"{self.inside}/witness.sh"]
        run = Command(words, ResourceLimits(wall=seconds), {"LC_ALL": "C.UTF-8"}, challenge + b"\n")
        return RunPlan([run], program.files("program.sh", token))

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """As in the base class; status 1 without a message is a test that failed."""
        verdict, last = super().named(verdict, executions), executions[-1]
        failed = last.end is End.EXITED and last.code == 1 and not last.stderr
        return Verdict.WRONG if failed and verdict is Verdict.ERROR else verdict


PLAIN = (PlainPython, PlainCpp, PlainJava, PlainJavaScript, PlainGo, PlainRust, Bash, TypeScript, Lua)
