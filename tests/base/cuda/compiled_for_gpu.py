"""`python compiled_for_gpu.py OVERRIDES…`: compile a train step for a GPU; print COMPILED, or MISSING and why.

MindSpore selects a kernel for every operator. With the word `untyped` the network's constants stay numbers. With `slow`
COMPILED is followed by the operators that are slow on a GPU. `decode FAMILY`: the graphs that decode. Runs with CUDA
from `host_runtime.c`; the graph is not executed. PYTHONPATH has the checkout and its tests.
"""

from __future__ import annotations

import os
import re
import sys

import mindspore as ms
import numpy as np
from flat_graphs import decoding_graphs, slow_in_decoding, slow_operators
from mindspore import Tensor

from ms_codegeex.config.loading import load_config
from ms_codegeex.training import build

ROWS, LENGTH = 4, 25


def main(words: list[str]) -> None:
    """Compile and print the result."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("GPU")
    if "untyped" in words:
        words.remove("untyped")
        build.type_constants = lambda network: None
    if words[0] == "decode":
        return decode(words[1])
    shows_slow = "slow" in words
    words = [word for word in words if word != "slow"]
    common = ["model.preset=tiny", "model.num_layers=1", "device=gpu", "devices=1", "training.steps=1"]
    common += [f"training.global_batch={ROWS}", f"data.seq_length={LENGTH}"]
    config = load_config(None, [*common, *words])
    step = build.build(config).step
    step.set_train(True)
    ids = Tensor(np.zeros((ROWS, LENGTH), np.int32))
    try:
        step.compile(ids, ids, Tensor(np.ones((ROWS, LENGTH), np.float32)), Tensor(np.zeros(ROWS, np.int32)))
        sizes = config.model.sizes
        slow = slow_operators(step, ROWS, sizes.num_heads, LENGTH, sizes.vocab_size) if shows_slow else ()
        print("COMPILED", *sorted(slow), flush=True)
    except (RuntimeError, TypeError) as error:
        reasons = re.findall(r"Select GPU operator.*|.*does not support.*", str(error))
        got = re.findall(r"but get (.*)", str(error))
        print("MISSING", *reasons[:1], *got[:1], flush=True)
    os._exit(0)  # MindSpore would launch kernels at its end


def decode(name: str) -> None:
    """The same for the graphs that decode a family's tiny model."""
    from twins.tiny_models import POSITIONS, Twin

    twin = Twin(name)
    try:
        step, _, *readings = decoding_graphs(twin.engine(slots=8, threads=0).network)
        cached = 8 * twin.config.num_kv_groups * POSITIONS * twin.config.head_dim
        slow = set().union(*(slow_in_decoding(each, cached) for each in (step, *readings)))
        print("COMPILED", *sorted(slow), flush=True)
    except (RuntimeError, TypeError) as error:
        print("MISSING", *re.findall(r"Select GPU operator.*|.*does not support.*", str(error))[:1], flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
