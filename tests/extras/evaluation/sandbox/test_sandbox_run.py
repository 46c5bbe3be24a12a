"""Ordinary programs in the sandbox: their files, streams, limits and ends."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_attacks_judges import FINDING, LEAVING, PRELUDE_ONLY
from sandbox_world import MIB, SHORT, python, survivors
from strict_sandbox import refusing_python

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.sandbox import Command, End, Execution, ResourceLimits, Sandbox, open_sandbox

pytestmark = pytest.mark.strict_sandbox


def shell(sandbox: Sandbox, *sources: str, limits: ResourceLimits = SHORT) -> list[Execution]:
    return sandbox.run([Command(["/bin/sh", "-c", source], limits) for source in sources], {"given/file": b"given"})


def test_commands_share_a_directory_and_the_first_failure_is_the_last(sandbox: Sandbox) -> None:
    done = shell(sandbox, "cat given/file > made; pwd", "cat made; echo no >&2; exit 3", "echo never")
    assert [(one.end, one.code, one.stdout, one.stderr) for one in done] == [
        (End.EXITED, 0, b"/program\n", b""),
        (End.EXITED, 3, b"given", b"no\n"),
    ]
    assert done[0].succeeded and not done[1].succeeded


def test_names_and_words_of_any_script(sandbox: Sandbox) -> None:
    command = Command(["/bin/cat", "größe/файл 1"], SHORT, {"NAME": "名"})
    assert sandbox.run([command], {"größe/файл 1": b"content"})[0].stdout == b"content"
    named = python(sandbox, "import os; print(ascii(os.environ['NAME']))", environment={"NAME": "名"})
    assert named.stdout == b"'\\u540d'\n"
    assert sandbox.run([Command(["/bin/echo", "a\0b"], SHORT)], {})[0].code == 127


def test_no_commands_are_no_executions(sandbox: Sandbox) -> None:
    assert sandbox.run([], {}) == []


def test_the_environment_is_the_commands(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "secret")
    done = sandbox.run([Command(["/usr/bin/env"], SHORT, {"GIVEN": "x"})], {})[0]
    names = {line.split("=")[0] for line in done.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "TMPDIR", "LANG", "GIVEN"}


@pytest.mark.parametrize("size", [0, 1, 60_000, 3_000_000])
def test_bytes_of_standard_input_and_of_files(sandbox: Sandbox, size: int) -> None:
    command = Command(["/bin/cat", "-", "file"], replace(SHORT, output=4 * MIB), stdin=os.urandom(size))
    assert sandbox.run([command], {"file": bytes(range(256))})[0].stdout == command.stdin + bytes(range(256))


def test_a_secret_that_was_read_cannot_be_read_again(sandbox: Sandbox) -> None:
    source = """
import os, sys
secret = os.read(0, 100)
for attempt in (lambda: os.lseek(0, 0, 0), lambda: os.pread(0, 100, 0)):
    try:
        print(attempt())
    except OSError:
        pass
