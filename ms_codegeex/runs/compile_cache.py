"""MindSpore's compile cache, used only for graphs of which nothing has changed.

The engine checks little of what a graph was compiled from: after a change of the learning rate, the mesh or our
sources it silently takes the old graph (MindSpore 2.9). It also numbers graphs in the order in which a process compiles
them. So each rank has a folder of its own, named by a digest of all that shapes its graphs, and only the training
graphs are kept, which `Trainer.compile` always compiles in the same order.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ms_codegeex
from ms_codegeex.config import RunConfig
from ms_codegeex.config.fusions import chosen_kernels
from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_directory, read_json, remove_leftovers, sha256, write_json
from ms_codegeex.runs.run_directory import RunDirectory

WITHOUT_EFFECT = ("output", "stage", "checkpoint", "logging", "compile_cache")  # top-level keys
HASHES = "hashes.json"


def graph_inputs(config: RunConfig, sources: Path | None = None) -> dict[str, Any]:
    """All that shapes the graphs of a run: its settings, but for those that only say what is written where; the source
    files of this package (or of `sources`); versions; the kind of processor."""
    settings: Mapping[str, Any] = config.to_dict()
    root = sources or Path(ms_codegeex.__file__).parent
    return {
        "settings": {key: value for key, value in settings.items() if key not in WITHOUT_EFFECT},
        "kernels": sorted(chosen_kernels(config)),
        "sources": {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*.py"))},
        "mindspore": importlib.metadata.version("mindspore"),
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def digest(inputs: Mapping[str, Any]) -> str:
    """A name for these inputs that differs if any of them does."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


@contextlib.contextmanager
def compile_cache(config: RunConfig, run: RunDirectory, rank: int) -> Iterator[bool]:
    """Read what is compiled in the block from the cache of the run, or keep it there. Yields whether it is read.

    A folder whose files are not those that were written is made again. Rank 0 deletes the folders of other digests.
    """
    name = digest(graph_inputs(config))
    folder = run.compile_cache / name / f"rank_{rank}"
    if _intact(folder):
        with _engine_cache(folder):
            yield True
        return
    shutil.rmtree(folder, ignore_errors=True)
    remove_leftovers(folder)  # of an attempt that was killed while it compiled
    compiled = False
    try:
        with atomic_directory(folder) as temporary:
            with _engine_cache(temporary):
                yield False
            compiled = True
            files = sorted(path for path in temporary.rglob("*") if path.is_file())
            write_json(temporary / HASHES, {str(path.relative_to(temporary)): sha256(path) for path in files})
        if rank == 0:
            for other in run.compile_cache.iterdir():
                if other.name != name:
                    shutil.rmtree(other, ignore_errors=True)
    except UserError:  # a full disk: the next attempt compiles again
        if not compiled:
            raise


def _intact(folder: Path) -> bool:
    """Whether a folder holds what was written to it."""
    if not (folder / HASHES).is_file():
        return False
    with contextlib.suppress(OSError, UserError):
        return all(sha256(folder / name) == expected for name, expected in read_json(folder / HASHES).items())
    return False


@contextlib.contextmanager
def _engine_cache(folder: Path) -> Iterator[None]:
    """Make the engine look into the folder before it compiles, and write there what it has compiled."""
    import mindspore as ms

    ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
    try:
        yield
    finally:
        ms.set_context(enable_compile_cache=False)
