"""Java: the compiler starts from a class archive that is made once, which halves its time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits
from ms_codegeex.extras.evaluation.toolchains.base import Program, RunPlan, ToolChain, output_of, parts_of, program_of

COMMON = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xmx1g")
COMPILER = (*COMMON, "-XX:TieredStopAtLevel=1")


class Java(ToolChain):
    """`javac Main.java`, then one of our classes calls `Main.main`."""

    language = "java"
    install = "apt-get install default-jdk-headless"
    programs: ClassVar[Mapping[str, str]] = dict.fromkeys(("java", "javac"), "default-jdk-headless")
    sources = ("Witness.java", "Values.java", "Main.java")
    failed_assertion = (b'Exception in thread "main" java.lang.AssertionError',)
    no_memory = (b"java.lang.OutOfMemoryError",)
    main: ClassVar[str] = "Main"  # the class whose main has the tests
    run_options: ClassVar[tuple[str, ...]] = ()

    def has(self, name: str) -> bool:
        program = program_of(name)
        return program is not None and output_of(program, "--version") is not None

    def make(self, cache: Path) -> None:
        """Compile our classes, and archive the compiler's classes."""
        super().make(cache)
        javac, jar = (str(program_of(name)) for name in ("javac", "jar"))
        self.run_tool([javac, "-d", "classes", "Witness.java", "Values.java"], cache)
        self.run_tool([jar, "--create", "--file", "witness.jar", "-C", "classes", "."], cache)
        archive = "-J-XX:ArchiveClassesAtExit=javac.jsa"
        self.run_tool([javac, archive, *(f"-J{option}" for option in COMPILER), "Main.java"], cache)

    def readable(self) -> dict[str, Path]:
        programs = [program_of(name) for name in ("java", "javac")]
        parts = [parts_of(path.parent.parent, f"bin/{path.name}", "conf", "lib") for path in programs if path]
        return {**super().readable(), **{name: path for each in parts for name, path in each.items()}}

    def jars(self) -> list[Path]:
        return []

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        jars = [str(jar) for jar in self.jars()]
        options = [f"-J{option}" for option in (f"-XX:SharedArchiveFile={self.inside}/javac.jsa", *COMPILER)]
        jars = [*jars, f"{self.inside}/witness.jar"] if program.checks else jars
        options += ["-classpath", ":".join(jars)] if jars else []
        words = [str(program_of("javac")), *options, "-encoding", "UTF-8", "-proc:none", "-nowarn", "Main.java"]
        build = Command([*words, *program.others], self.compiling)
        classes = ":".join([f"{self.inside}/witness.jar", ".", *jars])
        arguments = ["ms_codegeex.Witness", token if program.witnessed else "", self.main]
        words = [str(self.tool), *COMMON, *self.run_options, "-cp", classes, *arguments]
        run = Command(words, ResourceLimits(wall=seconds), {}, challenge)
        return RunPlan([build, run], program.files("Main.java", token), compiling=1)
