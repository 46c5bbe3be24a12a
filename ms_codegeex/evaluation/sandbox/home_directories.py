"""Keep home directories out of the sandbox: no program may read one, even if a tool that it needs is installed
there."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from ms_codegeex.base.errors import UserError

HOMES = ("/", "/home", "/root")  # and every directory that contains one of them


def homes() -> set[Path]:
    """The home directories of this machine's users, without symbolic links. System users' homes in /usr are left
    out, because programs see /usr anyway."""
    known = {*HOMES, os.path.expanduser("~"), *(user.pw_dir for user in pwd.getpwall())}
    found = {Path(os.path.realpath(path)) for path in known if path.startswith("/")}
    return {path for path in found if not path.is_relative_to("/usr")}


def check_readable(paths: Iterable[Path]) -> None:
    """A `UserError` if one of these paths is a home directory or contains one."""
    private = homes()
    for path in paths:
        real = Path(os.path.realpath(path))
        exposed = next((home for home in sorted(private) if home.is_relative_to(real)), None)
        if exposed is not None:
            what = "is" if exposed == real else f"contains {exposed},"
            raise UserError(
                f"sandbox: {path} {what} a home directory, which no program may read; install the tool that needs it "
                "in a separate directory"
            )
