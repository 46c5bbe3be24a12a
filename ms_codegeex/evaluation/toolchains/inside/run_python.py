"""Runs `program.py`, then `tests.py` on what it has defined; says at the end that the tests have ended, if they have.
Sees what the published runner shows.

The tests have variables and builtins of their own, with the values of the time before any function of the program was
called: a function that gives `abs` another meaning does so for itself alone.
"""

import builtins
import os
import sys
import traceback


def compiled(name):
    """A file's code, and whether it names random numbers."""
    with open(name, encoding="utf-8") as file:
        source = file.read()
    return compile(source, name, "exec"), "random" in source


def main():
    challenge = sys.stdin.read().strip()
    ours, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    write, leave, ended, kept = os.write, os._exit, [], dict(vars(builtins))
    try:
        (program, first), (tests, second) = compiled("program.py"), compiled("tests.py")
        if first or second:
            import random

            random.seed(0)  # the same numbers, and the same verdict, every time
        names = {}
        exec(program, names)
        exec(tests, {**names, "__builtins__": kept, "ms_codegeex_tests_ended": ended.append})
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        leave(1)
    for token in ended[-1:]:
        write(ours, f"witness-{token}-{challenge}\n".encode())
    leave(0)


main()
