"""Rust: cargo compiles Debian's crates once; after that, rustc alone compiles each program."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits
from ms_codegeex.extras.evaluation.toolchains.base import (
    INSIDE,
    Program,
    RunPlan,
    ToolChain,
    output_of,
    parts_of,
    places_of,
)

REGISTRY = Path("/usr/share/cargo/registry")
# Name in programs -> name here, where a newer rand exists too.
CRATES = {"rand": "rand_04", "regex": "regex", "md5": "md5", "ms_codegeex_tests_ended": "ms_codegeex_tests_ended"}
PLACES = {  # in the cache -> file of `inside`
    "Cargo.toml": "crates.toml",
    "rand/Cargo.toml": "rand.toml",
    "rand/src/lib.rs": "rand.rs",
    "witness/Cargo.toml": "witness.toml",
    "witness/src/lib.rs": "witness.rs",
    ".cargo/config.toml": "cargo_config.toml",
}


class Rustc(ToolChain):
    """A tool chain that compiles programs with `rustc`."""

    language = "rust"
    failed_assertion = (b"assertion failed", b"assertion `left")
    no_memory = (b"memory allocation of ",)

    @cached_property
    def root(self) -> Path | None:
        """The tool chain's directory: Debian's if it is installed, else the user's, such as that of rustup."""
        for compiler in (Path("/usr/bin/rustc"), *places_of("rustc")):
            if compiler.exists() and (root := output_of(compiler, "--print", "sysroot")):
                return Path(root)
        return None

    def readable(self) -> dict[str, Path]:
        return {**super().readable(), **parts_of(self.root or Path("/usr"), "bin/rustc", "lib")}

    @property
    def tool(self) -> Path:
        return (self.root or Path("/usr")) / "bin/rustc"

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.tool.parent}:/usr/bin:/bin"}


class Rust(Rustc):
    """Does the same as `cargo test` for one file, without cargo. HumanEval-X was made with rand 0.4; our own crate
    offers its functions on top of Debian's 0.8."""

    install = "apt-get install cargo librust-rand-dev librust-regex-dev librust-regex+default-dev librust-md5-dev"
    compile_seconds = 300.0
    programs: ClassVar[Mapping[str, str]] = {"cargo": "cargo"}
    libraries: ClassVar[Mapping[str, str]] = {
        "the crate rand-0.8": "librust-rand-dev",
        "the crate regex-1": "librust-regex-dev librust-regex+default-dev",
        "the crate md5-0.7": "librust-md5-dev",
    }
    sources = tuple(PLACES.values())

    def version(self) -> str | None:
        """The versions of rustc and the crates, None if something is missing."""
        version = super().version()
        return version and ", ".join([version, *(self.crates(name)[0].name for name in self.libraries)])

    def has(self, name: str) -> bool:
        if name in self.programs:
            return self.root is not None and (self.root / "bin/cargo").exists()
        return bool(self.crates(name))

    @staticmethod
    def crates(name: str) -> list[Path]:
        return sorted(REGISTRY.glob(f"{name.removeprefix('the crate ')}.*"))

    def make(self, cache: Path) -> None:
        for path, name in PLACES.items():
            (cache / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(INSIDE / name, cache / path)
        (cache / "src").mkdir()
        (cache / "src/main.rs").write_text("fn main() {}\n")
        environment = {**self.environment, "CARGO_HOME": str(cache / "home")}
        self.run_tool([self.tool.with_name("cargo"), "build", "--offline", "--quiet"], cache, **environment)
        (cache / "libraries").mkdir()
        for file in (cache / "target/debug/deps").glob("lib*.rlib"):
            shutil.move(file, cache / "libraries" / file.name)
        shutil.rmtree(cache / "target")

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        """Compile, once more without tests if the program needs that, then run the tests."""
        words, libraries = [str(self.tool), "--edition", "2021", "-A", "warnings"], f"{self.inside}/libraries"
        words += ["-C", "debuginfo=0", "main.rs", "-L", f"dependency={libraries}"]
        for name, library in CRATES.items():
            (file,) = (self.cache / "libraries").glob(f"lib{library}-*.rlib")
            words += ["--extern", f"{name}={libraries}/{file.name}"]
        build = [Command([*words, "--emit", "metadata"], self.compiling, self.environment)] if program.check else []
        build.append(Command([*words, "--test", "-o", "main"], self.compiling, self.environment))
        run = Command(["./main", "--test-threads=1"], ResourceLimits(wall=seconds), {}, challenge)
        return RunPlan([*build, run], program.files("main.rs", token), compiling=len(build))
