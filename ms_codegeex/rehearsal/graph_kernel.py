"""What graph-kernel fusion does to a transformer block: the kernels that a forward and backward pass launches without
and with it.

They are counted in the dump of the actor set, which is what the runtime launches; most other dumps are taken before
fusion and do not show it. The numbers hold for a CPU: another device has its own list of operators to fuse and its own
code generator.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.processes import python_process, run_processes

KERNEL = re.compile(r"^%\d+ = kernel_graph\d+:(\w+)-op\d+\(", re.MULTILINE)
FUSED = "GraphKernel_"  # prefix of the names of fused kernels
DUMP, RESULT = "dump", "result.npz"
SECONDS = 600
# Of the block that is compiled. The number of kernels hardly depends on them, the time to build them does.
HIDDEN, HEADS, INNER, SEQUENCE, BATCH = 32, 2, 128, 16, 2


@dataclass(frozen=True)
class GraphKernelReport:
    """Kernels of one forward and backward pass by name, without and with fusion, and how much its results differ."""

    before: Counter[str]
    after: Counter[str]
    largest_difference: float  # absolute, over the output and the gradients of input and parameters

    @property
    def fused_kernels(self) -> int:
        """How many of the kernels with fusion are generated ones."""
        return sum(count for name, count in self.after.items() if name.startswith(FUSED))


def missing_programs() -> list[str]:
    """Programs that MindSpore's kernel generator for a CPU calls and that this machine lacks."""
    return [name for name in ("g++", "grep", "sed") if shutil.which(name) is None]


def graph_kernel_report() -> GraphKernelReport:
    """Compile and run CodeGeeX's block twice on the CPU, each time in its own process; about 15 s.

    Raises `UserError` if a package that fusion needs is missing, `RunFailure` with the end of a failed process's log.
    """
    import numpy as np

    if importlib.util.find_spec("decorator") is None:
        raise UserError("graph-kernel fusion: the package decorator is missing; run `pip install decorator`")
    counts, results = {}, {}
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-graph-kernel-") as scratch:
        for setting in ("off", "on"):
            directory = Path(scratch) / setting
            directory.mkdir()
            _run(setting, directory)
            counts[setting] = count_kernels(directory / DUMP)
            with np.load(directory / RESULT, allow_pickle=False) as stored:
                results[setting] = [stored[name] for name in sorted(stored.files)]
    difference = max(float(np.abs(a - b).max()) for a, b in zip(results["off"], results["on"], strict=True))
    return GraphKernelReport(counts["off"], counts["on"], difference)


def count_kernels(dump: Path) -> Counter[str]:
    """The kernels that run, by operator, from the folder of a graph dump (`MS_DEV_SAVE_GRAPHS`), without the runtime's
    actors for data and control."""
    files = sorted((dump / "actor_set").glob("final_actor_set_*.ir"))
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(KERNEL.findall(file.read_text(encoding="utf-8", errors="replace")))
    if not counts:
        raise RunFailure(f"{dump}/actor_set: no kernels in {len(files)} final actor sets; MindSpore's dump has changed")
    return counts


def _run(setting: str, directory: Path) -> None:
    """Compile and run the block in a process that leaves its dump and its results in `directory`."""
    words = ("-m", "ms_codegeex.rehearsal.graph_kernel", setting)
    # the code generator leaves its kernels in the working directory
    dump = {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(directory / DUMP)}
    run_processes([python_process(f"graph-kernel fusion {setting}", words, directory, dump)], seconds=SECONDS)
    if not (directory / RESULT).is_file():
        raise RunFailure(f"graph-kernel fusion {setting}: the process left no {RESULT} in {directory}")


def _worker(setting: str) -> None:
    """Run the block's forward and backward pass once in this process and write output and gradients to `RESULT`."""
    import mindspore as ms
    import numpy as np
    from mindspore import nn, ops

    from ms_codegeex.models.causal import Block, Build
    from ms_codegeex.models.codegeex.config import CodeGeeXConfig

    class ForwardBackward(nn.Cell):
        """Output and all gradients; without the output the compiler would drop the block's last product."""

        def __init__(self, block: nn.Cell):
            super().__init__(auto_prefix=False)
            self.block, self.weights = block, ms.ParameterTuple(block.trainable_params())
            self.grad = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)

        def construct(self, x: ms.Tensor, mask: ms.Tensor, samples: ms.Tensor, backward: ms.Tensor) -> tuple:
            output = self.block(x, mask, samples)
            return output, self.grad(self.block, self.weights)(x, mask, samples, backward)

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_context(enable_graph_kernel=setting == "on")
    ms.set_seed(1)
    config = CodeGeeXConfig(hidden_size=HIDDEN, num_heads=HEADS, intermediate_size=INNER, init_std=0.1)
    block = Block(config, Build(seq_length=SEQUENCE), 0)
    generator, shape = np.random.default_rng(1), (BATCH * SEQUENCE, HIDDEN)
    for parameter in block.get_parameters():
        value = generator.normal(0, 0.1, parameter.shape) + parameter.asnumpy().mean()  # norms stay around 1
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    x, backward = (ms.Tensor(generator.normal(size=shape).astype(np.float32)) for _ in range(2))
    mask = np.triu(np.full((1, 1, SEQUENCE, SEQUENCE), -1e4, np.float32), 1)
    samples = ms.Tensor(np.arange(BATCH, dtype=np.int32))
    output, (inputs, weights) = ForwardBackward(block)(x, ms.Tensor(mask), samples, backward)
    np.savez(RESULT, *(value.asnumpy() for value in (output, inputs[0], *weights)))


if __name__ == "__main__":
    _worker(sys.argv[1])
