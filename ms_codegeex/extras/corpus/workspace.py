"""The work directory next to a dataset: finished shards stay there until the dataset is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import remove
from ms_codegeex.base.locks import locked, take_lock


def make_once(directory: Path, complete: Callable[[], bool], make: Callable[[], object]) -> bool:
    """Call `make()` unless `directory` is `complete()`, and return whether it was called. If several processes start
    together, one of them calls it and the others wait."""
    if complete():
        return False
    directory.parent.mkdir(parents=True, exist_ok=True)
    with locked(directory.with_name(f".{directory.name}.lock")):
        if missing := not complete():
            make()
    return missing


def work_path(output: Path) -> Path:
    output = output.absolute()
    return output.with_name(f".{output.name}.work")


def _open_locked(path: Path, wait: bool) -> int | None:
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # removed by the process that held it
            return take_lock(path, wait=wait, flags=os.O_RDONLY | os.O_DIRECTORY)


@contextlib.contextmanager
def open_workspace(output: Path, waiting: Callable[[], None]) -> Iterator[Path]:
    """Provide the work directory of `output`, locked for this process; call `waiting()` first if another has it. The
    lock is on the directory itself, so it leaves no file and ends with the process. The directory stays unless it is
    empty or `remove` was called. Raises `UserError` if it cannot be created."""
    path = work_path(output)
    try:
        descriptor = _open_locked(path, wait=False)
        if descriptor is None:
            waiting()
            descriptor = _open_locked(path, wait=True)
    except OSError as error:
        remedy = "it has to be next to the output, give --output another"
        raise UserError(f"{path}: could not be made ({error.strerror}); {remedy}") from error
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # not empty: finished shards stay for the next run
            if os.path.samestat(os.fstat(descriptor), path.stat()):  # after `remove`, it may be another process's
                path.rmdir()
        os.close(descriptor)


def sweep(path: Path, keep: Collection[str]) -> None:
    """Remove the entries of a work directory whose names are not in `keep`: old or half-written ones."""
    for entry in path.iterdir():
        if entry.name not in keep:
            remove(entry)
