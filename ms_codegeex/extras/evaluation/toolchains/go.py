"""Go: `go test` with Debian's testify; everything but the program is compiled in advance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits
from ms_codegeex.extras.evaluation.toolchains import base
from ms_codegeex.extras.evaluation.toolchains.base import INSIDE, Program, RunPlan, ToolChain

DEBIAN = Path("/usr/share/gocode")
PACKAGES = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
ENVIRONMENT = {"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
GOROOT_PARTS = ("bin", "go.env", "lib", "pkg", "src", "VERSION")
BUILD = ("test", "-trimpath", "-o", "main.test", "-run", "^$", "main_test.go")  # compile and vet; run no test


class Go(ToolChain):
    """`go test` in two steps: compile and vet, then run the test."""

    language = "go"
    install = "apt-get install golang-go golang-github-stretchr-testify-dev golang-github-go-openapi-inflect-dev"
    programs: ClassVar[Mapping[str, str]] = {"go": "golang-go"}
    libraries: ClassVar[Mapping[str, str]] = {
        "github.com/stretchr/testify/assert": "golang-github-stretchr-testify-dev",
        "github.com/go-openapi/inflect": "golang-github-go-openapi-inflect-dev",
    }
    version_option = "version"
    asking = ENVIRONMENT
    sources = ("witness.go",)
    failed_assertion = (b"Error Trace:",)
    no_memory = (b"fatal error: runtime: out of memory",)

    def has(self, name: str) -> bool:
        return super().has(name) if name in self.programs else (DEBIAN / "src" / name).is_dir()

    def make(self, cache: Path) -> None:
        """Compile the witness and all packages into Go's build cache."""
        package = cache / "path/src/ms_codegeex/witness"
        package.mkdir(parents=True)
        shutil.copy(INSIDE / "witness.go", package)
        imports = "".join(f'\t_ "{name}"\n' for name in (*PACKAGES, "ms_codegeex/witness", *self.libraries))
        source = f'package main\n\nimport (\n\t"testing"\n{imports})\n\nfunc TestNothing(t *testing.T) {{}}\n'
        (cache / "main_test.go").write_text(source)
        self.run_tool([str(self.tool), *BUILD], cache, **self.environment(str(cache)))

    def environment(self, cache: str) -> dict[str, str]:
        return {**ENVIRONMENT, "GOPATH": f"{cache}/path:{DEBIAN}", "GOCACHE": f"{cache}/build"}

    @cached_property
    def root(self) -> Path:
        return Path(base.output_of(str(self.tool), "env", "GOROOT", **ENVIRONMENT) or "/usr/lib/go")

    def readable(self) -> dict[str, Path]:
        program, parts = base.outside_system(Path(str(self.tool))), base.parts_of(self.root, *GOROOT_PARTS)
        return {**super().readable(), **program, **parts}

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        build = Command([str(self.tool), *BUILD, *program.others], self.compiling, self.environment(self.inside))
        words = ["./main.test", "-test.paniconexit0"]  # as in `go test`: exiting with status 0 is not success
        run = Command(words, ResourceLimits(wall=seconds), {}, challenge)
        return RunPlan([build, run], program.files("main_test.go", token), compiling=1)
