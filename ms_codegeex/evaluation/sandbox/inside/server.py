"""A process that forks supervisors, each in namespaces of its own, for programs that see the same directories.

bubblewrap starts it, as PID 1 of namespaces that no program ever runs in. What a program pays for is a fork instead of
bubblewrap and an interpreter. It reads nothing but descriptors: jobs go to the supervisors. Whoever forked it hangs up
to end it and everything that came of it.
"""

from __future__ import annotations

import _signal  # not `signal` or `socket`: their enumerations cost more than the rest of the start
import _socket
import gc
import os
import sys

import kernel
import namespaces
import supervisor

MOST = 250  # descriptors in a message; the kernel takes 253
WORD = 4  # bytes of a descriptor


def received(channel: _socket.socket) -> list:
    """The descriptors for the next supervisor, the control socket first; none when nobody wants any more."""
    data, extra, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(WORD * MOST))
    if not data:
        return []
    words = b"".join(content for _, _, content in extra)
    return [int.from_bytes(words[at : at + WORD], sys.byteorder) for at in range(0, len(words), WORD)]


def become_supervisor(descriptors: list, user: int, group: int) -> None:
    """In the child: new namespaces, and in these the supervisor, which does not return."""
    namespaces.enter(user, group)
    if os.fork():
        return
    os.setsid()
    kernel.be_called(b"sandbox")
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    supervisor.main(descriptors, lambda homes, covered: namespaces.settle(homes, covered, user, group))


def fork_supervisor(channel: _socket.socket, descriptors: list, user: int, group: int) -> None:
    """Fork one; what keeps it from starting is told over its control socket."""
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


def main(descriptors: list) -> None:
    """Serve until the other end hangs up; then PID 1 ends, and with it everybody."""
    kernel.be_called(b"sandbox-server")
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)  # bubblewrap's death is ours
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # nobody needs to be waited for
    channel, user, group = _socket.socket(fileno=descriptors[0]), os.getuid(), os.getgid()
    gc.freeze()  # a collection in a child would copy every page
    while True:
        passed = received(channel)
        if not passed:
            os._exit(0)
        fork_supervisor(channel, passed, user, group)
        for descriptor in passed:
            os.close(descriptor)
