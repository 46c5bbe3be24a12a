"""Tensor parallelism for generation: the part of each weight that one of several devices holds. A family's table says
along which axis a parameter is split, and the meaning of that axis determines the unit: attention heads, groups of keys
and values, feed-forward channels or tokens. Shares may be unequal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.rounding import QuantisedMatrix
from ms_codegeex.generation.matrices import WHOLE, PackedMatrix, Weights, pack
from ms_codegeex.models.decoder_config import DecoderConfig, Heads

UNITS = ((128, 32), (32, 2), (1, 0))  # channels kept together, and how many such units each device must get for that


def check_devices(config: DecoderConfig, devices: int) -> None:
    """Raise `UserError` unless each device gets at least one attention head."""
    if not 1 <= devices <= config.num_heads:
        raise UserError(f"--devices: {devices} for {config.num_heads} attention heads; give 1 to {config.num_heads}")


@dataclass(frozen=True)
class Share:
    """The part of a model on device `rank` of `ranks`."""

    config: DecoderConfig
    rank: int
    ranks: int

    def _heads(self) -> tuple[slice, slice]:
        config, groups = self.config, self.config.num_kv_groups
        shared = config.num_heads // groups
        if self.ranks <= groups:
            kept = _stretch(groups, self.ranks, self.rank)
            return slice(kept.start * shared, kept.stop * shared), kept
        group, devices = next(
            (group, devices)
            for group in range(groups)
            if self.rank < (devices := _stretch(self.ranks, groups, group)).stop
        )
        own = _stretch(shared, devices.stop - devices.start, self.rank - devices.start)
        return slice(group * shared + own.start, group * shared + own.stop), slice(group, group + 1)

    @property
    def heads(self) -> Heads:
        heads, groups = self._heads()
        return Heads(heads.stop - heads.start, self.config.head_dim, groups.stop - groups.start)

    def part(self, size: str) -> slice:
        """Return the device's part of an axis. `size` names the field of the config with the length of the axis."""
        whole = getattr(self.config, size)
        if size == "vocab_size":
            each = self.vocabulary
            return slice(min(self.rank * each, whole), min((self.rank + 1) * each, whole))
        if size in ("hidden_size", "kv_size"):
            part = self._heads()[size == "kv_size"]
            return slice(part.start * self.config.head_dim, part.stop * self.config.head_dim)
        unit = next(unit for unit, minimum in UNITS if whole >= minimum * unit * self.ranks)
        return _stretch(whole, self.ranks, self.rank, unit)

    @property
    def vocabulary(self) -> int:
        return -(-self.config.vocab_size // self.ranks)


def _stretch(count: int, parts: int, number: int, unit: int = 1) -> slice:
    begin, end = (count * i // (parts * unit) * unit for i in (number, number + 1))
    return slice(begin, count if number == parts - 1 else end)


@dataclass(frozen=True)
class DeviceExchange:
    """How a device exchanges results with the others: its `share`, and the shared `memory` for the compiled operators.
    MindSpore's own operators use its collectives and need no memory."""

    share: Share
    memory: np.ndarray | None = None


class SharedWeights:
    """The device's part of `weights`, read on demand. Where the inputs of a product are split, only the first device
    has its bias; the others have zeros, because the results are added up."""

    def __init__(self, weights: Weights, share: Share):
        self.weights, self.share, self.bits = weights, share, weights.bits
        layers = share.config.table.layers(share.config.num_layers)
        self._parameters = {each.name: each for layer in layers for each in layer.parameters(share.config)}

    def part(self, name: str, axis: int) -> slice:
        """Return the device's part of one axis of a parameter."""
        parameter = self._parameters[name]
        size = parameter.layer.columns if axis else parameter.layer.rows
        return self.share.part(size) if parameter.axis == axis else WHOLE

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> QuantisedMatrix:
        """Return the device's part of a matrix, [n, k]. `rows` and `columns` are ignored."""
        return self.weights.matrix(name, self.part(name, 0), self.part(name, 1))

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """Return the device's part of a vector, FP32 [n]. `rows` is ignored."""
        parameter = self._parameters[name]
        part = self.weights.vector(name, self.part(name, 0))
        return np.zeros_like(part) if parameter.layer.role.weight_axis == 1 and self.share.rank else part

    def packed(self, name: str, blocks: bool = False) -> PackedMatrix:
        return pack(self.matrix(name), blocks)
