"""How the engine runs a model, as options of `generate`, `serve`, `complete` and `chat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ms_codegeex.base.options import Option
from ms_codegeex.generation.levels import AUTO, LEVEL_HELP, LEVEL_NAMES


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Settings of a `Generator`, by the names of its parameters. `device` is the kind of device that computes; several
    `devices` share the model."""

    threads: Annotated[
        int | None,
        Option("threads of the compiled operators (default: one per core; 0: MindSpore's own operators)", "N", ge=0),
    ] = None
    cpu_level: Annotated[Literal[LEVEL_NAMES], Option(LEVEL_HELP)] = AUTO  # type: ignore[valid-type]
    speculate: Annotated[
        str | None,
        Option(
            "guess tokens from the text so far, or by a smaller model of the same tokenizer; the text stays the same",
            "ngram|DIR",
        ),
    ] = None
    fast: Annotated[bool, Option("round activations too (quantised models on a CPU): faster, less exact")] = False
    cache_bits: Annotated[Literal[32, 16], Option("bits of a number in the KV cache: FP32 or FP16")] = 32
    device: Annotated[
        Literal["cpu", "gpu", "ascend"] | None,
        Option("device that computes (default: MindSpore's choice); gpu and ascend use MindSpore's own operators"),
    ] = None
    devices: Annotated[
        int, Option("share the model among N processes, on a machine with GPUs one for each", "N", ge=1)
    ] = 1
