"""Converting a model from any layout we read to the layouts we write, a few tensors in memory at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, remove_leftovers, write_json
from ms_codegeex.base.reading import read_inside, read_json
from ms_codegeex.data.infilling.sentinels import description_files
from ms_codegeex.data.tokenizer import CONFIG as TOKENIZER_CONFIG
from ms_codegeex.data.tokenizer import TOKENIZER_FILES
from ms_codegeex.formats import layout
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.files import TORCH_SUFFIXES, nested_tensors, rank_record
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore, read_origin, write_mindspore
from ms_codegeex.formats.model_card import card_files
from ms_codegeex.formats.model_directory import CONFIG, ModelDirectory, write_model_directory
from ms_codegeex.formats.provenance import ends, files_below, hashed, read_statement, statement_path
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.formats.strategy import shard
from ms_codegeex.formats.tensors import SHORT_NAMES, LazyTensor
from ms_codegeex.formats.torch_zip import is_written_by_us, read_torch, write_torch
from ms_codegeex.models.foreign import ForeignName, in_our_names

_MAX_CODE = 16 << 20  # bytes of a module that is compared with ours
_NAMED = 3  # files in a message
AHEAD = 2  # tensors that are loaded while one is written
DIRECTORIES = ("hf", "gptj")  # model directories
LAYOUTS = {"hf": "huggingface", "gptj": "gptj", "megatron": "megatron", "mindspore": "mindspore"}
LAYOUTS["mindformers"] = "mindspore"  # under our own names
_SUFFIXES = {"megatron": TORCH_SUFFIXES, "mindspore": (".ckpt",)}
_RANK_FILES = {"megatron": "mp_rank_{rank:02d}_model_states.pt", "mindspore": "rank_{rank}/{family}.ckpt"}
# What mindformers 1.9 and 2.1 read (their checkpoint/checkpoint.py): the weights of the only rank at step 0, the number
# of that step, and what was trained before it.
_ITERATION, _ONLY_RANK = "iteration_00000000", "iteration_00000000/model-0000000-0000001.safetensors"
_TRACKER = "latest_checkpointed_iteration.txt"
_COMMON = dict.fromkeys(("epoch_num", "step_num", "global_step", "global_batch_size", "ckpt_status"), 0)

FileTensors = dict[ForeignName, LazyTensor]  # what one file holds
CONVERTED: Mapping[str, Any] = MappingProxyType({"command": "convert"})
Check = Callable[[Path], object] | None
Written = Callable[[Path], object]


def _nested(tensors: Mapping[ForeignName, LazyTensor]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        path = (name,) if isinstance(name, str) else name
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = tensor
    return tree


@contextlib.contextmanager
def measured(parts: Sequence[FileTensors], label: str, progress: bool) -> Iterator[list[FileTensors]]:
    """The same tensors, shown by a progress bar on standard error (only on a terminal), and loaded ahead, in their
    order: while one is written, threads load the next `AHEAD`, together no larger than the largest tensor."""
    order = [tensor for part in parts for tensor in part.values()]
    room, total = max((tensor.nbytes for tensor in order), default=0), sum(tensor.nbytes for tensor in order)
    started: dict[int, Future[np.ndarray]] = {}

    def load(number: int) -> np.ndarray:
        loading = started.pop(number, None) or pool.submit(order[number].array)
        for following in range(number + 1, min(number + 1 + AHEAD, len(order))):
            waiting = sum(order[i].nbytes for i in {*started, following})
            if following not in started and len(started) < AHEAD and waiting <= room:
                started[following] = pool.submit(order[following].array)
        array = loading.result()
        bar.update(array.nbytes)
        return array

    def ahead(tensor: LazyTensor) -> LazyTensor:
        return LazyTensor(tensor.dtype, tensor.shape, partial(load, next(numbers)))

    numbers, hidden = itertools.count(), None if progress else True
    with (
        ThreadPoolExecutor(AHEAD) as pool,
        tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=hidden) as bar,
    ):
        yield [{name: ahead(tensor) for name, tensor in part.items()} for part in parts]


def _write_file(
    to: str, target: Path, source: Source, tensors: FileTensors, check: Check, origin: dict[str, int], written: Written
) -> None:
    """Write a file of this format, or a model directory; `origin` identifies the file of a rank. `written(file)` is
    called for each file of weights of a model directory that is complete."""
    if to == "megatron":
        # "config" goes next to "module", where other loaders do not look: the shapes do not reveal the number of heads
        config = {"family": source.family.name, **source.fields, **origin}
        write_torch(target, _nested(tensors) | {"config": config}, check)
    elif to == "mindspore":
        write_mindspore(target, tensors, check=check, origin=origin)
    elif to == "mindformers":
        with atomic_directory(target, check) as directory:
            (directory / _ITERATION).mkdir()
            (directory / _TRACKER).write_text("0", encoding="ascii")
            write_json(directory / _ITERATION / "common.json", {**_COMMON, "loss_scale": None})
            write_safetensors(directory / _ONLY_RANK, tensors, {"format": "ms"}, checksums=True)
            written(directory / _ONLY_RANK)
    else:
        formats = FamilyFormats(source.family)
        config = formats.to_json(source.config, source.config_json) | formats.layout(LAYOUTS[to]).config
        config["torch_dtype"] = min(tensor.dtype for tensor in tensors.values())
        exported = resources.files("ms_codegeex.formats").joinpath("exported")
        classes = {name: exported.joinpath(name).read_bytes() for name in source.family.weights.FORMATS.classes}
        further = classes | card_files(source) | description_files(source.infill)
        more = {"tokenizer": source.save_tokenizer, "further": further, "check": check, "written": written}
        write_model_directory(target, config, tensors, **more)


_READERS = {
    **dict.fromkeys(DIRECTORIES, lambda target: ModelDirectory(target).tensors),
    "megatron": lambda target: dict(nested_tensors(read_torch(target))),
    "mindspore": read_mindspore,
    "mindformers": lambda target: SafetensorsFile(target / _ONLY_RANK).tensors,
}


def _parts(source: Source, to: str, dtype: str | None, ranks: int) -> list[FileTensors]:
    """The tensors of every file that will be written; nothing is loaded yet."""
    formats = FamilyFormats(source.family)
    its = formats.layout(LAYOUTS[to])
    formats.rank_shapes(its, source.config, ranks, "--tensor-parallel")  # what does not split evenly is an error
    entries = formats.entries(its, source.config, ranks)
    entries = in_our_names(entries) if to == "mindformers" else entries

    def slices(rank: int) -> Iterator[tuple[str, LazyTensor]]:
        for name, tensor in source.tensors.items():
            piece = shard(tensor, formats.axis(its, name), rank, ranks) if ranks > 1 else tensor
            yield name, piece if dtype is None else cast(name, piece, SHORT_NAMES[dtype])

    return [layout.to_foreign(entries, dict(slices(rank))) for rank in range(ranks)]


def _files(directory: Path, to: str, family: str, ranks: int) -> list[Path]:
    if ranks == 1:
        return [directory]
    return [directory / _RANK_FILES[to].format(rank=rank, family=family) for rank in range(ranks)]


def _write(target: Path, to: str, source: Source, parts: Sequence[FileTensors], check: Check, written: Written) -> None:
    """Write all parts; `check(temporary)` is called before the result is renamed into place."""
    if len(parts) == 1:
        _write_file(to, target, source, parts[0], check, rank_record(0, 1), written)
        return
    with atomic_directory(target, check) as directory:
        for rank, file in enumerate(_files(directory, to, source.family.name, len(parts))):
            _write_file(to, file, source, parts[rank], None, rank_record(rank, len(parts)), written)
            written(file)


def _verify(written_to: Path, target: Path, to: str, family: str, parts: Sequence[FileTensors], progress: bool) -> None:
    """Read what was written for `target` back and compare every byte with the source, converted once more."""
    with measured(parts, "verify", progress) as expected:
        for file, part in zip(_files(written_to, to, family, len(parts)), expected, strict=True):
            written = _READERS[to](file)
            layout.check_names(written, part, str(file))
            for name, tensor in part.items():
                if (written[name].dtype, written[name].shape) != (tensor.dtype, tensor.shape) or not np.array_equal(
                    written[name].array().reshape(-1).view(np.uint8), tensor.array().reshape(-1).view(np.uint8)
                ):
                    differs = f"tensor {layout.shown(name)} differs from the source after writing"
                    remedy = "the disk may be failing, convert again to another place"
                    raise UserError(f"{target}: {differs}, so nothing was changed there; {remedy}")


def _warnings(source: Source, target: Path, to: str) -> list[str]:
    """Why other software cannot run the model: its size, unless our classes run it, or classes that are not there."""
    formats = source.family.weights.FORMATS
    warnings = [] if to == "gptj" or (to == "hf" and formats.classes) else [*formats.limits(source.config)]
    modules = _modules(target) if to in DIRECTORIES else []
    files = dict.fromkeys(f"{name.partition('.')[0]}.py" for name in modules if "--" not in name)  # with --: in the hub
    if missing := [file for file in files if not (target / file).is_file()]:
        classes = f"copy {' and '.join(missing)} of the release into it"
        warnings.append(f"transformers has no classes for this model: {classes}")
    return warnings


def _modules(target: Path) -> list[str]:
    """The classes that the `auto_map` of a model directory and of its tokenizer name."""

    def auto_map(file: str) -> dict[str, Any]:
        classes = read_json(target / file).get("auto_map") if (target / file).is_file() else None
        return classes if isinstance(classes, dict) else {}

    slow_and_fast = auto_map(TOKENIZER_CONFIG).get("AutoTokenizer")
    named = [*auto_map(CONFIG).values(), *(slow_and_fast if isinstance(slow_and_fast, list) else [])]
    return [name for name in named if isinstance(name, str)]


def _left_out(source: Source, target: Path, to: str) -> list[str]:
    """The files of a model directory that did not come out; our own modules are written again, not copied."""
    if to not in DIRECTORIES:
        return []
    return [name for name in source.left_out if not _same(source.path, target, name)]


def _same(source: Path, target: Path, name: str) -> bool:
    try:
        return (target / name).is_file() and read_inside(source, name, _MAX_CODE) == (target / name).read_bytes()
    except UserError:  # a link out of the source
        return False


def _check_request(to: str, dtype: str | None, ranks: int) -> None:
    if to not in LAYOUTS:
        raise UserError(f"--to: '{to}' is unknown; choose one of {', '.join(LAYOUTS)}")
    if dtype is not None and dtype not in SHORT_NAMES:
        raise UserError(f"--dtype: '{dtype}' is unknown; choose one of {', '.join(SHORT_NAMES)}")
    if ranks != 1 and to == "mindformers":
        raise UserError("--tensor-parallel: mindformers itself divides the weights among its devices; leave it out")
    if ranks != 1 and to not in _RANK_FILES:
        raise UserError(f"--tensor-parallel: --to {to} is one model directory; choose --to {' or '.join(_RANK_FILES)}")


def _foreign(target: Path) -> list[str]:
    """The files at `target` that no conversion wrote, or that changed since."""
    recorded, foreign = dict[str, Any](), list[str]()
    if target.is_dir():
        with contextlib.suppress(UserError):
            statement = read_statement(target)
            recorded = statement.ends if statement is not None else recorded
        for path in files_below(target, statement=not recorded):
            name = path.relative_to(target).as_posix()
            if path.is_symlink() or name not in recorded or not path.is_file():
                foreign.append(name)
            elif recorded[name] != ends(path):
                foreign.append(f"{name} (changed since)")
        return foreign
    try:
        ours = target.is_file() and (is_written_by_us(target) or read_origin(target) is not None)
    except UserError:
        ours = False
    return [] if ours else [target.name]


def free_target(output: Path, source: Path, replace: bool, file: str = "", suffixes: Sequence[str] = ()) -> Path:
    """What to write: the directory `output`, or a `file` of this name in it, unless `output` itself names one with one
    of these `suffixes`. Links are followed, leftovers removed; `UserError` if it cannot be written."""
    try:
        named = not file or (output.suffix in suffixes and not output.is_dir())
        target = output if named else output / file
        target = resolved(target) if target.is_symlink() else target
        remove_leftovers(target)
        check_target(target, source, replace, not file)
    except OSError as error:
        raise UserError(f"{output}: cannot be used ({error.strerror}); choose another --output") from None
    return target


def resolved(target: Path) -> Path:
    """The target of a symbolic link, which itself stays; `UserError` if the link leads to itself."""
    try:
        return target.resolve()
    except RuntimeError:  # how `resolve` reports a loop
        raise UserError(f"{target}: is a symbolic link that leads to itself; choose another --output") from None


def _check_apart(target: Path, source: Path) -> None:
    """`UserError` if writing `target` would change the source, directly or through links."""
    here, there = resolved(target), source.resolve()
    if here == there or here in there.parents:
        raise UserError(f"{target}: is or contains the model that is being converted; choose another --output")
    if there.is_dir() and there in here.parents:
        raise UserError(f"{target}: is inside the model that is being converted; choose another --output")
    for file in source.rglob("*") if source.is_dir() else (source,):
        linked = Path(os.path.realpath(file))  # of a link to itself, too
        if here == linked or here in linked.parents:
            raise UserError(f"{target}: {file} leads there, which is being converted; choose another --output")


def check_target(target: Path, source: Path, replace: bool, directory: bool) -> None:
    """Refuse to replace what is at `target`, unless `replace` is set and a conversion wrote all of it. `directory`:
    whether a directory will be written there. A `UserError` names the files that are in the way."""
    if target.name in ("", ".."):
        raise UserError(f"{target}: is not a name that can be written; choose another --output")
    _check_apart(target, source)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    foreign = _foreign(target)
    if target.is_dir() != directory:
        kind = "a directory" if directory else "a file"
        raise UserError(f"{target}: exists and is not a converted model that is {kind}; choose another --output")
    if not replace:
        remedy = " or add --replace" if not foreign else ""
        raise UserError(f"{target}: exists already; choose another --output{remedy}")
    if foreign:
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        holds = f"holds what no conversion wrote ({', '.join(foreign[:_NAMED])}{more}), so --replace leaves it alone"
        raise UserError(f"{target}: {holds}; move that elsewhere or choose another --output")


def convert(
    source: Path | Source,
    to: str,
    output: Path,
    *,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    verify: bool = False,
    progress: bool = True,
    replace: bool = False,
    origin: Mapping[str, Any] = CONVERTED,
) -> dict[str, Any]:
    """Convert the model at `source` to `to` at `output`: "hf" a model directory, "gptj" one of a CodeGen as a GPT-J,
    "megatron" a nested `.pt` file, "mindspore" a `.ckpt` file with the original names, "mindformers" a directory in
    mindformers' newer layout. `source` is anything `open_source` reads, or its result. With `tensor_parallel` above 1,
    `output` is a folder with a file for each rank. `dtype` ("fp32", "fp16", "bf16") casts every tensor. `verify`
    compares all bytes of the result with the source. `replace` allows replacing an earlier conversion. `origin`: the
    command, and its further choices, for `provenance.json`. Returns figures for a report. `UserError` for anything
    missing, unexpected, in the way or too large for the dtype; the output appears only when it is complete."""
    begin = time.monotonic()
    _check_request(to, dtype, tensor_parallel)
    model = source if isinstance(source, Source) else open_source(Path(source))
    directory = to not in _SUFFIXES or tensor_parallel > 1
    file, suffixes = ("", ()) if directory else (f"{model.family.name}{_SUFFIXES[to][0]}", _SUFFIXES[to])
    target = free_target(Path(output), model.path, replace, file, suffixes)
    parts = _parts(model, to, dtype, tensor_parallel)

    def finish(temporary: Path) -> None:
        if verify:
            _verify(temporary, target, to, model.family.name, parts, progress)
        check_target(target, model.path, replace, directory)  # it may have changed meanwhile
        hashes.check_source(model.path)
        statement.update(hashes.statement(temporary, target, choices))

    statement: dict[str, Any] = {}
    choices = {**origin, "family": model.family.name, "to": to, "dtype": dtype, "tensor_parallel": tensor_parallel}
    with hashed(model.inputs) as hashes, measured(parts, f"convert to {to}", progress) as shown:
        _write(target, to, model, shown, finish, hashes.begin)
    if not directory:
        write_json(statement_path(target), statement)
    written = [tensor for part in parts for tensor in part.values()]
    return {
        "source": str(model.path),
        "kind": model.kind,
        "family": model.family.name,
        "to": to,
        "output": str(target),
        "files": tensor_parallel,
        "tokenizer": to in DIRECTORIES and any((target / name).is_file() for name in TOKENIZER_FILES),
        "dtypes": sorted({tensor.dtype for tensor in written}),
        "tensors": len(parts[0]),
        "skipped": list(model.skipped),
        "left_out": _left_out(model, target, to),
        "guessed": {name: model.fields[name] for name in model.guessed},
        "warnings": _warnings(model, target, to),
        "parameters": model.parameters,
        "bytes": sum(tensor.nbytes for tensor in written),
        "verified": verify,
        "seconds": round(time.monotonic() - begin, 3),
    }
