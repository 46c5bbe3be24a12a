"""Decide which settings may change when a run resumes from a checkpoint.

A run that resumes with other settings is a different run: its curve looks like one run's but cannot be reproduced. So a
change to anything that affects the weights is refused unless `--allow-change KEY` names it. Settings that affect only
how the same numbers are computed, or what else is written, may change. Both kinds of change are recorded in the run's
events.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import moved_along
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.config import RunConfig
from ms_codegeex.config.values import flattened, parse_overrides
from ms_codegeex.data.datasets.blend import mixed_before
from ms_codegeex.data.datasets.opening import content_hashes
from ms_codegeex.formats.checkpoint import Checkpoint, fingerprint
from ms_codegeex.formats.sources import open_source
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.rank.resumed_schedule import trained_schedule

DATASET = ("data.train", "data.blend")
REFUSED = (  # keys and sections; docs/run_directory.md has the same table, and the keys that are only recorded
    "model",
    "lora",
    "seed",
    "data.train",
    "data.blend",
    "data.seq_length",
    "data.functions_from",
    "data.reset_at_eos",
    "data.infill",
    "data.loss_after_eos",
    "training.global_batch",
    "training.precision",
    "training.dropout",
    "training.attention_dropout",
    "training.clip_norm",
    "training.z_loss",
    "training.loss_scale",
    "training.optimizer",
    "training.schedule",
    "faults.policy",
    "faults.sigma",
    "faults.window",
    "parallel.fusion.dropout",
)
COMPARED = ("data.validation", "training.evaluate_samples")  # also refused if `training.patience` compares losses
PLACES = {  # section -> keys that name directories
    "data": ("train", "blend", "validation", "held_out", "tokenizer"),
    "model": ("weights",),
    "lora": ("weights",),
    "parallel": ("calibration",),
}
MAY_MOVE = ("model.weights", "lora.weights", "data.validation")  # paths whose content is not recorded
UNRECORDED = (
    "output",
    "checkpoint.resume",
    "data.tokenizer",
    "data.tokenizer_size",
    "data.languages",
    "model.preset",
    "training.initial",
    "training.loss_scale.initial",
)  # a continued run does not depend on them
OPTIMIZER = "training.optimizer.name"  # may never change: optimizers have different moments


@dataclass(frozen=True)
class Change:
    """A key whose value differs from the checkpoint's."""

    key: str
    before: Any
    now: Any


def since_moved(file: Path, overrides: Sequence[str]) -> list[str]:
    """Return overrides for the `config.yaml` of a run directory that was moved or copied after it was written. They set
    `output` to the new place, and update paths that moved along with the run. Prints them on standard error. Empty for
    any other file; keys that `overrides` state are omitted."""
    run, stated = RunDirectory(file.absolute().parent), parse_overrides(overrides)
    if file.absolute() != run.config or not run.events.is_file() or not run.config.is_file():
        return []
    values = read_yaml_file(file)
    before = values.get("output") if isinstance(values, Mapping) else None
    if not isinstance(before, str) or os.path.realpath(before) == os.path.realpath(run.path):
        return []
    found: dict[str, Any] = {} if "output" in stated else {"output": str(run.path)}
    for section, names in PLACES.items():
        for name in names:
            value = (values.get(section) or {}).get(name)
            now = _found(value, Path(before), run.path)
            if now != value and name not in (stated.get(section) or {}):
                found[f"{section}.{name}"] = now
    words = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in found.items()]
    if words:
        print_error(f"{file}: this run was in {before}, so {' '.join(words)}")
    return words


def _found(value: Any, before: Path, now: Path) -> Any:
    if isinstance(value, Mapping):
        return {_found(key, before, now): _found(each, before, now) for key, each in value.items()}
    if isinstance(value, list):
        return [_found(each, before, now) for each in value]
    return str(moved_along(Path(value), before, now)) if isinstance(value, str) else value


def _covers(section: str, key: str) -> bool:
    return key == section or key.startswith(f"{section}.")


def _refused(config: RunConfig) -> tuple[str, ...]:
    return (*REFUSED, *COMPARED) if config.training.patience else REFUSED


def check_allowed(config: RunConfig, allowed: Collection[str]) -> None:
    """Raise `UserError` for an `--allow-change` key that may always change."""
    refused = _refused(config)
    known = {*refused, *(key for key in flattened(config.to_dict()) if any(_covers(r, key) for r in refused))}
    for key in allowed:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(refused)}"
            raise UserError(f"--allow-change {key}: changing this key is never refused; {hint}")


def changes_since(config: RunConfig, checkpoint: Checkpoint, allowed: Sequence[str] = ()) -> list[Change]:
    """Return the differences from the checkpoint's configuration and data, sorted by key. `UserError` if a refused
    change is not named in `allowed` (keys or sections), or if the tokenizer differs."""
    check_allowed(config, allowed)
    changes = _key_changes(config, checkpoint) + _data_changes(config, checkpoint)
    for change in changes:
        if change.key == OPTIMIZER:
            wrong = f"{change.now}, but {checkpoint.path} has the moments of {change.before}"
            another = f"without --resume, with --from {checkpoint.path} output=DIR"
            raise UserError(f"{OPTIMIZER}: {wrong}; keep it, or start another run from these weights: {another}")
        refused = any(_covers(section, change.key) for section in _refused(config)) and not _has_moved(change)
        fits = not change.key.startswith(("model.", "lora.")) or _same_shapes(config, checkpoint)
        if refused and not (fits and any(_covers(section, change.key) for section in allowed)):
            accept = f", or accept the change with --allow-change {change.key}" * fits
            wrong = f"{change.now}, but {checkpoint.path} was trained with {change.before}"
            raise UserError(f"{change.key}: {wrong}; use the same, or choose another output without --resume{accept}")
    return sorted(changes, key=lambda change: change.key)


