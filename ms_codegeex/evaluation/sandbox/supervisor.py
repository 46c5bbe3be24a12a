# ruff: noqa: SIM105 - importing contextlib costs as much as starting a small program
"""The first process of a sandbox: it runs the commands of one program and ends everything they leave behind.

It is started by `python3 -I -S` inside the namespaces, as PID 1 of its own, and never imported by this package. It
imports no more than the standard library's C modules and ctypes, because every program pays for its start. Its job
comes over a control socket and so do its reports; the programs inherit neither. It trusts nothing that a program
writes.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import sys
import time

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 4, 38, 22, 36
SIGKILL, SIGXCPU, SIGXFSZ, SIGSYS = 9, 24, 25, 31
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same number on every architecture
FIRST_LOOK, LONGEST_LOOK = 0.005, 0.025  # seconds between two looks at a program's memory and disk
WITHOUT_PIDFD = 0.002  # before Linux 5.3 nothing says at once that a program has ended
LIBC = ctypes.CDLL(None, use_errno=True)


class SockFilterProgram(ctypes.Structure):
    """The kernel's struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class LandlockRuleset(ctypes.Structure):
    """The kernel's struct landlock_ruleset_attr as of ABI 6."""

    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class LandlockPath(ctypes.Structure):
    """The kernel's struct landlock_path_beneath_attr."""

    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent", ctypes.c_int32))


def checked(value: int, what: str) -> int:
    """The result of a C call, or an OSError that says which call."""
    if value < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return value


def prctl(option: int, first: int = 0, second: object = 0) -> None:
    """One prctl of two arguments."""
    word = ctypes.c_ulong
    last = second if not isinstance(second, int) else word(second)
    checked(LIBC.prctl(option, word(first), last, word(0), word(0)), f"prctl {option}")


def landlock_ruleset(rules: dict) -> int:
    """A ruleset's descriptor: `rules` has the ABI's size and handled rights, and (path, rights) pairs."""
    attributes = LandlockRuleset(rules["fs"], rules["net"], rules["scoped"])
    size = ctypes.c_size_t(rules["size"])
    ruleset = checked(
        LIBC.syscall(ctypes.c_long(LANDLOCK_CREATE), ctypes.byref(attributes), size, ctypes.c_uint(0)), "landlock"
    )
    for path, access in rules["paths"]:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # what is not there needs no rule
        rights = access if os.path.isdir(path) else access & rules["of_files"]
        beneath = LandlockPath(rights, descriptor)
        arguments = (ctypes.c_int(ruleset), ctypes.c_int(1), ctypes.byref(beneath), ctypes.c_uint(0))
        checked(LIBC.syscall(ctypes.c_long(LANDLOCK_ADD), *arguments), f"landlock rule for {path}")
        os.close(descriptor)
    return ruleset


def set_limits(command: dict) -> None:
    """Resource limits of the calling process and of all that it starts."""
    for name, soft, hard in command["rlimits"]:
        kind = getattr(resource, name)
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))


def become(job: dict, command: dict, ruleset: int) -> None:
    """In the child: give up what a program must not have, then be the program."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY) if command["stdin"] < 0 else command["stdin"]
    for target, descriptor in enumerate((null, command["stdout"], command["stderr"])):
        os.dup2(descriptor, target, inheritable=True)
    os.chdir(job["directory"])
    os.umask(0o022)
    set_limits(command)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    if ruleset >= 0:
        checked(
            LIBC.syscall(ctypes.c_long(LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock restrict"
        )
    if job["seccomp"]:
        program = SockFilterProgram(len(job["seccomp"]) // 8, job["seccomp"])
        prctl(PR_SET_SECCOMP, 2, ctypes.byref(program))
    os.closerange(3, 4096)
    os.execvpe(command["words"][0], command["words"], command["environment"])


def start(job: dict, command: dict, ruleset: int) -> int:
    """Fork the program; a child that cannot become it says so on its standard error and exits with status 127."""
    child = os.fork()
    if child:
        return child
    try:
        become(job, command, ruleset)
    except BaseException as error:
        os.write(2, f"{command['words'][0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(127)


def others(alone: bool) -> list:
    """The processes of the program: all but this one in its own PID namespace, else its descendants."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if alone:
        return [number for number in numbers if number != 1]
    parents = {}
    for number in numbers:
        try:
            with open(f"/proc/{number}/stat", "rb") as file:
                parents[number] = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
    family, found = {os.getpid()}, True
    while found:
        found = {number for number, parent in parents.items() if parent in family} - family
        family |= found
    return sorted(family - {os.getpid()})


def kill_all(alone: bool) -> None:
    """End every process of the program, and wait until the last is gone."""
    while True:
        if alone:
            try:
                os.kill(-1, SIGKILL)  # as PID 1: everybody in the namespace but itself
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
    """The bytes of a line of /proc/PID/status that counts kB."""
    return int(line.split()[1]) << 10


