"""Notes each line of the package that runs, in every Python process that has this file's folder on PYTHONPATH: as
`sitecustomize`. Lines are written at once, since workers are killed."""

import os
import sys
import threading

PACKAGE, NOTED, WANTED = (os.environ.get(f"TRACED_{name}") for name in ("PACKAGE", "LINES", "FILES"))


def install() -> None:
    """Trace the files of the package that are wanted."""
    wanted = {os.path.join(PACKAGE, name): name for name in WANTED.split(os.pathsep)}
    output, seen = os.open(NOTED, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), set()

    def note(frame, event, argument):
        if event == "line" and (line := (frame.f_code.co_filename, frame.f_lineno)) not in seen:
            seen.add(line)
            os.write(output, f"{wanted[line[0]]}:{line[1]}\n".encode())
        return note

    def enter(frame, event, argument):
        return note if frame.f_code.co_filename in wanted else None

    threading.settrace(enter)
    sys.settrace(enter)


if NOTED:
    install()
