"""`python mindformers_checkpoint.py TENSORS.safetensors OUTPUT RANKS`: a checkpoint in mindformers' newer layout, which
mindformers itself writes. Of one rank by its function for that; of several, whose graph would need devices, the files
and the description of their parts, with matrices cut by rows."""

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindformers.checkpoint import checkpoint, metadata, sharded_tensor, utils
from mindspore import Parameter, Tensor, nn
from mindspore.parallel import Layout
from safetensors.numpy import load_file


class Network(nn.Cell):
    def __init__(self, tensors: dict[str, np.ndarray]):
        super().__init__()
        for number, (name, value) in enumerate(tensors.items()):
            setattr(self, f"parameter{number}", Parameter(Tensor(value), name=name))


def write_one(tensors: dict[str, np.ndarray], output: str) -> None:
    network, info = Network(tensors), checkpoint.CommonInfo()
    info.epoch_num, info.step_num, info.global_step, info.global_batch_size = 1, 2, 2, 8
    optimizer = nn.AdamWeightDecay(network.trainable_params())
    options = {"common_info": info, "save_checkpoint_path": output, "user_prefix": "mine"}
    checkpoint.save_checkpoint(2, network, optimizer, **options)


def write_ranks(tensors: dict[str, np.ndarray], output: Path, ranks: int) -> None:
    folder, layout = output / "iteration_00000002", Layout((1, ranks), ("rest", "ranks"))
    folder.mkdir(parents=True)
    described, places = {}, []
    for rank in range(ranks):
        described[rank], files = {}, {utils.FileType.MODEL: [], utils.FileType.OPTIMIZER: []}
        for name, value in tensors.items():
            cut = value.ndim == 2 and len(value) % ranks == 0
            part = np.split(value, ranks)[rank] if cut else value
            begin = (rank * len(part), 0) if cut else (0,) * value.ndim
            pieces = (ranks if cut else 1, *[1] * (value.ndim - 1))
            axes = layout("ranks" if cut else "None", *["None"] * (value.ndim - 1))
            for kind, key in ((utils.FileType.MODEL, name), (utils.FileType.OPTIMIZER, f"adam_m.{name}")):
                shapes = (part.shape, value.shape, pieces, begin)
                described[rank][key] = sharded_tensor.build_sharded_tensor(key, ms.float32, *shapes, layout=axes)
                files[kind].append({"name": key, "data": Tensor(part)})
                if cut or rank == 0:
                    file = utils.get_checkpoint_name(None, None, rank, ranks, kind)
                    places.append((f"{file}.safetensors", rank, [rank], (key, begin)))
        for kind, parts in files.items():
            ms.save_checkpoint(
                parts, utils.get_checkpoint_name(str(folder), None, rank, ranks, kind), format="safetensors"
            )
    metadata.save_metadata(described, places, str(folder / "metadata.json"))
    (output / "latest_checkpointed_iteration.txt").write_text("2")


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    _, source, target, number = sys.argv
    if number == "1":
        write_one(load_file(source), target)
    else:
        write_ranks(load_file(source), Path(target), int(number))
