"""What every family's configuration provides, computed from its fields and its table of parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.parameters import LORA_A, LORA_B, RMS_NORM, ParameterTable

# Fields that say how a model starts or how exactly it computes, not what its weights mean.
NOT_OF_WEIGHTS = ("init_std", "scores_fp32", "softmax_fp32")


class DecoderConfig:
    """Base of the families' configurations, which are frozen dataclasses; a field of the same name replaces a property.

    `activation` is that of the feed-forward part: fast_gelu, gelu or swiglu.
    """

    table: ClassVar[ParameterTable]
    activation: ClassVar[str]
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_position_embeddings: int
    init_std: float
    eos_token_id: int

    def validate(self) -> None:
        """Raise `UserError` naming the key for sizes that do not fit together."""
        raise NotImplementedError

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.hidden_size // self.num_heads

    @property
    def num_kv_groups(self) -> int:
        """Heads of keys and values: by default each query head has its own."""
        return self.num_heads

    @property
    def kv_size(self) -> int:
        """Width of keys and of values."""
        return self.num_kv_groups * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Channels of each head that rotary positions rotate; 0: none."""
        return 0

    @property
    def scores_fp32(self) -> bool:
        """Whether queries are multiplied with keys in FP32 in an FP16 run."""
        return False

    @property
    def softmax_fp32(self) -> bool:
        """Whether the softmax of an FP16 run is FP32."""
        return True

    @property
    def rms_norm(self) -> bool:
        """Whether its normalisation is RMSNorm, not LayerNorm."""
        return any(layer.role is RMS_NORM for layer in self.table.block)

    @property
    def attention_layers(self) -> int:
        """Number of blocks, and of the layers after them that have attention, too."""
        return self.num_layers + self.table.last_blocks

    @property
    def cached_numbers(self) -> int:
        """How many numbers the keys and values of one token are, over all layers."""
        return 2 * self.attention_layers * self.kv_size

    def initial_std(self, name: str) -> float:
        """Standard deviation of a layer's initial weight, or of its adapter's; `name`: of one of its parameters.

        An adapter's first factor has the variance of PEFT's uniform numbers, whose bound is 1 / sqrt(columns).
        """
        place, _, kind = name.rpartition(".")
        layer = self.table.layer(place)
        if kind in (LORA_A, LORA_B):
            return 1 / math.sqrt(3 * layer.shape(self)[1]) if kind == LORA_A else 0.0
        return getattr(self, layer.std)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape, in the table's order."""
        layers = self.table.layers(self.num_layers)
        return {parameter.name: parameter.shape for layer in layers for parameter in layer.parameters(self)}

    def product_names(self) -> frozenset[str]:
        """The matrices that activations are multiplied with and that nothing else reads."""
        layers = self.table.layers(self.num_layers)
        return frozenset(each.name for layer in layers for each in layer.parameters(self) if each.product)

    def adapted_layers(self, targets: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Name and shape of each linear layer that has one of `targets` in its dotted name, such as `attention` or
        `feed_forward.up`. `UserError` for a target that matches no layer."""
        linear = {layer.name: layer.shape(self) for layer in self.table.layers(self.num_layers) if layer.role.linear}
        found = {target: [name for name in linear if f".{target}." in f".{name}."] for target in targets}
        for target, names in found.items():
            if not names:
                known = ", ".join(layer.name for layer in self.table.block if layer.role.linear)
                raise UserError(f"lora.targets: no linear layer is named {target}; known are {known}")
        chosen = {name for names in found.values() for name in names}
        return {name: shape for name, shape in linear.items() if name in chosen}

    def adapter_shapes(self, targets: Sequence[str], rank: int) -> dict[str, tuple[int, int]]:
        """Name and shape of every parameter of adapters with rank `rank` on the layers of `targets`."""
        found: dict[str, tuple[int, int]] = {}
        for layer, (rows, columns) in self.adapted_layers(targets).items():
            found |= {f"{layer}.{LORA_A}": (rank, columns), f"{layer}.{LORA_B}": (rows, rank)}
        return found

    def parameter_count(self) -> int:
        """Number of trainable parameters."""
        layers = self.table.layers(self.num_layers)
        return sum(parameter.size for layer in layers for parameter in layer.parameters(self))

    def flops_per_token(self, seq_length: int, frozen: bool = False) -> int:
        """Model FLOPs of forward and backward for one token: 2 per multiply-add, backward twice the forward. Products
        with `frozen` weights count once in the backward, as these have no gradient.

        Counts the matrix products (linear layers, full attention square as computed, logits), not element-wise work.
        """
        linear = (layer.shape(self) for layer in self.table.layers(self.num_layers) if layer.role.linear)
        multiplied = sum(rows * columns for rows, columns in linear) + self.vocab_size * self.hidden_size
        attention = 2 * seq_length * self.hidden_size * self.attention_layers
        return 2 * ((2 if frozen else 3) * multiplied + 3 * attention)
