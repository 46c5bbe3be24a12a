"""Machines that lack a layer of the sandbox: strict mode refuses and says why, best-effort continues without it."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_world import MIB, SHORT, python, survivors
from strict_sandbox import refusing_python

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.sandbox import (
    Command,
    End,
    Execution,
    ResourceLimits,
    Sandbox,
    layers,
    open_sandbox,
    supervisors,
)
from ms_codegeex.extras.evaluation.sandbox.limits import foreign_threads


def run(sandbox: Sandbox, source: str, **limits: object) -> Execution:
    command = Command(["/bin/sh", "script"], replace(SHORT, processes=60, **limits))
    return sandbox.run([command], {"script": source.encode()})[0]


def test_every_layer_is_active_where_the_kernel_has_it() -> None:
    """Compared with another tool: otherwise a broken sandbox would look like a kernel that refuses."""
    identity = {"user": layers.NOBODY, "group": layers.NOBODY, "extra_groups": ()} if os.geteuid() == 0 else {}
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here (util-linux), the other tool")
    kinds = ("--user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc")
    refusal = layers.attempt(["unshare", *kinds, "true"], identity)
    if refusal or layers.landlock_abi() == 0:
        pytest.skip(f"the kernel refuses: {refusal or 'Landlock'}")
    states = open_sandbox().layers
    assert set(states) == {"unprivileged user", "namespaces", "seccomp", "Landlock"}
    assert set(states.values()) == {"active"}


def test_an_unknown_mode_is_reported() -> None:
    with pytest.raises(UserError, match=r"'lax' is not a mode; expected one of strict, best-effort"):
        open_sandbox("lax")


def refused(*named: str) -> None:
    """Strict mode refuses in one line that contains all of these."""
    with pytest.raises(UserError) as error:
        open_sandbox()
    reported = str(error.value)
    assert "\n" not in reported and "--sandbox best-effort" in reported
    for name in named:
        assert name in reported


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, shown: Path) -> None:
    monkeypatch.setattr(supervisors, "SYSTEM", refusing_python(shown))


@pytest.mark.usefixtures("refusing")
def test_a_kernel_without_namespaces() -> None:
    refused("namespaces: a sandbox did not start", "new namespaces", "Operation not permitted", layers.advice())
    sandbox = open_sandbox("best-effort")
    assert sandbox.layers["namespaces"].startswith("missing: a sandbox did not start")
    assert sandbox.layers["seccomp"] == "active"
    done = run(sandbox, "pwd; echo $HOME; id -u; env | wc -l; cat script | wc -l")
    assert done.succeeded, done
    lines = done.stdout.decode().split()
    assert lines[0].endswith("/program") and not Path(lines[0]).exists()
    assert lines[1] == lines[0].removesuffix("program") + "tmp"
    assert lines[2] == str(layers.find_layers().user)


def asking(python: str) -> subprocess.CompletedProcess[str]:
    """The documentation's command."""
    words = [python, "-m", "ms_codegeex.extras.evaluation.sandbox"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.strict_sandbox
def test_asking_where_nothing_is_missing() -> None:
    done = asking(sys.executable)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_asking_where_namespaces_are_refused(shown: Path) -> None:
    done = asking(refusing_python(shown))
    assert done.returncode == 1 and "namespaces: " in done.stdout and done.stdout.count("\n") == 1, done


def test_tests_that_need_namespaces_are_skipped_and_counted(shown: Path) -> None:
    """The last lines of the whole suite, here of one file."""
    names = ("test_sandbox_rootfs.py", "test_sandbox_seccomp.py")
    words = ["-m", "pytest", "-p", "no:cacheprovider", *(str(Path(__file__).with_name(name)) for name in names)]
    words = [refusing_python(shown, sys.executable), *words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    reported, last = done.stdout.splitlines()[-2:]
    count = re.search(r" (\d+) skipped", last)[1]
    assert int(count) > 10 and " passed" in last
    expected = rf"{count} tests were skipped, .*namespaces: .* {re.escape(layers.advice())}"
    assert re.fullmatch(expected, reported), reported


@pytest.mark.parametrize("name", layers.SWITCHES)
def test_what_enables_namespaces_is_one_command(tmp_path: Path, name: str) -> None:
    setting = tmp_path / "sys" / name
    setting.parent.mkdir(parents=True)
    refusing, allowing = layers.SWITCHES[name]
    setting.write_text(f"{allowing}\n")
    assert "systempaths=unconfined" in layers.advice(tmp_path)
    setting.write_text(f"{refusing}\n")
    assert layers.advice(tmp_path) == f"as root: sysctl -w {name.replace('/', '.')}={allowing}"


@pytest.mark.strict_sandbox
def test_a_kernel_that_allows_no_more_namespaces() -> None:
    """As root of a user namespace that cannot contain others; it cannot become nobody there either."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here (util-linux)")
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    words = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", OPENING]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    assert "unprivileged user: root cannot become nobody" in done.stdout
    assert "No space left on device; as root: sysctl -w user.max_user_namespaces=15000" in done.stdout


OPENING = """
import sys
from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.sandbox import open_sandbox
try:
    open_sandbox()
except UserError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.strict_sandbox
def test_without_seccomp_and_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "landlock_abi", lambda: 0)
    monkeypatch.setattr(layers.seccomp, "assemble", lambda machine: None)
    refused("seccomp: there is no table of system calls", "Landlock: the kernel does not offer it")
    sandbox = open_sandbox("best-effort")
    assert run(sandbox, "grep Seccomp: /proc/self/status").stdout.split() == [b"Seccomp:", b"0"]
    assert b"/root" not in run(sandbox, "echo /*").stdout
    written = run(sandbox, "for d in / /dev /usr /bin /etc /proc; do echo x > $d/new && echo $d; done; echo end")
    assert written.stdout == b"end\n"
    assert run(sandbox, "for n in 1 2 3 9 15 19; do kill -$n 1; done; sleep 0.2; echo alive").stdout == b"alive\n"


MOUNTING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for path in (b"/proc", b"/program", b"/dev/shm", b"/usr"):
    libc.umount2(path, 2)
    print(ctypes.get_errno())
libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)
print(ctypes.get_errno())
"""


@pytest.fixture
def unfiltered(monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A sandbox with namespaces alone, which must hold without the other layers."""
    monkeypatch.setattr(layers.seccomp, "assemble", lambda machine: None)
    monkeypatch.setattr(layers, "landlock_abi", lambda: 0)
    sandbox = open_sandbox("best-effort")
    assert sandbox.layers["namespaces"] == "active"
    return sandbox


