"""`python simulated_rank.py CONFIG.json RANK CHECKPOINT PARTS.npz`: what rank RANK of a partitioned run holds.

A trainer on a simulated cluster: it compiles, starts or restores, and tells what it would save; nothing is executed.
"""

import json
import sys
from collections import Counter

import numpy as np


class Data:
    infilling, info = None, {}

    def check_model(self, vocab_size, eos_token_id):
        pass


def main(config_file, rank, checkpoint, parts):
    import mindspore as ms
    from mindspore import Tensor
    from mindspore.communication import init

    from ms_codegeex.config.rules import build_run_config
    from ms_codegeex.extras.cluster.rehearsal import mindir
    from ms_codegeex.extras.cluster.rehearsal.execution_program import exported
    from ms_codegeex.formats.checkpoint import Checkpoint
    from ms_codegeex.parallel import context
    from ms_codegeex.runs.rank.weights import weights_of
    from ms_codegeex.training.start import RankPlace, RunData, RunStart
    from ms_codegeex.training.trainer import Trainer

    with open(config_file) as file:
        config = build_run_config(json.load(file))
    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")
    init()
    rank = int(rank)
    tied_group = context.enter(config, rank)
    trainer = Trainer(config, RunData(Data(), Data()), RunStart(weights_of(config)), RankPlace(rank, tied_group))
    if checkpoint != "none":
        trainer.restore(Checkpoint(checkpoint))
    ids = np.zeros((trainer.built.evaluation_rows, config.seq_length), np.int32)
    evaluation = trainer.built.evaluation_step.set_train(False)  # its graph is partitioned too
    evaluation.compile(*(Tensor(a) for a in (ids, ids, ids.astype(np.float32), ids[:, 0].copy())))
    operators = Counter(mindir.executed(mindir.parse(exported(evaluation))))
    assert evaluation.register is None or operators["NPUClearFloatStatusV2"] == 1
    assert not operators["BitwiseXor"] and not operators["AdamWeightDecay"]  # of dropout; of an update
    slices = trainer.rank_state.slices()
    arrays = {name: part.array for name, part in slices.items()}
    held = {f"held:{name}": p.asnumpy() for name, p in trainer.rank_state.tensors().items()}
    np.savez(parts, **arrays, **held)
    with open(f"{parts}.json", "w") as file:
        json.dump({name: [part.offset, part.global_shape] for name, part in slices.items()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
