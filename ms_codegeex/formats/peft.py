"""Reads adapters: in a run or a checkpoint, or in the layout of PEFT, `adapter_config.json` and
`adapter_model.safetensors` (before PEFT 0.7: `adapter_model.bin`). `peft_writing.py` writes that."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error, print_once
from ms_codegeex.base.quarantine import admit, read_json_inside
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.config.validation import Positive, validated
from ms_codegeex.data.description import ModelDescription, read_description
from ms_codegeex.formats.adapters import Adapters, check_base, checked_scale
from ms_codegeex.formats.checkpoint import MANIFEST, resolve
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.files import find_model
from ms_codegeex.formats.layout import pack, packed_shape, unpack
from ms_codegeex.formats.model_directory import CONFIG as MODEL_CONFIG
from ms_codegeex.formats.model_directory import read_tensors
from ms_codegeex.formats.provenance import Input, inputs_of
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.sources import (
    Alpha,
    Dropout,
    Source,
    checkpoint_adapters,
    checkpoint_description,
    checkpoint_inputs,
)
from ms_codegeex.formats.tensors import LazyTensor, finite
from ms_codegeex.models.foreign import Entry, spellings
from ms_codegeex.models.parameters import LORA_A, LORA_B

CONFIG, TENSORS, BIN = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<kind>[AB])(?:\.default)?\.weight")
OWN_TENSOR = re.compile(r"(?!.*\.lora_[AB]\.)(.+?)(\.base_layer)?\.(weight|bias)")  # saved along with adapters
_BLOCK = re.compile(r"\.(\d+)(?=\.)")
_GATHER = "set stage3_gather_16bit_weights_on_model_save in DeepSpeed's settings (FSDP: full_state_dict), save again"
_SOUND = "give those of an earlier checkpoint"
_MERGE = "merge the adapters with PEFT (merge_and_unload) and give that model"


@dataclass(frozen=True)
class _Settings:
    """The settings that are computed with. The keys of patterns are regular expressions."""

    r: Positive
    lora_alpha: Alpha
    rank_pattern: dict[str, Positive] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    lora_dropout: Dropout | None = None
    target_modules: list[str] | None = None
    use_rslora: bool | None = None


def adapters_path(path: Path) -> Path:
    """Where a run's adapters are, those of the step that counts, or `path` if it has PEFT's layout. `UserError` if
    there is nothing."""
    if not path.exists():
        raise UserError(f"{path}: no such directory; give a run with adapters, or a directory in PEFT's layout")
    if (path / CONFIG).is_file():
        return path
    found = find_model(path)
    if found.layout.key not in ("adapters", "run"):
        remedy = f"give a run that trained some (lora.rank), or a folder with {CONFIG}"
        raise UserError(f"{path}: holds no adapters; {remedy}")
    if found.layout.key == "run":
        return resolve(path).path
    inner = found.place.path
    for line in found.passed_over({inner / CONFIG, inner / _tensors_file(inner)}):
        print_once(line.replace(": the weights are in ", ": the adapters are in ", 1))
    return inner


def description_of(path: Path) -> ModelDescription:
    """What is known of a model or an adapter besides its weights: by the files of its directory, or by the checkpoint
    that it is in."""
    path = Path(path)
    if any((path / name).is_file() for name in (CONFIG, MODEL_CONFIG, "quantised.json")):
        return read_description(path)
    path = path if (path / MANIFEST).is_file() else adapters_path(path)
    return read_description(path) if (path / CONFIG).is_file() else checkpoint_description(resolve(path))


def open_adapters(path: Path, base: Source, check_fingerprint: bool = True) -> Adapters:
    """The adapters at `path` for the model `base`; numbers are read later. `check_fingerprint`: require that they were
    trained on `base`; otherwise any model of the same sizes will do. `UserError` if none fit."""
    path = adapters_path(path)
    if base.adapters is not None:
        raise UserError(f"{base.path}: holds adapters itself; give the model that they are for, or merge them first")
    adapters = read_peft(path, base) if (path / CONFIG).is_file() else checkpoint_adapters(resolve(path))
    adapters = adapters if check_fingerprint else replace(adapters, fingerprint=None)
    tensors = {name: finite(name, tensor, str(path), _SOUND) for name, tensor in adapters.tensors.items()}
    adapters = replace(adapters, tensors=tensors)
    check_base(adapters, base.tensors, str(path), base.path)
    return adapters


def adapters_inputs(path: Path) -> Input:
    """The files of the adapters at `path`."""
    path = adapters_path(path)
    if not (path / CONFIG).is_file():
        return checkpoint_inputs(resolve(path))
    return inputs_of("adapter", path, [path / CONFIG, path / _tensors_file(path)])


def read_peft(path: Path, base: Source) -> Adapters:
    """The adapters of a directory in PEFT's layout under our names, for the model `base`; numbers are read later. What
    was trained on a module that fuses k of our layers becomes k adapters with the same A. The scale of rsLoRA, alpha /
    sqrt(rank), is that of a larger alpha. `UserError` for other variants of LoRA and for modules of another model."""
    config, file, opened, metadata = _opened(path)
    _check_settings(config, path)
    formats = FamilyFormats(base.family)
    kinds = [its for its in formats.data.layouts if its.kind in ("huggingface", "gptj")]
    entries = [entry for its in kinds for entry in formats.entries(its, base.config)]
    modules = {str(entry.foreign).removesuffix(".weight"): entry for entry in entries}
    shapes, tensors, usual = base.config.parameter_shapes(), {}, config["r"]
    scale = checked_scale(_scale(config, usual, config["lora_alpha"]), f"{path / CONFIG}: lora_alpha")
    patterns = ("rank_pattern", "alpha_pattern")
    ranks, alphas = (_of_modules(config.get(key) or {}, modules, f"{path / CONFIG}: {key}") for key in patterns)
    _check_copies(opened, entries, base, str(file))
    found = _factors((name for name in opened if not OWN_TENSOR.fullmatch(name)), modules, str(file))
    if not found:
        raise UserError(f"{file}: holds no factors of LoRA; {_MERGE}")
    for name, factors in found.items():
        if {*factors} != {"A", "B"} or name not in modules:
            shown = next(iter(factors.values()))
            raise UserError(f"{file}: {shown} is not a factor of an adapter of {base.path}; give their model")
    _check_complete(config, found, {name for name in modules if len(_shape(modules[name], shapes)) == 2}, path)
    for name, factors in found.items():
        a, b = (opened[factors[kind]] for kind in "AB")
        entry, rank = modules[name], ranks.get(name, usual)
        whole = _shape(entry, shapes)
        if len(whole) != 2 or b.shape[:1] + a.shape[1:] != whole or b.shape[1:] != a.shape[:1]:
            pair = f"{file}: the adapter of {name} is {list(b.shape)} x {list(a.shape)}"
            other = f"that matrix of {base.path} is {list(whole)}"
            raise UserError(f"{pair}, but {other}; give the model that the adapters were trained on")
        if a.shape[0] != rank:
            says = f"the adapter of {name} has rank {a.shape[0]}, but {CONFIG} says {rank}"
            raise UserError(f"{file}: {says}; give both files of the same adapters")
        where = f"{path / CONFIG}: alpha_pattern or rank_pattern of {name}"
        own = checked_scale(_scale(config, rank, alphas.get(name, config["lora_alpha"])), where)
        targets = metadata.get("targets", "").split()
        tensors |= _ours(entry, a, b, shapes, targets, usual, checked_scale(own / scale, where))
    base_path = Path(str(config.get("base_model_name_or_path")))
    alpha = scale * usual if config.get("use_rslora") else float(config["lora_alpha"])
    recorded = metadata.get("base") or None
    return Adapters(base_path, tensors, usual, alpha, float(config.get("lora_dropout") or 0.0), recorded)


def _shape(entry: Entry, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return packed_shape(entry.packing, [shapes[each] for each in entry.ours])


def _check_complete(config: Mapping[str, Any], found: Collection[str], layers: Collection[str], path: Path) -> None:
    """`UserError` if factors are missing of `layers` that the settings name, as PEFT reads them; all-linear demands
    factors in the same places of all blocks."""
    targets, excluded = config.get("target_modules"), config.get("exclude_modules") or []
    blocks, expected = config.get("layers_to_transform"), set[str]()
    with suppress(UserError):  # expressions that show nothing in linear time
        expected = {*_of_modules(dict.fromkeys(targets or ()), layers, "")}
        expected -= {*_of_modules(dict.fromkeys([excluded] if isinstance(excluded, str) else excluded), layers, "")}
    if targets == ["all-linear"]:
        places = {_BLOCK.sub("", name, 1) for name in found}
        expected = {name for name in layers if _BLOCK.sub("", name, 1) in places}
    if blocks is not None:
        numbers = {str(each) for each in (blocks if isinstance(blocks, list) else [blocks])}
        expected = {name for name in expected if (block := _BLOCK.search(name)) and block[1] in numbers}
    if missing := sorted(expected - {*found}):
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        says = f"has no factors of {missing[0]}{more}, which target_modules of {CONFIG} names"
        raise UserError(f"{path / _tensors_file(path)}: {says}; copy both files of the adapters again")


def _check_settings(config: Mapping[str, Any], path: Path) -> None:
    """`UserError` for a variant of LoRA that computes something else; names settings that are not known."""
    table = shipped_table(Path(__file__).with_name("peft.yaml"))
    for key, value in table["plain"].items():
        if (config.get(key) or value) != value:
            raise UserError(f"{path / CONFIG}: {key} is {config[key]}, and only {value} can be read; {_MERGE}")
    if config.get("init_lora_weights", True) not in table["init_lora_weights"]:
        said = f"init_lora_weights is {config['init_lora_weights']}, which may have changed the model's own weights"
        raise UserError(f"{path / CONFIG}: {said}; {_MERGE}")
    known = {*table["plain"], *table["harmless"], *(each.name for each in fields(_Settings))}
    if others := [key for key, value in config.items() if value and key not in known]:
        print_error(f"{path / CONFIG}: not known here, so not used: {', '.join(map(str, others[:5]))}")


def _check_copies(opened: Mapping[str, LazyTensor], entries: Iterable[Entry], base: Source, file: str) -> None:
    """`UserError` for a copy of one of the model's own tensors that is not equal to it."""
    owned = {str(entry.foreign): entry for entry in entries if entry.packing.kind in ("copy", "halves")}
    for name in filter(OWN_TENSOR.fullmatch, opened):
        module, _, kind = OWN_TENSOR.fullmatch(name).groups()
        entry = next((owned[each] for each in spellings(f"{module}.{kind}") if each in owned), None)
        own, copy = base.tensors.get(entry.ours[0]) if entry else None, opened[name]
        same = own is not None and entry is not None and own.shape == copy.shape
        if not same or not np.array_equal(pack(entry.packing, [own.float32()]), copy.float32()):
            differs = f"{name} is not the tensor of {base.path}, so the adapters change more than they add"
            raise UserError(f"{file}: {differs}; {_MERGE}")


