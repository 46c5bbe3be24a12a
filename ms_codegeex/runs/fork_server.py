"""Forks the processes of a run that `forked_ranks.py` asks for, after importing what they import.

    python -m ms_codegeex.runs.fork_server RUN_DIRECTORY LAUNCHER_PID [operators]

reads one request per line, a JSON object, and answers each with a process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import sys
from collections.abc import Mapping
from typing import Any

import psutil

from ms_codegeex.base.processes import die_with_parent
from ms_codegeex.training.operators import library_path

SET_NAME = 15  # PR_SET_NAME of prctl(2)


def _run_request(request: Mapping[str, Any], server: int, has_threads: bool) -> None:
    """Be the process that was requested, `python -m MODULE ARGUMENTS…`, until its end."""
    die_with_parent()
    if os.getppid() != server:  # it ended before
        sys.exit(1)
    os.setsid()
    with open(os.devnull, "rb") as nothing, open(request["log"], "wb") as log:
        for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(descriptor.fileno(), target)
    os.chdir(request["directory"])
    os.environ.update(request["environment"])
    if has_threads:
        os.execv(request["command"][0], request["command"])
    ctypes.CDLL(None).prctl(SET_NAME, request["name"].encode())
    sys.argv[1:] = request["command"][3:]
    runpy.run_module(request["command"][2], run_name="__main__", alter_sys=True)


def _import_all() -> None:
    """Import the modules of a rank, most of which it imports in functions."""
    import mindspore.communication  # noqa: F401

    from ms_codegeex.data.datasets import opening  # noqa: F401
    from ms_codegeex.parallel import context  # noqa: F401
    from ms_codegeex.runs import callbacks, joining, weights  # noqa: F401
    from ms_codegeex.training import trainer  # noqa: F401


def main(launcher: int, operators: bool) -> int:
    """Fork a process per request until the launcher ends or closes the pipe; returns the exit status."""
    die_with_parent(launcher)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)  # the engine's output is not an answer
        _import_all()
        if operators:
            with contextlib.suppress(Exception):  # the ranks look for the library, too, and say what is wrong
                library_path()
        own, has_threads = os.getpid(), psutil.Process().num_threads() > 1
        while line := sys.stdin.readline():
            request = json.loads(line)
            for ended in request["ended"]:  # the launcher knows their statuses
                with contextlib.suppress(ChildProcessError):  # SIGCHLD may be ignored
                    os.waitpid(ended, 0)
            sys.stdout.flush()  # otherwise each fork would print it again
            if not (process := os.fork()):
                answers.close()
                nothing.close()
                _run_request(request, own, has_threads)
                return 0
            print(process, file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[2]), "operators" in sys.argv[3:]))
