"""What a rank does once it has joined the others and opened its data: build the trainer, train, evaluate, and write the
result. The program is `rank`.

MindSpore's compile cache is used only for graphs whose inputs have not changed. The engine checks few of a graph's
inputs: after a change to the learning rate, the mesh or our sources it silently takes the old graph (MindSpore 2.9). It
also numbers graphs in the order in which a process compiles them. So each rank has a separate folder, named by a digest
of everything that affects its graphs. Only the training graphs are kept, which `Trainer.compile` always compiles in the
same order.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, remove_leftovers, write_json
from ms_codegeex.base.nested import finite
from ms_codegeex.base.reading import read_json, sha256
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import chosen_kernels
from ms_codegeex.config.schedule import Transition
from ms_codegeex.data.datasets.batches import Sequences
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.runs.records import read_events
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.training.trainer import Trainer

WITHOUT_EFFECT = ("output", "stage", "cluster", "checkpoint", "logging", "profile", "compile_cache")  # top-level keys
HASHES = "hashes.json"


def train(
    config: RunConfig,
    run: RunDirectory,
    checkpoint: Checkpoint | None,
    data: Sequences | Blend,
    validation: Sequences,
    held_out: Mapping[str, Sequences],
    *,
    rank: int,
    **options: Any,
) -> None:
    """Build everything, train from `checkpoint` or from the beginning, evaluate, and write the result.

    `held_out` has the data that only the end evaluates, by name; the rest and `options` are as in `Trainer`.
    """
    left_out = []  # the first samples of the batches that earlier attempts have left out
    if config.faults.policy == "rewind":
        left_out = [event["left_out"] for event in read_events(run.events) if event["event"] == "rewind"]
    trainer = Trainer(config, data, validation, rank=rank, left_out=left_out, **options)
    if config.compile_cache:
        with compile_cache(config, run, rank, trainer.transition, trainer.library) as cached:
            trainer.compile()
        trainer.event("graphs", cached=cached)
    if checkpoint:
        trainer.restore(checkpoint)
        trainer.status(f"continuing from step {checkpoint.step}")
    if config.model.weights and not trainer.progress.step:
        before = {"validation_loss_before": trainer.validation_loss(), "held_out_before": trainer.losses_on(held_out)}
        if rank == 0:  # kept for the summary, however often the run is interrupted
            write_json(run.before, finite(before))
    trainer.run()
    if not trainer.stopped:  # otherwise the next attempt continues
        result = _result(trainer, run, held_out)
        if rank == 0:
            write_json(run.result, finite(result))


def _result(trainer: Trainer, run: RunDirectory, held_out: Mapping[str, Sequences]) -> dict[str, Any]:
    """The figures of the finished run. All losses are those of one checkpoint: the best one if the run keeps it,
    otherwise the last. Every rank evaluates."""
    config, last, tokens = trainer.config, trainer.progress.step, trainer.progress.tokens
    best = trainer.patience.best if config.training.patience else None
    kept = run.checkpoints / step_name(last)
    if best and best[0] != last and (there := run.checkpoints / step_name(best[0])).is_dir():
        kept = there
        trainer.restore(Checkpoint(kept))
    began = read_json(run.before) if run.before.is_file() else {}  # of the model that the run started from
    return {
        "parameters": config.model.sizes.parameter_count(),
        **trainer.final_figures(),
        "evaluated_step": trainer.progress.step,
        "steps": last,
        "tokens": tokens,
        "held_out": trainer.losses_on(held_out),
        "validation_loss_before": began.get("validation_loss_before"),
        "held_out_before": began.get("held_out_before", {}),
        "devices": config.devices,
        "matmul_peak_flops": trainer.rates.peak,
        "evaluation_seconds": trainer.evaluation.seconds,
        "checkpoint": str(kept),
    }


def graph_inputs(
    config: RunConfig,
    sources: Path | None = None,
    transition: Transition | None = None,
    library: Path | None = None,
) -> dict[str, Any]:
    """Everything that affects the graphs of a run: its settings, except those for its output; the transition of its
    learning rate; the source files of this package (or of `sources`); versions; the kind of processor; the library of
    operators that they call."""
    root = sources or Path(ms_codegeex.__file__).parent
    return {
        "settings": effective_settings(config),
        "transition": transition and asdict(transition),
        "kernels": sorted(chosen_kernels(config)),
        "sources": {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*.py"))},
        "mindspore": importlib.metadata.version("mindspore"),
        "numpy": importlib.metadata.version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "library": str(library),
    }


def effective_settings(config: RunConfig) -> dict[str, Any]:
    """The settings that affect training itself."""
    return {key: value for key, value in config.to_dict().items() if key not in WITHOUT_EFFECT}


def digest(inputs: Mapping[str, Any]) -> str:
    """A name for these inputs that differs if any of them does."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


@contextlib.contextmanager
def compile_cache(
    config: RunConfig,
    run: RunDirectory,
    rank: int,
    transition: Transition | None = None,
    library: Path | None = None,
) -> Iterator[bool]:
    """Read the graphs compiled in the block from the cache of the run, or keep them there. Yields whether they are
    read.

    A folder is made again if its files have changed. Rank 0 deletes the folders of other digests.
    """
    name = digest(graph_inputs(config, transition=transition, library=library))
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
    """Whether the files in a folder are unchanged."""
    if not (folder / HASHES).is_file():
        return False
    with contextlib.suppress(OSError, UserError):
        return all(sha256(folder / name) == expected for name, expected in read_json(folder / HASHES).items())
    return False


@contextlib.contextmanager
def _engine_cache(folder: Path) -> Iterator[None]:
    """Make the engine look for graphs in the folder before it compiles, and write compiled graphs there."""
    import mindspore as ms

    ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))
    try:
        yield
    finally:
        ms.set_context(enable_compile_cache=False)
