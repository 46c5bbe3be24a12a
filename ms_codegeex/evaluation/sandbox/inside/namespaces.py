# ruff: noqa: SIM105 - importing contextlib costs as much as starting a small program
"""Namespaces of two levels: a fork server's, whose file system programs see, and within them each program's own, with
everything that it can write to. In the order of user_namespaces(7), pid_namespaces(7) and mount(2)."""

from __future__ import annotations

import os

import kernel
import rootfs

NO_MORE = "sys/user/max_user_namespaces"
# What all programs of a user share, by the kernel's default 128 instances: so many for one of ours.
SHARES = (("sys/user/max_inotify_instances", b"16"), ("sys/user/max_inotify_watches", b"4096"))
KINDS = kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


def enter(user: int, group: int) -> None:
    """Leave those that we are in, as this user and group; of processes, with the next one that we fork."""
    groups = kernel.CLONE_NEWCGROUP if os.path.exists("/proc/self/ns/cgroup") else 0
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self is root's
    proc = kernel.open_proc()
    kernel.enter_namespaces(KINDS | groups, user, group, proc)
    os.close(proc)


def settle(homes: list, covered: list, user: int, group: int) -> None:
    """As the first process of a program's: empty file systems, homes of (path, bytes), and our own /proc over those
    that we have copied, with what these cover and the program is to see on top again; then a last user namespace, which
    no other can follow, and there give all rights up, those over the mounts included. Every step is needed: one that
    fails is an OSError."""
    proc = kernel.open_proc()  # ours can only be read
    flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", flags)
    shown = [(path, os.open(path, os.O_PATH)) for path in covered]
    for path, size in homes:
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, f"size={size},mode=755")
    for path, descriptor in shown:
        rootfs.show(path, descriptor)
    for name, most in SHARES:
        try:
            kernel.write(name, most, proc)
        except FileNotFoundError:  # before Linux 4.13, or without inotify
            pass
    kernel.write(NO_MORE, b"1", proc)
    kernel.enter_namespaces(0, user, group, proc)
    os.close(proc)
    kernel.drop_capabilities()
