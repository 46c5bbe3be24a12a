"""Machines that lack a layer of the sandbox: strict refuses and says why, best-effort goes on without it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_world import NOT_NESTED, fake_bwrap, open_directory, survivors

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.sandbox import Command, End, Execution, Limits, Sandbox, landlock, layers, open_sandbox
from ms_codegeex.evaluation.sandbox.told import crowd

MIB = 1 << 20
SHORT = Limits(wall=20, memory=256 * MIB, disk=32 * MIB, processes=60)


@pytest.fixture
def shown() -> Iterator[Path]:
    """A directory that nobody may walk to, for programs of ours."""
    with open_directory() as directory:
        yield directory


def run(sandbox: Sandbox, source: str, **limits: object) -> Execution:
    """Run a shell script."""
    return sandbox.run(
        [Command(["/bin/sh", "script"], Limits(**{**vars(SHORT), **limits}))], {"script": source.encode()}
    )[0]


def test_here_every_layer_is_active() -> None:
    states = open_sandbox().layers
    assert set(states) == {
        "unprivileged user", "namespaces", "tmpfs sizes", "no further namespaces", "seccomp", "Landlock",
    }  # fmt: skip
    assert set(states.values()) == {"active"}


def test_an_unknown_mode_is_told() -> None:
    with pytest.raises(UserError, match=r"'lax' is no mode; expected one of strict, best-effort"):
        open_sandbox("lax")


def refused(*named: str) -> None:
    """Strict refuses in one line that has all of these."""
    with pytest.raises(UserError) as error:
        open_sandbox()
    told = str(error.value)
    assert "\n" not in told and "--sandbox best-effort" in told
    for name in named:
        assert name in told


def test_without_bwrap(monkeypatch: pytest.MonkeyPatch, shown: Path) -> None:
    monkeypatch.setenv("PATH", str(shown))
    refused("namespaces: bwrap is not on PATH; apt-get install bubblewrap")
    sandbox = open_sandbox("best-effort")
    assert sandbox.layers["namespaces"].startswith("missing: bwrap is not on PATH")
    assert sandbox.layers["seccomp"] == "active"
    done = run(sandbox, "pwd; echo $HOME; id -u; env | wc -l; cat script | wc -l")
    assert done.succeeded, done
    lines = done.stdout.decode().split()
    assert lines[0].endswith("/program") and not Path(lines[0]).exists()
    assert lines[1] == lines[0].removesuffix("program") + "tmp"
    assert lines[2] == str(layers.NOBODY if os.geteuid() == 0 else os.getuid())


def test_a_kernel_without_namespaces(monkeypatch: pytest.MonkeyPatch, shown: Path) -> None:
    script = """case "$*" in *--help*) exec @real@ --help;; esac
echo "bwrap: No permissions to create new namespace, likely because the kernel does not allow it" >&2; exit 1
"""
    monkeypatch.setenv("PATH", fake_bwrap(shown, script))
    refused(
        "namespaces: bwrap fails (bwrap: No permissions to create new namespace", "allow unprivileged user namespaces"
    )
    assert run(open_sandbox("best-effort"), "echo hello").stdout == b"hello\n"


OLD = """case "$*" in
    --help) @real@ --help 2>&1 | grep -v -e --size -e --disable-userns;;
    *--size*|*--disable-userns*) echo "bwrap: Unknown option" >&2; exit 1;;
    *) exec @real@ @more@ "$@";;
esac
"""


def test_an_old_bwrap_is_enough_where_namespaces_can_be_nested(monkeypatch: pytest.MonkeyPatch, shown: Path) -> None:
    monkeypatch.setenv("PATH", fake_bwrap(shown, OLD.replace("@more@", "")))
    sandbox = open_sandbox()
    assert set(sandbox.layers.values()) == {"active"}
    full = run(sandbox, "head -c 9000000 /dev/urandom > f; stat -c %s f", disk=8 * MIB)
    assert 7 * MIB < int(full.stdout) <= 8 * MIB and b"No space left" in full.stderr


def test_an_old_bwrap(monkeypatch: pytest.MonkeyPatch, shown: Path) -> None:
    monkeypatch.setenv("PATH", fake_bwrap(shown, OLD.replace("@more@", "--disable-userns")))
    refused("tmpfs sizes: this bwrap has no --size", "no further namespaces: this bwrap has no --disable-userns")
    sandbox = open_sandbox("best-effort")
    assert sandbox.layers["namespaces"] == "active"
    assert run(sandbox, "ls -d /root /home /var 2>/dev/null; pwd").stdout == b"/program\n"
    filled = run(
        sandbox, "while :; do head -c 1000000 /dev/urandom >> f$((n=n+1)); done", disk=8 * MIB, memory=64 * MIB
    )
    assert filled.end is End.KILLED  # by the watch


def test_without_seccomp_and_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(layers.seccomp, "assemble", lambda machine: None)
    refused("seccomp: there is no table of system calls", "Landlock: the kernel does not offer it")
    sandbox = open_sandbox("best-effort")
    assert run(sandbox, "grep Seccomp: /proc/self/status").stdout.split() == [b"Seccomp:", b"0"]
    assert b"/root" not in run(sandbox, "echo /*").stdout
    written = run(sandbox, "for d in / /dev /usr /bin /etc /proc; do echo x > $d/new && echo $d; done; echo end")
    assert written.stdout == b"end\n"
    source = "for n in 1 2 3 9 15 19; do kill -$n 1; done; sleep 0.2; echo alive"
    assert run(sandbox, source).stdout == b"alive\n"


MOUNTING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for path in (b"/proc", b"/program", b"/dev/shm", b"/usr"):
    libc.umount2(path, 2)
    print(ctypes.get_errno())
libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
print(ctypes.get_errno())
"""


