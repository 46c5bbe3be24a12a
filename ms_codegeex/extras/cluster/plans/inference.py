"""The memory that generating with a model needs on one device, and a bound on its speed, with the published figures. A
*published* form is that of the releases: the linear layers of all blocks as whole numbers with a 16-bit scale for each
output, everything else in 16 bits. *Ours* is what `quantize` makes of a 16-bit model and `generate` holds: the output
layer is rounded too unless it is the word table, scales, biases, norms and the cache are FP32, tables stay."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ms_codegeex.base import host
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import CHIPS

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.models.parameters import LayerParameter

BITS = (16, 8, 4)
GROUP = 64  # numbers of a row that share a scale in our 4-bit form
HALF, SINGLE = 2, 4  # bytes of a number
PROMPT_ROWS = 256  # that a pass reads

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
class PublishedSpeed:
    """A published speed of one sequence of `tokens` in all. `bits` of the weights, None if not published; `rate` in
    `unit` a second; `program`: what it was measured with."""

    gpu: str
    bits: int | None
    tokens: int
    rate: float
    unit: str
    program: str


BANDWIDTHS = {"A100": CHIPS["a100"].memory_bandwidth, "RTX 3090": 0.936e12}  # NVIDIA's data sheets
FASTER = "FasterTransformer"
# CodeGeeX: latency figures of its FasterTransformer release. 32 and 94: CodeGeeX2's pages, of which the Chinese one
# says characters and the English one tokens.
SPEEDS: Mapping[tuple[str, str], tuple[PublishedSpeed, ...]] = MappingProxyType(
    {
        ("codegeex", "13b"): (
            PublishedSpeed("A100", 16, 128, 128 / 3.66, "tokens", "PyTorch"),
            PublishedSpeed("A100", 16, 128, 128 / 2.43, "tokens", FASTER),
            PublishedSpeed("A100", 8, 128, 128 / 1.61, "tokens", FASTER),
            PublishedSpeed("RTX 3090", 8, 128, 128 / 2.25, "tokens", FASTER),
            PublishedSpeed("RTX 3090", 8, 2048, 2048 / 43.81, "tokens", FASTER),
            PublishedSpeed("RTX 3090", None, 2048, 32, "characters", "not named"),
        ),
        ("codegeex2", "6b"): (PublishedSpeed("RTX 3090", None, 2048, 94, "characters", "not named"),),
    }
)
WEEK = 4.7e9  # tokens that CodeGeeX generated for all users in a week (arXiv:2303.17568)
WEEK_RATE = WEEK / (7 * 86400)  # a second


@dataclass(frozen=True)
class WeightForm:
    """How weights are held: matrices in `bits`, tables in numbers of `table` bytes, vectors, scales and the cache of
    `number` bytes. A scale is for a row, or for `group` numbers of it. `head`: the output layer is rounded too."""

    name: str
    bits: int
    number: int
    table: int
    group: int = 0
    head: bool = False

    def rounds(self, parameter: LayerParameter) -> bool:
        """Whether the parameter is rounded."""
        return self.bits < 16 and (parameter.product if self.head else parameter.matrix)

    def scales(self, parameter: LayerParameter) -> int:
        """Bytes of its scales."""
        if not self.rounds(parameter):
            return 0
        rows, columns = parameter.shape
        return self.number * rows * (math.ceil(columns / self.group) if self.group else 1)

    def size(self, parameter: LayerParameter) -> int:
        """Bytes of the parameter without its scales."""
        if not self.rounds(parameter):
            return parameter.size * (self.table if len(parameter.shape) == 2 else self.number)
        rows, columns = parameter.shape
        return rows * math.ceil(columns * self.bits / 8)


PUBLISHED_FORMS = {bits: WeightForm(f"{bits} bits", bits, HALF, HALF) for bits in BITS}


def our_forms(group: int = GROUP) -> tuple[WeightForm, ...]:
    """An FP32 model, a 16-bit one, and the two that `quantize` makes of that."""
    return (
        WeightForm("fp32", 32, SINGLE, SINGLE),
        WeightForm("fp16", 16, SINGLE, HALF),
        WeightForm("int8", 8, SINGLE, HALF, head=True),
        WeightForm("int4", 4, SINGLE, HALF, group, head=True),
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
        """All bytes together."""
        return self.weights + self.scales + self.cache + self.workspace

    @property
    def unexplained(self) -> float | None:
        """Published bytes beyond `total`: what a GPU process holds in addition to model and cache."""
        return None if self.published is None else self.published - self.total


def _parameters(config: RunConfig) -> Iterator[LayerParameter]:
    model = config.model.sizes
    for layer in model.table.layers(model.num_layers):
        yield from layer.parameters(model)


def _length(config: RunConfig, tokens: int | None, default: int | None = None) -> int:
    longest = config.model.sizes.max_position_embeddings
    length = default or longest if tokens is None else tokens
    if not 0 < length <= longest:
        raise UserError(f"--context: {length} tokens, the model reads up to {longest}; give a number in between")
    return length


def inference_memory(config: RunConfig, bits: int = 16, tokens: int | None = None) -> InferenceMemory:
    """Memory for one sequence of `tokens` (none: the published length, else the whole context) with weights of `bits`,
    as published. Raises `UserError` for other bits than 16, 8, 4 and for more tokens than the model's context."""
    if bits not in BITS:
        raise UserError(f"--bits: {bits}; choose one of {', '.join(map(str, BITS))}")
    model, form = config.model.sizes, PUBLISHED_FORMS[bits]
    measured = _published(config, bits)
    length = _length(config, tokens, next(iter(measured), None))
    parameters = list(_parameters(config))
    expanded = HALF * max((p.size for p in parameters if form.rounds(p)), default=0)
    return InferenceMemory(
        bits=bits,
        tokens=length,
        weights=sum(map(form.size, parameters)),
        scales=sum(map(form.scales, parameters)),
        cache=HALF * length * model.cached_numbers,
        workspace=expanded + HALF * length * 3 * model.intermediate_size,
        published=measured[length] * 1e9 if length in measured else None,
    )


