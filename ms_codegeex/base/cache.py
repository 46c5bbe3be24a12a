"""The user's cache, for files that can be recreated."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.base.locks import locked


def cached_folder(name: str, what: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder `name` in the user's cache. The first call creates it with `fill(directory)`; concurrent calls
    from several processes are safe. `name` must change whenever the contents do; `what` describes them in errors."""
    directory = user_cache() / name
    if directory.is_dir():
        return directory
    with ExitStack() as stack:
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(directory.with_suffix(".lock")))
        except OSError as error:
            wrong = f"{what} cannot be stored here ({error.strerror})"
            raise UserError(f"{directory.parent}: {wrong}; set XDG_CACHE_HOME to a folder you can write to") from error
        if not directory.is_dir():
            with atomic_directory(directory) as temporary:
                fill(temporary)
    return directory


def user_cache() -> Path:
    """Return the directory for files that can be recreated: `ms_codegeex` in `$XDG_CACHE_HOME` or `~/.cache`. Without a
    writable home directory, it is a directory below the system's temporary directory that only this user can enter;
    raises `UserError` if something else has that name."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "ms_codegeex"
    with suppress(RuntimeError, OSError):  # RuntimeError: no HOME, and no such user
        cache = Path.home() / ".cache" / "ms_codegeex"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK | os.X_OK):
            return cache
    cache = Path(tempfile.gettempdir()) / f"ms_codegeex-{os.getuid()}"
    with suppress(OSError):
        cache.mkdir(mode=0o700, exist_ok=True)
        status = cache.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return cache
    wrong = "expected a directory that only this user can enter, as there is no home directory that can be written"
    raise UserError(f"{cache}: {wrong}; set XDG_CACHE_HOME to a directory that can")
