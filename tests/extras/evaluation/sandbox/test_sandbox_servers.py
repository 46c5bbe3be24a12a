"""The fork servers: the isolation between their programs, and what happens when they die."""

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_world import MIB, SHORT, child_of, gone, python, servers, survivors
from strict_sandbox import refusing_python

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.evaluation.sandbox import (
    Command,
    End,
    ResourceLimits,
    Sandbox,
    collector,
    open_sandbox,
    runner,
    supervisors,
)
from ms_codegeex.extras.evaluation.sandbox.supervisors import Interpreters

pytestmark = pytest.mark.strict_sandbox


def childless(pid: int) -> bool:
    """Whether all its processes are gone, or will be soon: the kernel ends a namespace's processes gradually."""
    for _ in range(100):
        if Path(f"/proc/{pid}/task/{pid}/children").read_text() == "":
            return True
        time.sleep(0.01)
    return False


MEETING = """
import os, socket, sys, time
me, other = sys.argv[1:3]
for path in (f"/tmp/{me}", f"/dev/shm/{me}", f"/program/{me}"):
    open(path, "w").close()
listener = socket.socket(socket.AF_UNIX); listener.bind("\\0" + me); listener.listen()
time.sleep(0.5)
try:
    socket.socket(socket.AF_UNIX).connect("\\0" + other); print("met")
except OSError:
    pass
found = [name for path in ("/tmp", "/dev/shm", "/program") for name in os.listdir(path) if name != me]
numbers = [name for name in os.listdir("/proc") if name.isdigit()]
print(sorted(numbers, key=int) == ["1", str(os.getpid())], found)
names = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")
print(*(os.readlink(f"/proc/self/ns/{name}") for name in names))
"""


