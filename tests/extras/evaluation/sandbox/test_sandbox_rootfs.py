"""The file system that programs see, and the processes that make it with the kernel's calls alone."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_world import SHORT, child_of, gone, python, servers

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.evaluation.sandbox import Command, Sandbox, open_sandbox, supervisors, workspace

pytestmark = pytest.mark.strict_sandbox


def test_nothing_of_path_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox = open_sandbox("strict")
    assert sandbox.missing == {}
    assert sandbox.run([Command(["/bin/echo", "hello"], SHORT)], {})[0].stdout == b"hello\n"


class Mount:
    def __init__(self, line: str) -> None:
        words = line.split()
        self.point, self.options, self.tags = words[4], set(words[5].split(",")), words[6 : words.index("-")]


def mounts(text: str) -> list[Mount]:
    return [Mount(line) for line in text.splitlines()]


def check(found: list[Mount], writable: set[str]) -> None:
    """Only those are writable, no mount allows set-user-ID or devices, and none is shared with the outside."""
    for mount in found:
        assert ("ro" in mount.options) == (mount.point not in writable), vars(mount)
        assert "nosuid" in mount.options and not mount.tags, vars(mount)
        assert "nodev" in mount.options or mount.point in workspace.DEVICE_NODES, vars(mount)
        assert "noexec" in mount.options or mount.point not in ("/", "/proc", *workspace.DEVICE_NODES), vars(mount)


def test_every_mount_is_known_and_cannot_be_written_to(fresh_sandbox: Sandbox) -> None:
    found = mounts(fresh_sandbox.run([Command(["/bin/cat", "/proc/self/mountinfo"], SHORT)], {})[0].stdout.decode())
    homes = {path for path, _ in workspace.homes(0)}
    points = [mount.point for mount in found]
    known = {"/", "/proc", *homes, *(path for path, _ in workspace.system_view({})["shown"]), *workspace.DEVICE_NODES}
    mine = {str(path) for path in Path("/usr").rglob("*") if path.is_mount()} if os.path.ismount("/usr") else set()
    assert set(points) - mine == known
    assert points.count("/proc") == 2  # the fork server's, covered by the program's own
    [covered, seen] = [mount for mount in found if mount.point == "/proc"]
    assert "ro" in seen.options
    check([mount for mount in found if mount is not covered], homes)


def test_the_root_has_what_is_named_and_nothing_else(fresh_sandbox: Sandbox, shown: Path) -> None:
    source = "import os; print(*sorted(os.listdir('/etc')), os.uname().nodename, os.path.ismount('/'), sep='\\n')"
    *etc, host, mounted = python(fresh_sandbox, source).stdout.decode().splitlines()
    assert set(etc) <= {"alternatives", "fonts", "ld.so.cache", "ssl"} | {n for n in etc if n.startswith("java")}
    assert (host, mounted) == ("sandbox", "True")
    stat = "import os; print([name for name in @ if os.path.lexists('/' + name)])"
    names = sorted({path.name for path in Path("/").iterdir()} | {".outside", "oldroot"})
    done = python(fresh_sandbox, stat.replace("@", repr(names)))
    expected = {"dev", "etc", "proc", "program", "tmp", "usr", *(path[1:] for path in workspace.SYSTEM)}
    assert set(eval(done.stdout)) <= expected, done


def test_who_makes_the_namespaces_keeps_no_rights(fresh_sandbox: Sandbox) -> None:
    """Neither the fork server nor who waits for it outside, and of the machine's files the server sees what programs
    do."""
    [waiting] = servers(fresh_sandbox)
    server = child_of(waiting)
    for process in (waiting, server):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1" and "0" not in status["Uid"].split(), status
        assert os.stat(f"/proc/{process}/environ").st_uid == 0  # not dumpable: nobody may trace it
    if os.geteuid() == 0:
        found = mounts(Path(f"/proc/{server}/mountinfo").read_text())
        check([mount for mount in found if mount.point != "/proc"], set())
        known = {"/", "/proc", *(path for path, _ in workspace.system_view({})["shown"]), *workspace.DEVICE_NODES}
        assert {mount.point for mount in found} == known
        assert os.readlink(f"/proc/{server}/cwd") == os.readlink(f"/proc/{server}/root") == "/"
        assert sorted(os.listdir(f"/proc/{waiting}/fd")) == ["0", "1", "2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave its groups")
def test_groups_are_given_up_with_root() -> None:
    before = os.getgroups()
    os.setgroups([*before, 12345])
    try:
        sandbox = open_sandbox()
        [waiting] = servers(sandbox)
        assert "\nGroups:\t \n" in Path(f"/proc/{child_of(waiting)}/status").read_text()
    finally:
        os.setgroups(before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_who_waits_for_it(fresh_sandbox: Sandbox, number: int) -> None:
    [waiting] = servers(fresh_sandbox)
    server = child_of(waiting)
    os.kill(waiting, number)
    assert gone(server)


def test_an_interpreter_that_programs_do_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor can `nobody` run it if it is in root's home; nothing of it is read once its files are invisible."""
    monkeypatch.setattr(supervisors, "SYSTEM", "/nonexistent/python3")
    sandbox = open_sandbox()
    prefix = os.path.realpath(sys.base_prefix)
    commands = [Command(["ls", "-d", prefix], SHORT)] if not prefix.startswith("/usr") else []
    done = sandbox.run([Command(["sh", "-c", "cat *"], SHORT), *commands], {"file": b"mine", "größe": b""})
    assert done[0].stdout == b"mine", done
    assert not commands or done[1].code == 2, done
    missing = sandbox.run([Command(["no-such-program"], SHORT)], {})[0]
    assert (missing.code, b"No such file" in missing.stderr) == (127, True)


