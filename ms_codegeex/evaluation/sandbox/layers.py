"""Which of the sandbox's layers this machine has, and what to do about those it has not."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.evaluation.sandbox import landlock, seccomp
from ms_codegeex.evaluation.sandbox.bubblewrap import Bubblewrap, system_view

NOBODY = 65534  # the user and group that everybody's programs run as when we are root
ACTIVE = "active"
INSTALL = "apt-get install bubblewrap"
SECCOMP_CALL = {"x86_64": 317, "aarch64": 277}
PROBE_SIZE = 1 << 20
OPTIONS = ("tmpfs sizes", "no further namespaces")  # what newer versions of bubblewrap know


@dataclass
class Layers:
    """What there is to build sandboxes of. `states` says of each layer "active", or "missing: " and why and what to
    do."""

    states: dict[str, str] = field(default_factory=dict)
    bubblewrap: Bubblewrap | None = None
    filter: bytes = b""  # the system call filter, empty for none
    landlock: int = 0  # the ABI's version
    identity: dict[str, Any] = field(default_factory=dict)  # how Popen gives root up
    nested: bool = False  # whether namespaces can be made within bubblewrap's
    flat: str = ""  # why they cannot

    @property
    def user(self) -> int:
        """The user that programs run as."""
        return self.identity.get("user", os.getuid())

    def state(self, name: str, problem: str) -> None:
        """Note a layer; `problem` is empty for one that is there."""
        self.states[name] = f"missing: {problem}" if problem else ACTIVE

    def nest(self) -> None:
        """Note that namespaces can be nested: we need nothing else of bubblewrap then."""
        for name in OPTIONS:
            self.state(name, "")

    def missing(self) -> Mapping[str, str]:
        """The layers that are not there, each with its reason and remedy."""
        return {name: state.removeprefix("missing: ") for name, state in self.states.items() if state != ACTIVE}


def find_layers() -> Layers:
    """Try everything once."""
    layers = Layers()
    find_identity(layers)
    find_bubblewrap(layers)
    find_seccomp(layers)
    layers.landlock = landlock.abi()
    layers.state(
        "Landlock", "" if layers.landlock else "the kernel does not offer it; Linux 5.13 with lsm=landlock does"
    )
    return layers


def attempt(words: list[str], identity: Mapping[str, Any]) -> str:
    """Run a command that must succeed; its last line of complaint, "" for none."""
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, **identity)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def find_identity(layers: Layers) -> None:
    """Root's programs run as nobody: root has rights that no namespace takes away, and no limit on processes."""
    if os.geteuid() != 0:
        layers.state("unprivileged user", "")
        return
    identity: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}
    problem = attempt(["/bin/true"], identity)
    layers.state("unprivileged user", problem and f"root cannot become nobody ({problem}); run as an ordinary user")
    layers.identity = {} if problem else identity


def find_bubblewrap(layers: Layers) -> None:
    """bubblewrap, and whether the kernel lets it make namespaces."""
    names = ("namespaces", *OPTIONS)
    path = shutil.which("bwrap")
    if path is None:
        for name in names:
            layers.state(name, f"bwrap is not on PATH; {INSTALL}")
        return
    plain = Bubblewrap(path, system_view(), sizes=False, disable_userns=False)
    problem = attempt([*plain.for_program(PROBE_SIZE, {}), "/bin/true"], layers.identity)
    if problem:
        advice = "allow unprivileged user namespaces (in a container: run outside it, or give it the right)"
        for name in names:
            layers.state(name, f"bwrap fails ({problem}); {advice}")
        return
    layers.bubblewrap = plain
    layers.state("namespaces", "")


def find_options(layers: Layers) -> None:
    """Which of its options bubblewrap has, where namespaces of ours cannot take their place."""
    if layers.bubblewrap is None:
        return
    path, system = layers.bubblewrap.path, layers.bubblewrap.system
    options = subprocess.run([path, "--help"], capture_output=True, text=True, errors="replace", timeout=30)
    known = options.stdout + options.stderr
    sizes = "--size " in known
    plain = layers.bubblewrap = Bubblewrap(path, system, sizes, disable_userns=False)
    remedy = f"{INSTALL} of version 0.8 or later, or let namespaces be nested ({layers.flat})"
    layers.state("tmpfs sizes", "" if sizes else f"this bwrap has no --size; {remedy}")
    problem = f"this bwrap has no --disable-userns; {remedy}"
    if "--disable-userns" in known:
        closed = Bubblewrap(path, system, sizes, disable_userns=True)
        complaint = attempt([*closed.for_program(PROBE_SIZE, {}), "/bin/true"], layers.identity)
        problem = complaint and f"bwrap --disable-userns fails ({complaint}); use a later kernel"
        layers.bubblewrap = plain if complaint else closed
    layers.state("no further namespaces", problem)


def find_seccomp(layers: Layers) -> None:
    """Whether the kernel takes filters that can end a process, and we know this machine's system calls."""
    machine = os.uname().machine
    code = seccomp.assemble(machine)
    if code is None:
        layers.state("seccomp", f"there is no table of system calls for {machine}; use x86_64 or aarch64")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    action = ctypes.c_uint32(seccomp.KILL)
    available = libc.syscall(ctypes.c_long(SECCOMP_CALL[machine]), 2, 0, ctypes.byref(action)) == 0
    layers.state(
        "seccomp", "" if available else "the kernel has no seccomp filters; Linux 4.14 with CONFIG_SECCOMP_FILTER has"
    )
    layers.filter = code if available else b""
