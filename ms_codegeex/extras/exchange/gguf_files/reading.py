"""Reads a GGUF file of one of our families back: family and sizes from its keys, tensors under our names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.description import GGUF_RECORD, ModelDescription, gguf_description
from ms_codegeex.data.infilling.sentinels import sentinels
from ms_codegeex.data.tokenizer import codegeex4, qwen2
from ms_codegeex.extras.exchange.gguf_files.architectures import ARCHITECTURES, HEAD, LlamaArchitecture
from ms_codegeex.extras.exchange.gguf_files.header import GGUFHeader
from ms_codegeex.extras.exchange.gguf_files.vocabulary import PREFIXES, tokenizer_writer
from ms_codegeex.formats import layout
from ms_codegeex.formats.family import FamilyFormats, check_layers
from ms_codegeex.formats.provenance import inputs_of
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.registry import Family, family

ARCHITECTURE = "general.architecture"
# beginnings of keys that ask for what our networks do not compute, and the values that ask for nothing
_ONLY = ("rope.scal", "attention.sliding_window", "attention.key_length", "attention.value_length")
_NOTHING = {"rope.scaling.type": "none", "rope.scaling.factor": 1, "rope.scale_linear": 1}
_NOTHING |= {"attention.sliding_window": 0}
_ROTARY_BASE = 10_000.0  # of the families that have no other
_LIST_SHOWN, _TEXT_SHOWN = 3, 80  # entries of a list and characters of a text that `inspect` prints


def _family_of(header: GGUFHeader) -> tuple[Family, LlamaArchitecture]:
    name = header.metadata.get(ARCHITECTURE)
    if (kind := header.metadata.get("general.type", "model")) != "model":
        raise UserError(f"{header.path}: general.type is {kind!r:.40}, not a model; give the model's own file")
    if (files := header.metadata.get("split.count", 1)) != 1:
        first = re.sub(r"-\d{5}-of-", "-00001-of-", str(header.path))
        join = f"llama-gguf-split --merge {shlex.quote(first)} joined.gguf"
        raise UserError(f"{header.path}: is one of {files} files of a model; join them: {join}")
    for ours, its in ARCHITECTURES.items():
        if its.name == name:
            return family(ours), its
    known = ", ".join(its.name for its in ARCHITECTURES.values())
    raise UserError(f"{header.path}: {ARCHITECTURE} is {name!r}, which none of our families is; expected {known}")


def _sizes(
    header: GGUFHeader, its: LlamaArchitecture, known: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The sizes in our names; `UserError` for a key that is missing or asks for what our network does not compute."""
    metadata, fields = header.metadata, {}
    for name, key in its.sizes.items():
        value = metadata.get(f"{its.name}.{key}")
        if value is None and name not in known:
            raise UserError(f"{header.path}: key {its.name}.{key} is missing; give it with --set {name}=N")
        fields[name] = float(np.format_float_positional(np.float32(value))) if isinstance(value, float) else value
    table = header.infos.get("token_embd.weight")
    if table is None or len(table.shape) != 2:
        raise UserError(f"{header.path}: tensor token_embd.weight is missing or not a matrix; give a complete file")
    fields["vocab_size"] = table.shape[0]
    if (eos := metadata.get("tokenizer.ggml.eos_token_id")) is not None:
        fields["eos_token_id"] = eos
    if "tied_head" in defaults:
        fields["tied_head"] = HEAD not in header.infos
    base = metadata.get(key := f"{its.name}.rope.freq_base", _ROTARY_BASE)
    if "rope_ratio" in defaults and isinstance(base, float):
        fields["rope_ratio"] = base / _ROTARY_BASE
    elif "rotary_base" not in its.sizes and base != _ROTARY_BASE:
        raise UserError(f"{header.path}: key {key} is {base!r}, expected {_ROTARY_BASE:g}")
    heads = metadata.get(f"{its.name}.attention.head_count_kv", fields["num_heads"])
    if "num_kv_groups" not in fields and heads != fields["num_heads"]:
        raise UserError(f"{header.path}: key {its.name}.attention.head_count_kv is {heads!r}, expected head_count")
    return {**fields, **known}


def _check_keys(header: GGUFHeader, its: LlamaArchitecture, head_dim: int) -> None:
    """`UserError` for a key that asks for what our network, with heads of this width, does not compute."""
    without_effect = {**_NOTHING, **dict.fromkeys(_ONLY[-2:], head_dim)}
    for key, value in header.metadata.items():
        name = key.removeprefix(f"{its.name}.")
        if name.startswith(_ONLY) and (name not in without_effect or value != without_effect[name]):
            raise UserError(f"{header.path}: key {key} is {value!r:.80}, not of this family; give a model without")


