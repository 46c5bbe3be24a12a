"""Whether the tests catch mistakes: puts each fault of seeded_faults.yaml into a copy and runs its tests, the default
ones for most.

    python tests/seeded_faults.py                 # all, one after another: about 10 minutes
    python tests/seeded_faults.py --only 3 17     # by number, or by a part of their names
    python tests/seeded_faults.py --list

The copy holds the checkout's tracked files as they are now. For each fault the script runs the tests of the changed
file up to the first that fails, and then that one again without the fault, since a test that fails anyway catches
nothing. The exit status is 1 if too many faults were not caught, and 2 if one no longer fits the code.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
CODE = ("ms_codegeex", "converters")
FAULTS = "tests/seeded_faults.yaml"
MISSES = 2  # of all faults may remain uncaught
LIMIT = 1800.0  # seconds after which tests count as hanging
FIRST = re.compile(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", re.MULTILINE)
T = TypeVar("T")
FAILED, STOPPED = 1, 2  # exit status of pytest: a test failed; a test file could not be imported


@dataclass(frozen=True)
class Fault:
    """A mistake: `after` in place of `before` in the definition `where`, which some of `tests` should notice; the
    `slow` ones where the others cannot. `where` is the name of a function, method, class, constant or module, wherever
    it is; after its module's and folder's name if several have it. Line breaks and indentation in `before` do not
    matter. `tests`: names of test files or folders; without them the tests of the changed file's folder."""

    name: str
    where: str
    before: str
    after: str
    tests: tuple[str, ...] = ()
    slow: bool = False

    def problem(self, root: Path) -> str | None:
        """Why it does not fit the files in `root`; None if it does."""
        try:
            path, text = self.changed(root)
            if text == path.read_text(encoding="utf-8"):
                return "it changes nothing"
            ast.parse(text)
            self.test_files(root)
        except SyntaxError as error:
            return f"{self.where} would not be Python ({error})"
        except ValueError as error:
            return str(error)
        return None

    def changed(self, root: Path) -> tuple[Path, str]:
        """The file of `root` in which it is, and its text with the mistake. `ValueError` if it does not fit."""
        path, begin, end = one(self.where, [x for x in definitions(root) if self.where in x[0]], "definitions")[1:]
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        before, body, after = ("".join(lines[part]) for part in (slice(begin), slice(begin, end), slice(end, None)))
        pattern = r"\s+".join(map(re.escape, self.before.split()))
        place = one(self.where, [*re.finditer(pattern, body)], f"places with '{self.before}'")
        return path, before + body[: place.start()] + self.after + body[place.end() :] + after

    def test_files(self, root: Path) -> list[str]:
        """Its tests as arguments of pytest. `ValueError` if one does not exist."""
        tests = root / "tests"
        found = {name: [*tests.rglob(f"{name}.py"), *filter(Path.is_dir, [tests / name])] for name in self.tests}
        if not found:
            folder = self.changed(root)[0].parent.relative_to(root)
            mirrored = tests.joinpath(*(part for part in folder.parts if part != "ms_codegeex"))
            found = {self.where: [*filter(Path.is_dir, [mirrored])]}
        return [str(one(name, paths, "tests").relative_to(root)) for name, paths in found.items()]

    @contextlib.contextmanager
    def applied(self, root: Path) -> Iterator[None]:
        """The files in `root` have it meanwhile."""
        path, wrong = self.changed(root)
        right = path.read_text(encoding="utf-8")
        _write(path, wrong)
        try:
            yield
        finally:
            _write(path, right)


Definition = tuple[set[str], Path, int, int]


@functools.cache
def definitions(root: Path) -> list[Definition]:
    """The modules of `root` and what they define outside of functions: each one's names (`Blend.read`,
    `blend.Blend.read`, `datasets.blend.Blend.read`), its file, and its lines as begin and end of a slice."""
    found: list[Definition] = []
    for path in sorted(path for folder in CODE for path in (root / folder).rglob("*.py")):
        text, module = path.read_text(encoding="utf-8"), f"{path.parent.name}.{path.stem}"
        found.append(({path.stem, module}, path, 0, len(text.splitlines())))
        for name, node in _named(ast.parse(text).body, ""):
            found.append(({name, f"{path.stem}.{name}", f"{module}.{name}"}, path, node.lineno - 1, node.end_lineno))
    return found


