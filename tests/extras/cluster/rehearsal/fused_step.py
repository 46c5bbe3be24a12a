"""Run by test_fusion.py under simulation: compile a run's train step (`CONFIG RANK`) and print what it is made of."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
from mindspore import Tensor
from mindspore.communication import init

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.roofline import matmul_flops
from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.execution_program import exported
from ms_codegeex.extras.cluster.rehearsal.job import batches, local_rows
from ms_codegeex.parallel import context
from ms_codegeex.planning.hardware_files import hardware_of
from ms_codegeex.training.build import build


def main(path: str, rank: int) -> dict:
    config = load_config(Path(path))
    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")
    init()
    cell = build(config, tied_group=context.enter(config, rank)).step.set_train(True)
    cell.compile(*[Tensor(local_rows(config, rank, a[0])) for a in batches(config, 1)])
    model = mindir.parse(exported(cell))
    types, inputs = mindir.tensor_types(model), {}
    for _, node, primitive in mindir._nodes(model):
        tensors = [types[name] for name in node.input if name in types and types[name].shape]
        inputs[primitive.op_type] = [[list(tensor.shape), tensor.dtype] for tensor in tensors]
    names = list(mindir.parameters(model))
    return {
        "counts": Counter(mindir.executed(model)),
        "inputs": {op: inputs.get(op) for op in ("FlashAttentionScore", "LayerNorm")},
        "products": mindir.matmul_flops(model),
        "planned": matmul_flops(config, 0, hardware_of(config)),
        "moments": sum(name.startswith(("optimizer.m.", "optimizer.v.")) for name in names),
        "parameters": sum(not name.startswith(("optimizer.", "accu", "loss_scale.")) for name in names),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
