"""`python process_watcher.py PID MARK`: when process PID, our parent, has ended, kill all that carry its mark.

Every process inherits the mark in its environment, wherever it goes; MARK begins that of a session within a session.
"""

from __future__ import annotations

import os
import signal
import sys
import time

MARK = "MS_CODEGEEX_TEST_SESSION"


def marked(value: str) -> list[int]:
    """The processes of a session."""
    found, begin = [], f"{MARK}={value}".encode()
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                settings = file.read().split(b"\0")
        except OSError:  # ended, or of somebody else
            continue
        if any(setting == begin or setting.startswith(begin + b"/") for setting in settings):
            found.append(int(name))
    return found


def main(parent: int, value: str) -> None:
    """Returns when nothing is left."""
    while os.getppid() == parent:
        time.sleep(0.5)
    while found := marked(value):
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