@pytest.mark.strict_sandbox
def test_without_seccomp_nobody_makes_namespaces(unfiltered: Sandbox) -> None:
    sandbox = unfiltered
    for kind in "user", "mount", "net", "pid":
        done = run(sandbox, f"unshare --{kind} true")
        reported = b"No space left on device" if kind == "user" else b"Operation not permitted"
        assert done.code != 0 and reported in done.stderr, done
    done = run(sandbox, "grep Cap /proc/self/status")
    assert {int(line.split()[1], 16) for line in done.stdout.splitlines()} == {0}
    assert python(sandbox, MOUNTING).stdout.split() == [str(errno.EPERM).encode()] * 5


@pytest.mark.strict_sandbox
def test_directories_are_shown_wherever_they_are(shown: Path) -> None:
    """Also within the directories that every program has of its own."""
    (shown / "tools").mkdir()
    (shown / "tools" / "file").write_text("a tool")
    readable = {"/tmp/a/tools": shown / "tools", "/program/file": shown / "tools" / "file", "/opt/x": shown}
    source = "cat /tmp/a/tools/file /program/file /opt/x/tools/file; echo x > /tmp/a/tools/file; echo x > /program/file"
    done = open_sandbox().run([Command(["/bin/sh", "-c", source], SHORT)], {"mine": b""}, readable)[0]
    assert done.stdout == 3 * b"a tool" and done.code != 0
    assert (shown / "tools" / "file").read_text() == "a tool"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, refusing: None) -> Sandbox:
    """The sandbox of a machine without any layer."""
    monkeypatch.setattr(layers, "landlock_abi", lambda: 0)
    monkeypatch.setattr(layers.seccomp, "assemble", lambda machine: None)
    return open_sandbox("best-effort")


def test_with_nothing_at_all_the_limits_hold(bare: Sandbox) -> None:
    assert run(bare, "sleep 60", wall=0.3).end is End.TIMEOUT
    assert run(bare, "yes", output=1000).end is End.OUTPUT
    assert run(bare, "exit 3").code == 3
    hog = "exec python3 -c 'x = []\nwhile True: x.append(bytearray(b\"x\" * 10000))'"
    assert run(bare, hog, memory=64 * MIB).end is End.MEMORY
    many = "import os, time\nfor n in range(200): os.fork() or time.sleep(9)\ntime.sleep(9)"
    ended = python(bare, many, limits=ResourceLimits(processes=30))
    assert ended.end is End.KILLED or b"BlockingIOError" in ended.stderr, ended


def test_with_nothing_at_all_nothing_survives(bare: Sandbox) -> None:
    marker = f"left{os.getpid()}"
    sleeper = f"python3 -c 'import os, time; os.fork() or (os.setsid(), time.sleep(600))' {marker}"
    assert run(bare, f"{sleeper} >/dev/null 2>&1 & ({sleeper} &) ; sleep 0.2").succeeded
    assert survivors(marker) == []


def test_with_nothing_at_all_an_interruption_ends_everything(bare: Sandbox) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    marker = f"interrupted{os.getpid()}"
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(bare, f"python3 -c 'import time; time.sleep(600)' {marker}; true", wall=60)
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
        assert foreign_threads(os.getuid(), namespaces=False) >= 2
        assert foreign_threads(os.getuid(), namespaces=True, release="5.10.0-8-amd64") >= 2
        assert foreign_threads(os.getuid(), namespaces=True, release="5.14.0") == 0
        assert foreign_threads(os.getuid(), namespaces=True, release="6.1.0-rc1+") == 0
    finally:
        child.kill()
        child.wait()
