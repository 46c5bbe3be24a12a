# ruff: noqa: SIM105 - importing contextlib costs as much as starting a small program
"""The first process of a sandbox: it runs the commands of one program and ends everything they leave running.

It is PID 1 of its own namespaces, forked by server.py. If the kernel denies namespaces, `python3 -I -S` starts it for
one program, and every program pays for that start; so nothing here imports more than the standard library's C modules
and ctypes. Its job arrives over a control socket and its reports leave by it; programs do not inherit the socket. It
trusts nothing that a program writes.
"""

from __future__ import annotations

import _signal  # not `signal` or `socket`: their enumerations cost more than the rest of the start
import _socket
import marshal
import os
import select
import sys
import time

import kernel
from kernel import SIGKILL

SIGSTOP, SIGXCPU, SIGXFSZ, SIGSYS = 19, 24, 25, 31
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.025  # seconds between two checks of a program's memory and disk
WITHOUT_PIDFD = 0.002  # seconds between checks before Linux 5.3, which does not notify us of a program's end


def prepare(job: dict, command: dict, ruleset: int) -> None:
    """In the child: give up everything that a program must not have."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY) if command["stdin"] < 0 else command["stdin"]
    for target, descriptor in enumerate((null, command["stdout"], command["stderr"])):
        os.dup2(descriptor, target, inheritable=True)
    # Python, or the process that started us, may ignore some
    for number in _signal.valid_signals() - {SIGKILL, SIGSTOP}:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.chdir(job["directory"])
    os.umask(0o022)
    kernel.set_limits(command["rlimits"])
    kernel.restrict(ruleset, job["seccomp"])


def become(job: dict, command: dict, ruleset: int, trouble: int) -> None:
    """In the child: become the program. If preparing fails, the reason goes to `trouble`. If the program cannot be
    executed, that is its own fault: it says so on standard error and exits with status 127."""
    try:
        prepare(job, command, ruleset)
    except BaseException as error:
        os.write(trouble, described(error))
        return
    try:
        os.closerange(3, 4096)
        os.execvpe(command["words"][0], command["words"], command["environment"])
    except BaseException as error:
        os.write(2, f"{command['words'][0]}: {error}\n".encode(errors="replace"))


def start(job: dict, command: dict, ruleset: int) -> int:
    """Fork the program; `RuntimeError` if it could not be prepared."""
    trouble, report = os.pipe()
    child = os.fork()
    if not child:
        try:
            become(job, command, ruleset, report)
        finally:
            os._exit(127)
    os.close(report)
    problem = os.read(trouble, 4096)  # the pipe ends when the program starts
    os.close(trouble)
    if problem:
        raise RuntimeError(problem.decode(errors="replace"))
    return child


def content(path: str) -> bytes:
    """A file of /proc; nothing if its process is gone, or if it is hidden."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def others(alone: bool) -> list:
    """The processes of the program: in its own PID namespace all but this one, else our descendants."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if alone:
        return [number for number in numbers if number != 1]
    parents = {}
    for number in numbers:
        if words := content(f"/proc/{number}/stat").rpartition(b")")[2].split():
            parents[number] = int(words[1])
    family, children = {os.getpid()}, True
    while children:
        children = {number for number, parent in parents.items() if parent in family} - family
        family |= children
    return sorted(family - {os.getpid()})


def kill_all(alone: bool) -> None:
    """Kill every process of the program, and wait until the last one is gone."""
    while True:
        if alone:
            try:
                os.kill(-1, SIGKILL)  # as PID 1: every process in the namespace but itself
            except ProcessLookupError:
                pass
        else:
            for number in others(False):
                try:
                    os.kill(number, SIGKILL)
                except OSError:
                    pass
        try:
            while os.waitpid(-1, 0 if alone else os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def field(line: bytes) -> int:
    """The bytes in a line of /proc/PID/status that counts kB."""
    return int(line.split()[1]) << 10


def memory_of(number: int) -> tuple:
    """A process's (anonymous, shared, page table and swap) bytes and its threads; zeros if it is gone."""
    anonymous = shared = rest = threads = 0
    for line in content(f"/proc/{number}/status").split(b"\n"):
        if line.startswith(b"RssAnon"):
            anonymous = field(line)
        elif line.startswith(b"RssShmem"):
            shared = field(line)
        elif line.startswith((b"VmPTE", b"VmSwap")):
            rest += field(line)
        elif line.startswith(b"Threads"):
            threads = int(line.split()[1])
    return anonymous, shared, rest, threads


def proportional(number: int, otherwise: int) -> int:
    """A process's anonymous bytes, with pages shared between forks counted once; `otherwise` if that is hidden."""
    for line in content(f"/proc/{number}/smaps_rollup").split(b"\n"):
        if line.startswith(b"Pss_Anon"):
            return field(line)
    return otherwise


def used(job: dict) -> tuple:
    """(bytes, files) in the program's directories; zeros if they are not separate file systems."""
    size = files = 0
    for path in job["volumes"]:
        state = os.statvfs(path)
        size += (state.f_blocks - state.f_bfree) * state.f_frsize
        files += state.f_files - state.f_ffree
    return size, files


def sockets() -> int:
    words = content("/proc/self/net/sockstat").split(maxsplit=3)
    return int(words[2]) if len(words) > 2 and words[2].isdigit() else 0


