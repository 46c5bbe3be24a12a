"""Convert a model from any layout we read to any layout we write, with a few tensors in memory at a time."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra, registered
from ms_codegeex.base.files import atomic_directory, write_json
from ms_codegeex.base.reading import read_inside, read_json
from ms_codegeex.data.tokenizer import TOKENIZER_FILES, TOKENIZER_NAMES
from ms_codegeex.data.tokenizer.copying import unread_elsewhere
from ms_codegeex.formats import layout
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.files import RECORD, TORCH_SUFFIXES, nested_tensors, rank_record
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore, write_mindspore
from ms_codegeex.formats.model_card import card_files
from ms_codegeex.formats.model_directory import CONFIG, ModelDirectory, write_model_directory
from ms_codegeex.formats.provenance import FileHashes, hashed, statement_path
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.formats.strategy import shard
from ms_codegeex.formats.targets import check_target, free_target
from ms_codegeex.formats.tensors import SHORT_NAMES, LazyTensor
from ms_codegeex.formats.torch_zip import read_torch, write_torch
from ms_codegeex.models.foreign import ForeignName, in_our_names

_MAX_CODE = 16 << 20  # largest size in bytes of a module that is compared with ours
AHEAD = 2  # number of tensors that are loaded while one is written
# What mindformers 1.9 and 2.1 read (their checkpoint/checkpoint.py): the weights of the only rank at step 0, the number
# of that step, and what was trained before it.
_ITERATION, _ONLY_RANK = "iteration_00000000", "iteration_00000000/model-0000000-0000001.safetensors"
_TRACKER = "latest_checkpointed_iteration.txt"
_COMMON = dict.fromkeys(("epoch_num", "step_num", "global_step", "global_batch_size", "ckpt_status"), 0)

FileTensors = dict[ForeignName, LazyTensor]  # the content of a file
CONVERTED: Mapping[str, Any] = MappingProxyType({"command": "convert"})
Written = Callable[[Path], object]
Check = Written | None
EXTRA_TARGETS = "convert --to"  # their place in the table of the extras


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
    """Yield the same tensors with a progress bar on standard error (on a terminal only), loaded ahead in their order:
    while one is written, threads load the next `AHEAD`, whose sum is at most the size of the largest tensor."""
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
    shown = tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=hidden)
    with ThreadPoolExecutor(AHEAD) as pool, shown as bar:
        yield [{name: ahead(tensor) for name, tensor in part.items()} for part in parts]


@dataclass(frozen=True)
class Target:
    """A target whose files hold tensors. `layout`: their names and shapes, a kind of the family's layouts.
    `write(its, file, tensors, check, rank)` writes a file, or a directory, of a tensor-parallel rank. `read(file)`: the
    tensors of what was written. `suffixes`: of the file, the usual one first; none: a directory. `rank_file`: the
    path of a rank's file in the output; "" if the target cannot be divided: `undivided` is the error then. `models`:
    whether it is a model directory. `ours`: whether the tensors have our own names."""

    layout: str
    write: Callable[[TensorFiles, Path, FileTensors, Check, int], None]
    read: Callable[[Path], Mapping[ForeignName, LazyTensor]]
    suffixes: Sequence[str] = ()
    rank_file: str = ""
    undivided: str = "--to {to} is one model directory; choose --to megatron or mindspore"
    models: bool = False
    ours: bool = False


def _record(source: Source) -> dict[str, Any]:
    """What a file without a place for it has to say besides the sizes, for `open_source`."""
    record: dict[str, Any] = {"description": source.description.to_json()}
    with contextlib.suppress(UserError):  # it has none that is known
        tokenizer = source.tokenizer()
        if tokenizer.name in TOKENIZER_NAMES and tokenizer.eos_id == source.fields["eos_token_id"]:
            record["tokenizer"] = tokenizer.name
    return record


def _write_megatron(its: TensorFiles, file: Path, tensors: FileTensors, check: Check, rank: int) -> None:
    # "config" goes next to "module", where other loaders do not look: the shapes do not reveal the number of heads
    config = {"family": its.source.family.name, **its.source.fields, **rank_record(rank, its.ranks)}
    write_torch(file, _nested(tensors) | {"config": config, RECORD: json.dumps(_record(its.source))}, check)


def _write_mindspore(its: TensorFiles, file: Path, tensors: FileTensors, check: Check, rank: int) -> None:
    record = {"config": its.source.fields, **_record(its.source)}
    write_mindspore(file, tensors, check, {**rank_record(rank, its.ranks), **record})


def _write_mindformers(its: TensorFiles, target: Path, tensors: FileTensors, check: Check, _rank: int) -> None:
    with atomic_directory(target, check) as directory:
        (directory / _ITERATION).mkdir()
        (directory / _TRACKER).write_text("0", encoding="ascii")
        write_json(directory / _ITERATION / "common.json", {**_COMMON, "loss_scale": None})
        write_safetensors(directory / _ONLY_RANK, tensors, {"format": "ms"}, checksums=True)
        its.written(directory / _ONLY_RANK)


def _write_directory(its: TensorFiles, target: Path, tensors: FileTensors, check: Check, _rank: int) -> None:
    source, formats = its.source, FamilyFormats(its.source.family)
    config = formats.to_json(source.config, source.config_json) | formats.layout(its.target.layout).config
    config["torch_dtype"] = min(tensor.dtype for tensor in tensors.values())
    exported = resources.files("ms_codegeex.formats").joinpath("exported")
    classes = {name: exported.joinpath(name).read_bytes() for name in source.family.weights.FORMATS.classes}
    more = {"tokenizer": source.save_tokenizer, "further": classes | card_files(source)}
    more |= {"description": source.description, "check": check, "written": its.written}
    write_model_directory(target, config, tensors, **more)


def _read_directory(directory: Path) -> Mapping[ForeignName, LazyTensor]:
    return ModelDirectory(directory).tensors


TARGETS: Mapping[str, Target] = {
    "hf": Target("huggingface", _write_directory, _read_directory, models=True),
    "gptj": Target("gptj", _write_directory, _read_directory, models=True),
    "megatron": Target(
        "megatron",
        _write_megatron,
        lambda file: dict(nested_tensors(read_torch(file))),
        TORCH_SUFFIXES,
        "mp_rank_{rank:02d}_model_states.pt",
    ),
    "mindspore": Target("mindspore", _write_mindspore, read_mindspore, (".ckpt",), "rank_{rank}/{family}.ckpt"),
    "mindformers": Target(
        "mindspore",
        _write_mindformers,
        lambda directory: SafetensorsFile(directory / _ONLY_RANK).tensors,
        undivided="mindformers itself divides the weights among its devices; leave it out",
        ours=True,
    ),
}


class TensorFiles:
    """A conversion to a `Target`. The target of an extra is a class with the same methods."""

    def __init__(self, source: Source, to: str, dtype: str | None, ranks: int) -> None:
        if to not in TARGETS:
            known = ", ".join((*TARGETS, *registered(EXTRA_TARGETS)))
            raise UserError(f"--to: '{to}' is unknown; choose one of {known}")
        if dtype is not None and dtype not in SHORT_NAMES:
            raise UserError(f"--dtype: '{dtype}' is unknown; choose one of {', '.join(SHORT_NAMES)}")
        self.source, self.to, self.target, self.dtype, self.ranks = source, to, TARGETS[to], dtype, ranks
        if ranks != 1 and not self.target.rank_file:
            raise UserError(f"--tensor-parallel: {self.target.undivided.format(to=to)}")
        self.parts: list[FileTensors] = []
        self.written: Written = lambda file: None  # called after each file of weights in a directory is complete
        self.choices = {"dtype": dtype, "tensor_parallel": ranks}  # for `provenance.json`

    def file(self, _output: Path) -> tuple[str, Sequence[str]]:
        """The default name of the file to write, and the suffixes with which an output names the file itself;
        ("", ()) if the output is a directory. `UserError` for an output that cannot be."""
        if not self.target.suffixes or self.ranks > 1:
            return "", ()
        return f"{self.source.family.name}{self.target.suffixes[0]}", self.target.suffixes

    def prepare(self) -> None:
        """Find the tensors of every file, without loading them."""
        source, ranks, formats = self.source, self.ranks, FamilyFormats(self.source.family)
        its = formats.layout(self.target.layout)
        formats.rank_shapes(its, source.config, ranks, "--tensor-parallel")  # checks that all split evenly
        entries = formats.entries(its, source.config, ranks)
        entries = in_our_names(entries) if self.target.ours else entries

        def slices(rank: int) -> Iterator[tuple[str, LazyTensor]]:
            for name, tensor in source.tensors.items():
                piece = shard(tensor, formats.axis(its, name), rank, ranks) if ranks > 1 else tensor
                yield name, piece if self.dtype is None else cast(name, piece, SHORT_NAMES[self.dtype])

        self.parts = [layout.to_foreign(entries, dict(slices(rank))) for rank in range(ranks)]

    def _files(self, output: Path) -> list[Path]:
        if self.ranks == 1:
            return [output]
        family = self.source.family.name
        return [output / self.target.rank_file.format(rank=rank, family=family) for rank in range(self.ranks)]

    def write(self, output: Path, check: Check, hashes: FileHashes, progress: bool) -> None:
        """Write all parts. `check(temporary)` is called before the result is renamed to its final name."""
        self.written = hashes.begin
        with measured(self.parts, f"convert to {self.to}", progress) as parts:
            if self.ranks == 1:
                self.target.write(self, output, parts[0], check, 0)
                return
            with atomic_directory(output, check) as directory:
                for rank, file in enumerate(self._files(directory)):
                    self.target.write(self, file, parts[rank], None, rank)
                    self.written(file)

    def verify(self, written_to: Path, output: Path, progress: bool) -> None:
        """Read the output back and compare every byte with the source, which is converted a second time."""
        with measured(self.parts, "verify", progress) as expected:
            for file, part in zip(self._files(written_to), expected, strict=True):
                written = self.target.read(file)
                layout.check_names(written, part, str(file))
                for name, tensor in part.items():
                    if (written[name].dtype, written[name].shape) != (tensor.dtype, tensor.shape) or not np.array_equal(
                        written[name].array().reshape(-1).view(np.uint8), tensor.array().reshape(-1).view(np.uint8)
                    ):
                        differs = f"tensor {layout.shown(name)} differs from the source after writing"
                        remedy = "the disk may be failing, convert again to another place"
                        raise UserError(f"{output}: {differs}, so nothing was changed there; {remedy}")

    def described(self, output: Path) -> dict[str, Any]:
        tensors = [tensor for part in self.parts for tensor in part.values()]
        copied = self.source.left_out if self.target.models else ()
        return {
            "tokenizer": self.target.models and any((output / name).is_file() for name in TOKENIZER_FILES),
            "dtypes": sorted({tensor.dtype for tensor in tensors}),
            "tensors": len(self.parts[0]),
            # our own modules are written afresh, not copied
            "left_out": [name for name in copied if not _is_copy(self.source.path, output, name)],
            "warnings": _warnings(self.source, output, self.to),
            "bytes": sum(tensor.nbytes for tensor in tensors),
        }


def _warnings(source: Source, output: Path, to: str) -> list[str]:
    formats, is_directory = source.family.weights.FORMATS, TARGETS[to].models
    warnings = [] if to == "gptj" or (is_directory and formats.classes) else [*formats.limits(source.config)]
    if TARGETS[to].ours and (lost := [*source.description.to_json()]):
        warnings.append(f"mindformers has no place for what is known of the model: {', '.join(lost)}")
    modules = _modules(output) if is_directory else []
    files = dict.fromkeys(f"{name.partition('.')[0]}.py" for name in modules if "--" not in name)  # --: in the hub
    if missing := [file for file in files if not (output / file).is_file()]:
        classes = f"copy {' and '.join(missing)} of the release into it"
        warnings.append(f"transformers has no classes for this model: {classes}")
    if is_directory and (reason := unread_elsewhere(output, "convert without --keep-code, which writes the class")):
        warnings.append(f"transformers and vLLM do not read its tokenizer as it is: {reason}")
    return warnings


def _modules(target: Path) -> list[str]:
    classes = read_json(target / CONFIG).get("auto_map")
    return [name for name in classes.values() if isinstance(name, str)] if isinstance(classes, dict) else []


def _is_copy(source: Path, target: Path, name: str) -> bool:
    try:
        return (target / name).is_file() and read_inside(source, name, _MAX_CODE) == (target / name).read_bytes()
    except UserError:  # a link that leads out of the source
        return False


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
    non_finite: bool = False,
    origin: Mapping[str, Any] = CONVERTED,
) -> dict[str, Any]:
    """Convert the model at `source` to a target, of `TARGETS` or of an extra, at `output`. `source` is anything
    `open_source` reads, or its result. With `tensor_parallel` above 1, `output` is a folder with a file for each rank.
    `dtype`, of those that the target knows, casts its tensors. `verify` compares all bytes of the result with the
    source. `replace` allows replacing an earlier conversion, `non_finite` numbers that are not finite. `origin`: the
    command, and its further choices, for `provenance.json`. Returns figures for a report. `UserError` for anything
    missing, unexpected, in the way or too large for the dtype; the output appears only when it is complete."""
    begin = time.monotonic()
    kind = extra(EXTRA_TARGETS, to) if to in registered(EXTRA_TARGETS) else TensorFiles
    model = source if isinstance(source, Source) else open_source(Path(source))
    its = kind(model if non_finite else model.finite(), to, dtype, tensor_parallel)
    file, suffixes = its.file(Path(output))
    target = free_target(Path(output), model.path, replace, file, suffixes)
    its.prepare()

    def finish(temporary: Path) -> None:
        if verify:
            its.verify(temporary, target, progress)
        check_target(target, model.path, replace, not file)  # the target may have changed meanwhile
        hashes.check_source(model.path)
        choices = {**origin, "family": model.family.name, "to": to, **its.choices}
        statement.update(hashes.statement(temporary, target, choices))

    statement: dict[str, Any] = {}
    with hashed(model.inputs) as hashes:
        its.write(target, finish, hashes, progress)
    if file:
        write_json(statement_path(target), statement)
    found = its.described(target)
    return {
        "source": str(model.path),
        "kind": model.kind,
        "family": model.family.name,
        "to": to,
        "output": str(target),
        "files": tensor_parallel,
        "tokenizer": found.pop("tokenizer"),
        "dtypes": found.pop("dtypes"),
        "tensors": found.pop("tensors"),
        "skipped": list(model.skipped),
        "left_out": found.pop("left_out"),
        "guessed": {name: model.fields[name] for name in model.guessed},
        "warnings": found.pop("warnings"),
        "parameters": model.parameters,
        "bytes": found.pop("bytes"),
        "verified": verify,
        "seconds": round(time.monotonic() - begin, 3),
        **found,
    }
