"""How far one device differs from itself if only the order of the samples changes: what rounding alone does to the
verdict of `rehearse --execute`.

    python benchmarks/rounding.py                              # the recipe for 64 x 910B in FP16: about ten minutes
    python benchmarks/rounding.py --precision fp32 --seeds 2

The configuration is shrunk as an execution shrinks it. Its reference on one device is trained with the samples of each
batch as they are, again as they are, and in other orders, which changes what is added first and what is added in one
micro-batch, but no sum. Weights and data are other ones for each seed. Printed is the largest relative difference of
the loss over all steps, which the verdict limits to 1e-3 in FP16 and 1e-5 in FP32.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import mindspore as ms
import numpy as np
from common import ROOT, options, print_header
from mindspore import Tensor

from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import load_config
from ms_codegeex.data.datasets.batches import Batch
from ms_codegeex.extras.cluster.rehearsal import execution_program
from ms_codegeex.extras.cluster.rehearsal import job as jobs
from ms_codegeex.extras.cluster.rehearsal.execute import STEPS
from ms_codegeex.extras.cluster.rehearsal.probed_step import CLIP, NORM_LIMIT, OVERFLOW, build_probed, marked_parameter
from ms_codegeex.extras.cluster.rehearsal.shrink import parse_mesh, shrunk
from ms_codegeex.parallel.sharding import layouts_of

RECIPE = ROOT / "configs" / "recipes" / "codegeex_13b_910b_64.yaml"
MESH = "data=2,tensor=2,pipeline=2,optimizer_shard=2"


def losses(small: RunConfig, order: np.random.Generator | None) -> np.ndarray:
    """The loss of every step on one device, [steps]; NaN where the step was skipped. `order`: of the samples."""
    config = execution_program.single_device(small)
    job = jobs.RehearsalJob(Path(), small, STEPS[small.training.precision])
    built = build_probed(config, marked_parameter(small))
    built.step.set_train(True)
    names = {layout.name for layout in layouts_of(small)}
    for parameter in built.step.get_parameters():
        if parameter.name in names:
            parameter.set_data(Tensor(jobs.initial_value(parameter.name, tuple(parameter.shape))))
    probes = {p.name: p for p in built.step.get_parameters() if p.name in (CLIP, OVERFLOW, NORM_LIMIT)}
    data, found = jobs.batches(config, job.steps), []
    for step in range(job.steps):
        if step % jobs.EQUAL_STEPS == 0:  # steps with the same batch keep its order
            rows = np.arange(data[0].shape[1]) if order is None else order.permutation(data[0].shape[1])
        execution_program._set_probes(probes, job, step, overflows=True)
        *others, last = Batch(*[a[step][rows] for a in data]).parts(config.accumulation)
        for part in others:
            built.accumulate_step(*map(Tensor, part.arrays()))
        output = built.step(*map(Tensor, last.arrays())).asnumpy()
        found.append(output[0])
    return np.array(found, np.float64)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--config", type=Path, default=RECIPE)
    parser.add_argument("--mesh", default=MESH)
    parser.add_argument("--precision", choices=tuple(STEPS), default="fp16")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--orders", type=int, default=2)
    arguments = parser.parse_args()
    print_header("mindspore")
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    config = load_config(arguments.config, [f"training.precision={arguments.precision}"])
    small = shrunk(config, parse_mesh(arguments.mesh))
    first, worst = jobs.SEED, []
    for seed in range(arguments.seeds):
        jobs.SEED = first + seed
        plain = losses(small, None)
        again = float(np.max(np.abs(losses(small, None) / plain - 1))) if seed == 0 else None
        for number in range(arguments.orders):
            errors = np.abs(losses(small, np.random.default_rng([seed, number])) / plain - 1)
            worst.append(float(np.max(errors)))
            print(f"  seed {seed}, order {number}: {worst[-1]:.1e} in step {int(np.argmax(errors)) + 1}", flush=True)
        if again is not None:
            print(f"  the same order again: {again:.1e}")
    print(f"{len(worst)} orders: median {statistics.median(worst):.1e}, largest {max(worst):.1e}")


if __name__ == "__main__":
    main()