@pytest.mark.parametrize("nested", [True, False])
def test_without_seccomp_nobody_makes_namespaces(monkeypatch: pytest.MonkeyPatch, shown: Path, nested: bool) -> None:
    monkeypatch.setattr(layers.seccomp, "assemble", lambda machine: None)
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    if not nested:
        monkeypatch.setenv("PATH", fake_bwrap(shown, NOT_NESTED))
    sandbox = open_sandbox("best-effort")
    assert sandbox.layers["no further namespaces"] == "active"
    for kind in "user", "mount", "net", "pid":
        done = run(sandbox, f"unshare --{kind} true")
        told = b"No space left on device" if kind == "user" else b"Operation not permitted"
        assert done.code != 0 and told in done.stderr, done
    done = run(sandbox, "grep Cap /proc/self/status")
    assert {int(line.split()[1], 16) for line in done.stdout.splitlines()} == {0}
    command = Command(["/usr/bin/python3", "-c", MOUNTING], SHORT)
    assert sandbox.run([command], {})[0].stdout.split() == [str(errno.EPERM).encode()] * 5


@pytest.mark.parametrize("nested", [True, False])
def test_directories_are_shown_wherever_they_are(monkeypatch: pytest.MonkeyPatch, shown: Path, nested: bool) -> None:
    """Also below those that every program has of its own."""
    if not nested:
        monkeypatch.setenv("PATH", fake_bwrap(shown, NOT_NESTED))
    (shown / "tools").mkdir()
    (shown / "tools" / "file").write_text("a tool")
    readable = {"/tmp/a/tools": shown / "tools", "/program/file": shown / "tools" / "file", "/opt/x": shown}
    source = "cat /tmp/a/tools/file /program/file /opt/x/tools/file; echo x > /tmp/a/tools/file; echo x > /program/file"
    done = open_sandbox().run([Command(["/bin/sh", "-c", source], SHORT)], {"mine": b""}, readable)[0]
    assert done.stdout == 3 * b"a tool" and done.code != 0
    assert (shown / "tools" / "file").read_text() == "a tool"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, shown: Path) -> Sandbox:
    """A sandbox of a machine that has nothing."""
    monkeypatch.setenv("PATH", str(shown))
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    monkeypatch.setattr(layers.seccomp, "assemble", lambda machine: None)
    return open_sandbox("best-effort")


def test_with_nothing_at_all_the_limits_hold(bare: Sandbox) -> None:
    assert run(bare, "sleep 60", wall=0.3).end is End.TIMEOUT
    assert run(bare, "yes", output=1000).end is End.OUTPUT
    assert run(bare, "exit 3").code == 3
    hog = "exec /usr/bin/python3 -c 'x = []\nwhile True: x.append(bytearray(b\"x\" * 10000))'"
    assert run(bare, hog, memory=64 * MIB).end is End.MEMORY
    many = "import os, time\nfor n in range(200): os.fork() or time.sleep(9)"
    ended = bare.run([Command(["/usr/bin/python3", "-c", many], Limits(processes=30))], {})[0]
    assert ended.end is End.KILLED or b"BlockingIOError" in ended.stderr, ended


def test_with_nothing_at_all_nothing_survives(bare: Sandbox) -> None:
    marker = f"left{os.getpid()}"
    sleeper = f"/usr/bin/python3 -c 'import time; time.sleep(600)' {marker}"
    assert run(bare, f"setsid {sleeper} >/dev/null 2>&1 & (setsid {sleeper} &) ; sleep 0.2").succeeded
    assert survivors(marker) == []


def test_with_nothing_at_all_an_interruption_ends_everything(bare: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    marker = f"interrupted{os.getpid()}"
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(bare, f"/usr/bin/python3 -c 'import time; time.sleep(600)' {marker}; true", wall=60)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert survivors(marker) == []


def test_with_nothing_at_all_paths_of_the_inside_are_found(bare: Sandbox, shown: Path) -> None:
    (shown / "tool").write_text("a tool")
    command = Command(["/bin/cat", "/program/file", "/tools/tool"], SHORT)
    assert bare.run([command], {"file": b"mine"}, {"/tools": shown})[0].stdout == b"minea tool"
    done = bare.run([Command(["/usr/bin/env"], SHORT, {"TOOL": "/x:/tools/tool"})], {}, {"/tools": shown})[0]
    assert f"TOOL=/x:{shown}/tool" in done.stdout.decode().splitlines()


def test_the_crowd_is_counted_where_the_kernel_counts_it() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        before = crowd(os.getuid(), namespaces=False)
        assert before >= 2
        assert crowd(os.getuid(), namespaces=True, release="5.10.0-8-amd64") >= 2
        assert crowd(os.getuid(), namespaces=True, release="5.14.0") == 0
        assert crowd(os.getuid(), namespaces=True, release="6.1.0-rc1+") == 0
    finally:
        child.kill()
        child.wait()
