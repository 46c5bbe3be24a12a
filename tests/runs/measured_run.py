"""Trains two steps in this process and prints the growth of its resident memory at its peak, and what was planned.

Arguments: the run's values as JSON, and `compiled` for the operators that a compiler builds, otherwise MindSpore's. The
model at `model.weights` is made first if it is not there.
"""

import json
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import mindspore as ms
import numpy as np
import psutil
import small_models

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.runs.memory_check import ENGINE_PROCESS, required_memory
from ms_codegeex.runs.rank.weights import weights_of
from ms_codegeex.training.operators import operators_library
from ms_codegeex.training.rank_state import initial_weight
from ms_codegeex.training.start import RankPlace, RunData, RunStart
from ms_codegeex.training.trainer import Trainer


def resident():
    return psutil.Process().memory_info().rss


def watch(peak):
    while True:
        peak[0] = max(peak[0], resident())
        time.sleep(0.02)


def main():
    config = build_run_config(json.loads(sys.argv[1]))
    place = Path(config.model.weights)
    if not place.exists():
        sizes = config.model.sizes
        shapes = sizes.parameter_shapes().items()
        arrays = {name: initial_weight(name, shape, 0.02, 1) for name, shape in shapes}
        small_models.save_run(place, config.family, arrays, **asdict(sizes))
        return
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.ops.MatMul()(ms.Tensor(np.ones((512, 512), np.float32)), ms.Tensor(np.ones((512, 512), np.float32))).asnumpy()
    before, peak = resident(), [0]
    threading.Thread(target=watch, args=(peak,), daemon=True).start()
    data = RunData(training_data(config), validation_data(config))
    library = operators_library(config, 1) if sys.argv[2:] == ["compiled"] else None
    Trainer(config, data, RunStart(weights_of(config)), RankPlace(library=library)).run()
    planned = required_memory(config, compiled=library is not None) - ENGINE_PROCESS
    print(json.dumps({"measured": peak[0] - before, "planned": planned, "compiled": library is not None}))


main()
