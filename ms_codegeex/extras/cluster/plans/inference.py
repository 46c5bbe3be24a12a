"""The memory that generating with a model needs on one device, and a bound on its speed. The forms of weights are an
FP32 model, a 16-bit one, and what `quantize` makes of that: the output layer is rounded too unless it is the word
table; scales, biases, norms and the cache are FP32, tables stay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.base.printing import table
from ms_codegeex.models.parameters import GROUP

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig
    from ms_codegeex.models.decoder_config import DecoderConfig
    from ms_codegeex.models.parameters import LayerParameter

SINGLE = 4  # bytes of an FP32 number
PROMPT_ROWS = 256  # that a pass reads


@dataclass(frozen=True)
class WeightForm:
    """How weights are held: matrices in `bits`, tables in numbers of `table` bytes, vectors and scales in FP32. A scale
    is for a row, or for `group` numbers of it."""

    name: str
    bits: int
    table: int
    group: int = 0

    def size(self, parameter: LayerParameter) -> int:
        """Bytes of the parameter with its scales."""
        if self.bits >= 16 or not parameter.product:
            return parameter.size * (self.table if len(parameter.shape) == 2 else SINGLE)
        rows, columns = parameter.shape
        scales = rows * (math.ceil(columns / self.group) if self.group else 1)
        return rows * math.ceil(columns * self.bits / 8) + SINGLE * scales


FORMS = (
    WeightForm("fp32", 32, SINGLE),
    WeightForm("fp16", 16, 2),
    WeightForm("int8", 8, 2),
    WeightForm("int4", 4, 2, GROUP),
)


@dataclass(frozen=True)
class DecodingBytes:
    """The bytes that generating with weights of this form takes. `read`: weights that a step reads, without tables that
    are only looked up; `cache`: of a sequence of `tokens`, half of it with `--cache-bits 16`; `workspace`: the widest
    layer's in a pass."""

    form: str
    tokens: int
    weights: int
    read: int
    cache: int
    workspace: int

    def total(self, streams: int) -> int:
        """Bytes for that many sequences."""
        return self.weights + streams * self.cache + self.workspace

    def rate(self, streams: int, bandwidth: float) -> float:
        return streams * bandwidth / (self.read + streams * self.cache)


def _parameters(model: DecoderConfig) -> Iterator[LayerParameter]:
    for layer in model.table.layers(model.num_layers):
        yield from layer.parameters(model)


def decoding(config: RunConfig, form: WeightForm, tokens: int | None = None) -> DecodingBytes:
    """What a form takes with `tokens` in the cache (none: the whole context). `UserError` for more than the context."""
    model = config.model.sizes if form.bits >= 16 else config.model.sizes.rounded()
    parameters = list(_parameters(model))
    longest = model.max_position_embeddings
    length = longest if tokens is None else tokens
    if not 0 < length <= longest:
        raise UserError(f"--context: {length} tokens, the model reads up to {longest}; give a number in between")
    weights = sum(map(form.size, parameters))
    tied = {f"{layer.copy_of}.weight" for layer in model.table.last if layer.copy_of}
    tables = [p for p in parameters if len(p.shape) == 2 and not p.product and p.name not in tied]
    return DecodingBytes(
        form=form.name,
        tokens=length,
        weights=weights,
        read=weights - sum(map(form.size, tables)),
        cache=SINGLE * length * model.cached_numbers,
        workspace=SINGLE * min(PROMPT_ROWS, length) * 3 * model.intermediate_size,
    )


def to_dict(forms: Sequence[DecodingBytes], streams: int) -> dict[str, Any]:
    """Plain values for `--json`: bytes of each form, and of each device whether it holds them and its bounds."""
    counts = (1, streams)
    return {
        "streams": streams,
        "forms": [asdict(x) | {"total": x.total(1), "total_of_streams": x.total(streams)} for x in forms],
        "devices": [
            {
                "name": chip.name,
                "usable": chip.usable_memory,
                "bandwidth": chip.memory_bandwidth,
                "forms": [
                    {
                        "form": x.form,
                        "fits": {n: x.total(n) <= chip.usable_memory for n in counts},
                        "tokens_per_second": {n: x.rate(n, chip.memory_bandwidth) for n in counts},
                    }
                    for x in forms
                ],
            }
            for chip in CHIPS.values()
        ],
    }


def text(config: RunConfig, forms: Sequence[DecodingBytes], streams: int) -> str:
    """Memory of each form, and tokens a second that each device's memory allows at most, as tables."""
    name = " ".join((config.family, str(config.model.preset or ""))).strip()
    header = ("GB", "weights", "cache", "workspace", "1 sequence", f"{streams} sequences")
    rows = [
        (x.form, *(f"{size / 1e9:.2f}" for size in (x.weights, x.cache, x.workspace, x.total(1), x.total(streams))))
        for x in forms
    ]
    counts = tuple(dict.fromkeys((1, streams)))
    speeds = [
        (
            chip.name,
            *(
                f"{x.rate(n, chip.memory_bandwidth):,.0f}" if x.total(n) <= chip.usable_memory else "too large"
                for x in forms
                for n in counts
            ),
        )
        for chip in CHIPS.values()
    ]
    return (
        f"generating with {name}, {forms[0].tokens:,} tokens in each cache; --cache-bits 16 halves the caches\n"
        f"{table(header, rows)}\n\n"
        f"tokens/s at most, of {' or '.join(map(str, counts))} sequences together: bandwidth over what a step reads\n"
        f"{table(('', *(f'{x.form}, {n}' for x in forms for n in counts)), speeds)}\n"
        "  on Ascend and GPU our operators hold FP32 only"
    )
