"""One Python program, and at its end a report of what it did.

    python program.py run|value SECONDS GOLD_TYPE PROGRAM [ARGUMENT...]

Standard library only, and nothing newer than Python 3.7, which some benchmarks need.
The report is one line of JSON on standard output and, on the next, the secret from standard input. What the program
prints goes nowhere, and the secret is not read before the program has come to its end: one that leaves early, by
whatever door, or prints what a report looks like, cannot have shown it. Nothing here knows the expected answer.
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
    """None, or what ended the program before its end: "syntax", "exit", "time", "memory" or "error"."""
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
    except BaseException:
        with contextlib.suppress(BaseException):  # an exception whose text raises another
            traceback.print_exc(limit=-5)
        return "error"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def leave_standard_files():
    """Descriptors of the secret and of the report; the program has /dev/null in their places."""
    secret, report, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    return secret, report


def tell(secret, report, record):
    """The report, then the secret."""
    data = json.dumps(record).encode("ascii") + b"\n"
    with os.fdopen(secret, "rb") as file:
        data += file.read() + b"\n"
    while data:
        data = data[os.write(report, data) :]


def main(mode, seconds, gold_type, program, *arguments):
    """Run the program as `__main__`, in its own directory."""
    with open(program, encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    module = types.ModuleType("__main__")
    module.__file__ = program
    sys.modules["__main__"] = module
    sys.argv, sys.path[0] = [program, *arguments], os.getcwd()
    process, (secret, report) = os.getpid(), leave_standard_files()
    printed = Printed()
    if mode == "value":
        module.print, module._last_expression = printed.show, printed.last_expression
        builtins.exit = builtins.quit = None  # the published judge takes them away
    signal.signal(signal.SIGALRM, time_up)
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    ended = execute(source, module.__dict__, with_last_expression if mode == "value" else str)
    if os.getpid() != process:
        os._exit(0)  # a child of the program, which has come here with it
    try:
        value = printed.record(gold_type) if mode == "value" else None
    except BaseException:
        value = None
    tell(secret, report, {"ended": ended, "printed": value})


if __name__ == "__main__":
    main(*sys.argv[1:])
