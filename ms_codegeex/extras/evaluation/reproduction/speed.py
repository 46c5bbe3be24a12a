"""Tokens a second of a model that answers one prompt. A separate process, MODEL its first word, because its
peak memory is measured too. The first answer is not timed: caches fill, and MindSpore, if it computes, compiles."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ms_codegeex.base.printing import print_error, print_json

PROMPT, NEW_TOKENS = "# language: Python\n", 64


def speed(model: Path, adapter: Path | None = None) -> float:
    """Tokens a second of a greedy answer of `NEW_TOKENS`, which nothing but their number ends."""
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.sampling import DEFAULT_ADAPTER, SamplingSettings

    generator = Generator(model, slots=1, adapters={DEFAULT_ADAPTER: adapter} if adapter else None)
    bias = {generator.tokenizer.eos_id: -100.0}  # rounded weights may end an answer early
    settings = SamplingSettings(NEW_TOKENS, temperature=0, logit_bias=bias)
    ids = generator.encode(PROMPT, NEW_TOKENS)
    generator.answers(ids, settings)
    began = time.perf_counter()
    (answer,) = generator.answers(ids, settings)
    return len(answer.tokens) / (time.perf_counter() - began)


def main() -> None:
    """Print the speed as JSON, or an error in one line."""
    try:
        print_json({"tokens_per_second": speed(*map(Path, sys.argv[1:]))})
    except Exception as error:  # whatever it is, the page says it in the row of this precision
        print_error(str(error))
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