def memory_of(number: int) -> tuple:
    """(anonymous, shared, page tables and swap) bytes of a process, and its threads; zeros for one that has gone."""
    anonymous = shared = rest = threads = 0
    try:
        with open(f"/proc/{number}/status", "rb") as file:
            for line in file:
                if line.startswith(b"RssAnon"):
                    anonymous = field(line)
                elif line.startswith(b"RssShmem"):
                    shared = field(line)
                elif line.startswith((b"VmPTE", b"VmSwap")):
                    rest += field(line)
                elif line.startswith(b"Threads"):
                    threads = int(line.split()[1])
    except OSError:
        pass
    return anonymous, shared, rest, threads


def proportional(number: int, otherwise: int) -> int:
    """The anonymous bytes of a process, pages shared with forks counted once; `otherwise` where that is hidden."""
    try:
        with open(f"/proc/{number}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss_Anon"):
                    return field(line)
    except OSError:
        pass
    return otherwise


def used(job: dict) -> tuple:
    """(bytes, files) in the program's directories; zeros where they are no file systems of their own."""
    size = files = 0
    for path in job["volumes"]:
        state = os.statvfs(path)
        size += (state.f_blocks - state.f_bfree) * state.f_frsize
        files += state.f_files - state.f_ffree
    return size, files


def sockets() -> int:
    """How many sockets this network namespace has: their buffers are memory that nobody's pages show."""
    try:
        with open("/proc/self/net/sockstat", "rb") as file:
            return int(file.readline().split()[2])
    except (OSError, ValueError, IndexError):
        return 0


def excess(job: dict, command: dict) -> str:
    """What the program has too much of, "" for nothing."""
    disk, files = used(job)
    if disk > command["disk"] or files > command["files"] or (job["alone"] and sockets() > command["sockets"]):
        return "killed"
    numbers = others(job["alone"])
    each = [memory_of(number) for number in numbers]
    if sum(one[3] for one in each) > command["processes"]:  # where the kernel does not count by namespace
        return "killed"
    visible = max(disk, sum(one[1] for one in each)) + sum(one[2] for one in each)
    if visible + sum(one[0] for one in each) <= command["memory"]:
        return ""
    exact = sum(proportional(number, each[index][0]) for index, number in enumerate(numbers))
    return "memory" if visible + exact > command["memory"] else ""


def reap(child: int) -> tuple:
    """Collect whoever has ended; (status, usage) of the child if it was among them, else ()."""
    result = ()
    try:
        while True:
            number, status, usage = os.wait4(-1, os.WNOHANG)
            if number == 0:
                return result
            if number == child:
                result = status, usage
    except ChildProcessError:
        return result


def verdict(status: int, cpu: float, limit: float) -> tuple:
    """(end, code) of a program that ended without our doing."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "exited", code
    if -code == SIGXCPU or (-code == SIGKILL and cpu >= limit):
        return "timeout", code
    if -code in (SIGSYS, SIGXFSZ):
        return "killed", code
    return "signalled", code


def watch(job: dict, command: dict, child: int, control: int) -> tuple:
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
        ready = poll.poll(max(0, min(pause, left)) * 1000)
        pause = min(2 * pause, longest)
        ended = reap(child)
        if ended:
            status, usage = ended
            return verdict(status, usage.ru_utime + usage.ru_stime, command["cpu"])
        if any(descriptor == control for descriptor, _ in ready):
            kill_all(job["alone"])  # nobody listens any more
            os._exit(0)
        if left <= 0:
            return "timeout", -SIGKILL
        reason = excess(job, command)
        if reason:
            return reason, -SIGKILL


def run(job: dict, control: int) -> None:
    """Run the commands until one does not succeed; a line for each on the control socket."""
    ruleset = landlock_ruleset(job["landlock"]) if job["landlock"] else -1
    for command in job["commands"]:
        began = time.monotonic()
        child = start(job, command, ruleset)
        os.close(command["stdout"])
        os.close(command["stderr"])
        end, code = watch(job, command, child, control)
        seconds = time.monotonic() - began
        kill_all(job["alone"])
        os.write(control, f"{end} {code} {seconds:.6f}\n".encode())
        if end != "exited" or code != 0:
            return


def main(control: int, stream: object) -> None:
    """Shut ourselves off from the programs, read the job from the control socket, lay its files out, run it."""
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            try:
                os.set_inheritable(descriptor, False)
            except OSError:
                pass  # the listing's own
    import _signal  # not `signal`: its enumerations cost more than the rest of the start

    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # PID 1 without handlers cannot be signalled from inside
    job = marshal.load(stream)
    if job["alone"] and os.getpid() != 1:
        raise RuntimeError("not the first process of a PID namespace")
    for name, content in job["contents"]:
        path = os.path.join(job["directory"], name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    os.write(control, b"ready\n")
    run(job, control)
    os._exit(0)  # what an interpreter does at its end takes time and serves nobody


if __name__ == "__main__":
    main(int(sys.argv[1]), STREAM)  # noqa: F821 - given by whoever starts us, see runner.BOOTSTRAP
