"""JavaScript: Node.js, and the library js-md5 for the one problem that needs it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.sandbox import Command, End, Execution, ResourceLimits, Verdict
from ms_codegeex.extras.evaluation.toolchains.base import Program, RunPlan, ToolChain, program_of

MD5 = "js-md5"
MD5_INSTALL = "npm install js-md5@0.7.3 (here, or with -g), or name the directory that has it in NODE_PATH"


def version_of(package: Path) -> str:
    """The version of an installed package, "" if unknown."""
    with suppress(UserError, AttributeError):
        return str(read_json(package / "package.json").get("version", ""))
    return ""


class JavaScript(ToolChain):
    """`node test.js`. `console.assert` only logs, so the published rule is that nothing is written at all."""

    language = "js"
    install = "apt-get install nodejs"
    programs: ClassVar[Mapping[str, str]] = {"node": "nodejs"}
    sources = ("witness.js", "values.js")
    failed_assertion = (b"Assertion failed",)
    no_memory = (b"JavaScript heap out of memory",)
    no_program = re.compile(rb"\nSyntaxError: ")
    shows_tool = True

    def version(self) -> str | None:
        version = super().version()
        return version and f"Node.js {version}{f', {MD5} {version_of(self.md5)}' if self.md5 else ''}"

    @property
    def tool(self) -> Path | None:
        return program_of("node") or program_of("nodejs")

    def has(self, name: str) -> bool:
        return self.tool is not None

    @cached_property
    def md5(self) -> Path | None:
        """The directory of js-md5, in NODE_PATH, `node_modules` here, or where `npm install -g` puts packages."""
        node = self.tool
        folders = [Path(folder) for folder in os.environ.get("NODE_PATH", "").split(os.pathsep) if folder]
        folders += [Path.cwd() / "node_modules", *((node.parent.parent / "lib/node_modules",) if node else ())]
        folders += [Path("/usr/local/lib/node_modules"), Path("/usr/lib/node_modules"), Path("/usr/share/nodejs")]
        return next((folder / MD5 for folder in folders if (folder / MD5 / "package.json").is_file()), None)

    def make(self, cache: Path) -> None:
        """Copy the witness, and js-md5 if it is installed."""
        super().make(cache)
        if self.md5 is not None:
            shutil.copytree(self.md5, cache / "node_modules" / MD5)

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        options = ["--random-seed=42", "--max-old-space-size=1024"]
        for name, needed in (("values", program.checks), ("witness", program.witnessed)):
            options += ["--require", f"{self.inside}/{name}.js"] if needed else []
        environment = {"NODE_PATH": f"{self.inside}/node_modules"}
        run = Command([str(self.tool), *options, "test.js"], ResourceLimits(wall=seconds), environment, challenge)
        return RunPlan([run], program.files("test.js", token))

    def published(self, plan: RunPlan, executions: Sequence[Execution], witness: bytes) -> Verdict:
        done = executions[-1]
        return self.ended(plan, [replace(done, stdout=done.stdout.replace(witness + b"\n", b"", 1))])

    def ended(self, plan: RunPlan, executions: Sequence[Execution]) -> Verdict:
        """The program exits and has written nothing; the exit status does not count."""
        done = executions[-1]
        if done.end is not End.EXITED:
            return done.failure
        if not done.stdout and not done.stderr:
            return Verdict.PASSED
        return self.named(Verdict.ERROR if done.code else Verdict.WRONG, executions)

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """As in the base class; running out of memory counts whatever the verdict was."""
        if any(words in executions[-1].stderr for words in self.no_memory):
            return Verdict.MEMORY
        return super().named(verdict, executions)
