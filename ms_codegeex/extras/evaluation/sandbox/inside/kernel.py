"""System calls for which Python has no functions.

Like the modules next to it, this runs in the sandbox under `python3 -I -S` and imports little, see supervisor.py.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 15, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38
SIGKILL = 9
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same number on every architecture
CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, of two words
CAPABILITIES = 64  # the most that can exist
CAP_SETFCAP = 1 << 31  # needed to make a user namespace that maps user 0 to user 0
LIBC = ctypes.CDLL(None, use_errno=True)


class SockFilterProgram(ctypes.Structure):
    """The kernel's struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def call(name: str, *arguments: object, what: str = "") -> int:
    """The result of a C function; integers are passed as longs, texts as bytes. If it fails, an OSError has `what`."""
    words = [each.encode() if isinstance(each, str) else each for each in arguments]
    value = getattr(LIBC, name)(*(ctypes.c_ulong(each) if isinstance(each, int) else each for each in words))
    if value < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what or name}: {os.strerror(error)}")
    return value


def prctl(option: int, first: object = 0, second: object = 0) -> None:
    call("prctl", option, first, second, 0, 0, what=f"prctl {option}")


def set_limits(limits: list) -> None:
    """Set resource limits, (name, soft, hard), for the calling process and all that it starts."""
    for name, soft, hard in limits:
        kind = getattr(resource, name)
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))


def landlock_ruleset(rules: dict) -> int:
    """A ruleset's descriptor. `rules` has the ABI's size, the handled rights, and (path, rights) pairs."""
    attributes = (ctypes.c_uint64 * 3)(rules["fs"], rules["net"], rules["scoped"])  # landlock_ruleset_attr of ABI 6
    ruleset = call("syscall", LANDLOCK_CREATE, ctypes.byref(attributes), rules["size"], 0, what="landlock")
    for path, access in rules["paths"]:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # a missing file needs no rule
        rights = access if os.path.isdir(path) else access & rules["of_files"]
        beneath = rights.to_bytes(8, sys.byteorder) + descriptor.to_bytes(4, sys.byteorder)  # ..._path_beneath_attr
        call("syscall", LANDLOCK_ADD, ruleset, 1, beneath, 0, what=f"landlock rule for {path}")
        os.close(descriptor)
    return ruleset


def restrict(ruleset: int, filter_code: bytes) -> None:
    """No new privileges; Landlock, unless the ruleset is -1; the system call filter, unless it is empty."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if ruleset >= 0:
        call("syscall", LANDLOCK_RESTRICT, ruleset, 0, what="landlock restrict")
    if filter_code:
        program = SockFilterProgram(len(filter_code) // 8, filter_code)
        prctl(PR_SET_SECCOMP, 2, ctypes.byref(program))


def write(path: str, content: bytes, directory: int) -> None:
    """Write once to a file below this directory."""
    try:
        with open(os.open(path, os.O_WRONLY, dir_fd=directory), "wb", 0) as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from None


def unshare(kinds: int) -> None:
    call("unshare", kinds, what="new namespaces (limits: /proc/sys/user/max_*)")


def enter_namespaces(kinds: int, user: int, group: int, proc: int) -> None:
    """Enter new namespaces of these kinds, and a user namespace with this one user, who keeps the same id outside.
    `proc` is a descriptor of a /proc that can be written."""
    unshare(kinds | CLONE_NEWUSER)
    write("self/setgroups", b"deny", proc)
    write("self/uid_map", b"%d %d 1" % (user, user), proc)
    write("self/gid_map", b"%d %d 1" % (group, group), proc)


def open_proc() -> int:
    return os.open("/proc", os.O_PATH | os.O_DIRECTORY)


def mount(source: str, target: str, kind: str, flags: int, data: str | None = None) -> None:
    call("mount", source, target, kind, flags, data, what=f"mount {source or 'again'} on {target}")


def make_private() -> None:
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def drop_capabilities(kept: int = 0) -> None:
    """Drop all capabilities but those in `kept` (bits of the first 32), and the ability to gain any by execve."""
    for number in range(CAPABILITIES):
        if LIBC.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            break  # there are no more
    header, words = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(kept, kept)
    call("capset", header, words)
