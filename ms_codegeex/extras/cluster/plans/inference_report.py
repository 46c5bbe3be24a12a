"""What generating needs, as text tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ms_codegeex.base.printing import table
from ms_codegeex.extras.cluster.plans.inference import (
    WEEK_RATE,
    DecodingBytes,
    InferenceMemory,
    Memory,
    bounds,
    serves_users,
    speeds,
)

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


def published_table(config: RunConfig, memories: Sequence[InferenceMemory]) -> str:
    """10^9 bytes of one sequence in the published scheme, for each width of the weights, with the published figure."""
    header = ("weights of", "tokens", "weights", "cache", "workspace", "sum", "published", "more")
    rows = []
    for m in memories:
        sizes = [f"{size / 1e9:.2f}" for size in (m.weights + m.scales, m.cache, m.workspace, m.total)]
        known = ["-", "-"] if m.published is None else [f"{m.published / 1e9:.1f}", f"{m.unexplained / 1e9:+.1f}"]
        rows.append((f"{m.bits} bits", f"{m.tokens:,}", *sizes, *known))
    name = " ".join((config.family, str(config.model.preset or ""))).strip()
    text = (
        f"generating with {name}, one sequence, 10^9 bytes, in the published scheme: linear layers of the blocks in\n"
        f"8 or 4 bits with a 16-bit scale for each row, everything else in 16 bits\n{table(header, rows)}"
    )
    if any(m.published for m in memories):
        text += (
            "\n  more: what the published figure has beyond this sum, among it CUDA context, libraries and the"
            "\n  allocator's reserve, which are not modelled; what grows with the length is copies of the cache"
        )
    return text


def forms_table(forms: Sequence[DecodingBytes], streams: int) -> str:
    """10^9 bytes of our forms."""
    header = ("weights", "tokens", "weights", "read a step", "cache", "in FP16", "workspace")
    header += ("sum", f"sum for {streams}")
    rows = []
    for form in forms:
        sizes = [form.weights, form.read, form.cache, form.half_cache, form.workspace]
        sizes += [form.total(1), form.total(streams)]
        rows.append((form.form, f"{form.tokens:,}", *(f"{size / 1e9:.2f}" for size in sizes)))
    group = next(form.group for form in forms if form.group)
    return (
        "our forms, 10^9 bytes: `quantize` also rounds a separate output layer; FP32 scales for each row (int8)\n"
        f"or {group} numbers of a row (int4); tables of a 16-bit model stay, norms, biases and cache are FP32. With\n"
        "`--cache-bits 16` the cache is FP16 and the sums are smaller\n"
        f"{table(header, rows)}\n"
        "  read a step: all weights but tables that are only looked up. Python and MindSpore take about 0.5 more"
    )


def speed_table(config: RunConfig, forms: Sequence[DecodingBytes], devices: Sequence[Memory], streams: int) -> str:
    """Tokens a second that each device's memory allows at most."""
    weekly, counts = serves_users(config), tuple(dict.fromkeys((1, streams)))
    header = ["device", "GB/s", *(f"{form.form}, {n}" for form in forms for n in counts)]
    header += ["for a week"] if weekly else []
    rows = []
    for memory in devices:
        cells = [
            f"{form.rate(n, memory.bandwidth):,.1f}" if memory.fits(form, n) else "too large"
            for form in forms
            for n in counts
        ]
        best = max((form.rate(streams, memory.bandwidth) for form in forms if memory.fits(form, streams)), default=0)
        cells += [f"{math.ceil(WEEK_RATE / best):,}" if best else "-"] if weekly else []
        rows.append((memory.name, f"{memory.bandwidth / 1e9:,.0f}", *cells))
    text = (
        f"tokens/s at most of {' or '.join(map(str, counts))} sequence{'s' * (streams > 1)} together, "
        f"{forms[0].tokens:,} tokens in each cache: bandwidth over the bytes\n"
        "that a step reads (weights once, every cache), an upper bound. On Ascend and GPU our operators hold FP32\n"
        "only: the other columns there are bounds for kernels that we do not have\n"
        f"{table(header, rows)}"
    )
    if weekly:
        text += (
            f"\n  for a week: devices for the published 4.7 G tokens a week, {WEEK_RATE:,.0f}/s on average, at"
            f"\n  this bound with the fastest form and {streams} streams each"
        )
    return text


def published_speeds(config: RunConfig) -> str:
    """Published speeds with the bound of the published scheme; empty if there are none."""
    rows = []
    for speed in speeds(config):
        by_bits = bounds(config, speed)
        share = "-" if speed.bits is None else f"{speed.rate / by_bits[speed.bits]:.0%}"
        limits = " / ".join(f"{rate:.0f}" for rate in by_bits.values())
        weights = "not stated" if speed.bits is None else f"{speed.bits} bits"
        rate = f"{speed.rate:.1f} {speed.unit}"
        rows.append((speed.gpu, weights, speed.program, f"{speed.tokens:,}", rate, limits, share))
    if not rows:
        return ""
    header = ("GPU", "weights", "program", "tokens", "published, /s", "tokens/s at most", "share")
    return (
        f"published speeds of one sequence, with the bound of the published scheme\n{table(header, rows, 3)}\n"
        "  Which A100 it was is not stated; the bound is that of 80 GB. Where the weights are not stated, bounds are\n"
        "  for 16, 8 and 4 bits. Characters: on CodeGeeX2's Chinese page; the English one says tokens"
    )
