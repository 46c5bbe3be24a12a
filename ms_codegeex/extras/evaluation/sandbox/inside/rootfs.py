"""The root file system that all programs of a fork server see: read-only, with nothing but what the view names. See
pivot_root(2) and mount_namespaces(7) for the order of the steps."""

from __future__ import annotations

import os

import kernel
from kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

STAGE = "/tmp"  # it exists everywhere, and every user can reach it; only our own mount namespaces see it covered
OUTSIDE = "/.outside"
FLAGS = {b"ro": MS_RDONLY, b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC}


def unveil(shown: list) -> list:
    """As root: return what the view shows, with sources that every user can reach, mounted for this process alone."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.make_private()
    opened = [(path, f"{STAGE}/{index}", os.open(source, os.O_PATH)) for index, (path, source) in enumerate(shown)]
    kernel.mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for _, target, descriptor in opened:
        show(target, descriptor)
    return [(path, target) for path, target, _ in opened]


def make(view: dict) -> None:
    """As the first process of new namespaces: replace this machine's files by those of the view (workspace.py)."""
    kernel.make_private()
    shown = [(path, os.open(source, os.O_PATH)) for path, source in view["shown"]]
    devices = [(path, os.open(path, os.O_PATH)) for path in view["devices"]]
    kernel.mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=1m,mode=755")
    os.mkdir(STAGE + OUTSIDE)
    kernel.call("pivot_root", STAGE, STAGE + OUTSIDE)
    os.chdir("/")  # from here on, paths lead outside only through OUTSIDE
    for path in ("/proc", *view["directories"]):
        os.makedirs(path)
    for path, target in view["links"]:
        os.symlink(target, path)
    kernel.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path, descriptor in shown:
        show(path, descriptor)
        restrict_mounts(path, MS_RDONLY | MS_NOSUID | MS_NODEV)  # before the next one, which may be within this one
    for path, descriptor in devices:
        show(path, descriptor)
        restrict_mounts(path, MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    kernel.call("umount2", OUTSIDE, kernel.MNT_DETACH, what=f"umount {OUTSIDE}")
    os.rmdir(OUTSIDE)
    kernel.mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def show(path: str, descriptor: int) -> None:
    """Mount the file or directory of a descriptor at `path`, with all mounts within, and close the descriptor."""
    source = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    kernel.mount(source, path, "", MS_BIND | kernel.MS_REC)
    os.close(descriptor)


def restrict_mounts(path: str, flags: int) -> None:
    """Add flags to the mount at `path` and those within, whose present flags stay: the kernel does not remove them."""
    top, restricted = os.path.realpath(path), set()
    for number, point, options in mounts():
        if point != top and not point.startswith(top + "/"):
            continue
        try:
            descriptor = os.open(point, os.O_PATH)
        except (PermissionError, FileNotFoundError):
            continue  # a program cannot reach it either: no rights, or covered by another mount
        if mount_of(descriptor) == number:
            kept = sum(FLAGS.get(option, 0) for option in options)
            kernel.mount("", f"/proc/self/fd/{descriptor}", "", MS_REMOUNT | MS_BIND | flags | kept)
            restricted.add(point)
        os.close(descriptor)
    if top not in restricted:
        raise RuntimeError(f"{path} cannot be made read-only: it is not a mount")


def mounts() -> list:
    """(number, path, options) of every mount that is visible from here, including those covered by others."""
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    return [(int(line[0]), unescaped(line[4]), line[5].split(b",")) for line in lines]


def unescaped(path: bytes) -> str:
    first, *others = path.split(b"\\")
    return os.fsdecode(first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in others))


def mount_of(descriptor: int) -> int:
    """The number of the mount that a descriptor's file is on."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    return -1