def _named(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.stmt]]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _named(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((prefix + target.id, node) for target in targets if isinstance(target, ast.Name))


def one(name: str, found: Sequence[T], what: str) -> T:
    """The only one of these. `ValueError` if there is none, or several."""
    if len(found) != 1:
        raise ValueError(f"{name}: {len(found)} {what}, expected one")
    return found[0]


def _write(path: Path, text: str) -> None:
    """Write a module and remove its compiled form, which counts as current if size and second are the same."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


@dataclass(frozen=True)
class Result:
    """`caught`: by which test. `reason`: why not, if the tests did not simply pass. `seconds` with the fault."""

    fault: Fault
    caught: str | None
    seconds: float
    reason: str = ""

    def __str__(self) -> str:
        reason = f"; {self.reason}" if self.reason else ""
        what = f"NOT CAUGHT{reason}" if self.caught is None else f"caught by {self.caught}"
        return f"{self.fault.name}: {what} ({self.seconds:.0f} s)"


def read_faults(root: Path = ROOT) -> list[Fault]:
    """The faults of a checkout."""
    entries = yaml.safe_load((root / FAULTS).read_text(encoding="utf-8"))
    return [Fault(**{**entry, "tests": tuple(entry.get("tests", ()))}) for entry in entries]


def chosen(faults: Sequence[Fault], words: Sequence[str]) -> list[Fault]:
    """Those with these numbers, from 1 on, or these parts of their names; without words all. `ValueError`: no such."""
    found: set[int] = set()
    for word in words:
        if word.isdecimal():
            numbers = [int(word) - 1] if 0 < int(word) <= len(faults) else []
        else:
            numbers = [i for i, fault in enumerate(faults) if word.lower() in fault.name.lower()]
        if not numbers:
            raise ValueError(f"--only {word}: no such fault; --list shows all {len(faults)}")
        found |= {*numbers}
    return [fault for i, fault in enumerate(faults) if not words or i in found]


def copy_checkout(root: Path, target: Path) -> None:
    """Copy the tracked files as they are on the disk, links as links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        source, copy = root / name, target / name
        if os.path.lexists(source):  # a file may have been deleted since
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy, follow_symlinks=False)


def run_tests(copy: Path, tests: Sequence[str], slow: bool = False) -> tuple[int | None, str]:
    """The exit status of pytest, None if it hangs, and its output."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-m",
        "slow" if slow else "not slow and not newest and not originals",
        *tests,
    ]
    process = subprocess.Popen(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT)
        return process.returncode, output.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        if process.poll() is None:
            for each in (*psutil.Process(process.pid).children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()


def tried(fault: Fault, copy: Path) -> Result:
    """Run a fault's tests with it in `copy`; if one fails, run that again without it."""
    began = time.monotonic()
    tests = fault.test_files(copy)
    with fault.applied(copy):
        status, output = run_tests(copy, tests, fault.slow)
    seconds = time.monotonic() - began
    if status == 0:
        return Result(fault, None, seconds)
    if status is None or status < 0:
        ended = f"no end within {LIMIT:.0f} s" if status is None else f"a crash, signal {-status}"
        return Result(fault, ended, seconds)
    test = FIRST.search(output)
    if status not in (FAILED, STOPPED) or test is None:
        last = " ".join(output.split()[-20:])
        return Result(fault, None, seconds, f"pytest ended with status {status}: {last}")
    if run_tests(copy, [test[1]], fault.slow)[0] != 0:
        return Result(fault, None, seconds, f"{test[1]} fails without it too")
    return Result(fault, test[1], seconds)


def results(faults: Sequence[Fault], root: Path, jobs: int) -> Iterator[Result]:
    """Try all faults in `jobs` copies of the checkout, one at a time in each. The results come in their order."""
    copies: queue.Queue[Path] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="seeded-faults-", ignore_cleanup_errors=True) as folder:
        for number in range(min(jobs, len(faults))):
            copy = Path(folder) / str(number)
            copy_checkout(root, copy)
            copies.put(copy)

        def work(fault: Fault) -> Result:
            copy = copies.get()
            try:
                return tried(fault, copy)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(work, fault) for fault in faults]
            try:
                for each in waiting:
                    yield each.result()
            finally:
                pool.shutdown(cancel_futures=True)


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Try faults and print what caught them; returns the exit status."""
    parser = argparse.ArgumentParser(description="show whether the default tests catch seeded mistakes")
    parser.add_argument("--only", nargs="+", default=[], metavar="N|PART", help="numbers or parts of names")
    parser.add_argument("--list", action="store_true", help="print the faults and end")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many to try at once (default: 1)")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        parser.error(f"--jobs: {arguments.jobs} is out of range; give 1 or more")
    faults = read_faults(root)
    try:
        wanted = chosen(faults, arguments.only)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for number, fault in enumerate(faults, 1):
            if fault in wanted:
                print(f"{number:3}  {fault.name} ({fault.where})")
        return 0
    problems = [f"{fault.name}: {problem}" for fault in wanted if (problem := fault.problem(root))]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 2
    caught = 0
    for result in results(wanted, root, arguments.jobs):
        caught += result.caught is not None
        print(result, flush=True)
    print(f"{caught} of {len(wanted)} caught")
    return int(len(wanted) - caught > (MISSES if len(wanted) == len(faults) else 0))


if __name__ == "__main__":
    sys.exit(main())
