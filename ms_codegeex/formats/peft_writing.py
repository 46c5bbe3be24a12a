"""Writes adapters in the layout that PEFT reads; `peft.py` reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, write_json
from ms_codegeex.data.description import save_description
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.layout import pack
from ms_codegeex.formats.model_card import card_files
from ms_codegeex.formats.peft import CONFIG, TENSORS
from ms_codegeex.formats.provenance import hashed
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import LazyTensor, from_array
from ms_codegeex.models.foreign import Entry
from ms_codegeex.models.parameters import LORA_A, LORA_B

PREFIX = "base_model.model."


def write_peft(source: Source, path: Path) -> None:
    """Write a source's adapters as PEFT's directory, which appears when it is complete. `UserError` if it has none."""
    adapters, formats = source.adapters, FamilyFormats(source.family)
    if adapters is None:
        raise UserError(f"{source.path}: holds no adapters; give a run that trained some (lora.rank)")
    entries = formats.entries(formats.layout("huggingface"), source.config)
    tensors, kinds = {}, dict[str, int]()
    for module, (a, b) in _modules(entries, adapters.tensors, source.config.parameter_shapes()).items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = from_array(a)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = from_array(b)
        kinds[module.rpartition(".")[2]] = len(a)
    others = {kind: rank for kind, rank in kinds.items() if rank != adapters.rank}
    base = adapters.fingerprint or ""
    metadata = {"format": "pt", "base": base, "rank": str(adapters.rank), "targets": " ".join(adapters.targets)}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(adapters.base),
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "rank_pattern": others,
        "alpha_pattern": {kind: adapters.alpha * rank / adapters.rank for kind, rank in others.items()},
        "target_modules": sorted(kinds),
        "lora_dropout": adapters.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    choices = {"command": "train", "family": source.family.name, "to": "peft"}
    with (
        hashed(source.inputs) as hashes,
        atomic_directory(path, lambda made: hashes.statement(made, path, choices)) as directory,
    ):
        write_json(directory / CONFIG, config)
        write_safetensors(directory / TENSORS, tensors, metadata)
        for name, content in card_files(source, adapter=True).items():
            (directory / name).write_bytes(content)
        save_description(directory, source.description, tokenizer=False)


def _modules(
    entries: Iterable[Entry], adapters: Mapping[str, LazyTensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The module of the Hugging Face layout of each adapter, and its factors A [rank, in] and B [out, rank], FP32. Our
    layers in one module share A, and B has their rows. Adapters of earlier versions have an A for each of k layers;
    these are then stacked, A [k rank, in], and each B is in its own rows and columns. `shapes` are ours."""
    factors = {}
    for entry in entries:
        layers = [name.removesuffix(".weight") for name in entry.ours]
        adapted = [layer for layer in layers if f"{layer}.{LORA_A}" in adapters]
        if not adapted or not str(entry.foreign).endswith(".weight"):
            continue
        first = [adapters[f"{layer}.{LORA_A}"].float32() for layer in adapted]
        shared = all(np.array_equal(each, first[0]) for each in first)
        first = first[:1] if shared else first
        ends = np.cumsum([0, *map(len, first)])
        second = [np.zeros((shapes[name][0], ends[-1]), np.float32) for name in entry.ours]
        for index, layer in enumerate(adapted):
            columns = slice(None) if shared else slice(ends[index], ends[index + 1])
            second[layers.index(layer)][:, columns] = adapters[f"{layer}.{LORA_B}"].float32()
        module = str(entry.foreign).removesuffix(".weight")
        factors[module] = np.concatenate(first), pack(entry.packing, second)
    return factors
