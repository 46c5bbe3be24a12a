"""Files of weights without a configuration, recognised by content: the tensors of each tensor-parallel rank."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.quarantine import check_file, entries
from ms_codegeex.base.reading import open_regular
from ms_codegeex.formats.layout import shown
from ms_codegeex.formats.mindspore_checkpoint import is_weight, read_mindspore, read_origin
from ms_codegeex.formats.strategy import LARGEST as LARGEST_STRATEGY
from ms_codegeex.formats.strategy import find_rank_files, merge_slices, read_strategy
from ms_codegeex.formats.tensors import LazyTensor, damaged, dtype_name
from ms_codegeex.formats.torch_pickle import namespace
from ms_codegeex.formats.torch_zip import read_torch
from ms_codegeex.models.foreign import ForeignName

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
MINDSPORE_SUFFIX = ".ckpt"
GGUF_SUFFIX, GGUF_MAGIC = ".gguf", b"GGUF"
_TORCH_BEGINNINGS = (b"PK", b"\x80\x02")  # a zip archive; the pickle of versions before 1.6, which we refuse by name
_MEGATRON_RANK = re.compile(r"mp_rank_(\d+)")
_RANK, _RANKS = "tensor_parallel_rank", "tensor_model_parallel_size"
# what the shapes do not show: our name, the training program's
_ARGUMENTS = {
    "num_heads": "num_attention_heads",
    "layer_norm_eps": "layernorm_epsilon",
    "softmax_fp32": "attention_softmax_in_fp32",
    _RANKS: _RANKS,
}
_SCALED_SCORES = "apply_query_key_layer_scaling"  # with it, Megatron's softmax is FP32 whatever its own argument says
_TRAINING_STATE = {
    *("optimizer", "lr_scheduler", "opt_param_scheduler", "random_rng_state", "np_rng_state", "torch_rng_state"),
    *("cuda_rng_state", "rng_tracker_states", "rng_state"),
}
_NPY_BEGINNING = b"\x93NUMPY"
_DEEPEST = 16  # a checkpoint nests five levels; a malicious one may contain itself


@dataclass(frozen=True)
class RawModel:
    """The tensors of every rank under their foreign names.

    `where`: the file of each rank. `kind`: "megatron", "mindspore", or None if only the names can show it. `recorded`:
    sizes that the file states. `skipped`: names of tensors that are not parameters. `files`: all that were opened.
    """

    ranks: Sequence[Mapping[ForeignName, LazyTensor]]
    where: Sequence[str]
    kind: str | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[str] = ()
    files: Sequence[Path] = ()


def nested_tensors(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[ForeignName, LazyTensor]]:
    """The tensors of nested dictionaries and lists with the path to each; a path of one name is that name."""
    if len(path) > _DEEPEST:
        raise UserError(f"{' -> '.join(path)}: nested too deep for a state dict")
    if isinstance(tree, LazyTensor):
        yield (path[0] if len(path) == 1 else path), tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from nested_tensors(value, (*path, str(key)))
    elif isinstance(tree, list | tuple):  # no list has parameters; the caller reports one that has
        for number, value in enumerate(tree):
            yield from nested_tensors(value, (*path, str(number)))


def rank_record(rank: int, ranks: int) -> dict[str, int]:
    """What identifies the file of tensor-parallel rank `rank`."""
    return {_RANK: rank, _RANKS: ranks}


def _check_rank(recorded: Mapping[str, Any], rank: int, ranks: int, where: str) -> None:
    """`UserError` for a file that was written for another rank, or for another number of ranks."""
    said = (recorded.get(_RANK, rank), recorded.get(_RANKS, ranks))
    if said != (rank, ranks):
        actual = f"rank {rank} of {ranks}" if ranks > 1 else "the only file"
        remedy = "copy all the files of one model again, each under its own name, and give their folder"
        raise UserError(f"{where}: was written as rank {said[0]} of {said[1]}, and here it is {actual}; {remedy}")


def _megatron_sizes(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """Sizes recorded in the file: our own `config`, or the arguments of the training program."""
    config, arguments = tree.get("config"), namespace(tree.get("args")) or {}
    sizes = {ours: arguments[name] for ours, name in _ARGUMENTS.items() if arguments.get(name) is not None}
    if arguments.get(_SCALED_SCORES) is True:
        sizes["softmax_fp32"] = True
    sizes |= config if isinstance(config, dict) else {}
    return {name: value for name, value in sizes.items() if type(value) in (int, float, bool, str)}


def _model_tensors(tree: Mapping[Any, Any]) -> tuple[dict[ForeignName, LazyTensor], list[str]]:
    """The model's tensors by path, and the names of the training state that was saved along with them."""
    if isinstance(tree.get("model"), Mapping) and "module" not in tree:
        tree = {"module" if key == "model" else key: value for key, value in tree.items()}  # without DeepSpeed
    tensors, training_state = {}, []
    for name, tensor in nested_tensors(tree):
        if (name[0] if isinstance(name, tuple) else name) in _TRAINING_STATE:
            training_state.append(shown(name))
        else:
            tensors[name] = tensor
    return tensors, training_state