def _has_moved(change: Change) -> bool:
    """Whether a path differs only because the old one is gone. `check_places` compares the model that adapters need."""
    return change.key in MAY_MOVE and change.before is not None and not os.path.exists(change.before)


def check_places(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise `UserError` if a dataset or model that the run needs is missing, or if adapters' model has changed."""
    data, weights = config.data, config.model.weights if config.lora.rank else None
    places = {"data.train" if data.blend is None else "data.blend": data.directories, "model.weights": [weights]}
    places |= {"data.validation": [data.validation]}
    places |= {f"data.held_out.{name}": [place] for name, place in data.held_out.items()}
    for key, paths in places.items():
        for path in filter(None, paths):
            if not os.path.exists(path):
                value = "{DIR: WEIGHT, …}" if key == "data.blend" else "DIR"
                raise UserError(f"{key}: {path} is gone; if it was moved, {key}={value} says where it is now")
    base = checkpoint.state.get("base")
    if weights is not None and base is not None and fingerprint(open_source(Path(weights)).tensors) != base:
        trained = f"another model than that of the adapters in {checkpoint.path}"
        raise UserError(f"model.weights: {weights} is {trained}; set model.weights=DIR to theirs")


def _same_shapes(config: RunConfig, checkpoint: Checkpoint) -> bool:
    sizes, lora = config.model.sizes, config.lora
    shapes = sizes.adapter_shapes(lora.targets, lora.rank) if lora.rank else sizes.parameter_shapes()
    stored = [name for name in checkpoint.names if not name.startswith("optimizer.")]
    return {name: checkpoint.shape(name) for name in stored} == dict(shapes)


def _key_changes(config: RunConfig, checkpoint: Checkpoint) -> list[Change]:
    old = checkpoint.state["config"]
    before, now = dict(flattened(old)), dict(flattened(config.to_dict()))
    before["data.seq_length"] = old["data"]["seq_length"] or old["model"]["max_position_embeddings"]
    now["data.seq_length"] = config.seq_length
    # for keys newer than the checkpoint; a model's sizes have no defaults
    defaults = {key: value for key, value in flattened(RunConfig().to_dict()).items() if not _covers("model", key)}
    defaults |= {"model.weights": None, "model.grow": [], "model.fresh": []}
    if trained_schedule(checkpoint)[0] == config.schedule:  # equal, however the numbers were determined
        before |= {key: value for key, value in now.items() if _covers("training.schedule", key)}
    for values in (before, now):  # None means off on every device
        values["parallel.fusion.dropout"] = bool(values.get("parallel.fusion.dropout"))
    return [
        Change(key, before.get(key, defaults.get(key)), now.get(key))
        for key in sorted({*before, *now})
        if not any(_covers(section, key) for section in (*UNRECORDED, *DATASET))
        and before.get(key, defaults.get(key)) != now.get(key)
    ]


def _data_changes(config: RunConfig, checkpoint: Checkpoint) -> list[Change]:
    """Return a change if the samples before the checkpoint's position differ. Only the content of a dataset counts, not
    its path. Later stages of a blend may differ, and `data.train` may become the first stage of a blend."""
    old, samples = checkpoint.state["config"], checkpoint.state["samples"]
    key = "data.train" if config.data.blend is None else "data.blend"
    recorded = checkpoint.state.get("datasets")  # missing from checkpoints older than version 0.1
    current = content_hashes(config.data) if recorded else {}
    arguments = (
        (old["data"], old["training"]["global_batch"], recorded or {}),
        (asdict(config.data), config.training.global_batch, current),
    )
    _check_tokenizer(key, config, checkpoint)
    contents = [mixed_before(samples, data, batch, hashes) for data, batch, hashes in arguments]
    if contents[0] == contents[1]:
        return []
    names = [mixed_before(samples, data, batch) for data, batch, _ in arguments]
    if names[0] == names[1]:  # same paths, other content
        before = recorded or {}
        changed = [path for path in current if current[path] != before.get(path)]
        contents = ([f"{path} with the content {_short(x.get(path))}" for path in changed] for x in (before, current))
        names = [", ".join(each) for each in contents]
    return [Change(key, *names)]


def _short(content: str | None) -> str:
    return content[: content.find(":") + 13] + "…" if content else "unknown"


def _check_tokenizer(key: str, config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise `UserError` if token ids would change their meanings; no option allows that."""
    if recorded := checkpoint.state.get("tokenizer"):
        current = read_json(Path(config.data.directories[0]) / "dataset.json").get("tokenizer") or {}
        for name in sorted({*recorded, *current}):
            if recorded.get(name) != current.get(name):
                wrong = f"{current.get(name)}, but {checkpoint.path} was trained with {recorded.get(name)}"
                remedy = "use a dataset with the same tokenizer, or choose another output without --resume"
                raise UserError(f"{key}: tokenizer {name}: {wrong}; {remedy}")


def out_of_patience(config: RunConfig, checkpoint: Checkpoint) -> bool:
    patience = config.training.patience
    return bool(patience) and checkpoint.state.get("worse", 0) >= patience


def is_finished(config: RunConfig, checkpoint: Checkpoint) -> bool:
    """Whether nothing is left to train after the checkpoint."""
    tokens = config.training.tokens
    if out_of_patience(config, checkpoint):
        return True
    return checkpoint.state["tokens"] >= tokens if tokens else checkpoint.step >= config.steps
