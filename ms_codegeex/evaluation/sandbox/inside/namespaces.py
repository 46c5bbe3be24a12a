# ruff: noqa: SIM105 - importing contextlib costs as much as starting a small program
"""Two levels of namespaces: a fork server's, whose file system programs see, and, nested in these, each program's own,
with everything that it can write to. See user_namespaces(7), pid_namespaces(7) and mount(2) for the order of the steps.
"""

from __future__ import annotations

import os

import kernel
import rootfs

NO_MORE = "sys/user/max_user_namespaces"
# A user's programs share these, by default 128 instances. This is the share of one of ours.
SHARES = (("sys/user/max_inotify_instances", b"16"), ("sys/user/max_inotify_watches", b"4096"))
KINDS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


def enter(user: int, group: int) -> None:
    """Enter new namespaces as this user and group. The new PID namespace starts with the next process that we fork."""
    groups = kernel.CLONE_NEWCGROUP if os.path.exists("/proc/self/ns/cgroup") else 0
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # otherwise /proc/self belongs to root
    proc = kernel.open_proc()
    kernel.enter_namespaces(KINDS | groups, user, group, proc)
    os.close(proc)


def settle(homes: list, covered: list, user: int, group: int) -> None:
    """As the first process of a program's namespaces: mount its own file systems, and give up all rights.

    Mount empty file systems (`homes`: path, bytes) and our own /proc over the copied ones, and on top of these what
    they cover but the program must see. Then enter a last user namespace, after which no other can be made, and
    drop all rights there, including those over the mounts. Every step is needed: one that fails is an OSError.
    """
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