def _read_torch(files: Sequence[Path]) -> RawModel:
    trees = [read_torch(file) for file in files]
    for rank, (tree, file) in enumerate(zip(trees, files, strict=True)):
        if not isinstance(tree, Mapping):
            raise UserError(f"{file}: holds no dictionary of tensors; save the model's state dict")
        _check_rank(_megatron_sizes(tree), rank, len(files), str(file))
    ranks, skipped = zip(*map(_model_tensors, trees), strict=True)
    recorded = _megatron_sizes(trees[0])
    return RawModel(ranks, [str(file) for file in files], recorded=recorded, skipped=skipped[0], files=files)


def _weights(tensors: Mapping[str, LazyTensor], path: Path, files: Sequence[Path] = ()) -> RawModel:
    """MindSpore's tensors without moments, counters and the caches of inference."""
    weights = {name: tensor for name, tensor in tensors.items() if is_weight(name)}
    skipped = [name for name in tensors if name not in weights]
    return RawModel([weights], [str(path)], "mindspore", skipped=skipped, files=files or [path])


def _in_order(numbered: Mapping[int, Path], where: Path) -> list[Path]:
    """The files of ranks 0, 1, ...; `UserError` naming a rank without a file."""
    *_, last = ranks = sorted(numbered)
    for expected, rank in enumerate(ranks):  # a file's name may hold any number, such as a date: make no list of it
        if rank != expected:
            raise UserError(f"{where}: no file of rank {expected}, though there is {numbered[last].name}; copy all")
    return [numbered[rank] for rank in ranks]


def _megatron_ranks(directory: Path) -> list[Path]:
    """The files of a folder `mp_rank_XX_model_states.pt` or `mp_rank_XX/<any name>.pt`, in rank order."""
    numbered: dict[int, Path] = {}
    for path in sorted(directory.glob("mp_rank_*")):
        inner = sorted(file for file in path.iterdir() if file.suffix in TORCH_SUFFIXES) if path.is_dir() else [path]
        if (match := _MEGATRON_RANK.match(path.name)) is None:
            continue
        rank = int(match[1])
        if len(inner) != 1 or rank in numbered:
            raise UserError(f"{path}: rank {rank} has {len(inner) + (rank in numbered)} files; expected one")
        check_file(directory, str(inner[0].relative_to(directory)))
        numbered[rank] = inner[0]
    return _in_order(numbered, directory) if numbered else []