def test_programs_of_one_server_do_not_meet(fresh_sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda pair: python(fresh_sandbox, MEETING, *pair), [("a", "b"), ("b", "a")]))
    assert len(servers(fresh_sandbox)) == 1
    lines = [one.stdout.decode().splitlines() for one in done]
    assert [each[0] for each in lines] == ["True []"] * 2, done
    mine, theirs = (set(each[1].split()) for each in lines)
    ours = {os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup")}
    server = child_of(servers(fresh_sandbox)[0])
    between = {os.readlink(f"/proc/{server}/ns/{name}") for name in ("mnt", "pid", "net", "ipc", "uts", "user")}
    assert len(mine) == 7 and not mine & theirs and not mine & ours and not mine & between


def test_a_server_for_each_set_of_directories(fresh_sandbox: Sandbox, shown: Path) -> None:
    (shown / "file").write_text("a tool")
    reading = "import os; print(open('/tools/file').read() if os.path.exists('/tools') else 'none')"
    for readable, reported in (({}, b"none\n"), ({"/tools": shown}, b"a tool\n"), ({}, b"none\n")):
        assert python(fresh_sandbox, reading, readable=readable).stdout == reported
    assert len(servers(fresh_sandbox)) == 2


@pytest.mark.parametrize("who", ["who waits for it", "the server"])
def test_programs_of_a_server_that_has_been_killed_run_again(fresh_sandbox: Sandbox, who: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        source, marker = "import time; print(1, flush=True); time.sleep(0.8); print(2)", f"restarted{os.getpid()}"
        running = pool.submit(python, fresh_sandbox, source, marker)
        while not survivors(marker):
            time.sleep(0.01)
        [before] = servers(fresh_sandbox)
        os.kill(before if who == "who waits for it" else child_of(before), signal.SIGKILL)
        done = running.result(timeout=300)
    assert (done.end, done.code, done.stdout) == (End.EXITED, 0, b"1\n2\n")
    [after] = servers(fresh_sandbox)
    assert after != before and gone(before)


def test_no_program_is_scored_by_the_death_of_a_server(fresh_sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(python, fresh_sandbox, f"print({number})") for number in range(80)]
        completed = as_completed(running)
        for _ in range(4):  # by then, those that had lost a server are done
            for _ in range(16):
                next(completed)
            for server in servers(fresh_sandbox):
                os.kill(server, signal.SIGKILL)
        done = [one.result(timeout=60) for one in running]
    assert [one.stdout for one in done] == [f"{number}\n".encode() for number in range(80)]


def test_a_server_that_does_not_answer_is_no_verdict(fresh_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "GRACE", 0.2)
    server = child_of(servers(fresh_sandbox)[0])
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(RunFailure, match="a sandbox did not start: nobody answered"):
            fresh_sandbox.run([Command(["/bin/true"], ResourceLimits(wall=0.2))], {})
    finally:
        os.kill(server, signal.SIGCONT)


def test_what_keeps_us_from_starting_a_program_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, fresh_sandbox: Sandbox
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runner, "limits_of", lambda *_: {"rlimits": [("RLIMIT_NONE", 1, 1)], "wall": 9})
        with pytest.raises(RunFailure, match=r"a sandbox failed: AttributeError.*RLIMIT_NONE"):
            python(fresh_sandbox, "print(1)")
    with pytest.raises(RunFailure, match="large of 8388608 bytes: No space left on device"):
        fresh_sandbox.run([Command(["/bin/true"], ResourceLimits(disk=MIB))], {"large": bytes(8 * MIB)})
    assert python(fresh_sandbox, "print(1)").stdout == b"1\n"


def test_a_program_has_only_so_many_descriptors(fresh_sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"expected 250 at most"):
        fresh_sandbox.run([Command(["/bin/true"], SHORT)] * 130, {})
    done = fresh_sandbox.run([Command(["/bin/true"], SHORT)] * 120, {})
    assert len(done) == 120 and all(one.succeeded for one in done)


def test_a_directory_made_anew_is_seen_anew(fresh_sandbox: Sandbox, shown: Path) -> None:
    reading = "import os; print(*(open('/tools/' + name).read() for name in os.listdir('/tools')))"
    for text in ("old", "new"):
        directory = shown / "tools"
        directory.mkdir()
        (directory / text).write_text(text)
        assert python(fresh_sandbox, reading, readable={"/tools": directory}).stdout == f"{text}\n".encode()
        directory.rename(shown / text)


PARKED = """
import ctypes, os, socket, time
null, kept = os.open("/dev/null", os.O_RDONLY), []
for _ in range(3):
    kept.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        socket.send_fds(kept[-1][0], [b"x"], [null] * 253)
    except OSError as error:
        print(error.errno)
print("parked", flush=True)
ctypes.CDLL(None).prctl(15, b"parked", 0, 0, 0)  # its name, by which it is found
time.sleep(60)
"""
PARKING = """
import os, resource, signal, sys, threading, time
from pathlib import Path
from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits, open_sandbox
resource.setrlimit(resource.RLIMIT_NOFILE, (400, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sandbox = open_sandbox()
def park():
    print(sandbox.run([Command(["python3", "-c", sys.argv[1]], ResourceLimits(wall=20, open_files=400))], {}))
thread = threading.Thread(target=park)
def name(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
thread.start()
while not (parked := [pid for pid in os.listdir("/proc") if pid.isdigit() and name(pid) == "parked"]):
    time.sleep(0.05)
print([sandbox.run([Command(["/bin/true"])], {})[0].succeeded for _ in range(3)], flush=True)
os.kill(int(parked[0]), signal.SIGTERM)
thread.join()
"""


def test_descriptors_that_a_program_has_on_their_way_keep_no_other_from_starting() -> None:
    """The kernel counts them per user, and all programs share one."""
    words = [sys.executable, "-c", PARKING, PARKED]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[:1] == ["[True, True, True]"], done
    assert r"b'109\nparked\n'" in done.stdout


def test_an_interrupt_of_the_terminal_is_ours_only(fresh_sandbox: Sandbox) -> None:
    [server] = servers(fresh_sandbox)
    assert os.getpgid(server) != os.getpgid(0) and os.getsid(server) != os.getsid(0)


def test_servers_end_with_their_sandbox() -> None:
    sandbox = open_sandbox()
    [server] = servers(sandbox)
    inner = child_of(server)
    del sandbox
    gc.collect()
    assert gone(server) and gone(inner)


HOST = """
import os, signal, sys
from ms_codegeex.extras.evaluation.sandbox import Command, open_sandbox
sandbox = open_sandbox()
sandbox.run([Command(["/bin/true"])], {})
print(*(server.pid for server in sandbox._supervisors._servers.values()), flush=True)
if sys.argv[1] == "killed": os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["killed", "over"])
def test_servers_end_with_who_runs_them(end: str) -> None:
    words = [sys.executable, "-W", "error::ResourceWarning", "-c", HOST, end]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and gone(int(done.stdout))


@pytest.mark.parametrize("stopped", [False, True])
def test_an_interruption_ends_the_program(fresh_sandbox: Sandbox, stopped: bool) -> None:
    """Also if the supervisor is not notified."""
    server = child_of(servers(fresh_sandbox)[0])

    def interrupt(*_: object) -> None:
        if stopped:
            os.kill(child_of(server), signal.SIGSTOP)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            python(fresh_sandbox, "import time; time.sleep(60)")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert childless(server)
    assert python(fresh_sandbox, "print(1)").stdout == b"1\n"


def test_without_namespaces_each_program_has_a_supervisor_of_its_own(
    monkeypatch: pytest.MonkeyPatch, shown: Path
) -> None:
    monkeypatch.setattr(supervisors, "SYSTEM", refusing_python(shown))
    sandbox = open_sandbox("best-effort")
    assert isinstance(sandbox._supervisors, Interpreters)
    parents = [python(sandbox, "import os; print(os.getppid())").stdout for _ in range(2)]
    assert parents[0] != parents[1] and b"1\n" not in parents


def test_many_programs_leave_nothing_behind(fresh_sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda number: python(fresh_sandbox, f"print({number})"), range(40)))
    assert [int(one.stdout) for one in done] == list(range(40))
    server = child_of(servers(fresh_sandbox)[0])
    assert childless(server)
    assert len(os.listdir(f"/proc/{server}/fd")) == 4  # its standard streams and its socket
