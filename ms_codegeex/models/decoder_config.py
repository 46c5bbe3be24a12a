"""The base of every family's configuration: presets, checks, and values derived from its fields and its table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.parameters import LORA_A, LORA_B, RMS_NORM, ParameterTable

Config = TypeVar("Config", bound="DecoderConfig")
# Fields on initialisation or precision, which do not change what the weights mean.
NOT_OF_WEIGHTS = ("init_std", "scores_fp32", "softmax_fp32")
# Common to the families' presets for a CPU.
TINY = {"hidden_size": 128, "num_layers": 3, "num_heads": 4, "max_position_embeddings": 256, "init_std": 0.08}
SPARE = 8  # extra channels of a product that carry a number for each row on a GPU; FP16 needs multiples of eight


@dataclass(frozen=True)
class Heads:
    """`count` heads of `size` channels; `groups` heads of keys and values, each shared by count / groups queries."""

    count: int
    size: int
    groups: int


class DecoderConfig:
    """Base of the families' configurations, which are frozen dataclasses; a field of the same name replaces a property.
    `activation` is that of the feed-forward part: fast_gelu, gelu or swiglu. `after_end`: how many ids of a tokenizer
    of the user's own follow its end token; None: its size does not say."""

    table: ClassVar[ParameterTable]
    activation: ClassVar[str]
    after_end: ClassVar[int | None] = None
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_position_embeddings: int
    init_std: float
    eos_token_id: int

    def validate(self) -> None:
        """Raise `UserError` naming the key for sizes that do not fit together: every number is positive, heads divide
        the hidden size, pairs of channels of a head can be rotated, and eos has a row."""
        for key, value in asdict(self).items():  # type: ignore[call-overload]
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and key != "eos_token_id" and value <= 0:
                raise UserError(f"model.{key}: {value} is not positive; give a number above 0")
        if self.hidden_size % self.num_heads:
            wrong = f"{self.num_heads} does not divide model.hidden_size {self.hidden_size}"
            raise UserError(f"model.num_heads: {wrong}; choose a divisor")
        if not 0 <= self.eos_token_id < self.vocab_size:
            wrong = f"{self.eos_token_id} is outside model.vocab_size {self.vocab_size}"
            least = max(self.eos_token_id, 0) + 1
            remedy = f"set model.vocab_size={least} or more, or model.eos_token_id to one of its ids"
            raise UserError(f"model.eos_token_id: {wrong}; {remedy}")
        turned, head = self.rotary_dim, self.head_dim
        if turned % 2 or turned > head:
            key, remedy = "rotary_dim", f"give an even number up to {head}"
            if "rotary_dim" not in asdict(self):  # type: ignore[call-overload]
                key, remedy = "num_heads", "choose a divisor of model.hidden_size that leaves an even number"
            raise UserError(f"model.{key}: {turned} of {head} channels of a head are turned in pairs; {remedy}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_kv_groups(self) -> int:
        return self.num_heads

    @property
    def kv_size(self) -> int:
        return self.num_kv_groups * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """Number of channels of each head that rotary positions rotate; 0 for none."""
        return 0

    @property
    def scores_fp32(self) -> bool:
        """Whether an FP16 run multiplies queries with keys in FP32."""
        return False

    @property
    def softmax_fp32(self) -> bool:
        """Whether an FP16 run computes the softmax in FP32."""
        return True

    @property
    def rotary_dtype(self) -> str:
        return "fp32"

    @property
    def rotary_base(self) -> float:
        return 10_000.0

    @property
    def tied_head(self) -> bool:
        return any(layer.copy_of for layer in self.table.last)

    def rounded(self) -> DecoderConfig:
        """The sizes of the same model with quantised matrices. A tied head becomes one of them, because a step would
        otherwise read the whole word table."""
        return self

    @property
    def norm_epsilon(self) -> float:
        return self.norm_eps if self.rms_norm else self.layer_norm_eps  # the names of the releases

    @property
    def rms_norm(self) -> bool:
        return any(layer.role is RMS_NORM for layer in self.table.block)

    @property
    def attention_layers(self) -> int:
        return self.num_layers + self.table.last_blocks

    @property
    def cached_numbers(self) -> int:
        return 2 * self.attention_layers * self.kv_size

    def initial_std(self, name: str) -> float:
        """Return the standard deviation of a parameter's initial values. An adapter's first factor has the variance of
        PEFT's uniform distribution, whose bound is 1 / sqrt(columns)."""
        layer_name, _, kind = name.rpartition(".")
        layer = self.table.layer(layer_name)
        if kind in (LORA_A, LORA_B):
            return 1 / math.sqrt(3 * layer.shape(self)[1]) if kind == LORA_A else 0.0
        return getattr(self, layer.std)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        layers = self.table.layers(self.num_layers)
        return {parameter.name: parameter.shape for layer in layers for parameter in layer.parameters(self)}

    def product_names(self) -> frozenset[str]:
        layers = self.table.layers(self.num_layers)
        return frozenset(each.name for layer in layers for each in layer.parameters(self) if each.product)

    def matrix_names(self) -> frozenset[str]:
        layers = self.table.layers(self.num_layers)
        return frozenset(each.name for layer in layers for each in layer.parameters(self) if each.matrix)

    def adapted_layers(self, targets: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return name and shape of each linear layer with one of `targets` in its dotted name, such as `attention` or
        `feed_forward.up`. Raises `UserError` for a target that matches no layer."""
        linear = {layer.name: layer.shape(self) for layer in self.table.layers(self.num_layers) if layer.role.linear}
        matches = {target: [name for name in linear if f".{target}." in f".{name}."] for target in targets}
        for target, names in matches.items():
            if not names:
                known = ", ".join(layer.name for layer in self.table.block if layer.role.linear)
                raise UserError(f"lora.targets: no linear layer is named {target}; known are {known}")
        chosen = {name for names in matches.values() for name in names}
        return {name: shape for name, shape in linear.items() if name in chosen}

    def adapter_shapes(self, targets: Sequence[str], rank: int) -> dict[str, tuple[int, int]]:
        """Return name and shape of every parameter of adapters with rank `rank` on the layers of `targets`. Fused
        layers share one A, which has the name of the first of them."""
        shapes: dict[str, tuple[int, int]] = {}
        layers = self.adapted_layers(targets)
        for layer, (rows, columns) in layers.items():
            if self.table.has_factor(layer, layers) == layer:
                shapes[f"{layer}.{LORA_A}"] = rank, columns
            shapes[f"{layer}.{LORA_B}"] = rows, rank
        return shapes

    def parameter_count(self) -> int:
        layers = self.table.layers(self.num_layers)
        return sum(parameter.size for layer in layers for parameter in layer.parameters(self))

    def flops_per_token(self, seq_length: int, frozen: bool = False) -> int:
        """Return model FLOPs of forward and backward for one token: 2 per multiply-add, and twice the forward in the
        backward, or once for `frozen` weights, which have no gradient. Only matrix products count (linear layers, the
        full attention square as computed, logits), not element-wise work."""
        linear = (layer.shape(self) for layer in self.table.layers(self.num_layers) if layer.role.linear)
        multiplied = sum(rows * columns for rows, columns in linear) + self.vocab_size * self.hidden_size
        attention = 2 * seq_length * self.hidden_size * self.attention_layers
        return 2 * ((2 if frozen else 3) * multiplied + 3 * attention)


def check_groups(config: DecoderConfig) -> None:
    """Raise `UserError` unless the number of key and value heads divides that of query heads."""
    if config.num_heads % config.num_kv_groups:
        wrong = f"{config.num_kv_groups} does not divide model.num_heads {config.num_heads}"
        raise UserError(f"model.num_kv_groups: {wrong}; choose a divisor")


def rotary_turns(
    positions: int, rotary_dim: int, precision: str = "fp32", base: float = 10000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin FP32 [positions, rotary_dim / 2] of position · base^(-2i / rotary_dim). As in the PyTorch
    implementations, frequencies and angles are FP32 numbers, and the results are rounded to `precision` (fp32, fp16,
    bf16). Below fp32, positions and frequencies are rounded first, too."""
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    frequencies = _rounded(np.float32(1.0) / np.float32(base) ** exponents, precision)
    rows = _rounded(np.arange(positions, dtype=np.float32), precision)
    angles = _rounded(rows[:, None] * frequencies, precision).astype(np.float64)
    return _rounded(np.cos(angles), precision), _rounded(np.sin(angles), precision)


def _rounded(values: np.ndarray, precision: str) -> np.ndarray:
    """Return FP32 values rounded, to nearest even, to numbers that `precision` (fp32, fp16, bf16) can represent."""
    values = values.astype(np.float32)
    if precision == "fp16":
        return values.astype(np.float16).astype(np.float32)
    if precision == "bf16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values


def from_preset(
    cls: type[Config], presets: Mapping[str, Mapping[str, Any]], default: str, preset: Any, overrides: Mapping[str, Any]
) -> Config:
    """Return the preset (`default` if none is named) with the fields in `overrides` replaced, validated. Raises
    `UserError` for an unknown preset. `overrides` must hold known field names only."""
    name = str(preset or default).lower()
    if name not in presets:
        raise UserError(f"model.preset: '{preset}' is unknown; choose one of {', '.join(presets)}")
    config = replace(cls(**presets[name]), **overrides)
    config.validate()
    return config
