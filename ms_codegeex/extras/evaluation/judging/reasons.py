"""Why a program failed, in a line, and what lets a canonical solution that failed here pass."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from ms_codegeex.extras.evaluation.judging.inside.program import ABSENT, FORBIDDEN

MAX_LINE = 200
MISSING = re.compile(r"No module named '(\w+)")
REFUSED = re.compile(rf"import of ({'|'.join(ABSENT)}) halted")
CALLED = re.compile(rf"\b((?:\w+\.)?(?:{'|'.join(' '.join(FORBIDDEN.values()).split())}))\(")
NO_FUNCTION = "TypeError: 'NoneType' object is not callable"
MARKS = re.compile(r"[\s~^]*")  # of a traceback, below the line of a program
GUARD = "the guard of the published runner has taken {} away"


def told(stderr: str) -> list[str]:
    """The lines of an error that are not empty; of a compiler's errors only the first."""
    lines = [line.rstrip()[:MAX_LINE] for line in stderr.splitlines() if not MARKS.fullmatch(line)]
    first = next((number for number, line in enumerate(lines) if ": error: " in line), None)
    return lines if first is None else lines[first : first + 1]


def last_line(stderr: str) -> str:
    """The line that says most, with the function or module that a guard has taken away; "" if there is none."""
    *before, last = told(stderr) or [""]
    taken = REFUSED.search(last) or (last == NO_FUNCTION and CALLED.search(" ".join(before[-1:])))
    return f"{last.strip()}: {GUARD.format(taken[1])}" if taken else last.strip()


def reason(verdicts: Mapping[str, str], stderr: str) -> str:
    given = ", ".join(f"{mode} {verdict}" for mode, verdict in verdicts.items())
    return ": ".join(filter(None, (given, last_line(stderr))))


def remedy(reasons: Iterable[str], options: Collection[str]) -> str:
    """What lets canonical solutions pass that failed for these reasons, where the benchmark has these options."""
    text = "\n".join(reasons)
    modules, parts = sorted({*MISSING.findall(text)}), []
    if modules and "python" in options:
        parts.append(f"give --python FILE, an interpreter that has {' and '.join(modules)}")
    elif modules:
        parts.append(f"install {' and '.join(modules)}")
    if re.search(r"^[^:]* timeout\b", text, re.MULTILINE) and "timeout" in options:
        parts.append("give a longer --timeout S")
    if GUARD.partition("{")[0] in text:
        parts.append("write the canonical solution without what is taken away")
    return " and ".join(parts) or "mend the tool chain if all of them fail, otherwise these problems in --data"
