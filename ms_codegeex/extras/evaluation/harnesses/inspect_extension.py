"""Inspect's view of us: the task `ms_codegeex/benchmark`, and the sandbox `ms_codegeex` for others' tools and scorers.

Inspect finds this module by the entry point `inspect_ai`.
"""

from __future__ import annotations

import asyncio
import io
import posixpath
import tarfile
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.dataset import Sample as InspectSample
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate
from inspect_ai.util import ExecResult, SandboxEnvironment, sandboxenv

from ms_codegeex.extras.evaluation.harnesses.judged import JudgedBenchmark, opened
from ms_codegeex.extras.evaluation.replies.blocks import blocks
from ms_codegeex.extras.evaluation.sampling.samplers import TEMPLATE, chat_message
from ms_codegeex.extras.evaluation.sandbox import Command, End, ResourceLimits, open_sandbox

DIRECTORY = "/program"  # where files lie
COMMAND_SECONDS = 60.0  # if the harness gives no timeout
MAX_BYTES_OF_FILES = 64 << 20
# The command's own end is written to a file, because a command that fails ends the sandbox.
RUN = 'OUT=/tmp/.ms_codegeex; cd "$0" 2>/dev/null && "$@" >"$OUT.out" 2>"$OUT.err"; echo $? >"$OUT.code"; exit 0'
PACK = ["/bin/sh", "-c", "tar -cf - -C /program . -C /tmp .ms_codegeex.out .ms_codegeex.err .ms_codegeex.code"]


@task
def benchmark(benchmark: str, data: str, languages: str = "", sandbox: str = "strict") -> Task:
    """One of our benchmarks: prompts to a chat model, code blocks judged in our strict sandbox."""
    judge = opened({"benchmark": benchmark, "data": data, "languages": languages, "sandbox": sandbox})
    prompts = [(row["task_id"], chat_message(TEMPLATE, row["prompt"])) for row in judge.rows()]
    samples = [InspectSample(id=name, input=prompt) for name, prompt in prompts]
    return Task(dataset=MemoryDataset(samples, name=benchmark), solver=generate(), scorer=passes(judge))


@scorer(metrics=[accuracy(), stderr()])
def passes(judge: JudgedBenchmark) -> Scorer:
    """Whether the program passes all tests, by the rule `strict`."""

    async def score(state: TaskState, target: Target) -> Score:
        answer = state.output.completion
        passed, verdict = await asyncio.to_thread(judge.verdict, str(state.sample_id), answer, True)
        return Score(value=CORRECT if passed else INCORRECT, answer=blocks(answer)[-1].code, explanation=verdict)

    return score


@sandboxenv(name="ms_codegeex")
class OurSandbox(SandboxEnvironment):
    """Our strict sandbox: no network, no files of this machine, limits on time, memory and processes. Every command
    runs in a fresh one with the files so far, and the regular files that it leaves in its directory are kept for the
    next. Nothing else outlives a command: no process, and nothing in /tmp."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._sandbox = open_sandbox()

    @classmethod
    async def sample_init(cls, task_name: str, config: Any, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """One for each sample."""
        return {"default": cls()}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """Nothing is left on this machine."""

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command. `TimeoutError` after `timeout` seconds; what it has written is then lost."""
        limits = ResourceLimits(wall=float(timeout or COMMAND_SECONDS), output=MAX_BYTES_OF_FILES)
        stdin = input.encode() if isinstance(input, str) else input or b""
        variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", **(env or {})}
        place = posixpath.join(DIRECTORY, cwd or "")
        command = Command(["/bin/sh", "-c", RUN, place, *cmd], limits, variables, stdin)
        pack = Command(PACK, ResourceLimits(output=MAX_BYTES_OF_FILES), variables)
        done = await asyncio.to_thread(self._sandbox.run, [command, pack], dict(self._files))
        if done[0].end is End.TIMEOUT:
            raise TimeoutError(f"{cmd[0]}: not done after {limits.wall:g} s")
        if len(done) < 2 or not done[1].succeeded:
            return ExecResult(False, done[-1].code or 1, "", f"the sandbox ended it: {done[-1].end.value}")
        found = unpacked(done[1].stdout)
        written = [found.pop(f".ms_codegeex.{name}", b"") for name in ("code", "out", "err")]
        said, out, error = (data.decode("utf-8", "replace") for data in written)
        self._files = found
        code = int(said) if said.strip().isdecimal() else 1
        return ExecResult(code == 0, code, out, error)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Keep a file for the commands that follow."""
        data = contents.encode() if isinstance(contents, str) else contents
        if sum(map(len, self._files.values())) + len(data) > MAX_BYTES_OF_FILES:
            raise OSError(f"{file}: more than {MAX_BYTES_OF_FILES} bytes of files")
        self._files[inside(file)] = data

    async def read_file(self, file: str, text: bool = True) -> Any:
        """A file that was written, or that a command has left."""
        name = inside(file)
        if name not in self._files:
            raise FileNotFoundError(f"{file}: no such file in the sandbox")
        return self._files[name].decode() if text else self._files[name]


def inside(file: str) -> str:
    """A path relative to the directory; `PermissionError` if it leads out."""
    path = posixpath.relpath(posixpath.normpath(posixpath.join(DIRECTORY, file)), DIRECTORY)
    if path == "." or path.startswith(".."):
        raise PermissionError(f"{file}: is outside of {DIRECTORY}")
    return path


def unpacked(archive: bytes) -> dict[str, bytes]:
    """The regular files of a tar archive; nothing is written to disk."""
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
        for member in tar:
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is not None and ".." not in member.name.split("/"):
                files[posixpath.normpath(member.name)] = stream.read()
    return files
