"""Low-rank adapters on linear layers (LoRA, Hu et al. 2021): y = W x + b + (alpha / rank) B A drop(x), W and b frozen.
A [rank, in] begins random and B [out, rank] zero, so that a model with new adapters is the model itself. Layers that
the original fuses share one A, as PEFT trains them."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from ms_codegeex.models.causal import Head
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.layers import Dropout, Embedding, Linear, typed
from ms_codegeex.models.losses import ChunkedCrossEntropy
from ms_codegeex.models.parameters import LORA_A, LORA_B
from ms_codegeex.models.quantised import hold_linear, quantise_linear

DROPOUT_SITES = 1 << 32  # the first number of their dropouts, after those of the families' networks


@dataclass(frozen=True)
class Adaptation:
    """What adapters look like: on which layers (`targets`, parts of their names), their rank, alpha, and the dropout of
    their inputs, a function of `seed` and of the sample. `held`: the type of the frozen matrices and tables; `bits`: 8
    or 4 for the blocks' matrices, 0 for `held`. `library`: of compiled operators for those, "" for none."""

    targets: Sequence[str]
    rank: int
    alpha: float
    dropout: float = 0.0
    seed: int = 0
    held: ms.Type = ms.float32
    bits: int = 0
    library: str = ""


class NarrowProduct(nn.Cell):
    """(alpha / rank) A drop(x). Fused layers have one together, so that it is computed once, and its gradient too."""

    computed_in_dtype = ("cast_a", "down", "multiply")
    constants = ("scale",)

    def __init__(self, base: Linear, name: str, settings: Adaptation, seq_length: int):
        super().__init__(auto_prefix=False)
        self.scale, self.dtype = settings.alpha / settings.rank, base.dtype
        _, into = base.shape
        self.a = Parameter(initializer("zeros", [settings.rank, into], ms.float32), name=f"{name}.{LORA_A}")
        site = DROPOUT_SITES + zlib.crc32(name.encode())
        self.dropout = Dropout(settings.dropout, (seq_length, into), site, settings.seed)
        self.cast_a, self.down, self.multiply = ops.Cast(), ops.MatMul(transpose_b=True), ops.Mul()

    def construct(self, x: Tensor, sample_keys: Tensor) -> Tensor:
        """[rows, in] -> [rows, rank]"""
        low = self.down(self.dropout(x, sample_keys), self.cast_a(self.a, self.dtype))
        return self.multiply(low, typed(self.scale, low))


class LoraLinear(nn.Cell):
    """A linear layer with an adapter. It has its own `narrow`, or None if it shares one: then the cell around it hands
    over what that computes, [rows, rank], instead of the samples' keys."""

    computed_in_dtype = ("cast_b", "up", "add")

    def __init__(self, base: Linear, name: str, rank: int, narrow: NarrowProduct | None):
        super().__init__(auto_prefix=False)
        self.base, self.narrow, self.dtype, self.active = base, narrow, base.dtype, None
        shape = [base.shape[0], rank]
        self.b = Parameter(initializer("zeros", shape, ms.float32), name=f"{name}.{LORA_B}")
        self.cast_b, self.up, self.add = ops.Cast(), ops.MatMul(transpose_b=True), ops.Add()

    def construct(self, x: Tensor, given: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]"""
        return self.add(self.base(x), self._adapted(x, given))

    def product(self, x: Tensor, given: Tensor) -> Tensor:
        return self.add(self.base.product(x), self._adapted(x, given))

    def shift(self) -> Parameter:
        return self.base.bias

    def _adapted(self, x: Tensor, given: Tensor) -> Tensor:
        low = given if self.narrow is None else self.narrow(x, given)
        return self.up(low, self.cast_b(self.b, self.dtype))


def add_adapters(network: nn.Cell, sizes: DecoderConfig, settings: Adaptation, seq_length: int) -> None:
    """Put adapters into a network and freeze everything else. Names of parameters do not change."""
    wanted = sizes.adapted_layers(settings.targets)
    if settings.held != ms.float32:
        for _, cell in list(network.cells_and_names()):
            if settings.bits and isinstance(cell, Linear):
                quantise_linear(cell, settings.bits, settings.library)
            elif isinstance(cell, Linear):
                hold_linear(cell, settings.held, settings.library)
            elif isinstance(cell, Embedding | Head):
                cell.hold(settings.held)
    names = [(parameter, parameter.name) for parameter in network.get_parameters()]
    for parameter, _ in names:
        parameter.requires_grad = False
    places = [
        (cell.weight.name.removesuffix(".weight"), parent, attribute, cell)
        for _, parent in network.cells_and_names()
        for attribute, cell in parent.name_cells().items()
        if isinstance(cell, Linear) and cell.weight.name.removesuffix(".weight") in wanted
    ]
    owners = Counter(sizes.table.has_factor(name, wanted) for name in wanted)
    for name, parent, attribute, cell in places:
        narrow = NarrowProduct(cell, name, settings, seq_length) if name in owners else None
        if narrow is not None:
            names.append((narrow.a, narrow.a.name))
        shared = owners[name] != 1
        adapter = LoraLinear(cell, name, settings.rank, None if shared else narrow)
        names.append((adapter.b, adapter.b.name))
        setattr(parent, attribute, adapter)
        if shared and narrow is not None:
            parent.narrow = narrow
    for _, cell in network.cells_and_names():
        if isinstance(cell, ChunkedCrossEntropy):
            cell.freeze()
    for parameter, name in names:  # a cell that is set gives its parameters a prefix
        parameter.name = name
