"""Tokens/s of our training step over PyTorch's: same sizes, same threads, FP32, alternating in one run.

    python benchmarks/train_step.py                      # all shapes, 7 rounds: about 5 minutes on two cores
    python benchmarks/train_step.py --shapes tiny --rounds 5

Each side is a separate process that takes one step on request, so that only one computes at a time. A step is
forward, backward, gradient clipping and AdamW; of `first`, which is the model of the first command, Muon for the
blocks' matrices on both sides. The peer is CodeGeeX in plain PyTorch (tests/twins), eager and under torch.compile.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from common import Worker, be_stepper, options, print_header, quotients, spread


@dataclass(frozen=True)
class Shape:
    """A model and its batch of `batch` sequences of `seq` tokens; `muon`: the optimizer of its blocks' matrices;
    `loss_chunk`: 0 for that of a run which does not set it."""

    preset: str
    batch: int
    seq: int
    fields: dict[str, int] = field(default_factory=dict)
    muon: bool = False
    loss_chunk: int = 0


FIRST = {"vocab_size": 1024, "eos_token_id": 1005, "num_heads": 2}  # as in configs/codegeex_tiny.yaml
SHAPES = {
    "first": Shape("tiny", 8, 256, FIRST, muon=True, loss_chunk=1024),
    "tiny": Shape("tiny", 16, 256),
    "25m": Shape("25m", 4, 512),
}
SIDES = ("ours", "eager", "compile")


def our_step(shape: Shape) -> Callable[[], float]:
    """A function that takes one of our training steps."""
    import mindspore as ms
    import numpy as np
    from mindspore import Tensor

    from ms_codegeex.config.rules import build_run_config
    from ms_codegeex.config.sections import OptimizerConfig, ScheduleConfig
    from ms_codegeex.models.causal import Build
    from ms_codegeex.models.codegeex.model import Loss
    from ms_codegeex.parallel.sharding import muon_matrices
    from ms_codegeex.training.operators import operators_library
    from ms_codegeex.training.optimizer import AdamW
    from ms_codegeex.training.step import StepSettings, TrainStep

    ms.set_context(mode=ms.GRAPH_MODE)
    batch, seq, name = shape.batch, shape.seq, "muon" if shape.muon else "adamw"
    training = {"steps": 1, "global_batch": batch, "precision": "fp32", "optimizer": {"name": name}}
    training |= {"loss_chunk": shape.loss_chunk} if shape.loss_chunk else {}
    model = {"preset": shape.preset, **shape.fields}
    run = build_run_config({"model": model, "data": {"seq_length": seq}, "training": training})
    library = str(operators_library(run, int(os.environ["OMP_NUM_THREADS"])) or "")
    build = Build(seq, micro_batch=batch, loss_chunk=run.loss_chunk, library=library)
    network = Loss(run.model.sizes, build)
    settings, schedule = OptimizerConfig(name, bias_correction=True), ScheduleConfig().over(1000)
    parameters, matrices = network.trainable_params(), muon_matrices(run)
    optimizer = AdamW(parameters, settings, schedule, matrices=matrices, library=library)
    step = TrainStep(network, optimizer, StepSettings(slots=batch * seq, clip_norm=1.0))
    step.set_train(True)
    ids = np.random.default_rng(0).integers(0, run.model.sizes.vocab_size - 20, (batch, seq + 1)).astype(np.int32)
    inputs = [
        Tensor(np.ascontiguousarray(x))
        for x in (ids[:, :-1], ids[:, 1:], np.ones((batch, seq), np.float32), np.arange(batch, dtype=np.int32))
    ]
    return lambda: float(step(*inputs).asnumpy()[0])


def torch_step(shape: Shape, compiled: bool) -> Callable[[], float]:
    """A function that takes one of PyTorch's training steps."""
    import torch
    from twins.codegeex_torch import CodeGeeX

    from ms_codegeex.models.codegeex.config import build_config

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    c, batch, seq = build_config(shape.preset, shape.fields), shape.batch, shape.seq
    model = CodeGeeX(
        c.vocab_size, c.hidden_size, c.num_layers, c.num_heads, c.intermediate_size, c.max_position_embeddings
    )
    named = list(model.named_parameters())
    chosen = {name for name, weight in named if shape.muon and weight.ndim == 2 and "embedding" not in name}
    matrices, others = ([weight for name, weight in named if (name in chosen) is wanted] for wanted in (True, False))
    optimizers = [torch.optim.AdamW(others, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)]
    if matrices:
        muon = torch.optim.Muon(matrices, lr=1e-4, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(0, c.vocab_size - 20, (batch, seq + 1), generator=torch.Generator().manual_seed(0))
    inputs = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(batch, seq))

    def step() -> float:
        model.zero_grad(set_to_none=True)
        loss = forward(*inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return step


def measure(name: str, rounds: int, threads: int) -> None:
    """Alternate the sides and print tokens/s, ratios and the share of the matmul peak."""
    from ms_codegeex.models.codegeex.config import build_config

    processes = {  # one after the other, so that none warms up while another computes
        peer: Worker(__file__, "--shape", name, "--side", peer, OMP_NUM_THREADS=str(threads)) for peer in SIDES
    }
    seconds: dict[str, list[float]] = {peer: [] for peer in SIDES}
    peaks = []
    for _ in range(rounds):
        peaks.append(processes["ours"].ask("peak"))
        for peer, process in processes.items():
            seconds[peer].append(process.ask("step"))
    for process in processes.values():
        process.end()
    shape = SHAPES[name]
    batch, seq, config = shape.batch, shape.seq, build_config(shape.preset, shape.fields)
    print(
        f"\n{name}: {config.parameter_count():,} parameters, {batch} x {seq} tokens, {threads} threads, {rounds} rounds"
    )
    for peer in SIDES:
        rate = batch * seq / statistics.median(seconds[peer])
        print(f"  {peer:<8} {rate:8.0f} tokens/s   seconds a step {spread(seconds[peer])}")
    for peer in ("eager", "compile"):
        print(f"  ours / PyTorch {peer:<8} {spread(quotients(seconds[peer], seconds['ours']))}")
    peak = statistics.median(peaks)
    flops = config.flops_per_token(seq) * batch * seq / statistics.median(seconds["ours"])
    print(f"  {flops / 1e9:.0f} GFLOP/s, {flops / peak:.0%} of the matmul peak (1024³, {peak / 1e9:.0f} GFLOP/s)")


def main() -> None:
    parser = options(__doc__, rounds=7, threads=True)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        name, shape = arguments.side, SHAPES[arguments.shape]
        return be_stepper(lambda: our_step(shape) if name == "ours" else torch_step(shape, name == "compile"))
    print_header("mindspore", "torch", "numpy")
    for name in arguments.shapes:
        measure(name, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
