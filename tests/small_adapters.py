"""Runs that hold adapters (LoRA) with random numbers for a model directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ms_codegeex.formats.checkpoint import fingerprint
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.sources import open_source

TARGETS = ("attention", "feed_forward.down")


def write_adapters(
    directory: Path, base: Path, seed: int = 1, rank: int = 2, alpha: float = 6.0, targets=TARGETS
) -> Path:
    """A run directory whose checkpoint has adapters for the model at `base`."""
    source, generator = open_source(base), np.random.default_rng(seed)
    shapes = source.config.adapter_shapes(list(targets), rank)
    tensors = {name: generator.normal(size=shape, scale=0.4).astype(np.float32) for name, shape in shapes.items()}
    model = {"family": source.family.name, "preset": None, **source.fields, "weights": str(base)}
    config = {"model": model, "lora": {"rank": rank, "alpha": alpha, "targets": list(targets)}}
    write_checkpoint(directory / "checkpoints", 4, tensors, {"config": config, "base": fingerprint(source.tensors)})
    return directory