def excess(job: dict, command: dict) -> str:
    """The verdict on a program that exceeds a limit, "" if it does not."""
    disk, files = used(job)
    if disk > command["disk"] or files > command["files"] or (job["alone"] and sockets() > command["sockets"]):
        return "killed"
    numbers = others(job["alone"])
    each = [memory_of(number) for number in numbers]
    if sum(one[3] for one in each) > command["processes"]:  # in case the kernel does not count by namespace
        return "killed"
    visible = max(disk, sum(one[1] for one in each)) + sum(one[2] for one in each)
    if visible + sum(one[0] for one in each) <= command["memory"]:
        return ""
    exact = sum(proportional(number, each[index][0]) for index, number in enumerate(numbers))
    return "memory" if visible + exact > command["memory"] else ""


def reap(child: int) -> tuple:
    """Collect all processes that have ended; (status, usage) of the child if it is among them, else ()."""
    result = ()
    try:
        while (ended := os.wait4(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                result = ended[1:]
    except ChildProcessError:
        pass
    return result


def verdict(status: int, cpu: float, limit: float) -> tuple:
    """(end, code) of a program that ended by itself."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "exited", code
    if -code == SIGXCPU or (-code == SIGKILL and cpu >= limit):
        return "timeout", code
    if -code in (SIGSYS, SIGXFSZ):
        return "killed", code
    return "signalled", code


def watch(job: dict, command: dict, child: int, control: _socket.socket) -> tuple:
    """Wait for the program within its limits: (end, code)."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    longest = LONGEST_LOOK
    try:
        poll.register(os.pidfd_open(child), select.POLLIN)
    except OSError:
        longest = WITHOUT_PIDFD
    deadline, pause = time.monotonic() + command["wall"], min(FIRST_LOOK, longest)
    while True:
        left = deadline - time.monotonic()
        events = poll.poll(max(0, min(pause, left)) * 1000)
        pause = min(2 * pause, longest)
        if ended := reap(child):
            status, usage = ended
            end, code = verdict(status, usage.ru_utime + usage.ru_stime, command["cpu"])
            # on a busy machine, a program can grow between two looks until its own requests for memory fail
            grew = usage.ru_maxrss << 10 > command["memory"]
            return ("memory", code) if grew and code and end in ("exited", "signalled") else (end, code)
        if any(descriptor == control.fileno() for descriptor, _ in events):
            kill_all(job["alone"])  # nobody is listening any more
            os._exit(0)
        if left <= 0:
            return "timeout", -SIGKILL
        if reason := excess(job, command):
            return reason, -SIGKILL


def run(job: dict, ruleset: int, control: _socket.socket) -> None:
    """Run the commands until one does not succeed; send a line about each over the control socket."""
    for command in job["commands"]:
        began = time.monotonic()
        child = start(job, command, ruleset)
        os.close(command["stdout"])
        os.close(command["stderr"])
        end, code = watch(job, command, child, control)
        seconds = time.monotonic() - began
        kill_all(job["alone"])
        control.sendall(f"{end} {code} {seconds:.6f}\n".encode())
        if end != "exited" or code != 0:
            return


def message(channel: _socket.socket) -> dict:
    """A message: its size in 8 bytes, then its content."""
    size = int.from_bytes(channel.recv(8, _socket.MSG_WAITALL), "little")
    return marshal.loads(channel.recv(size, _socket.MSG_WAITALL))


def received(control: _socket.socket, descriptors: list) -> dict:
    """The job, with positions in the list of descriptors replaced by the descriptors."""
    job = message(control)
    for command in job["commands"]:
        for name in ("stdin", "stdout", "stderr"):
            command[name] = descriptors[command[name]] if command[name] >= 0 else -1
    return job


def lay_out(job: dict) -> None:
    """Write the program's files."""
    for name, content in job["contents"]:
        path = os.path.join(job["directory"], name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(path, "wb") as file:
                file.write(content)
        except OSError as error:
            raise RuntimeError(f"{name} of {len(content)} bytes: {error.strerror}") from None


def ready(control: _socket.socket) -> None:
    """Report that we are ready, with a pidfd of ourselves by which we can be killed whatever happens here."""
    try:
        handle = os.pidfd_open(os.getpid())
        control.sendmsg([b"ready\n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, handle.to_bytes(4, sys.byteorder))])
        os.close(handle)
    except OSError:  # before Linux 5.3, or programs of this user have too many descriptors in transit
        control.sendall(b"ready\n")


def described(error: BaseException) -> bytes:
    """An error in one line."""
    text = str(error) if isinstance(error, (OSError, RuntimeError)) else f"{type(error).__name__}: {error}"
    return text.replace("\n", " ").encode(errors="replace")


def complain(control: int, error: BaseException) -> None:
    """Send the reason why there will be no reports. Nobody may be listening any more."""
    try:
        os.write(control, b"failed " + described(error) + b"\n")
    except OSError:
        pass


def main(descriptors: list, settle: object = None) -> None:
    """Read the job from the control socket, the first of the descriptors, set up our directories (`settle`, in new
    namespaces), protect ourselves from the programs, and run them."""
    try:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # signals from inside do not reach a PID 1 without handlers
        control = _socket.socket(fileno=descriptors[0])
        job = received(control, descriptors)
        if job["alone"] and os.getpid() != 1:
            raise RuntimeError("not the first process of a PID namespace")
        if settle:
            settle(job["homes"], job["covered"])
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        lay_out(job)
        ruleset = kernel.landlock_ruleset(job["landlock"]) if job["landlock"] else -1
        ready(control)
        run(job, ruleset, control)
    except BaseException as error:
        complain(descriptors[0], error)
    finally:
        os._exit(0)  # skip the interpreter's clean-up, which takes time and is useless here
