"""The description of an attack, and the code that its programs share."""

import platform
from dataclasses import dataclass, field, replace

from ms_codegeex.extras.evaluation.sandbox import Command, ResourceLimits
from ms_codegeex.extras.evaluation.sandbox.seccomp import NUMBERS

MIB = 1 << 20
PRELUDE = """
import ctypes, errno, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = %r
def call(name, *arguments):
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return libc.syscall(ctypes.c_long(NUMBERS[name]), *words)
def escaped(*what):
    print("ESCAPED", *what, flush=True)
def quietly(action, *arguments):
    try:
        return action(*arguments)
    except (OSError, ValueError) as error:
        print("refused:", error, flush=True)
print("TRIED", flush=True)
"""
SMALL = ResourceLimits(
    wall=30, cpu=30, memory=192 * MIB, disk=16 * MIB, file_size=8 * MIB, processes=40, open_files=128
)
BRIEF = replace(SMALL, wall=1.5, cpu=2)  # for programs that never end
PATIENT = ResourceLimits(
    wall=60, cpu=60, memory=512 * MIB, disk=64 * MIB, file_size=32 * MIB, processes=64, open_files=128
)


@dataclass(frozen=True)
class Attack:
    """A program, or several commands of one. It succeeds if it prints ESCAPED or the secret, or if the outside world is
    found changed. `ends` are the ways that it may end, if that is part of holding; `control`: run outside, without a
    sandbox, it does succeed."""

    name: str
    family: str
    programs: tuple[str, ...]
    language: str = "python"
    limits: ResourceLimits = SMALL
    ends: tuple[str, ...] = ()
    control: bool = False
    tried: bool = True  # whether it says TRIED first
    files: dict[str, str] = field(default_factory=dict)

    def content(self, words: dict[str, str]) -> dict[str, bytes]:
        found = dict(self.files)
        for index, program in enumerate(self.programs):
            text = prelude() + program if self.language == "python" else program
            found[f"attack{index}.{EXTENSIONS[self.language]}"] = text
        return {name: fill(text, words).encode() for name, text in found.items()}

    def commands(self) -> list[Command]:
        made = []
        for index in range(len(self.programs)):
            for words in STEPS[self.language]:
                filled = [word.replace("NAME", f"attack{index}") for word in words]
                made.append(Command(filled, PATIENT if words[0] == "gcc" else self.limits))
        return made


def prelude() -> str:
    column = 0 if platform.machine() == "x86_64" else 1
    return PRELUDE % {name: pair[column] for name, pair in NUMBERS.items()}


EXTENSIONS = {"python": "py", "shell": "sh", "bash": "sh", "c": "c"}
STEPS = {
    "python": [["python3", "NAME.py"]],
    "shell": [["/bin/sh", "NAME.sh"]],
    "bash": [["/bin/bash", "NAME.sh"]],
    "c": [["gcc", "-w", "-pthread", "-o", "NAME", "NAME.c"], ["./NAME"]],
}


def fill(text: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(f"@{name}@", word)
    return text


def family(name: str, programs: dict[str, str | tuple[str, ...]], **settings: object) -> list[Attack]:
    made = []
    for title, program in programs.items():
        several = program if isinstance(program, tuple) else (program,)
        made.append(Attack(f"{name}: {title}", name, several, **settings))
    return made