MOUNTING = """
import subprocess, sys
from pathlib import Path
from ms_codegeex.extras.evaluation.sandbox import Command, layers, open_sandbox

def mount(path, options):
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(path)], check=True)
    (path / "file").write_text("as it was")

layers.landlock_abi, layers.seccomp.assemble = lambda: 0, lambda machine: None
top = Path(sys.argv[1])
mount(top / "open", "suid,dev,exec,mode=777")
mount(top / "covered", "suid")
mount(top / "covered" / "below", "suid")
mount(top / "covered", "nosuid,noexec,noatime")
mount(top / "two words", "nodev")
(top / "closed").mkdir()
(top / "link").symlink_to("/given/open")
sandbox = open_sandbox("best-effort")
assert sandbox.layers["namespaces"] == "active", sandbox.layers
mount(top / "late", "suid")
script = "cat /proc/self/mountinfo; for f in /given /given/*; do echo x > $f/file; done"
done = sandbox.run([Command(["/bin/sh", "-c", script])], {}, {"/given": top})[0]
mount(top / "closed", "suid")
again = sandbox.run([Command(["/bin/ls", "/given/closed"])], {}, {"/given": top})[0]
assert again.stdout == b"", again
print(done.stdout.decode())
print(done.stderr.decode(), file=sys.stderr)
assert {path.read_text() for path in top.glob("*/file")} == {"as it was"}
"""


def test_what_is_mounted_within_is_read_only_too(shown: Path) -> None:
    """Whatever it was, and without losing a flag that it had; later mounts do not appear."""
    for program in ("unshare", "mount"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here (util-linux)")
    words = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared"]
    words += [sys.executable, "-c", MOUNTING, str(shown)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = [mount for mount in mounts(done.stdout.strip()) if mount.point.startswith("/given")]
    assert {mount.point for mount in found} >= {"/given", "/given/open", "/given/covered", r"/given/two\040words"}
    seen = {mount.point: mount for mount in found}  # of two at a place the last covers the first
    assert "/given/covered/below" in seen
    check([mount for mount in seen.values() if mount.point != "/given/covered/below"], set())
    assert {"noexec", "noatime"} <= seen["/given/covered"].options
    assert done.stderr.count("Read-only file system") >= 4, done.stderr


@pytest.mark.parametrize("inside", ["/usr/new", "/bin/new", "/etc/ssl/openssl.cnf/new"])
def test_nothing_is_made_in_a_directory_of_this_machine(fresh_sandbox: Sandbox, shown: Path, inside: str) -> None:
    with pytest.raises(RunFailure, match="a sandbox"):
        fresh_sandbox.run([Command(["/bin/true"], SHORT)], {}, {inside: shown})
    assert not os.path.lexists(inside)


def test_a_place_within_what_is_readable_is_not_made_there(fresh_sandbox: Sandbox, shown: Path) -> None:
    shown.chmod(0o777)
    (shown / "tools").mkdir()
    with pytest.raises(RunFailure, match="Read-only file system"):
        fresh_sandbox.run([Command(["/bin/true"], SHORT)], {}, {"/given": shown, "/given/new": shown / "tools"})
    assert os.listdir(shown) == ["tools"]
    both = {"/given": shown, "/given/tools": shown / "tools"}
    assert fresh_sandbox.run([Command(["/bin/ls", "/given"], SHORT)], {}, both)[0].stdout == b"tools\n"


def test_a_place_may_be_reached_by_a_link(fresh_sandbox: Sandbox, shown: Path) -> None:
    """/bin is one to usr/bin where the two are merged."""
    (shown / "file").write_text("another env")
    (shown / "file").chmod(0o666)
    command = Command(["/bin/sh", "-c", "cat /bin/env; echo x > /bin/env"], SHORT)
    done = fresh_sandbox.run([command], {}, {"/bin/env": shown / "file"})[0]
    assert done.stdout == b"another env" and b"Read-only file system" in done.stderr, done


def test_devices_are_there_and_work(fresh_sandbox: Sandbox) -> None:
    script = "echo x > /dev/null && head -c 3 /dev/urandom | wc -c && chmod 600 /dev/null"
    done = fresh_sandbox.run([Command(["/bin/sh", "-c", script], SHORT)], {})[0]
    assert done.stdout.strip() == b"3" and b"Read-only file system" in done.stderr, done
