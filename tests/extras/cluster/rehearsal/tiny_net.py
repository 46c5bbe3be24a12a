"""Run by test_mindir.py in a process of its own, which forks one for each rank, in a folder with data.npz: exports the
graphs of two simulated devices (step, plain, lazy), then runs the step on the CPU.

The loss is the sum of (relu(x w1) w2)²: w1 is row-parallel (all-reduce forward); w2 is replicated over two halves of
the batch, and its optimizer is sharded (all-gather forward, reduce-scatter backward); rows become columns for the
square (all-to-all). The step broadcasts a number that only rank 1 knows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common import lazy_inline

from ms_codegeex.base.processes import ForkSpec, run_processes
from ms_codegeex.extras.cluster.rehearsal import callbacks, mindir
from ms_codegeex.extras.cluster.rehearsal.communicator import FileCommunicator
from ms_codegeex.extras.cluster.rehearsal.stubs import rank_environment

RATE, MOMENTUM, STEPS = 0.01, 0.9, 3


class Product(nn.Cell):
    """x w"""

    def __init__(self, weight: np.ndarray, strategy):
        super().__init__()
        self.weight = Parameter(Tensor(weight), name="weight")
        self.matmul = ops.MatMul().shard(strategy)

    def construct(self, x):
        return self.matmul(x, self.weight)


class Net(nn.Cell):
    """The loss."""

    def __init__(self, first: np.ndarray, second: np.ndarray):
        super().__init__()
        self.first, self.second = Product(first, ((1, 2), (2, 1))), Product(second, ((2, 1), (1, 1)))
        self.relu, self.square = ops.ReLU().shard(((2, 1),)), ops.Square().shard(((1, 2),))
        self.sum = ops.ReduceSum().shard(((1, 2),))

    def construct(self, x):
        return self.sum(self.square(self.second(self.relu(self.first(x)))))


class Step(nn.TrainOneStepCell):
    """One update; returns the loss and rank 1's mark."""

    def __init__(self, net: Net):
        super().__init__(net, nn.Momentum(net.trainable_params(), RATE, MOMENTUM))
        self.mark = Parameter(Tensor(0.0, ms.float32), name="mark", requires_grad=False)
        self.broadcast = ops.Broadcast(1)

    def construct(self, x):
        loss = self.network(x)
        gradients = self.grad(self.network, self.weights)(x, ops.ones_like(loss))
        return ops.depend(loss, self.optimizer(gradients)), self.broadcast((self.mark,))[0]


class Layers(nn.Cell):
    """Three layers relu(x w), inlined at once or lazily; no training."""

    def __init__(self, weight: np.ndarray, lazy: bool):
        super().__init__()
        if lazy:
            Layer.__init__ = lazy_inline(Layer.__init__)
        self.layers = nn.CellList([Layer(weight) for _ in range(3)])

    def construct(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Cell):
    """relu(x w) with w row-parallel."""

    def __init__(self, weight: np.ndarray):
        super().__init__()
        self.product, self.relu = Product(weight, ((1, 2), (2, 1))), ops.ReLU().shard(((1, 1),))

    def construct(self, x):
        return self.relu(self.product(x))


def export(rank: int, *kinds: str) -> int:
    """Write rank's graphs as MindSpore partitions them; `lazy` comes last, because it changes `Layer`."""
    from mindspore.communication import init

    from ms_codegeex.extras.cluster.rehearsal.execution_program import _cell_graph_executor

    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")
    init()
    data = np.load("data.npz")
    for kind in kinds:
        ms.reset_auto_parallel_context()
        ms.set_auto_parallel_context(
            parallel_mode="semi_auto_parallel",
            device_num=2,
            global_rank=rank,
            gradients_mean=False,
            full_batch=True,
            enable_alltoall=True,
            enable_parallel_optimizer=kind == "step",
            parallel_optimizer_config={"parallel_optimizer_threshold": 0},
        )
        if kind == "step":
            cell, x = Step(Net(data["first"], data["second"])).set_train(), data["x"]
        else:
            cell, x = Layers(data["square"], lazy=kind == "lazy"), data["wide"]
        cell.compile(Tensor(x))
        exported = _cell_graph_executor._graph_executor.get_func_graph_proto(cell.current_phase, "mind_ir", False)
        Path(f"{kind}{rank}.mindir").write_bytes(exported)
    return 0


def run(rank: int) -> int:
    """Run rank's graph for some steps; write what it returns and its parameters."""
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    model = mindir.parse(Path(f"step{rank}.mindir").read_bytes())
    messages = FileCommunicator(Path("messages"), rank, seconds=600).functions(mindir.collectives(model, rank))
    called = callbacks.Callbacks(messages)
    mindir.rewrite(model, callbacks.library())
    data = np.load("data.npz")
    values = {
        "first.weight": np.split(data["first"], 2)[rank],
        "second.weight": np.split(data["second"], 2)[rank],
        "learning_rate": RATE,
        "momentum": MOMENTUM,
        "mark": 10 + rank,
    }
    for parameter in model.graph.parameter:
        name = mindir.parameter_name(parameter.name)
        value = values[name] if name in values else np.zeros(parameter.dims)
        parameter.raw_data = np.ascontiguousarray(value, np.float32).tobytes()
    Path(f"run{rank}.mindir").write_bytes(model.SerializeToString())
    net = nn.GraphCell(ms.load(f"run{rank}.mindir"))
    with called.errors():
        results = [[float(value.asnumpy()) for value in net(Tensor(data["x"]))] for _ in range(STEPS)]
    held = {mindir.parameter_name(name): p.asnumpy() for name, p in net.parameters_dict().items()}
    np.savez(f"result{rank}.npz", results=results, **held)
    return 0


if __name__ == "__main__":
    here = Path.cwd()
    kinds = (("step", "plain", "lazy"), ("step",))
    exports = [partial(export, rank, *kinds[rank]) for rank in (0, 1)]
    ranks = [ForkSpec(f"export{i}", call, here, rank_environment(i, 2)) for i, call in enumerate(exports)]
    run_processes(ranks, at_once=2)
    run_processes([ForkSpec(f"run{rank}", partial(run, rank), here) for rank in (0, 1)], at_once=2)
