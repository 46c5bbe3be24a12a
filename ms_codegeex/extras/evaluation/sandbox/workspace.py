"""Where a program runs: in its own namespaces or, if the kernel denies them, in a temporary directory; and the files of
this machine that it sees: the tool chains, and nothing of the user's."""

from __future__ import annotations

import marshal
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.sandbox.layers import NOBODY, Layers

DIRECTORY, SCRATCH, SHARED_MEMORY = "/program", "/tmp", "/dev/shm"
SHARED_MEMORY_SIZE = 64 << 20
# not /dev/zero: shared mappings of it are memory that nobody counts
DEVICE_NODES = ("/dev/null", "/dev/random", "/dev/urandom")
# Only what tool chains read in /etc: no users, hosts or keys. The time zone is always UTC.
CONFIGURATION = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl/openssl.cnf", "/etc/fonts")
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
STREAMS = (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"))
# rights of Landlock, the kernel's access rules for files and TCP, in addition to what is mounted
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
FIRST_RIGHTS = (1 << 13) - 1  # ABI 1
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15  # ABI 2, 3, 5
TCP, SCOPES = 0b11, 0b11  # ABI 4: bind and connect; ABI 6: abstract UNIX sockets and signals
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
HOMES = ("/", "/home", "/root")  # and every directory that contains one of them


@dataclass(frozen=True)
class Workspace:
    """The program's directory, and what the supervisor and the fork server must know."""

    directory: str
    job: dict[str, Any]
    view: bytes = b""  # what the fork server shows, marshalled
    shown: Sequence[tuple[int, int]] = ()  # device and inode of the readable paths, as a path may be replaced
    names: Mapping[str, str] = field(default_factory=dict)  # path in the sandbox -> path here, where they differ

    def local(self, text: str) -> str:
        return os.pathsep.join(map(self._path, text.split(os.pathsep))) if self.names else text

    def _path(self, text: str) -> str:
        for inside, outside in self.names.items():
            if text == inside or text.startswith(inside + "/"):
                return outside + text[len(inside) :]
        return text


def homes(disk: int) -> list[tuple[str, int]]:
    """The directories where a program may write, each a file system in memory with a size in bytes."""
    return [(SHARED_MEMORY, SHARED_MEMORY_SIZE), (DIRECTORY, disk), (SCRATCH, disk)]


def system_view(readable: Mapping[str, str]) -> dict[str, Any]:
    """The description from which inside/rootfs.py makes a root file system: symbolic links (path, target), empty
    directories, files and directories of this machine (path inside, path here), and device nodes. `readable` maps
    further paths inside to paths here."""
    links = [(path, os.readlink(path)) for path in SYSTEM if os.path.islink(path)]
    links += [(f"/dev/{name}", f"/proc/self/fd{target}") for name, target in STREAMS]
    directories = [path for path in SYSTEM if os.path.isdir(path) and not os.path.islink(path)]
    java = sorted(str(path) for path in Path("/etc").glob("java*"))
    settings = [(path, os.path.realpath(path)) for path in (*CONFIGURATION, *java) if os.path.exists(path)]
    return {
        "links": links,
        "directories": [path for path, _ in homes(0)],
        "shown": [("/usr", "/usr"), *((path, path) for path in directories), *settings, *readable.items()],
        "devices": DEVICE_NODES,
    }


def rules(layers: Layers, readable: Iterable[str], writable: Iterable[str]) -> dict[str, Any] | None:
    """The description from which the supervisor makes Landlock's rules, None without Landlock: everything is denied but
    reading the system and `readable`, all but device nodes in `writable`, and reading and writing `DEVICE_NODES`."""
    version, handled = layers.landlock, FIRST_RIGHTS
    if not version:
        return None
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEVICE)):
        handled |= right if version >= since else 0
    everything = handled & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEVICE)
    rights = (
        (("/usr", "/etc", "/proc", *SYSTEM, *readable), READ),
        (writable, everything),
        (DEVICE_NODES, (READ_FILE | WRITE_FILE | TRUNCATE) & handled),
    )
    return {
        "size": 8 if version < 4 else 16 if version < 6 else 24,
        "fs": handled,
        "net": TCP if version >= 4 else 0,
        "scoped": SCOPES if version >= 6 else 0,
        "of_files": OF_FILES & handled,
        "paths": [(path, allowed) for paths, allowed in rights for path in paths],
    }


def home_directories() -> set[Path]:
    """The users' home directories, symbolic links resolved, but not those in /usr, which programs see anyway."""
    known = {*HOMES, os.path.expanduser("~"), *(user.pw_dir for user in pwd.getpwall())}
    paths = {Path(os.path.realpath(path)) for path in known if path.startswith("/")}
    return {path for path in paths if not path.is_relative_to("/usr")}


def check_readable(paths: Iterable[Path]) -> None:
    """A `UserError` if one of these paths is a home directory or contains one."""
    private = home_directories()
    for path in paths:
        real = Path(os.path.realpath(path))
        exposed = next((home for home in sorted(private) if home.is_relative_to(real)), None)
        if exposed is not None:
            what = "is" if exposed == real else f"contains {exposed},"
            remedy = "which no program may read; install the tool that needs it in a separate directory"
            raise UserError(f"sandbox: {path} {what} a home directory, {remedy}")


def resolved(readable: Mapping[str, Path]) -> dict[str, str]:
    """The paths on this machine without symbolic links. One that is or contains a home directory is a `UserError`."""
    check_readable(readable.values())
    try:
        return {inside: str(path.resolve(strict=True)) for inside, path in readable.items()}
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
        raise UserError(f"sandbox: a program needs {problem}; expected a path that you may read") from None


def veiled(path: str) -> bool:
    return any(not parent.stat().st_mode & stat.S_IXOTH for parent in Path(path).parents)


def in_namespaces(layers: Layers, disk: int, readable: Mapping[str, Path]) -> Workspace:
    """In its own namespaces, nested in those of a fork server that shows the system and `readable`."""
    sources = resolved(readable)
    shown = tuple((state.st_dev, state.st_ino) for state in map(os.stat, sources.values()))
    writable = [path for path, _ in homes(disk)]
    job = {"alone": True, "volumes": writable, "landlock": rules(layers, ["/dev", *readable], writable)}
    covered = [path for path in readable if any(f"{path}/".startswith(f"{home}/") for home in writable)]
    job.update(homes=homes(disk), covered=covered)
    view = {**system_view(sources), "user": layers.identity.get("user"), "veiled": any(map(veiled, sources.values()))}
    return Workspace(DIRECTORY, job, marshal.dumps(view, 2), shown)


@contextmanager
def in_directory(layers: Layers, readable: Mapping[str, Path]) -> Iterator[Workspace]:
    """In a temporary directory, where all files have the same names as outside."""
    sources = resolved(readable)
    top = Path(tempfile.mkdtemp(prefix="sandbox-"))
    try:
        elsewhere = {inside: source for inside, source in sources.items() if inside != str(readable[inside])}
        names = {**elsewhere, DIRECTORY: str(top / "program"), SCRATCH: str(top / "tmp")}
        for path in (top / "program", top / "tmp", top):  # `top` last: its owner may put a link in another's place
            if path != top:
                path.mkdir()
            if layers.identity:
                os.chown(path, NOBODY, NOBODY)
        seen = rules(layers, ["/dev", *sources.values()], [str(top)])
        yield Workspace(names[DIRECTORY], {"alone": False, "volumes": [], "landlock": seen}, names=names)
    finally:
        shutil.rmtree(top, ignore_errors=True)
