"""Writes quantised model directories (`generation/quantised.py`), tensor by tensor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, write_json
from ms_codegeex.data.description import save_description
from ms_codegeex.formats.provenance import hashed
from ms_codegeex.formats.rounding import check_bits, rounded_tensors
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.sources import Source, converting
from ms_codegeex.formats.targets import free_target
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.generation.quantised import DESCRIPTION, FORMAT, TENSORS, is_quantised


def write_quantised(source: Source, bits: int, group: int, output: Path, replace: bool = False) -> dict[str, Any]:
    """Write `source` to the directory `output` with its matrices rounded to `bits` (8 or 4), completely or not at all.
    Return a report as a flat dict. Raises `UserError` for other bits, if `output` exists and is not a quantised model
    to `replace`, if the model's tokenizer is unknown, and for numbers that are not finite."""
    if bits in (32, 16):
        raise UserError(f"bits: {bits} needs no quantisation; choose 8 or 4")
    check_bits(bits, group)
    output, begin = Path(output), time.monotonic()
    if output.exists() and not (replace and is_quantised(output)):
        raise UserError(f"--output: {output} exists; choose another place, or give --replace for a quantised model")
    free_target(output, source.path, replace)
    if source.save_tokenizer is None:
        raise UserError(f"{source.path}: has no known tokenizer; {converting(source.path, '--tokenizer NAME|DIR')}")
    whole = source.finite().for_rounding()
    tensors, products = dict[str, LazyTensor](), whole.config.product_names()
    for name, tensor in whole.tensors.items():
        tensors |= rounded_tensors(name, tensor, bits, group) if name in products else {name: tensor}
    description = {"format": FORMAT, "family": source.family.name, "bits": bits, "group": group if bits == 4 else 0}
    choices = {"command": "quantize", "family": source.family.name, "bits": bits, "group": description["group"]}
    with (
        hashed(source.inputs) as hashes,
        atomic_directory(output, lambda made: hashes.statement(made, output, choices)) as directory,
    ):
        write_json(directory / DESCRIPTION, description | {"sizes": source.fields})
        source.save_tokenizer(directory)
        save_description(directory, source.description)
        write_safetensors(directory / TENSORS, tensors, checksums=True)
    return {
        "output": str(output),
        "bits": bits,
        "group": description["group"],
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "bytes_before": sum(tensor.nbytes for tensor in source.tensors.values()),
        "seconds": round(time.monotonic() - begin, 3),
    }
