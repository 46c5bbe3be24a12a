"""Go: `go test` with Debian's testify; everything but the program is compiled in advance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ms_codegeex.evaluation.sandbox import Command
from ms_codegeex.evaluation.toolchains.base import INSIDE, Program, RunPlan, TimeLimits, ToolChain
from ms_codegeex.evaluation.toolchains.installed import output_of, outside_system, parts_of, program_of

DEBIAN = Path("/usr/share/gocode")
LIBRARIES = {
    "github.com/stretchr/testify/assert": "golang-github-stretchr-testify-dev",
    "github.com/go-openapi/inflect": "golang-github-go-openapi-inflect-dev",
}
PACKAGES = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
PARTS = ("bin", "go.env", "lib", "pkg", "src", "VERSION")  # of GOROOT
BUILD = ("test", "-trimpath", "-o", "main.test", "-run", "^$", "main_test.go")  # compile and vet; run no test


class Go(ToolChain):
    """`go test` in two steps: compile and vet, then run the test."""

    language = "go"
    install = "apt-get install golang-go golang-github-stretchr-testify-dev golang-github-go-openapi-inflect-dev"
    sources = ("witness.go",)
    failed_assertion = (b"Error Trace:",)
    no_memory = (b"fatal error: runtime: out of memory",)
    libraries: ClassVar[Mapping[str, str]] = LIBRARIES  # name -> package

    @cached_property
    def go(self) -> str:
        """The path of `go`."""
        return str(program_of("go"))

    def version(self) -> str | None:
        """Go's version, None if Go or a library is missing."""
        return None if self.lacking() else output_of(self.go, "version")

    def lacking(self) -> dict[str, str]:
        """Go, and libraries."""
        found = {name: package for name, package in self.libraries.items() if not (DEBIAN / "src" / name).is_dir()}
        return found if program_of("go") else {"go": "golang-go", **found}

    def make(self, cache: Path) -> None:
        """Compile the witness and all packages into Go's build cache."""
        package = cache / "path/src/ms_codegeex/witness"
        package.mkdir(parents=True)
        shutil.copy(INSIDE / "witness.go", package)
        imports = "".join(f'\t_ "{name}"\n' for name in (*PACKAGES, "ms_codegeex/witness", *self.libraries))
        source = f'package main\n\nimport (\n\t"testing"\n{imports})\n\nfunc TestNothing(t *testing.T) {{}}\n'
        (cache / "main_test.go").write_text(source)
        self.run_tool([self.go, *BUILD], cache, **self.environment(str(cache)))

    def environment(self, cache: str) -> dict[str, str]:
        """No modules, no network, no C compiler."""
        return {
            "GO111MODULE": "off",
            "GOPATH": f"{cache}/path:{DEBIAN}",
            "GOCACHE": f"{cache}/build",
            "GOFLAGS": "",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }

    @cached_property
    def root(self) -> Path:
        """GOROOT, where Go's own files are."""
        return Path(output_of(self.go, "env", "GOROOT") or "/usr/lib/go")

    def readable(self) -> dict[str, Path]:
        """The cache and the parts of GOROOT."""
        return {**super().readable(), **outside_system(Path(self.go)), **parts_of(self.root, *PARTS)}

    def plan(self, program: Program, token: str, challenge: bytes, seconds: TimeLimits) -> RunPlan:
        """Compile and vet, then run the test binary."""
        build = Command([self.go, *BUILD, *program.others], self.limits(seconds.compile), self.environment(self.inside))
        words = ["./main.test", "-test.paniconexit0"]  # as in `go test`: exiting with status 0 is not success
        run = Command(words, self.limits(seconds.run), {}, challenge)
        return RunPlan([build, run], program.files("main_test.go", token), compiling=1)
