"""Run `program.py`, then `tests.py` with the names that it has defined; print the witness if the tests reach their end.

The tests have their own variables and builtins, with the values from before any function of the program was called. A
function that redefines `abs` does so for itself alone.
"""

import builtins
import os
import sys
import traceback


def compiled(name: str) -> tuple:
    """A file's code, and whether it mentions random numbers."""
    with open(name, encoding="utf-8") as file:
        source = file.read()
    return compile(source, name, "exec"), "random" in source


def main() -> None:
    """Run both files and leave: status 1 after an exception, else 0."""
    challenge = sys.stdin.read().strip()
    ours, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    write, leave, ended, kept = os.write, os._exit, [], dict(vars(builtins))
    try:
        (program, first), (tests, second) = compiled("program.py"), compiled("tests.py")
        if first or second:
            import random

            random.seed(0)  # the same numbers, and so the same verdict, every time
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
