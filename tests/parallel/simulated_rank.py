"""`python simulated_rank.py CONFIG.json RANK CHECKPOINT PARTS.npz`: what rank RANK of a partitioned run holds.

A trainer on a simulated cluster: it compiles, starts or restores, and tells what it would save; nothing is executed.
"""

import json
import sys

import numpy as np


class Data:
    def check_model(self, vocab_size, eos_token_id):
        pass


def main(config_file, rank, checkpoint, parts):
    import mindspore as ms
    from mindspore import Tensor
    from mindspore.communication import init

    from ms_codegeex.config import build_run_config
    from ms_codegeex.formats.checkpoint import Checkpoint
    from ms_codegeex.parallel import context
    from ms_codegeex.training.trainer import Trainer

    with open(config_file) as file:
        config = build_run_config(json.load(file))
    ms.set_context(mode=ms.GRAPH_MODE, device_target="GPU")
    init()
    rank = int(rank)
    trainer = Trainer(config, Data(), Data(), rank=rank, tied_group=context.enter(config, rank))
    if checkpoint != "none":
        trainer.restore(Checkpoint(checkpoint))
    if trainer.evaluates:  # its graph is cut too
        rows = config.micro_batch * config.data_parallel // trainer.loaders
        ids = np.zeros((rows, config.seq_length), np.int32)
        evaluation = trainer.built.evaluation_step.set_train(False)
        evaluation.compile(*(Tensor(a) for a in (ids, ids, ids.astype(np.float32), ids[:, 0].copy())))
    slices = trainer.own_slices()
    arrays = {name: part.array for name, part in slices.items()}
    held = {f"held:{name}": p.asnumpy() for name, p in trainer.state_tensors().items()}
    np.savez(parts, **arrays, **held)
    with open(f"{parts}.json", "w") as file:
        json.dump({name: [part.offset, part.global_shape] for name, part in slices.items()}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