def _factors(names: Iterable[str], modules: Collection[str], file: str) -> dict[str, dict[str, str]]:
    factors: dict[str, dict[str, str]] = {}
    for name in names:
        if (match := FACTOR.fullmatch(name)) is None:
            raise UserError(f"{file}: {name} is not a factor of LoRA, and only those are read; {_MERGE}")
        module, kind = match["module"], match["kind"]
        module = next((each for each in spellings(module) if each in modules), module)
        if (other := factors.setdefault(module, {}).setdefault(kind, name)) != name:
            raise UserError(f"{other} and {name} are factors of the same module; save the adapters alone")
    return factors


def _of_modules(patterns: Mapping[str, Any], modules: Collection[str], where: str) -> dict[str, Any]:
    """The value of each module that a pattern names: the first of which it is a match, or its name's end after a point,
    as in PEFT. `UserError` for more patterns than modules and for expressions that cannot be matched in linear time."""
    if len(patterns) > len(modules):
        raise UserError(f"{where}: has {len(patterns)} keys for {len(modules)} modules; give the adapters' own file")
    values: dict[str, Any] = {}
    for key, value in patterns.items():
        if re.fullmatch(r"\w*", key):
            matched = [name for name in modules if name == key or name.endswith(f".{key}")]
        else:
            matched = _matches(rf"^(?:(.*\.)?({key})$)", [*modules], f"{where}: {key[:60]!r}")
        values = {**dict.fromkeys(matched, value), **values}
    return values


