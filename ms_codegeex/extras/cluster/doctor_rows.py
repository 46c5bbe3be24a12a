"""What `doctor` says of the compiler of `rehearse`: name, what was found, what is wrong, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator

from ms_codegeex.extras.cluster.rehearsal.stubs import compilers


def rows() -> Iterator[tuple[str, str, str, str]]:
    """The C compiler."""
    found = next((" ".join(command) for command in compilers()), "")
    problem = "" if found else "none; `rehearse --compile` needs one"
    yield "C compiler", found, problem, "pip install ziglang"
