"""The fork server: forks supervisors, each in its own namespaces, for programs that see the same directories.

It is PID 1 of namespaces in which no program ever runs; the process that made them waits outside. A program thus costs
a fork instead of an interpreter's start and a root file system. The server reads only what programs see, once, and
descriptors; jobs go to the supervisors. Whoever started it hangs up to end it and everything it started.
"""

from __future__ import annotations

import _signal  # not `signal` or `socket`: their enumerations cost more than the rest of the start
import _socket
import gc
import os
import sys
import warnings  # noqa: F401 - os.execvpe needs it, when the interpreter's files may be invisible

import kernel
import namespaces
import rootfs
import supervisor

MAXIMUM = 250  # descriptors in a message; the kernel takes 253
WORD = 4  # bytes of a descriptor


def received(channel: _socket.socket) -> list:
    """The descriptors for the next supervisor, the control socket first; none when the other end has hung up."""
    data, extra, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(WORD * MAXIMUM))
    if not data:
        return []
    words = b"".join(content for _, _, content in extra)
    return [int.from_bytes(words[at : at + WORD], sys.byteorder) for at in range(0, len(words), WORD)]


def become_supervisor(descriptors: list, user: int, group: int) -> None:
    """In the child: enter new namespaces and run the supervisor in them, which does not return."""
    namespaces.enter(user, group)
    if os.fork():
        return
    os.setsid()
    kernel.be_called(b"sandbox")
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    supervisor.main(descriptors, lambda homes, covered: namespaces.settle(homes, covered, user, group))


def fork_supervisor(channel: _socket.socket, descriptors: list, user: int, group: int) -> None:
    """Fork a supervisor. If it cannot start, the reason goes over its control socket."""
    try:
        if os.fork():
            return
    except OSError as error:
        supervisor.complain(descriptors[0], error)
        return
    try:
        channel.close()
        become_supervisor(descriptors, user, group)
    except BaseException as error:
        supervisor.complain(descriptors[0], error)
    finally:
        os._exit(0)


def give_up_root(view: dict) -> None:
    """Become the view's user, if it names one, and make sure that this user can reach the view's files."""
    if view["user"] is None:
        return
    if view["veiled"]:
        view["shown"] = rootfs.unveil(view["shown"])
    os.setgroups([])
    os.setgid(view["user"])
    os.setuid(view["user"])


def wait_outside() -> None:
    """The process that made the namespaces: it ends with them, and they end with it."""
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    _, status = os.wait()
    os._exit(1 if status else 0)


def settle(view: dict, user: int) -> None:
    """As PID 1: see only what the view shows, and drop all rights but that to make namespaces."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
    kernel.name_host(b"sandbox")
    rootfs.make(view)
    kernel.drop_capabilities(0 if user else kernel.CAP_SETFCAP)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def serve(channel: _socket.socket, user: int, group: int) -> None:
    """Fork supervisors until the other end hangs up. Then PID 1 ends, and with it every process here."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # reap children automatically
    gc.freeze()  # otherwise a collection in a child would copy every page
    while True:
        passed = received(channel)
        if not passed:
            os._exit(0)
        fork_supervisor(channel, passed, user, group)
        for descriptor in passed:
            os.close(descriptor)


def main(descriptors: list) -> None:
    """Make namespaces with the requested root file system and serve in them. If that fails, standard error says
    why."""
    try:
        kernel.be_called(b"sandbox-server")
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.umask(0o022)
        channel = _socket.socket(fileno=descriptors[0])
        view = supervisor.message(channel)
        give_up_root(view)
        user, group = os.getuid(), os.getgid()
        namespaces.enter(user, group)
        if os.fork():
            channel.close()
            wait_outside()
        settle(view, user)
        serve(channel, user, group)
    except BaseException as error:
        os.write(2, supervisor.described(error) + b"\n")
    finally:
        os._exit(1)
