"""The command line of bubblewrap: namespaces, and a file system that has the tool chains and nothing of the user's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DIRECTORY, SCRATCH, SHARED_MEMORY = "/program", "/tmp", "/dev/shm"
SHARED_MEMORY_SIZE = 64 << 20
DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")  # no zero: shared mappings of it are memory nobody counts
# Of /etc only what tool chains read: no users, no hosts, no keys; and the time zone is UTC everywhere.
CONFIGURATION = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl/openssl.cnf", "/etc/fonts")
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
NAMESPACES = ("user", "ipc", "pid", "net", "uts", "cgroup-try")


def homes(disk: int) -> list[tuple[str, int]]:
    """The places where a program may write, each a file system in memory of at most so many bytes."""
    return [(SHARED_MEMORY, SHARED_MEMORY_SIZE), (DIRECTORY, disk), (SCRATCH, disk)]


@dataclass(frozen=True)
class Bubblewrap:
    """The program, the options that show the system, and which of its newer options it knows."""

    path: str
    system: Sequence[str]
    sizes: bool = True
    disable_userns: bool = True

    def for_program(self, disk: int, readable: Mapping[str, str]) -> list[str]:
        """The command line up to the command; `readable` maps paths inside to paths of this machine."""
        last = ["--disable-userns"] if self.disable_userns else []
        rooms: list[str] = []
        for path, size in homes(disk):
            rooms += ["--size", str(size), "--tmpfs", path] if self.sizes else ["--tmpfs", path]
        return [*self._start(), *last, "--die-with-parent", *rooms, *self._end(readable)]

    def for_server(self, readable: Mapping[str, str]) -> list[str]:
        """The same for a fork server, which makes each program's own namespaces and homes within these. It outlives the
        thread that starts it, and ends when that hangs up."""
        rooms = [word for path, _ in homes(0) for word in ("--dir", path)]
        return [*self._start(), *rooms, *self._end(readable)]

    def _start(self) -> list[str]:
        """Namespaces without rights, and the system in them."""
        words = [self.path, *(f"--unshare-{name}" for name in NAMESPACES), "--new-session", "--as-pid-1"]
        return [*words, "--cap-drop", "ALL", "--hostname", "sandbox", *self.system]

    def _end(self, readable: Mapping[str, str]) -> list[str]:
        """What else is seen."""
        words = [word for inside, outside in readable.items() for word in ("--ro-bind", outside, inside)]
        return [*words, "--remount-ro", "/", "--chdir", DIRECTORY, "--"]


def system_view() -> list[str]:
    """Options for everything that is the same for all programs."""
    words = ["--ro-bind", "/usr", "/usr"]
    for path in SYSTEM:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    java = sorted(str(path) for path in Path("/etc").glob("java*"))
    for path in (*CONFIGURATION, *java):
        if os.path.exists(path):
            words += ["--ro-bind", os.path.realpath(path), path]
    words += ["--proc", "/proc", "--tmpfs", "/dev"]
    for device in DEVICES:
        words += ["--dev-bind", device, device]
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        words += ["--symlink", f"/proc/self/fd{target}", f"/dev/{name}"]
    return [*words, "--dir", SHARED_MEMORY, "--remount-ro", "/dev"]