@dataclass(frozen=True)
class DecodingBytes:
    """The bytes that generating with weights of this form takes. `read`: weights that a step reads, without tables that
    are only looked up; `cache`: of a sequence of `tokens`; `workspace`: the widest layer's in a pass."""

    form: str
    bits: int
    group: int
    tokens: int
    weights: int
    read: int
    cache: int
    workspace: int

    @property
    def half_cache(self) -> int:
        """`cache` with `--cache-bits 16`; of our forms, whose cache is FP32 otherwise."""
        return self.cache // 2

    def total(self, streams: int) -> int:
        """Bytes for that many sequences."""
        return self.weights + streams * self.cache + self.workspace

    def rate(self, streams: int, bandwidth: float) -> float:
        """Tokens a second that no device with this bandwidth exceeds: a step of one token for each of `streams`
        sequences of `tokens` tokens reads the weights once and each sequence's cache."""
        return streams * bandwidth / (self.read + streams * self.cache)


def decoding(config: RunConfig, form: WeightForm, tokens: int | None = None) -> DecodingBytes:
    """What a form takes with `tokens` in the cache (none: as many as published first, else the whole context)."""
    model, parameters = config.model.sizes, list(_parameters(config))
    weights = sum(form.size(p) + form.scales(p) for p in parameters)
    tied = {f"{layer.copy_of}.weight" for layer in model.table.last if layer.copy_of}
    tables = [p for p in parameters if len(p.shape) == 2 and not p.product and p.name not in tied]
    length = _length(config, tokens, next(iter(_published(config, 16)), None))
    return DecodingBytes(
        form=form.name,
        bits=form.bits,
        group=form.group,
        tokens=length,
        weights=weights,
        read=weights - sum(map(form.size, tables)),
        cache=form.number * length * model.cached_numbers,
        workspace=form.number * min(PROMPT_ROWS, length) * 3 * model.intermediate_size,
    )