def _without_zeros(header: GGUFHeader, its: LlamaArchitecture, config: Any) -> dict[str, LazyTensor]:
    """The file's tensors but those that our family does not have; `UserError` if one of these is not zero."""
    tensors = {name: header.tensor(name) for name in header.infos}
    for name, shape in its.zero_shapes(config).items():
        if (tensor := tensors.pop(name, None)) is not None and (tensor.shape != shape or tensor.float32().any()):
            raise UserError(f"{header.path}: tensor {name} is not zero; this {its.name} model is not one of ours")
    return tensors


def open_gguf(path: Path, known: Mapping[str, Any] | None = None) -> Source:
    """Open a GGUF file as `open_source` opens the others; `known` overrides sizes. Quantised tensors come as FP32.
    Raises `UserError` naming the file, and the key or tensor, for a damaged file and for a model of another family."""
    header, known = GGUFHeader(path), dict(known or {})
    its_family, its = _family_of(header)
    formats = FamilyFormats(its_family)
    try:
        fields = formats.from_ours(_sizes(header, its, known, formats.defaults))
        config = its_family.config.build_config(None, fields)
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None
    _check_keys(header, its, config.head_dim)
    check_layers(config, header.infos, str(path))
    tensors, shapes = _without_zeros(header, its, config), config.parameter_shapes()
    found = layout.to_ours(its.entries(config), tensors, shapes, str(path))
    ours = {name: found[name] for name in shapes}
    path, saver = Path(path), tokenizer_writer(header.metadata, str(path))
    inputs = (inputs_of("model", path, [path]),)
    return Source(path, "gguf", its_family, fields, ours, saver, inputs=inputs, description=_description(header))


def _description(header: GGUFHeader) -> ModelDescription:
    prefix = PREFIXES.get(str(header.metadata.get("tokenizer.ggml.pre")), "")
    known = gguf_description(header.metadata, prefix, header.path)
    if known.infill is None and GGUF_RECORD not in header.metadata:
        names = header.metadata.get("tokenizer.ggml.tokens", ())
        marks = qwen2.infilling_marks(names) or codegeex4.infilling_marks(names)
        known = replace(known, infill=marks and sentinels(marks))
    return known


def describe(path: Path) -> dict[str, Any]:
    """Describes a GGUF file from its header, which is checked completely."""
    header = GGUFHeader(path)
    counts: dict[str, int] = {}
    for info in header.infos.values():
        counts[info.type] = counts.get(info.type, 0) + int(np.prod(info.shape, dtype=np.uint64))
    families = {its.name: name for name, its in ARCHITECTURES.items()}
    return {
        "kind": "gguf",
        "file": str(path),
        "bytes": header.size,
        "architecture": header.metadata.get(ARCHITECTURE),
        "family": families.get(str(header.metadata.get(ARCHITECTURE))),
        "metadata": header.metadata,
        "description": _description(header).to_json(),
        "parameters": sum(counts.values()),
        "types": counts,
        "tensors": [{"name": name, "shape": [*info.shape], "type": info.type} for name, info in header.infos.items()],
    }


def _shown(value: Any) -> str:
    if isinstance(value, list):
        more = ", …" if len(value) > _LIST_SHOWN else ""
        return f"{len(value):,} values: {', '.join(map(_shown, value[:_LIST_SHOWN]))}{more}"
    if isinstance(value, str):
        return repr(value[:_TEXT_SHOWN]) + ("…" if len(value) > _TEXT_SHOWN else "")
    return str(value)


def lines(described: Mapping[str, Any], every_tensor: bool = False) -> Iterator[str]:
    """`describe` for people, with or without every tensor."""
    whose = f"that of {described['family']}" if described["family"] else "which none of our families has"
    yield f"GGUF: architecture {_shown(described['architecture'])}, {whose}"
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in described["types"].items())
    yield f"parameters: {described['parameters']:,} ({kinds or 'none'})"
    yield from (f"{key}: {_shown(value)}" for key, value in described["metadata"].items())
    yield f"verified: {len(described['tensors'])} tensors, {described['bytes']:,} bytes, nothing missing or overlapping"
    for each in described["tensors"] if every_tensor else ():
        yield f"  {each['name']}  {each['type']}  {each['shape']}"


SHOWN = ("GGUF file", describe, lines, True)  # for `inspect`
