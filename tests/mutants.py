"""Whether the tests of a file notice mistakes in it: changes one operator or number at a time, and runs them.

    python tests/mutants.py ms_codegeex/base/mesh.py
    python tests/mutants.py ms_codegeex/base/*.py --sample 20 --jobs 2
    python tests/mutants.py ms_codegeex/base/mesh.py --tests tests/base tests/config

It prints the mutants that no test notices ("alive"), and the test functions that notice none which no other one does.
The tests are the default ones of all files that import the module, else of its mirrored folder; --tests chooses others.
The checkout is not changed: each mutant is written into a copy of its tracked files.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy as shallow
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR) (\S+?\.py)(?:::([\w:]+))?", re.MULTILINE)
LIMIT = 900.0  # seconds after which the tests of a mutant count as hanging, which notices it
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.In: ast.NotIn,
    ast.Is: ast.IsNot,
    ast.And: ast.Or,
    ast.Add: ast.Sub,
    ast.Mult: ast.FloorDiv,
}
SWAPPED |= {after: before for before, after in SWAPPED.items()} | {ast.Div: ast.Mult}


@dataclass(frozen=True)
class Mutant:
    """`after` in place of the bytes from `begin` to `end` of the file's text."""

    line: int
    begin: int
    end: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.before}  ->  {self.after}"


class _Mutations(ast.NodeVisitor):
    """Nodes and what may take their places, but in annotations and formatted strings."""

    def __init__(self) -> None:
        self.found: list[tuple[ast.expr, ast.expr]] = []

    def visit_arg(self, node: ast.arg) -> None:
        """An argument has only an annotation."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Python 3.11 does not know where its parts are."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for each in (node.args, *node.decorator_list, *node.body):
            self.visit(each)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            self.found += ((node, other) for other in _others(node))
        super().generic_visit(node)


def _others(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(ops=ops):
            for i, op in enumerate(ops):
                yield _with(node, ops=[*ops[:i], SWAPPED[type(op)](), *ops[i + 1 :]])
        case ast.BoolOp(op=op) | ast.BinOp(op=op) if type(op) in SWAPPED:
            yield _with(node, op=SWAPPED[type(op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool() as value):
            yield _with(node, value=not value)
        case ast.Constant(value=int() as value):
            yield _with(node, value=value + 1)


def _with(node: ast.expr, **fields: object) -> ast.expr:
    changed = shallow(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def mutants(text: str) -> list[Mutant]:
    """The mutants of a module, in the order of its lines."""
    visitor = _Mutations()
    visitor.visit(ast.parse(text))
    begins = [0]
    for line in text.encode().splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    found = []
    for node, other in visitor.found:
        begin, end = begins[node.lineno - 1] + node.col_offset, begins[node.end_lineno - 1] + node.end_col_offset
        found.append(Mutant(node.lineno, begin, end, ast.unparse(node), f"({ast.unparse(other)})"))
    return sorted(found, key=lambda x: (x.begin, x.end, x.after))


def tests_of(module: Path) -> list[str]:
    """The test files that import the module; if none does, the mirrored folder. Relative to the checkout."""
    package = ".".join(module.parent.parts)
    imports = re.compile(rf"\b{re.escape(package)}(\.| import .*\b){module.stem}\b")
    listed = [x for x in sorted((ROOT / "tests").rglob("test_*.py")) if imports.search(x.read_text(encoding="utf-8"))]
    return [str(x.relative_to(ROOT)) for x in listed] or [str(Path("tests", *module.parts[1:-1]))]


def copy_checkout(target: Path) -> None:
    """Copy the tracked files as they are on the disk, links as links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if os.path.lexists(ROOT / name):  # a file may have been deleted since
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


def outcomes(checkout: Path, tests: Sequence[str]) -> dict[str, bool] | None:
    """Whether each test function passes, with all its parameters; None if the tests hang or crash."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-rpfE", "-p", "no:cacheprovider", *tests]
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output = process.communicate(timeout=LIMIT)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            for each in (*psutil.Process(process.pid).children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait()
    found: dict[str, bool] = {}
    for outcome, file, function in OUTCOME.findall(output):
        name = f"{file}::{function}" if function else file
        found[name] = found.get(name, True) and outcome == "PASSED"
    return found if process.returncode in (0, 1, 2) and found else None


def report(module: Path, tests: Sequence[str], sample: int, jobs: int) -> tuple[int, int]:
    """Try the mutants of a module, print what was found; returns how many are alive, and of how many."""
    text = (ROOT / module).read_bytes()
    listed = mutants(text.decode())
    if 0 < sample < len(listed):
        listed = sorted(random.Random(0).sample(listed, sample), key=lambda x: x.begin)
    copies: queue.Queue[Path] = queue.Queue()
    with tempfile.TemporaryDirectory(prefix="mutants-", ignore_cleanup_errors=True) as folder:
        for number in range(jobs):
            copy_checkout(Path(folder) / str(number))
            copies.put(Path(folder) / str(number))
        right = outcomes(Path(folder) / "0", tests)
        if not right or not all(right.values()):
            raise SystemExit(f"{module}: its tests do not pass without a mutant: {' '.join(tests)}")

        def killers(mutant: Mutant) -> set[str] | None:
            checkout = copies.get()
            (checkout / module).write_bytes(text[: mutant.begin] + mutant.after.encode() + text[mutant.end :])
            found = outcomes(checkout, tests)
            (checkout / module).write_bytes(text)
            copies.put(checkout)
            return None if found is None else {name for name, passed in found.items() if not passed}

        with ThreadPoolExecutor(jobs) as pool:
            killed_by = list(pool.map(killers, listed))
    alive = [mutant for mutant, by in zip(listed, killed_by, strict=True) if by == set()]
    alone = {next(iter(by)) for by in killed_by if by and len(by) == 1}
    print(f"{module}: {len(alive)} of {len(listed)} mutants alive; tests: {' '.join(tests)}")
    for mutant in alive:
        print(f"  alive, {mutant}")
    for name in sorted(set(right) - alone):
        print(f"  kills nothing alone: {name}")
    sys.stdout.flush()
    return len(alive), len(listed)


def main(argv: Sequence[str] | None = None) -> int:
    """Try the mutants of the files of a command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="show which mistakes in a file its tests do not notice")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files of the package")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="test files or folders")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each file, drawn with seed 0; 0: all (40)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many to try at once (1)")
    arguments = parser.parse_args(argv)
    modules = [(Path.cwd() / each).resolve().relative_to(ROOT) for each in arguments.files]
    found = [report(x, arguments.tests or tests_of(x), arguments.sample, arguments.jobs) for x in modules]
    print(f"{sum(alive for alive, _ in found)} of {sum(number for _, number in found)} mutants alive")
    return 0


if __name__ == "__main__":
    sys.exit(main())
