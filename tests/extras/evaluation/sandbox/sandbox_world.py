"""What an attack could change or learn outside the sandbox, and how the tests notice."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sandbox_attacks import Attack

from ms_codegeex.extras.evaluation.sandbox import Command, End, Execution, ResourceLimits, Sandbox
from ms_codegeex.extras.evaluation.sandbox.supervisors import ForkServers

MIB = 1 << 20
SHORT = ResourceLimits(wall=20, memory=256 * MIB, disk=32 * MIB, processes=40)


def python(
    sandbox: Sandbox,
    source: str,
    *words: str,
    limits: ResourceLimits = SHORT,
    readable: dict[str, Path] | None = None,
    **more: object,
) -> Execution:
    """Run one Python program with these words; `more` as in `Command`."""
    return sandbox.run([Command(["python3", "-c", source, *words], limits, **more)], {}, readable)[0]


class World:
    """Secrets, listeners and a process of this user, for one attack."""

    def __init__(self) -> None:
        self.secret = "canary" + secrets.token_hex(12)
        self.marker = "survivor" + secrets.token_hex(6)
        self.directory = Path(tempfile.mkdtemp(prefix="attacked-"))
        self.directory.chmod(0o755)  # anybody may look, so only the sandbox keeps a program from it
        self.touched: list[str] = []

    def __enter__(self) -> World:
        (self.directory / "secret").write_text(self.secret)
        self.drop = self.directory / "drop"
        self.drop.mkdir()
        self.drop.chmod(0o777)
        (self.drop / "file").write_text("as it was")
        (self.drop / "file").chmod(0o666)
        self.shared = Path("/dev/shm") / self.marker
        self.shared.write_text(self.secret)
        self.listeners = [socket.create_server(("127.0.0.1", 0))]
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.bind(("127.0.0.1", 0))
        for name in (f"\0{self.marker}", str(self.directory / "socket")):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(name)
            listener.listen()
            self.listeners.append(listener)
        os.chmod(self.directory / "socket", 0o777)
        self.victim = subprocess.Popen(["sleep", "600"])
        return self

    def words(self) -> dict[str, str]:
        return {
            "secret": str(self.directory / "secret"),
            "drop": str(self.drop),
            "tcp": str(self.listeners[0].getsockname()[1]),
            "udp": str(self.datagrams.getsockname()[1]),
            "unix": str(self.directory / "socket"),
            "victim": str(self.victim.pid),
            "runner": str(os.getpid()),
            "marker": self.marker,
            "home": os.path.expanduser("~"),
            "repository": str(Path(__file__).resolve().parents[4]),
        }

    def successes(self, attack: Attack, executions: list[Execution]) -> list[str]:
        """What the attack has achieved; nothing if the sandbox holds."""
        found = []
        for execution in executions:
            for text in (execution.stdout, execution.stderr):
                if b"ESCAPED" in text:
                    found.append("says so: " + text[text.index(b"ESCAPED") :][:200].decode(errors="replace"))
                if self.secret.encode() in text:
                    found.append("printed a secret")
        last = executions[-1].end
        if attack.ends and last.value not in attack.ends:
            found.append(f"ended as {last.value}, code {executions[-1].code}: {executions[-1].stderr[-300:]!r}")
        if last is End.EXITED and executions[-1].code == 127:
            found.append(f"did not run: {executions[-1].stderr[-300:]!r}")
        return found + self.changes()

    def changes(self) -> list[str]:
        found = []
        for listener in self.listeners:
            listener.setblocking(False)
            with suppress(BlockingIOError):
                listener.accept()[0].close()
                found.append(f"connected to {listener.getsockname()!r}")
        self.datagrams.setblocking(False)
        with suppress(BlockingIOError):
            found.append(f"sent {self.datagrams.recv(100)!r}")
        files = {path.name: path.read_text() for path in self.drop.iterdir()}
        if files != {"file": "as it was"}:
            found.append(f"wrote outside: {files}")
        if self.victim.poll() is not None or state(self.victim.pid) == "T":
            found.append("signalled a process outside")
        if survivors(self.marker):
            found.append("left processes behind")
        return found

    def __exit__(self, *_: object) -> None:
        for pid in survivors(self.marker):
            os.kill(pid, signal.SIGKILL)
        self.victim.kill()
        self.victim.wait()
        for listener in (*self.listeners, self.datagrams):
            listener.close()
        self.shared.unlink()
        shutil.rmtree(self.directory)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach and read, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="open-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def servers(sandbox: Sandbox) -> list[int]:
    """The process ids of those that wait outside for its fork servers."""
    supervisors = sandbox._supervisors
    assert isinstance(supervisors, ForkServers)
    return [server.pid for server in supervisors._servers.values()]


def gone(pid: int) -> bool:
    for _ in range(200):
        try:
            if state(pid) in "ZX":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def survivors(marker: str) -> list[int]:
    """Processes of this machine that carry the marker in their command line."""
    found = []
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and marker.encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
        except OSError:
            continue
    return found
