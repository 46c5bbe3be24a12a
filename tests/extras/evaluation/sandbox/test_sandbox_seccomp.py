"""The system call filter: its numbers against the kernel's headers, its decisions against an interpreter of BPF."""

import errno
import re
import struct
from pathlib import Path

import pytest

from ms_codegeex.extras.evaluation.sandbox.seccomp import MACHINES, NUMBERS, REFUSED, assemble

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h",),
    "aarch64": ("/usr/include/asm-generic/unistd.h",),
}
ALLOW, KILL = "allow", "kill"


def decide(code: bytes, audit: int, number: int, arguments: tuple[int, ...] = ()) -> str | int:
    """Interpret the filter as the kernel's documentation says: "allow", "kill" or an errno."""
    words = (*arguments, *(0 for _ in range(6 - len(arguments))))
    data = struct.pack("=IIQ6Q", number, audit, 0, *(word % (1 << 64) for word in words))
    accumulator, position = 0, 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif operation == 0x54:
            accumulator &= value
        elif operation == 0x06:
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(value & 0xFFFF0000, value & 0xFFFF)
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            position += if_true if test else if_false


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_the_kernels(machine: str) -> None:
    paths = [Path(path) for path in HEADERS[machine] if Path(path).exists()]
    if not paths:
        pytest.skip("the kernel's headers are not installed (linux-libc-dev)")
    text = "".join(path.read_text() for path in paths)
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    compared = 0
    for name in NUMBERS:
        number = NUMBERS[name][MACHINES[machine][1]]
        if name in known:
            assert number == known[name], name
            compared += 1
    assert compared > 60


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_is_refused_and_others_are_not(machine: str) -> None:
    (audit, column), code = MACHINES[machine], assemble(machine)
    assert code is not None
    listed = {numbers[column]: name for name, numbers in NUMBERS.items()}
    for number in range(480):
        name = listed.get(number)
        found = decide(code, audit, number, (2, 1, 0, 0x21))
        if name is None:
            assert found == ALLOW, number
        elif name in REFUSED:
            assert found == REFUSED[name], name


def test_arguments_decide() -> None:
    (audit, column), code = MACHINES["x86_64"], assemble("x86_64")
    assert code is not None

    def of(name: str, *arguments: int) -> str | int:
        number = NUMBERS[name][column]
        assert number is not None
        return decide(code, audit, number, arguments)

    assert of("socket", 1, 1) == ALLOW
    assert {of("socket", family, 1) for family in (0, 2, 10, 16, 17, 38, 40)} == {errno.EAFNOSUPPORT}
    assert of("clone", 0x11) == ALLOW
    assert of("clone", 0x3D0F00) == ALLOW  # a thread of glibc's
    assert {of("clone", 1 << bit | 0x11) for bit in (17, 25, 26, 27, 28, 29, 30)} == {KILL}
    assert of("personality", 0) == of("personality", 0xFFFFFFFF) == ALLOW
    assert of("personality", 0x40000) == errno.EPERM
    assert of("ioctl", 0, 0x5412) == of("ioctl", 0, 0x541C) == errno.EPERM
    assert of("ioctl", 0, (7 << 32) | 0x5412) == errno.EPERM  # the kernel reads 32 bits
    assert of("ioctl", 0, 0x5401) == ALLOW
    assert of("mmap", 0, 4096, 3, 0x22) == of("mmap", 0, 4096, 3, 0x01) == ALLOW
    assert of("mmap", 0, 4096, 3, 0x21) == errno.EPERM
    assert of("prlimit64", 0) == of("prlimit64", 2) == ALLOW
    assert of("prlimit64", 1) == of("sched_setaffinity", 1) == errno.EPERM
    assert of("setpriority", 0, 0) == of("ioprio_set", 1, 5) == ALLOW
    assert {of("setpriority", 0, 1), of("setpriority", 2, 0), of("ioprio_set", 3, 0)} == {errno.EPERM}


def test_other_machines() -> None:
    code = assemble("x86_64")
    assert code is not None
    assert decide(code, 0x40000003, 20) == KILL  # a 32-bit call
    assert decide(code, 0xC000003E, 0x40000000 + 39) == KILL  # x32
    assert assemble("riscv64") is None
