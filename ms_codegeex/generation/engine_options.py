"""Engine options of the commands `generate`, `serve`, `complete` and `chat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ms_codegeex.base.options import option
from ms_codegeex.kernels.levels import AUTO, LEVELS

LEVEL_NAMES = (AUTO, *LEVELS)
LEVEL_HELP = "instructions of the compiled operators (default: auto, the best that this CPU has; see `doctor`)"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Settings of a `Generator`, named like its parameters."""

    threads: int | None = option(
        "threads of the compiled operators (default: one per core; 0: MindSpore's own operators)", "N", ge=0
    )
    cpu_level: Literal[LEVEL_NAMES] = option(LEVEL_HELP, default=AUTO)  # type: ignore[valid-type]
    speculate: str | None = option(
        "guess tokens from the text so far, or by a smaller model of the same tokenizer; the text stays the same",
        "ngram|DIR",
    )
    exact: bool = option("FP32 arithmetic for quantised weights, not activations of 16 bits", default=False)
    fast: bool = option("activations of 8 bits (quantised models on a CPU): faster, less exact", default=False)
    cache_bits: Literal[32, 16] = option("bits of a number in the KV cache: FP32 or FP16", default=32)
    device: Literal["cpu", "gpu", "ascend"] | None = option(
        "device that computes (default: MindSpore's choice); gpu and ascend use MindSpore's own operators"
    )
    devices: int = option("share the model among N processes, on a machine with GPUs one for each", "N", 1, ge=1)
