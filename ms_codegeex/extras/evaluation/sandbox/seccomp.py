"""The system call filter for programs: classic BPF, assembled here, run by the kernel at every call.

It lists forbidden calls, not allowed ones: six tool chains on several kernels use too many calls for a list of allowed
ones to stay correct, and the isolation rests on the namespaces, not on this filter. A call that no honest program makes
ends the program (SIGSYS); one that tool chains try and can do without fails with an error.
"""

from __future__ import annotations

import errno
import platform
import struct
from functools import partial

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has two words
AF_UNIX, TIOCSTI, TIOCLINUX = 1, 0x5412, 0x541C
MAP_SHARED_ANONYMOUS = 0x01 | 0x20
NAMESPACES = 0x7E020000  # CLONE_NEWUSER, PID, NET, IPC, UTS, CGROUP and NS; clone() knows no other
SUPERVISOR = 1  # its number in its PID namespace
X32 = 0x40000000  # x86_64's second set of numbers

# name: (x86_64, aarch64); None where an architecture has no such call. From the kernel's tables.
NUMBERS: dict[str, tuple[int | None, int]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "swapon": (167, 224),
    "swapoff": (168, 225), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "unshare": (272, 97), "setns": (308, 268),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142), "acct": (163, 89),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "syslog": (103, 116), "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
    "_sysctl": (156, None), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "io_setup": (206, 0), "memfd_create": (319, 279), "memfd_secret": (447, 447), "clone3": (435, 435),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "personality": (135, 92), "clone": (56, 220), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29),
    "mmap": (9, 222), "prlimit64": (302, 261), "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
}  # fmt: skip

# Tool chains and runtimes probe for these and have alternatives.
REFUSED = {
    "perf_event_open": errno.EPERM, "userfaultfd": errno.EPERM, "fanotify_init": errno.EPERM, "chroot": errno.EPERM,
    "io_uring_setup": errno.ENOSYS, "io_uring_enter": errno.ENOSYS, "io_uring_register": errno.ENOSYS,
    "io_setup": errno.ENOSYS, "clone3": errno.ENOSYS, "name_to_handle_at": errno.EPERM, "syslog": errno.EPERM,
    "adjtimex": errno.EPERM, "clock_adjtime": errno.EPERM, "kcmp": errno.EPERM, "process_madvise": errno.EPERM,
    # These allocate memory that shows in no process's pages and in no file system.
    "memfd_create": errno.ENOSYS, "memfd_secret": errno.ENOSYS, "shmget": errno.ENOSYS, "msgget": errno.ENOSYS,
    "semget": errno.ENOSYS, "mq_open": errno.ENOSYS,
}  # fmt: skip
OF_A_PROCESS = ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")


MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH value, column of `NUMBERS`


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def refuse(error: int) -> bytes:
    """Fail with this error."""
    return instruction(RETURN, ERRNO | error)


def when(number: int, body: list[bytes]) -> list[bytes]:
    """Run the body for this system call only. It must end in a return."""
    return [instruction(JUMP_EQUAL, number, 0, len(body)), *body]


def by_argument() -> dict[str, list[bytes]]:
    """The decisions on the calls whose arguments matter (their low words: the kernel reads these as int)."""
    first, second, fourth = (instruction(LOAD, ARGUMENTS + 8 * number) for number in (0, 1, 3))
    allow, killed, refused = instruction(RETURN, ALLOW), instruction(RETURN, KILL), refuse(errno.EPERM)
    equal, shared = partial(instruction, JUMP_EQUAL), MAP_SHARED_ANONYMOUS
    local = [first, equal(AF_UNIX, 0, 1), allow, refuse(errno.EAFNOSUPPORT)]
    # not for the supervisor's process, nor for a whole user or group, which includes it
    others = [first, equal(SUPERVISOR, 0, 1), refused, allow]
    single = [second, equal(SUPERVISOR, 1, 0), allow, refused]
    return {
        "socket": local,
        "socketpair": local,
        "clone": [first, instruction(JUMP_SET, NAMESPACES, 0, 1), killed, allow],
        "personality": [first, equal(0, 2, 0), equal(0xFFFFFFFF, 1, 0), refused, allow],  # 0xFFFFFFFF: a query
        "ioctl": [second, equal(TIOCSTI, 1, 0), equal(TIOCLINUX, 0, 1), refused, allow],
        **dict.fromkeys(OF_A_PROCESS, others),
        "setpriority": [first, equal(0, 0, 3), *single],
        "ioprio_set": [first, equal(1, 0, 3), *single],
        "mmap": [fourth, instruction(0x54, shared), equal(shared, 0, 1), refused, allow],  # 0x54: and
    }


def assemble(machine: str | None = None) -> bytes | None:
    """The filter's instructions, 8 bytes each; None for an architecture without a table."""
    audit, column = MACHINES.get(machine or platform.machine(), (0, -1))
    if column < 0:
        return None
    killed = instruction(RETURN, KILL)
    refused = {name: [refuse(error)] for name, error in REFUSED.items()}
    decisions = {name: [killed] for name in NUMBERS} | refused | by_argument()
    code = [instruction(LOAD, ARCHITECTURE), instruction(JUMP_EQUAL, audit, 1, 0), killed]
    code.append(instruction(LOAD, NUMBER))
    if column == 0:
        code += [instruction(JUMP_AT_LEAST, X32, 0, 1), killed]
    for name, decision in decisions.items():
        if (number := NUMBERS[name][column]) is not None:
            code += when(number, decision)
    return b"".join([*code, instruction(RETURN, ALLOW)])