print(os.read(os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NONBLOCK), 100), os.read(0, 100))
"""
    done = python(sandbox, source, stdin=b"the secret")
    assert done.stdout == b"b'' b''\n", done


ENDS = {
    "status": ("raise SystemExit(7)", {}, End.EXITED, 7),
    "exception": ("1 / 0", {}, End.EXITED, 1),
    "signal": ("import os; os.kill(os.getpid(), 11)", {}, End.SIGNALLED, -11),
    "kill": ("import os; os.kill(os.getpid(), 9)", {}, End.SIGNALLED, -9),
    "wall clock": ("import time; time.sleep(60)", {"wall": 0.3}, End.TIMEOUT, -9),
    "CPU seconds": ("while True: pass", {"cpu": 1, "wall": 60}, End.TIMEOUT, -24),
    "CPU seconds, deaf": (
        "import signal; signal.signal(24, signal.SIG_IGN)\nwhile True: pass",
        {"cpu": 1, "wall": 60},
        End.TIMEOUT,
        -9,
    ),
    "memory": (
        "import time\nx = []\nwhile True: x.append(bytearray(b'x' * 100000)), time.sleep(0.001)",
        {"memory": 64 * MIB},
        End.MEMORY,
        -9,
    ),
    "memory between two looks": (
        "import os\nfrom mmap import *\nmmap(-1, 80 << 20, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE)\nos._exit(3)",
        {"memory": 64 * MIB},
        End.MEMORY,
        None,
    ),
    "output": ("while True: print('x' * 1000)", {"output": 5000}, End.OUTPUT, -9),
    "errors": ("import os\nwhile True: os.write(2, b'x' * 1000)", {"output": 5000}, End.OUTPUT, -9),
    "file size": (
        "import signal; signal.signal(25, signal.SIG_DFL); open('f', 'wb').write(bytes(1 << 20))",
        {"file_size": 1000},
        End.KILLED,
        -25,
    ),
    "forbidden call": ("import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)", {}, End.KILLED, -31),
}


@pytest.mark.parametrize("name", ENDS)
def test_how_programs_end(sandbox: Sandbox, name: str) -> None:
    source, limits, end, code = ENDS[name]
    done = python(sandbox, source, limits=replace(SHORT, **limits))
    assert done.end == end and code in (done.code, None), done


def test_what_is_not_there_ends_with_status_127(sandbox: Sandbox) -> None:
    done = sandbox.run([Command(["no-such-program"], SHORT)], {})[0]
    assert (done.end, done.code) == (End.EXITED, 127)
    assert b"no-such-program" in done.stderr


def test_output_up_to_the_cap_is_none_too_many(sandbox: Sandbox) -> None:
    limits = replace(SHORT, output=100_000)
    exact = python(sandbox, "print('x' * 99_999)", limits=limits)
    assert (exact.end, len(exact.stdout)) == (End.EXITED, 100_000)
    over = python(sandbox, "print('x' * 100_000)", limits=limits)
    assert (over.end, len(over.stdout)) == (End.OUTPUT, 100_000)


def test_time_is_measured_for_each_command(sandbox: Sandbox) -> None:
    done = shell(sandbox, "sleep 0.3", "true")
    assert done[0].seconds >= 0.3
    assert 0 < done[1].seconds < done[0].seconds  # each from its own start


def test_a_readable_path_is_seen_and_not_written(sandbox: Sandbox, shown: Path) -> None:
    (shown / "file").write_text("read me")
    command = Command(["/bin/sh", "-c", "cat /given/file; echo x > /given/new; echo x > /given/file"], SHORT)
    assert sandbox.run([command], {}, {"/given": shown})[0].stdout == b"read me"
    assert {path.name: path.read_text() for path in shown.iterdir()} == {"file": "read me"}


def test_a_readable_path_may_be_where_only_its_owner_walks(sandbox: Sandbox, tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "tools").mkdir(parents=True)
    (private / "tools" / "file").write_text("a tool")
    (private / "tools").chmod(0o755)
    (private / "single").write_text("alone")
    (private / "secret").write_text("a secret")
    private.chmod(0o700)
    readable = {"/tools": private / "tools", "/tmp/single": private / "single"}
    command = Command(["/bin/sh", "-c", "cat /tools/file /tmp/single; cat /tools/../secret; ls /tools"], SHORT)
    assert sandbox.run([command], {}, readable)[0].stdout == b"a toolalonefile\n"


def test_a_readable_path_that_is_not_there_is_reported(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.*expected a path"):
        sandbox.run([Command(["/bin/true"])], {}, {"/x": tmp_path / "nowhere"})


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_files_stay_below_the_directory(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        sandbox.run([Command(["/bin/true"])], {name: b""})


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    def one(number: int) -> bytes:
        return python(sandbox, f"open('f', 'a').write('{number}'); print(open('f').read())").stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(24))) == [f"{number}\n".encode() for number in range(24)]


def test_nothing_is_left_open(sandbox: Sandbox) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for source in ("print()", "while True: print('x' * 4096)", "import time; time.sleep(9)"):
        python(sandbox, source, limits=replace(SHORT, wall=0.3))
    assert set(os.listdir("/proc/self/fd")) <= before  # those of other tests may be closed meanwhile


def test_signals_do_what_they_do_elsewhere() -> None:
    """Whatever signals our parent ignores or blocks, as nohup and & do."""
    numbers = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        sandbox = open_sandbox()
        ignored = shell(sandbox, "grep -E 'SigIgn|SigBlk' /proc/self/status")[0].stdout.split()
        assert [int(ignored[1], 16), int(ignored[3], 16)] == [0, 0]
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert shell(sandbox, "kill -PIPE $$")[0].code == -signal.SIGPIPE
    large = shell(sandbox, "head -c 3000000 /dev/urandom > f", limits=replace(SHORT, file_size=MIB))[0]
    assert (large.end, large.code) == (End.EXITED, 128 + signal.SIGXFSZ)  # the shell's word for it


def test_the_next_program_finds_nothing_of_the_last(sandbox: Sandbox) -> None:
    for source in (LEAVING, FINDING):
        done = python(sandbox, PRELUDE_ONLY + source)
        assert done.succeeded and b"ESCAPED" not in done.stdout, done


HOST = """
import sys
from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits, open_sandbox
words = ["python3", "-c", "import time; print(1); time.sleep(600)", sys.argv[2]]
open_sandbox(sys.argv[1]).run([Command(words, ResourceLimits(wall=600))], {})
"""


def appears(marker: str, wanted: bool) -> bool:
    """Wait until a process with the marker among its words, other than the runner, exists or is gone."""
    for _ in range(600):
        found = [pid for pid in survivors(marker) if b"-c\0import time" in command_line(pid)]
        if bool(found) == wanted:
            return True
        time.sleep(0.05)
    return False


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("mode", ["strict", "without namespaces"])
def test_programs_die_with_who_runs_them(mode: str, shown: Path) -> None:
    marker = f"orphan{os.getpid()}{mode.split()[0]}"
    environment = {**os.environ, "TMPDIR": str(shown)}
    interpreter = sys.executable if mode == "strict" else refusing_python(shown)
    words = [interpreter, "-c", HOST, "strict" if mode == "strict" else "best-effort", marker]
    runner = subprocess.Popen(words, cwd=ROOT, env=environment)
    assert appears(marker, True)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert appears(marker, False)


def test_nothing_is_dumped_and_all_processors_count(sandbox):
    """RLIMIT_CORE 1 keeps a dump from a file and from a program of core_pattern; the CPU seconds of a program with
    threads are not those of its wall clock."""
    program = "import resource as r; print(r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_CPU)[0])"
    done = python(sandbox, program, limits=ResourceLimits(wall=7))
    assert done.stdout.decode().strip() == f"(1, 1) {7 * os.cpu_count()}", done.stderr


def test_a_sandbox_killed_from_outside_is_a_killed_program(sandbox: Sandbox) -> None:
    marker = f"struck{os.getpid()}"
    with ThreadPoolExecutor(1) as pool:
        source = "import time; time.sleep(600)"
        running = pool.submit(python, sandbox, source, marker, limits=replace(SHORT, wall=60))
        assert appears(marker, True)
        supervisor = int(Path(f"/proc/{survivors(marker)[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        assert running.result(timeout=300).end == End.KILLED
