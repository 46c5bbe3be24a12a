"""One Python program, and at its end a report of what it did.

    python program.py run|value SECONDS GOLD_TYPE PROGRAM [ARGUMENT...]

Standard library only, and nothing newer than Python 3.7, which some benchmarks need.
The report is one line of JSON on standard output and, on the next, the secret from standard input. What the program
prints goes nowhere. Half of the secret is read before the program begins, so it is not to be had by reading
descriptors; the other half when it has come to its end, so it is nowhere in memory before. One that leaves early, by
whatever door, or prints what a report looks like, cannot have shown both. (One written against this very script could
take the halves together; nothing within a process prevents that.) Nothing here knows the expected answer.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import json
import os
import signal
import sys
import traceback
import types

ENDED = (None, "syntax", "exit", "time", "memory", "assertion", "error")
HALF = 20  # bytes of the secret that are read before the program begins
DEPTH, NODES, CHARACTERS = 60, 200_000, 1 << 18  # of a value that is reported


class TimeUp(BaseException):
    """The program's seconds are over. No `Exception`, so that it is seldom caught."""


def time_up(*_):
    raise TimeUp


class Encoder:
    """A value as JSON that says its types: [kind, content]. What is too large, too deep or foreign is ["other", type].

    Numbers of NumPy become Python's, at any depth; arrays and series are "array" with a list's content.
    """

    def __init__(self):
        self.nodes, self.characters = NODES, CHARACTERS

    def __call__(self, value):
        try:
            return self.encode(value, DEPTH)
        except Exception:
            return ["other", type(value).__name__]

    def encode(self, value, depth):
        self.nodes -= 1
        if depth == 0 or self.nodes < 0:
            raise ValueError("too large")
        value = plain(value)
        if value is None:
            return ["none", None]
        if isinstance(value, bool):
            return ["bool", value]
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
        if is_array(value):
            kind, content = self.encode(as_array(value).tolist(), depth - 1)
            return ["array" if kind == "list" else kind, content]
        return ["type", value.__name__] if isinstance(value, type) else ["other", type(value).__name__]

    def text(self, text):
        self.characters -= len(text)
        if self.characters < 0:
            raise ValueError("too large")
        return text


def of_library(value, library, *names):
    """Whether a value is of one of a library's types; one that the program has not imported has no values."""
    module = sys.modules.get(library)
    kinds = tuple(kind for kind in (getattr(module, name, None) for name in names) if isinstance(kind, type))
    return isinstance(value, kinds)


def plain(value):
    """NumPy's scalars as Python's."""
    return value.item() if of_library(value, "numpy", "integer", "floating", "bool_") else value


def is_array(value):
    return of_library(value, "numpy", "ndarray") or of_library(value, "pandas", "Series")


def as_array(value):
    return value.to_numpy() if of_library(value, "pandas", "Series") else value


def normalised(value):
    """As the published judge has it before it compares: a series is an array, an array a list, pairs in a list are
    lists, NumPy's scalars are Python's."""
    if is_array(value):
        value = as_array(value).tolist()
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        value = [list(item) for item in value]
    return plain(value)