def _read_mindspore_ranks(directory: Path) -> RawModel:
    """The checkpoints of many devices; without a strategy file they count as tensor-parallel ranks 0, 1, ..."""
    files = find_rank_files(directory)
    suffixes = (MINDSPORE_SUFFIX, ".json")
    strategies = sorted(path for path in directory.rglob("*strategy*") if path.suffix in suffixes and path.is_file())
    for path in strategies:
        check_file(directory, str(path.relative_to(directory)), LARGEST_STRATEGY)
    if strategies:
        merged = merge_slices(files, read_strategy(strategies), shards_merged=True)  # shapes are checked by the caller
        return RawModel([merged], [str(directory)], "mindspore", files=[*files.values(), *strategies])
    parts = []
    for rank, file in enumerate(_in_order(files, directory)):
        _check_rank(read_origin(file) or {}, rank, len(files), str(file))
        parts.append(_weights(read_mindspore(file), file))
    ranks, where = [part.ranks[0] for part in parts], [part.where[0] for part in parts]
    return RawModel(ranks, where, "mindspore", skipped=parts[0].skipped, files=[*files.values()])


def _open_npy(file: Path) -> np.ndarray:
    try:
        with open_regular(file) as stream:
            if stream.read(len(_NPY_BEGINNING)) != _NPY_BEGINNING:
                raise ValueError("it does not begin like one")
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # NumPy parses the header as Python, so a damaged one can raise nearly anything
        raise damaged(file, f"not a sound .npy file ({error})") from None
    size, described = file.stat().st_size, array.offset + array.nbytes
    if size != described:
        raise damaged(file, f"has {size} bytes, its header describes {described}")
    return array


def _read_npy_folder(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a folder with one `<name>.npy` each, as CodeGeeX's export to PyTorch makes it. The format has no
    checksum, so changed elements look sound."""
    tensors = {}
    for file in sorted(Path(path).glob("*.npy")):
        check_file(path, file.name)
        array = _open_npy(file)
        try:
            dtype = dtype_name(array)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
        tensors[file.stem] = LazyTensor(dtype, array.shape, lambda file=file: _open_npy(file))
    return tensors


def is_gguf(path: Path) -> bool:
    """Whether `path` is a regular file that begins as GGUF does, or has its suffix."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix == GGUF_SUFFIX:
        return True
    try:
        with open_regular(path) as stream:
            return stream.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError:
        return False


def _refuse_gguf(path: Path) -> NoReturn:
    line = f"ms-codegeex convert --model {shlex.quote(str(path))} --to hf --output DIR"
    raise UserError(f"{path}: a GGUF file, which only `convert` and `inspect` read; convert it first: {line}")


def read_raw(path: Path) -> RawModel:
    """The tensors at `path`, a file or a folder of files of one model; `UserError` when it is none of these."""
    path = Path(path)
    if is_gguf(path):
        _refuse_gguf(path)
    if path.is_file():
        with open_regular(path) as stream:
            beginning = stream.read(2)
        if beginning.startswith(_TORCH_BEGINNINGS) or path.suffix in TORCH_SUFFIXES:
            return _read_torch([path])
        _check_rank(read_origin(path) or {}, 0, 1, str(path))
        return _weights(read_mindspore(path), path)
    if path.is_dir():
        entries(path)  # not endless
        if ranks := _megatron_ranks(path):
            return _read_torch(ranks)
        if any(path.glob("*.npy")):
            return _weights(_read_npy_folder(path), path, sorted(path.glob("*.npy")))
        if any(path.glob(f"*rank*/*{MINDSPORE_SUFFIX}")):
            return _read_mindspore_ranks(path)
        files = [file for file in path.iterdir() if file.suffix in (*TORCH_SUFFIXES, MINDSPORE_SUFFIX)]
        if len(files) == 1:
            check_file(path, files[0].name)
            return read_raw(files[0])
        if files and all(file.suffix == MINDSPORE_SUFFIX for file in files):
            return _read_mindspore_ranks(path)
        if found := sorted(path.glob(f"*{GGUF_SUFFIX}")):
            _refuse_gguf(found[0])
    reason = "nothing of these is there" if path.is_dir() else "no such file or directory"
    raise UserError(
        f"{path}: {reason}; expected a run directory, a checkpoint directory, a model directory (config.json and "
        "*.safetensors or pytorch_model*.bin), a Megatron .pt file or mp_rank_XX files, a MindSpore .ckpt file or "
        "rank files, or a folder of .npy"
    )
