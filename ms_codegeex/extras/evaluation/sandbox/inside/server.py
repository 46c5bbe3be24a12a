# ruff: noqa: SIM105 - importing contextlib costs as much as starting a small program
"""The fork server: forks supervisors, each in its own namespaces, for programs that see the same directories.

It is PID 1 of namespaces in which no program runs; the process that made them waits outside. A program thus costs a
fork instead of an interpreter's start and a root file system. The server reads once which files programs see, and then
only descriptors; jobs go to the supervisors. It ends, with all that it started, when its starter hangs up.

There are two levels of namespaces: the server's, whose file system programs see, and, nested in these, each program's
own, with everything that it can write to. See user_namespaces(7), pid_namespaces(7) and mount(2) for the order of the
steps.
"""

from __future__ import annotations

import _signal  # not `signal` or `socket`: their enumerations cost more than the rest of the start
import _socket
import gc
import os
import warnings  # noqa: F401 - os.execvpe needs it, when the interpreter's files may be invisible

import kernel
import rootfs
import supervisor

MAXIMUM = 250  # descriptors in a message, of 4 bytes each; the kernel takes 253
NO_MORE = "sys/user/max_user_namespaces"
# A user's programs share these, by default 128 instances. This is the share of one of ours.
SHARES = (("sys/user/max_inotify_instances", b"16"), ("sys/user/max_inotify_watches", b"4096"))
KINDS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


def enter_namespaces(user: int, group: int) -> None:
    """Enter new namespaces as this user and group. The new PID namespace starts with the next process that we fork."""
    groups = kernel.CLONE_NEWCGROUP if os.path.exists("/proc/self/ns/cgroup") else 0
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # otherwise /proc/self belongs to root
    proc = kernel.open_proc()
    kernel.enter_namespaces(KINDS | groups, user, group, proc)
    os.close(proc)


def settle_program(homes: list, covered: list, user: int, group: int) -> None:
    """As the first process of a program's namespaces: mount empty file systems (`homes`: path, bytes) and our own /proc
    over the copied ones, and on top of these what they cover but the program must see. Then enter a last user
    namespace, after which no other can be made, and drop all rights there, including those over the mounts. If any
    step fails, an OSError is raised."""
    proc = kernel.open_proc()  # the new one is read-only
    flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", flags)
    shown = [(path, os.open(path, os.O_PATH)) for path in covered]
    for path, size in homes:
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={size},mode=755")
    for path, descriptor in shown:
        rootfs.show(path, descriptor)
    for name, maximum in SHARES:
        try:
            kernel.write(name, maximum, proc)
        except FileNotFoundError:  # before Linux 4.13, or without inotify
            pass
    kernel.write(NO_MORE, b"1", proc)
    kernel.enter_namespaces(0, user, group, proc)
    os.close(proc)
    kernel.drop_capabilities()


def received(channel: _socket.socket) -> list:
    """The descriptors for the next supervisor, the control socket first; none when the other end has hung up."""
    data, extra, _, _ = channel.recvmsg(1, _socket.CMSG_SPACE(4 * MAXIMUM))
    return memoryview(b"".join(content for _, _, content in extra)).cast("i").tolist() if data else []


def fork_supervisor(channel: _socket.socket, descriptors: list, user: int, group: int) -> None:
    """Fork a supervisor into new namespaces. If it cannot start, the reason goes over its control socket."""
    try:
        if os.fork():
            return
    except OSError as error:
        supervisor.complain(descriptors[0], error)
        return
    try:
        channel.close()
        enter_namespaces(user, group)
        if not os.fork():
            os.setsid()
            kernel.prctl(kernel.PR_SET_NAME, b"sandbox")
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            supervisor.main(descriptors, lambda homes, covered: settle_program(homes, covered, user, group))
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


def settle(view: dict, user: int) -> None:
    """As PID 1: see only what the view shows, and drop all rights but that to make namespaces."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, kernel.SIGKILL)
    kernel.call("sethostname", b"sandbox", len(b"sandbox"))
    rootfs.make(view)
    kernel.drop_capabilities(0 if user else kernel.CAP_SETFCAP)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def serve(channel: _socket.socket, user: int, group: int) -> None:
    """Fork supervisors until the other end hangs up. Then PID 1 ends, and with it every process here."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # reap children automatically
    gc.freeze()  # otherwise a collection in a child would copy every page
    while passed := received(channel):
        fork_supervisor(channel, passed, user, group)
        for descriptor in passed:
            os.close(descriptor)
    os._exit(0)


def main(descriptors: list) -> None:
    """Make namespaces with the requested root file system and serve in them. If that fails, standard error says why."""
    try:
        kernel.prctl(kernel.PR_SET_NAME, b"sandbox-server")
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        os.umask(0o022)
        channel = _socket.socket(fileno=descriptors[0])
        view = supervisor.message(channel)
        give_up_root(view)
        user, group = os.getuid(), os.getgid()
        enter_namespaces(user, group)
        if os.fork():  # the process that made the namespaces: it ends with them, and they end with it
            channel.close()
            kernel.drop_capabilities()
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
            os._exit(1 if os.wait()[1] else 0)
        settle(view, user)
        serve(channel, user, group)
    except BaseException as error:
        os.write(2, supervisor.described(error) + b"\n")
    finally:
        os._exit(1)
