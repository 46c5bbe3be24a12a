"""Call one function of a program with many arguments, and keep what it returns. Runs in the sandbox.

    python run_calls.py SECONDS keep|report

The program is program.py; `calls` is a pickle of the function's name, the arguments of each call and the seconds of
each. The values go, as plain data (see `plain.py`), into the file `returned`; the report (see `program.py`) has the
number of calls that returned, and with `report` also their seconds and the content of `returned`. SECONDS are those of
everything outside of the calls. The first call that does not return is the last one. With `keep`, the
program is guarded as in EvalPlus's published runner (evalplus/eval/__init__.py). Nothing here knows the expected
values. Standard library only, compatible with Python 3.7.
"""

from __future__ import annotations

import base64
import io
import os
import signal
import sys
import time
from collections.abc import Callable, ItemsView, KeysView

import plain
from program import Reporter, TimeUp, TimeUpHere, discarding, execute, guard, guarded, load_before, seed, start_timer


class Calls:
    """The calls as far as they got."""

    def __init__(self, arguments: list, limits: list):
        self.waiting = list(zip(arguments, limits))  # noqa: B905 (no `strict` before Python 3.10)
        self.seconds, self.values = [], io.BytesIO()

    def make(self, function: Callable) -> None:
        """Make them in order. Each value is written at once, since the program may change it later."""
        for arguments, limit in self.waiting:
            signal.setitimer(signal.ITIMER_REAL, limit)
            started = time.perf_counter()
            with discarding():
                value = function(*arguments)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.seconds.append(time.perf_counter() - started)
            plain.Pickler(self.values, 4).dump(comparable(value))


def comparable(value: object) -> object:
    """The value, as data that equals what it equals: a view of keys or items as a set, a named tuple as a tuple."""
    if isinstance(value, (KeysView, ItemsView)):
        return set(value)
    return tuple(value) if isinstance(value, tuple) else value


def main(seconds: str, mode: str) -> None:
    """Run the program, then make the calls."""
    with open("program.py", encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    with open("calls", "rb") as file:
        name, arguments, limits = plain.Unpickler(file).load()
    reporter, calls = Reporter(), Calls(arguments, limits)
    scope, place, ours = {}, os.path.abspath("returned"), open  # as in the published runner, it is no `__main__`
    sys.argv = ["program.py"]
    seed(source)
    load_before(source)
    if mode == "keep":
        guard("open")

    def run(code: object) -> None:
        with discarding():
            exec(code, scope)

    start_timer(float(seconds), TimeUpHere if mode == "keep" else TimeUp)  # which a program may catch there
    ended = execute(source, run)
    if ended is None:
        ended = guarded(lambda: calls.make(scope[name]))
    values = calls.values.getvalue()
    with ours(place, "wb") as file:
        file.write(values)
    report = {"calls": len(calls.seconds)}
    if mode == "report":
        report.update(seconds=calls.seconds, values=base64.b64encode(values).decode("ascii"))
    reporter.write_report(ended, report)


if __name__ == "__main__":
    main(*sys.argv[1:])
