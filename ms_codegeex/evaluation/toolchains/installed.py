"""Find the programs and libraries that are installed on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"
LIBRARY = re.compile(r"=> (/.*) \(0x")  # in a line of ldd


def program_of(name: str) -> Path | None:
    """A command's real path: links such as /etc/alternatives are resolved."""
    found = shutil.which(name, path=os.environ.get("PATH", PATH)) or shutil.which(name, path=PATH)
    return Path(found).resolve() if found else None


def output_of(*words: str | Path) -> str | None:
    """The first line that a command prints, None if it does not run."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def outside_system(*paths: Path) -> dict[str, Path]:
    """For `readable`: the paths that exist and that the sandbox does not show anyway."""
    return {str(path): path for path in paths if path.exists() and not path.is_relative_to("/usr")}


def parts_of(root: Path, *names: str) -> dict[str, Path]:
    """For `readable`: the parts of its installation directory that a tool needs. That directory may be a home
    directory, or contain unrelated files."""
    return outside_system(*(root / name for name in names))


def with_libraries(program: Path | None) -> dict[str, Path]:
    """For `readable`: a program, which may be among a user's own files, and the shared libraries that it is linked
    to."""
    if program is None:
        return {}
    output = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout if shutil.which("ldd") else ""
    found = (Path(os.path.normpath(path)) for path in LIBRARY.findall(output))
    return outside_system(program, *(path for path in found if not path.is_relative_to("/lib")))
