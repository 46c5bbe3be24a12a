"""The root file system that all programs of a fork server see: read-only, and nothing in it that is not named. In the
order of pivot_root(2) and mount_namespaces(7)."""

from __future__ import annotations

import os

import kernel
from kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

STAGE = "/tmp"  # it is everywhere, and everybody may walk to it; only our own mount namespaces see it covered
OUTSIDE = "/.outside"
FLAGS = {b"ro": MS_RDONLY, b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC}


def unveil(shown: list) -> list:
    """As root: what the view shows, with sources that everybody may walk to; only this process and its children see
    these."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.make_private()
    opened = [(path, f"{STAGE}/{index}", os.open(source, os.O_PATH)) for index, (path, source) in enumerate(shown)]
    kernel.mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    for _, place, descriptor in opened:
        show(place, descriptor)
    return [(path, place) for path, place, _ in opened]


def make(view: dict) -> None:
    """As the first process of new namespaces: leave this machine's files for those of the view (view.py)."""
    kernel.make_private()
    shown = [(path, os.open(source, os.O_PATH)) for path, source in view["shown"]]
    devices = [(path, os.open(path, os.O_PATH)) for path in view["devices"]]
    kernel.mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=1m,mode=755")
    os.mkdir(STAGE + OUTSIDE)
    kernel.pivot_root(STAGE, STAGE + OUTSIDE)
    os.chdir("/")  # from here on no path leads outside but through that directory
    for path in ("/proc", *view["directories"]):
        os.makedirs(path)
    for path, target in view["links"]:
        os.symlink(target, path)
    kernel.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path, descriptor in shown:
        show(path, descriptor)
        restrict_mounts(path, MS_RDONLY | MS_NOSUID | MS_NODEV)  # before the next one: it may be within
    for path, descriptor in devices:
        show(path, descriptor)
        restrict_mounts(path, MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    kernel.detach(OUTSIDE)
    os.rmdir(OUTSIDE)
    kernel.mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def show(path: str, descriptor: int) -> None:
    """Mount the file or directory of a descriptor there, with all that is mounted within, and close it."""
    source = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    kernel.mount(source, path, "", MS_BIND | kernel.MS_REC)
    os.close(descriptor)


def restrict_mounts(path: str, flags: int) -> None:
    """Add flags to the mount there and to those within. What they have already they keep: the kernel refuses to take it
    from them."""
    top, restricted = os.path.realpath(path), set()
    for number, point, options in mounts():
        if point != top and not point.startswith(top + "/"):
            continue
        try:
            descriptor = os.open(point, os.O_PATH)
        except (PermissionError, FileNotFoundError):
            continue  # nor can a program get there: for lack of rights, or because another mount covers it
        if mount_of(descriptor) == number:
            kept = sum(FLAGS.get(option, 0) for option in options)
            kernel.mount("", f"/proc/self/fd/{descriptor}", "", MS_REMOUNT | MS_BIND | flags | kept)
            restricted.add(point)
        os.close(descriptor)
    if top not in restricted:
        raise RuntimeError(f"{path} cannot be made read-only: it is no mount")


def mounts() -> list:
    """(number, path, options) of every mount that can be seen from here, those that others cover included."""
    with open("/proc/self/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    return [(int(line[0]), unescaped(line[4]), line[5].split(b",")) for line in lines]


def unescaped(path: bytes) -> str:
    """A path of mountinfo, where space, tab, newline and backslash are octal numbers."""
    first, *others = path.split(b"\\")
    return os.fsdecode(first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in others))


def mount_of(descriptor: int) -> int:
    """The number of the mount that a descriptor's file is on."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
        for line in file:
            if line.startswith(b"mnt_id:"):
                return int(line.split()[1])
    return -1