def _matches(expression: str, names: list[str], where: str) -> list[str]:
    import pyarrow
    import pyarrow.compute

    try:
        found = pyarrow.compute.match_substring_regex(pyarrow.array(names), expression).to_pylist()
    except (pyarrow.ArrowException, ValueError) as error:
        reason = "is not a regular expression without look-around and references"
        raise UserError(f"{where}: {reason} ({str(error)[:80]}); write the names of the modules instead") from None
    return [name for name, matches in zip(names, found, strict=True) if matches]


def _tensors_file(path: Path) -> str:
    return BIN if (path / BIN).is_file() and not (path / TENSORS).is_file() else TENSORS


def _opened(path: Path) -> tuple[dict[str, Any], Path, Mapping[str, LazyTensor], Mapping[str, str]]:
    admit(path)
    config = read_json_inside(path, CONFIG)
    if not isinstance(config, dict):
        raise UserError(f"{path / CONFIG}: expected an object; give adapters that PEFT wrote")
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{path / CONFIG}: expected peft_type LORA, found {kind!r:.40}; {_MERGE}, if it can")
    if isinstance(config.get("target_modules"), str):  # a pattern, or all-linear
        config["target_modules"] = [config["target_modules"]]
    validated(_Settings, config, f"{path / CONFIG}: ")
    file = path / _tensors_file(path)
    opened = SafetensorsFile(file) if file.name != BIN else None
    tensors = read_tensors(file) if opened is None else opened.tensors
    if not tensors or (empty := [name for name, tensor in tensors.items() if not tensor.size]):
        holds = f"{len(empty)} empty tensors, such as {empty[0]}" if tensors else "no tensors"
        raise UserError(f"{file}: holds {holds}: it was saved while its weights were on several devices; {_GATHER}")
    return config, file, tensors, {} if opened is None else opened.metadata


