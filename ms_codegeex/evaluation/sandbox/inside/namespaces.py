"""Namespaces for one program, made of those that bubblewrap has made for all: a copy of its read-only view of the
system, and everything else of its own. In the order of user_namespaces(7), pid_namespaces(7) and mount(2)."""

from __future__ import annotations

import os

import kernel

NO_MORE = "/proc/sys/user/max_user_namespaces"
KINDS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


def enter(user: int, group: int) -> None:
    """Leave those of the fork server, as this user and group; of processes, with the next one that we fork."""
    groups = kernel.CLONE_NEWCGROUP if os.path.exists("/proc/self/ns/cgroup") else 0
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self is root's
    kernel.enter_namespaces(KINDS | groups, user, group)


def settle(homes: list, covered: list, user: int, group: int) -> None:
    """As the first process in them: empty file systems, homes of (path, bytes), and our own /proc over those that we
    have copied, with what these cover and the program is to see on top again; then a last user namespace, which no
    other can follow, and there give all rights up, those over the mounts included. Every step is needed: one that
    fails is an OSError."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    shown = [(path, os.open(path, os.O_PATH)) for path in covered]
    for path, size in homes:
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={size},mode=755")
    for path, descriptor in shown:
        show_again(path, descriptor)
    kernel.write(NO_MORE, b"1")
    kernel.enter_namespaces(0, user, group)
    kernel.drop_capabilities()


def show_again(path: str, descriptor: int) -> None:
    """Mount a file or directory, read-only as it was, where it was."""
    source = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    kernel.mount(source, path, "", kernel.MS_BIND | kernel.MS_REC)
    os.close(descriptor)
