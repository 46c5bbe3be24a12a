"""Run by test_strategy.py in a separate process, which forks one for each rank: `WORLD DATA TENSOR SHARD DIRECTORY`,
once or more.

A network partitioned over DATA x TENSOR devices (what is left of WORLD repeats it), with SHARD optimizer shards (0:
none, -1: as many as possible), saved as MindSpore saves one rank's checkpoint and strategy: rank_R/net-1_2.ckpt,
strategy_R.ckpt and strategy_0.json in DIRECTORY.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.communication import init

from ms_codegeex.base.processes import ForkSpec, run_processes
from ms_codegeex.extras.cluster.rehearsal.stubs import rank_environment

SHAPES = {"table": (16, 8), "up.weight": (8, 16), "up.bias": (16,)}
SHAPES |= {"down.weight": (16, 8), "down.bias": (8,), "norm": (8,)}
WHOLE = ("table", "norm")  # never in optimizer shards


def values() -> dict[str, np.ndarray]:
    """The whole parameters."""
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def parameter(name: str) -> Parameter:
    """One of them."""
    return Parameter(Tensor(values()[name]), name=name, parallel_optimizer=name not in WHOLE)


class Net(nn.Cell):
    """Sum of norm * (relu(table[x] up + bias) down + bias): a vocabulary, columns and rows cut."""

    def __init__(self, world: int, data: int, tensor: int):
        super().__init__()
        self.table, self.norm = parameter("table"), parameter("norm")
        self.up, self.up_bias = parameter("up.weight"), parameter("up.bias")
        self.down, self.down_bias = parameter("down.weight"), parameter("down.bias")
        vocabulary = tensor if world == data * tensor else 1  # no cut vocabulary where devices repeat others
        self.gather = ops.Gather().shard(((vocabulary, 1), (data,)))
        self.first = ops.MatMul().shard(((data, 1), (1, tensor)))
        self.first_add = ops.Add().shard(((data, tensor), (tensor,)))
        self.relu = ops.ReLU().shard(((data, tensor),))
        self.second = ops.MatMul().shard(((data, tensor), (tensor, 1)))
        self.second_add = ops.Add().shard(((data, 1), (1,)))
        self.scale, self.sum = ops.Mul().shard(((data, 1), (1,))), ops.ReduceSum().shard(((data, 1),))

    def construct(self, x):
        hidden = self.relu(self.first_add(self.first(self.gather(self.table, x, 0), self.up), self.up_bias))
        return self.sum(self.scale(self.second_add(self.second(hidden, self.down), self.down_bias), self.norm))


def save(rank: int, world: int, data: int, tensor: int, shard: int, directory: Path) -> int:
    """Compile and save under simulation."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")
    init()
    sharding = {"parallel_optimizer_threshold": 0, **({"optimizer_weight_shard_size": shard} if shard > 0 else {})}
    for suffix in ("json", "ckpt")[rank > 0 :]:
        ms.set_auto_parallel_context(
            parallel_mode="semi_auto_parallel",
            device_num=world,
            global_rank=rank,
            full_batch=True,
            gradients_mean=False,
            enable_parallel_optimizer=shard != 0,
            parallel_optimizer_config=sharding,
            strategy_ckpt_config={"save_file": str(directory / f"strategy_{rank}.{suffix}")},
        )
        net = Net(world, data, tensor)
        step = nn.TrainOneStepCell(net, nn.AdamWeightDecay(net.trainable_params(), 0.1)).set_train()
        step.compile(Tensor(np.zeros(16, np.int32)))
    (directory / f"rank_{rank}").mkdir()
    path = directory / f"rank_{rank}" / "net-1_2.ckpt"
    ms.save_checkpoint(step, str(path), integrated_save=False, append_dict={"epoch_num": 1, "step_num": 2})
    return 0


def main(world: int, *mesh: int, directory: Path) -> None:
    """Every rank, two at once."""
    specs = [
        ForkSpec(f"rank {rank}", partial(save, rank, world, *mesh, directory), directory, rank_environment(rank, world))
        for rank in range(world)
    ]
    run_processes(specs, 2)


if __name__ == "__main__":
    for begin in range(1, len(sys.argv), 5):
        main(*map(int, sys.argv[begin : begin + 4]), directory=Path(sys.argv[begin + 4]))