def summary(path: Path) -> dict[str, Any]:
    """A summary of the adapters in a directory in PEFT's layout, for a list."""
    config, file, tensors, metadata = _opened(path)
    refused = []
    try:
        _check_settings(config, path)
    except UserError as error:
        refused.append(str(error))
    return {
        "refused": refused,
        "path": str(path),
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "modules": sorted(config.get("target_modules") or []),
        "parameters": sum(tensor.size for tensor in tensors.values()),
        "bytes": file.stat().st_size,
        "model": config.get("base_model_name_or_path"),
        "fingerprint": metadata.get("base"),
    }


def _scale(config: Mapping[str, Any], rank: int, alpha: float) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _ours(
    entry: Entry,
    a: LazyTensor,
    b: LazyTensor,
    shapes: Mapping[str, tuple[int, ...]],
    targets: Collection[str],
    rank: int,
    factor: float,
) -> dict[str, LazyTensor]:
    layers = [name.removesuffix(".weight") for name in entry.ours]
    made_here = [layer for layer in layers if ".".join(layer.split(".")[-2:]) in targets] or layers
    stacked = len(targets) > 0 and a.shape[0] == rank * len(made_here)  # each has an A
    each = a.shape[0] // len(made_here) if stacked else a.shape[0]
    adapters: dict[str, LazyTensor] = {}
    for number, layer in enumerate(made_here):
        own = slice(number * each, (number + 1) * each) if stacked else slice(each)

        def first(own: slice = own) -> np.ndarray:
            return a.float32()[own]

        def second(own: slice = own, index: int = layers.index(layer)) -> np.ndarray:
            parts = unpack(entry.packing, b.float32(), [(shapes[name][0], b.shape[1]) for name in entry.ours])
            return np.float32(factor) * parts[index][:, own]

        adapters[f"{layer}.{LORA_A}"] = LazyTensor("float32", (each, a.shape[1]), first)
        adapters[f"{layer}.{LORA_B}"] = LazyTensor("float32", (shapes[f"{layer}.weight"][0], each), second)
    return adapters