class Printed:
    """What the program printed last. `published` is the first argument of the last call of print, whatever became of it
    since; `strict` what the last call that went to standard output showed: value and text, as they were then."""

    def __init__(self):
        self.calls, self.published, self.strict = 0, None, None

    def show(self, *values, sep=" ", end="\n", file=None, flush=False):
        """In place of `print`."""
        texts = [str(value) for value in values]
        self.calls, self.published = self.calls + 1, values[:1]
        if file is None or file is sys.stdout:
            text = (" " if sep is None else str(sep)).join(texts)
            value = Encoder()(values[0]) if len(values) == 1 else ["other", "arguments"]
            self.strict = {"value": value, "text": text if len(text) <= CHARACTERS else None}
        else:
            file.write((" " if sep is None else str(sep)).join(texts) + ("\n" if end is None else str(end)))

    def last_expression(self, value):
        """The program's last statement is an expression: its value counts as printed. None shows nothing in strict."""
        strict = self.strict
        self.show(value)
        if value is None:
            self.strict = strict

    def record(self, gold_type):
        """The report's part."""
        if not self.calls:
            return {"calls": 0}
        if not self.published:
            return {"calls": self.calls, "strict": self.strict}
        value = normalised(self.published[0])
        result = {"calls": self.calls, "strict": self.strict, "value": Encoder()(value), "type": type(value).__name__}
        gold = {"str": str, "int": int, "float": float, "bool": str, "list": list}.get(gold_type)
        if gold is not None:
            with contextlib.suppress(Exception):  # the published judge takes that for a wrong answer
                result["cast"] = Encoder()(gold(value))
        return result


def with_last_expression(source):
    """The program's tree with `last_expression(...)` around a last statement that is an expression but no print."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        call = last.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print"):
            function = ast.Name("_last_expression", ast.Load())
            last.value = ast.copy_location(ast.Call(function, [call], []), call)
            ast.fix_missing_locations(tree)
    return tree


def execute(source, names, rewrite):
    """None, or what ended the program before its end: "syntax", "exit", "time", "memory", "assertion" or "error"."""
    try:
        code = compile(rewrite(source), "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        traceback.print_exc(limit=0)
        return "syntax"
    try:
        exec(code, names)
    except SystemExit:
        sys.stderr.write("SystemExit\n")
        return "exit"
    except TimeUp:
        sys.stderr.write("the program's time is up\n")
        return "time"
    except MemoryError:
        sys.stderr.write("MemoryError\n")
        return "memory"
    except BaseException as error:
        with contextlib.suppress(BaseException):  # an exception whose text raises another
            traceback.print_exc(limit=-5)
        return "assertion" if isinstance(error, AssertionError) else "error"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def leave_standard_files():
    """Descriptors of the secret and of the report; the program has /dev/null in their places."""
    secret, report, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return secret, report


def read(descriptor, size):
    """So many bytes, fewer at the end."""
    data = b""
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            break
        data += piece
    return data


class Teller:
    """What tells the report: everything it needs is bound before the program can change it."""

    def __init__(self):
        self.secret, self.report = leave_standard_files()
        self.half = read(self.secret, HALF)
        self.process, self.getpid, self.leave, self.write, self.read = (
            os.getpid(),
            os.getpid,
            os._exit,
            os.write,
            os.read,
        )
        self.known = {ended: json.dumps({"ended": ended, "printed": None}).encode("ascii") for ended in ENDED}

    def tell(self, ended, printed):
        """The report, then the secret. A child of the program, which has come here with it, leaves instead."""
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


def seed(source):
    """The same random numbers, and the same verdict, every time."""
    if "random" in source:
        import random

        random.seed(0)
        if "numpy" in source:
            with contextlib.suppress(ImportError):
                import numpy

                numpy.random.seed(0)


def main(mode, seconds, gold_type, program, *arguments):
    """Run the program as `__main__`, in its own directory."""
    with open(program, encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    teller, printed = Teller(), Printed()
    module = types.ModuleType("__main__")
    module.__file__ = program
    sys.modules["__main__"] = module
    sys.argv, sys.path[0] = [program, *arguments], os.getcwd()
    if mode == "value":
        module.print, module._last_expression = printed.show, printed.last_expression
        builtins.exit = builtins.quit = None  # the published judge takes them away
    seed(source)
    signal.signal(signal.SIGALRM, time_up)
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    ended = execute(source, module.__dict__, with_last_expression if mode == "value" else str)
    try:
        value = printed.record(gold_type) if mode == "value" else None
    except BaseException:
        value = None
    teller.tell(ended, value)


if __name__ == "__main__":
    main(*sys.argv[1:])
