"""The memory that generating with a model needs on one device, with the published figure.

Quantisation is that of the releases: the linear layers of all blocks as whole numbers with a 16-bit scale for each
output, everything else in 16 bits; a weight is expanded to 16 bits where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ms_codegeex.errors import UserError

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

BITS = (16, 8, 4)
HALF = 2  # bytes of a 16-bit number

# family, preset, bits -> tokens of the sequence, 10^9 bytes. CodeGeeX: batch 1, PyTorch, generated to that length
# (release, latency figures); CodeGeeX2: the release's memory table, whose numbers ChatGLM2 gives for 2048 tokens.
PUBLISHED: Mapping[tuple[str, str, int], Mapping[int, float]] = MappingProxyType(
    {
        ("codegeex", "13b", 16): {128: 26.9, 256: 27.1, 512: 27.6, 1024: 28.9, 2048: 34.6},
        ("codegeex", "13b", 8): {128: 14.7, 256: 15.7, 512: 16.1, 1024: 17.1, 2048: 18.7},
        ("codegeex2", "6b", 16): {2048: 13.1},
        ("codegeex2", "6b", 8): {2048: 8.2},
        ("codegeex2", "6b", 4): {2048: 5.5},
    }
)


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes for one sequence. `workspace`: the widest layer's activations for the whole sequence, and the largest
    weight expanded to 16 bits if weights are quantised."""

    bits: int
    tokens: int
    weights: int
    scales: int
    cache: int
    workspace: int
    published: float | None

    @property
    def total(self) -> int:
        """Sum of all."""
        return self.weights + self.scales + self.cache + self.workspace

    @property
    def unexplained(self) -> float | None:
        """Published bytes beyond `total`: what a GPU process holds in addition to model and cache."""
        return None if self.published is None else self.published - self.total


def inference_memory(config: RunConfig, bits: int = 16, tokens: int | None = None) -> InferenceMemory:
    """Memory for one sequence of `tokens` (none: the published length, else the whole context) with weights of `bits`.

    Raises `UserError` for other bits than 16, 8, 4 and for more tokens than the model's context.
    """
    if bits not in BITS:
        raise UserError(f"--bits: {bits}; choose one of {', '.join(map(str, BITS))}")
    model = config.model.sizes
    measured = _published(config, bits)
    length = tokens or next(iter(measured), model.max_position_embeddings)
    if not 0 < length <= model.max_position_embeddings:
        raise UserError(
            f"--context: {length} tokens, the model reads up to {model.max_position_embeddings}; give a number in "
            "between"
        )
    parameters = [p for layer in model.table.layers(model.num_layers) for p in layer.parameters(model)]
    linears = [parameter.shape for parameter in parameters if parameter.matrix]
    quantised = sum(map(math.prod, linears)) if bits < 16 else 0
    rest = model.parameter_count() - quantised
    expanded = HALF * max(map(math.prod, linears)) if bits < 16 else 0
    published = measured.get(length)
    return InferenceMemory(
        bits=bits,
        tokens=length,
        weights=HALF * rest + quantised * bits // 8,
        scales=HALF * sum(shape[0] for shape in linears) if bits < 16 else 0,
        cache=HALF * length * model.cached_numbers,
        workspace=expanded + HALF * length * 3 * model.intermediate_size,
        published=published and published * 1e9,
    )


def _published(config: RunConfig, bits: int) -> Mapping[int, float]:
    """The figures published for exactly these sizes, by length; empty if there are none."""
    from ms_codegeex.models.registry import family

    model, build = config.model.sizes, family(config.family).config.build_config
    presets = (preset for name, preset, width in PUBLISHED if (name, width) == (config.family, bits))
    return next((PUBLISHED[config.family, preset, bits] for preset in presets if build(preset, {}) == model), {})


def to_dict(memory: InferenceMemory) -> dict[str, Any]:
    """Plain values for `--json`, all in bytes."""
    return {
        "bits": memory.bits,
        "tokens": memory.tokens,
        "weights": memory.weights,
        "scales": memory.scales,
        "cache": memory.cache,
        "workspace": memory.workspace,
        "total": memory.total,
        "published": memory.published,
        "unexplained": memory.unexplained,
    }
