"""Runs `program.py`; says at its end that the tests have ended, if they have. Sees what the published runner shows."""

import os
import sys
import traceback


def main():
    challenge = sys.stdin.read().strip()
    ours, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    ended = []
    with open("program.py", encoding="utf-8") as file:
        source = file.read()
    if "random" in source:
        import random

        random.seed(0)  # the same numbers, and the same verdict, every time
    try:
        exec(compile(source, "program.py", "exec"), {"ms_codegeex_tests_ended": ended.append})
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    for token in ended[-1:]:
        os.write(ours, f"witness-{token}-{challenge}\n".encode())
    os._exit(0)


main()