def of_sizes(config: RunConfig, known: Mapping[tuple[Any, ...], Any]) -> Iterator[Any]:
    """The values of `known` (by family, preset, ...) of exactly these sizes."""
    from ms_codegeex.models.registry import family

    model, build = config.model.sizes, family(config.family).config.build_config
    for key, value in known.items():
        if key[0] == config.family and build(key[1], {}) == model:
            yield key, value


def _published(config: RunConfig, bits: int) -> Mapping[int, float]:
    """The figures published for exactly these sizes, by length; empty if there are none."""
    return next((value for key, value in of_sizes(config, PUBLISHED) if key[2] == bits), {})


def speeds(config: RunConfig) -> tuple[PublishedSpeed, ...]:
    """The speeds published for exactly these sizes."""
    return next((value for _, value in of_sizes(config, SPEEDS)), ())


def bounds(config: RunConfig, speed: PublishedSpeed) -> dict[int, float]:
    """Bits -> tokens a second that the GPU of a published speed allows at most, with the published form and half of
    the tokens in the cache, as on average. All bits where they are not known."""
    forms = PUBLISHED_FORMS if speed.bits is None else {speed.bits: PUBLISHED_FORMS[speed.bits]}
    bandwidth, half = BANDWIDTHS[speed.gpu], speed.tokens // 2
    return {bits: decoding(config, form, half).rate(1, bandwidth) for bits, form in forms.items()}


def serves_users(config: RunConfig) -> bool:
    """Whether it is the model whose tokens a week are published."""
    return any(key == ("codegeex", "13b") for key, _ in of_sizes(config, SPEEDS))


@dataclass(frozen=True)
class Memory:
    """A device's memory: bytes that a run may fill, bytes a second that are read."""

    name: str
    usable: int | None
    bandwidth: float
    measured: bool = False

    def fits(self, form: DecodingBytes, streams: int) -> bool:
        """Whether that many sequences fit."""
        return self.usable is None or form.total(streams) <= self.usable


def devices(cpu: bool = False) -> list[Memory]:
    """The known accelerators, and with `cpu` this machine, measured."""
    known = [Memory(each.name, each.usable_memory, each.memory_bandwidth) for each in CHIPS.values()]
    if not cpu:
        return known
    threads = host.available_cores()
    speed = max(read_bandwidth(threads) for _ in range(3))
    return [*known, Memory(f"this CPU, {threads} thread{'s' * (threads > 1)}", host.available_memory(), speed, True)]


def read_bandwidth(threads: int, size: int = 2**30) -> float:
    """Bytes a second at which `threads` threads read `size` bytes of memory: the time of their CRC-32."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from isal import isal_zlib

    parts = [np.ones(size // threads, np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        begin = time.perf_counter()
        list(pool.map(isal_zlib.crc32, parts))
        return size / (time.perf_counter() - begin)


def speeds_to_dict(config: RunConfig, forms: Sequence[DecodingBytes], where: Sequence[Memory], streams: int) -> dict:
    """Plain values for `--json`: our forms, each device's bounds and the published figures. Bytes and seconds."""
    return {
        "streams": streams,
        "forms": [
            asdict(form)
            | {"half_cache": form.half_cache, "total": form.total(1), "total_of_streams": form.total(streams)}
            for form in forms
        ],
        "devices": [
            asdict(memory) | {"forms": [_device_form(memory, form, (1, streams)) for form in forms]} for memory in where
        ],
        "published_speeds": [asdict(speed) | {"bounds": bounds(config, speed)} for speed in speeds(config)],
        "published_week": {"tokens": WEEK, "tokens_per_second": WEEK_RATE} if serves_users(config) else None,
    }


def _device_form(memory: Memory, form: DecodingBytes, counts: Sequence[int]) -> dict[str, Any]:
    return {
        "form": form.form,
        "fits": {count: memory.fits(form, count) for count in counts},
        "tokens_per_second": {count: form.rate(count, memory.bandwidth) for count in counts},
    }


def to_dict(memory: InferenceMemory) -> dict[str, Any]:
    """Plain values for `--json`, all in bytes."""
    sizes = asdict(memory)
    published = sizes.pop("published")
    return {**sizes, "total": memory.total, "published": published, "unexplained": memory.unexplained}
