"""Find out which layers of the sandbox this machine has, and how to enable the others."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_codegeex.extras.evaluation.sandbox import seccomp

NOBODY = 65534  # the user and group of all programs if we are root
ACTIVE = "active"
SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
# Settings in /proc/sys that deny namespaces to ordinary users: the value that denies, and one that allows.
SWITCHES = {
    "user/max_user_namespaces": (0, 15000),
    "kernel/unprivileged_userns_clone": (0, 1),  # Debian's
    "kernel/apparmor_restrict_unprivileged_userns": (1, 0),  # Ubuntu's
}
UNCONFINED = " ".join(f"--security-opt {option}=unconfined" for option in ("seccomp", "apparmor", "systempaths"))
LANDLOCK_CALL, LANDLOCK_VERSION = 444, 1


@dataclass
class Layers:
    """The parts that sandboxes are built from. `states`: layer -> "active", or "missing: " with reason and remedy."""

    states: dict[str, str] = field(default_factory=dict)
    filter: bytes = b""  # the system call filter, empty for none
    landlock: int = 0  # the ABI's version
    identity: dict[str, Any] = field(default_factory=dict)  # Popen's arguments for dropping root
    namespaces: bool = False

    @property
    def user(self) -> int:
        return self.identity.get("user", os.getuid())

    def state(self, name: str, problem: str) -> None:
        self.states[name] = f"missing: {problem}" if problem else ACTIVE


def find_layers() -> Layers:
    """Try everything but namespaces, which a first program tries (`runner.best`)."""
    layers, root = Layers(), os.geteuid() == 0
    # root's programs run as nobody: root has rights that no namespace takes away, and no limit on processes
    identity: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if root else {}
    problem = attempt(["/bin/true"], identity) if root else ""
    layers.state("unprivileged user", problem and f"root cannot become nobody ({problem}); run as an ordinary user")
    layers.identity = {} if problem else identity
    find_seccomp(layers)
    layers.landlock = landlock_abi()
    lacking = "" if layers.landlock else "the kernel does not offer it; Linux 5.13 with lsm=landlock does"
    layers.state("Landlock", lacking)
    return layers


def attempt(words: list[str], identity: Mapping[str, Any]) -> str:
    """Run a command that must succeed. Return its last line of standard error if it fails, else ""."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, **identity)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def advice(proc: Path = Path("/proc")) -> str:
    """How to let an ordinary user create namespaces."""
    for name, (refusing, value) in SWITCHES.items():
        with suppress(OSError, ValueError):
            if int((proc / "sys" / name).read_text()) == refusing:
                return f"as root: sysctl -w {name.replace('/', '.')}={value}"
    return f"in a container: start it by docker run {UNCONFINED}, or judge outside it"


def find_seccomp(layers: Layers) -> None:
    """Whether the kernel has filters that can end a process, and we know this machine's system calls."""
    machine = os.uname().machine
    code = seccomp.assemble(machine)
    if code is None:
        layers.state("seccomp", f"there is no table of system calls for {machine}; use x86_64 or aarch64")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    action = ctypes.c_uint32(seccomp.KILL)
    available = libc.syscall(ctypes.c_long(SECCOMP_CALL[machine]), 2, 0, ctypes.byref(action)) == 0
    lacking = "" if available else "the kernel has no seccomp filters; Linux 4.14 with CONFIG_SECCOMP_FILTER has"
    layers.state("seccomp", lacking)
    layers.filter = code if available else b""


def landlock_abi() -> int:
    """The Landlock ABI version of this kernel, 0 without Landlock."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(LANDLOCK_CALL), None, ctypes.c_size_t(0), ctypes.c_uint(LANDLOCK_VERSION))
    return max(0, version)
