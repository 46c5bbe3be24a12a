"""Writes a model as GGUF, some rows at a time, with a Modelfile for Ollama beside it."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
    GGUFWriter,
    LlamaFileType,
    size_label,
)
from tqdm import tqdm

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.formats.convert import CONVERTED, check_target, free_target
from ms_codegeex.formats.files import GGUF_SUFFIX
from ms_codegeex.formats.layout import to_foreign
from ms_codegeex.formats.provenance import hashed
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, from_array, map_bytes, pieces
from ms_codegeex.gguf_files.architectures import FREQUENCY_BASE, LlamaArchitecture, architecture_of
from ms_codegeex.gguf_files.header import QUANTISED, GGUFHeader
from ms_codegeex.gguf_files.quantising import quantised
from ms_codegeex.gguf_files.vocabulary import KEYS, Vocabulary, vocabulary_of

MODELFILE = "Modelfile"
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# --dtype -> the type of matrices; llama.cpp's number of such a file has the name of its type
_DTYPES = {"fp32": "F32", "f32": "F32", "fp16": "F16", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPES = {"F32": LlamaFileType.ALL_F32} | {
    name: LlamaFileType[f"MOSTLY_{name}"] for name in ("F16", "BF16", *QUANTISED)
}
_NUMPY = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LISTS = {GGUFValueType.FLOAT32: "<f4", GGUFValueType.INT32: "<i4"}
_FINER = {"Q4_0": "Q8_0"}  # of the head, the matrix that suffers most, as llama.cpp's own tool has it
_PIECE = 1 << 20  # bytes of a source that are converted at once
_THREADS = 4  # that convert, at most
_AHEAD = 4  # pieces that wait to be written, and as many that wait to be hashed
_SAMPLES = 256  # tokens a question is answered with in Ollama


def _converting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))


@dataclass(frozen=True)
class _Written:
    """A tensor as it is written: its numbers, ggml's type, and its shape in bytes if the type has blocks."""

    name: str
    numbers: LazyTensor
    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return prod(self.shape) * (1 if self.kind in QUANTISED else NUMPY_DTYPES[_NUMPY[self.kind]].itemsize)

    def made(self, piece: np.ndarray) -> np.ndarray:
        """The bytes of a piece of the numbers, one axis. `UserError` for what the type cannot represent."""
        if self.kind in _NUMPY:
            numbers = cast(self.name, from_array(piece, self.numbers.dtype), _NUMPY[self.kind])
            return numbers.array().reshape(-1).view(np.uint8)
        try:
            return quantised(piece, self.numbers.dtype, GGMLQuantizationType[self.kind])
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None

    def pieces(self, pool: ThreadPoolExecutor) -> Iterator[np.ndarray]:
        """Its bytes, a piece at a time in order; threads make the next ones meanwhile."""
        waiting: deque[Future[np.ndarray]] = deque()
        given = pieces(self.numbers, _PIECE)
        try:
            for piece in given:
                waiting.append(pool.submit(self.made, piece))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except UserError:
            for _ in given:  # if the source is damaged, this says so
                pass
            raise


def _typed(name: str, tensor: LazyTensor, wanted: str) -> _Written:
    """The tensor as it is written, and its type: norms and vectors FP32, matrices as wanted. Where the rows do not
    divide into blocks it is FP16, as in llama.cpp's converter."""
    kind = "F32" if len(tensor.shape) < 2 else _FINER.get(wanted, wanted) if name == "output.weight" else wanted
    if kind in _NUMPY:
        return _Written(name, tensor, kind, tensor.shape)
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if tensor.shape[-1] % block:
        return _Written(name, tensor, "F16", tensor.shape)
    return _Written(name, tensor, kind, (*tensor.shape[:-1], tensor.shape[-1] // block * size))


def _tensors(source: Source, its: LlamaArchitecture, wanted: str) -> list[_Written]:
    """Every tensor of the file, in its order; nothing is loaded yet."""
    config = source.config
    ours = to_foreign(its.entries(config.num_layers), its.reordered(source.tensors, config))
    zeros = {
        name: LazyTensor("float32", shape, partial(np.zeros, shape, np.float32))
        for name, shape in its.zero_shapes(config).items()
    }
    return [_typed(name, tensor, wanted) for name, tensor in {**ours, **zeros}.items()]


def _name(source: Source) -> str:
    """The name of the model's run, directory or file."""
    path = source.path.resolve()
    return path.parent.parent.name if source.checkpoint is not None else path.stem if path.is_file() else path.name


def _metadata(
    source: Source, its: LlamaArchitecture, wanted: str, vocabulary: Vocabulary
) -> Iterator[tuple[str, str, Any]]:
    """(key, kind of value, value) of everything that the file says besides its tensors."""
    config = source.config
    yield "general.type", "string", "model"
    yield "general.name", "string", _name(source)
    yield "general.size_label", "string", size_label(source.parameters, source.parameters, 0, 0)
    for name, key in its.sizes.items():
        value = getattr(config, name)
        yield f"{its.name}.{key}", "float32" if isinstance(value, float) else "uint32", value
    if "num_kv_groups" not in its.sizes:
        yield f"{its.name}.attention.head_count_kv", "uint32", config.num_heads
    yield f"{its.name}.rope.freq_base", "float32", FREQUENCY_BASE
    yield "general.file_type", "uint32", int(_FILE_TYPES[wanted])
    yield "general.quantization_version", "uint32", GGML_QUANT_VERSION
    yield f"{KEYS}model", "string", vocabulary.model
    yield f"{KEYS}pre", "string", vocabulary.pre
    yield f"{KEYS}tokens", "array", vocabulary.tokens
    for name, values in (
        ("scores", vocabulary.scores),
        ("token_type", vocabulary.types),
        ("merges", vocabulary.merges),
    ):
        if values:
            yield f"{KEYS}{name}", "array", values
    for name, number in vocabulary.special.items():
        yield f"{KEYS}{name}_token_id", "uint32", number
    yield f"{KEYS}add_bos_token", "bool", False


class _Writer(GGUFWriter):
    """Packs a vocabulary's lists at once: value by value they take as long as half a gigabyte of tensors."""

    def _pack_val(self, val: Any, vtype: GGUFValueType, *further: Any, sub_type: Any = None, **named: Any) -> bytes:
        if sub_type is None or vtype != GGUFValueType.ARRAY:
            return super()._pack_val(val, vtype, *further, sub_type=sub_type, **named)
        if sub_type in _LISTS:
            values = np.array(val, _LISTS[sub_type]).tobytes()
        else:
            texts = (text.encode() if isinstance(text, str) else text for text in val)
            values = b"".join(struct.pack("<Q", len(text)) + text for text in texts)
        return struct.pack("<IIQ", vtype, sub_type, len(val)) + values


def _write_header(path: Path, name: str, metadata: Iterator[tuple[str, str, Any]], tensors: Sequence[_Written]) -> None:
    """Begin the file with everything but the tensors' data."""
    writer = _Writer(path, name)
    for key, kind, value in metadata:
        if kind == "array":
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType.get_type(value[0]))
        else:
            getattr(writer, f"add_{kind}")(key, value)
    for tensor in tensors:
        form = np.dtype(np.uint8 if tensor.kind in QUANTISED else np.float32)
        writer.add_tensor_info(tensor.name, tensor.shape, form, tensor.nbytes, GGMLQuantizationType[tensor.kind])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _write_data(path: Path, tensors: Sequence[_Written], progress: bool) -> dict[str, Any]:
    """Append the tensors' data to the header; returns size and SHA-256 of the file, which is hashed while it is
    written. A few pieces of tensors are in memory."""
    digest, total = hashlib.sha256(path.read_bytes()), sum(tensor.nbytes for tensor in tensors)
    shown = {"desc": "convert to gguf", "unit": "B", "unit_scale": True, "disable": None if progress else True}
    with (
        open(path, "ab", buffering=0) as stream,
        ThreadPoolExecutor(1) as hashing,
        _converting() as pool,
        tqdm(total=total, **shown) as bar,
    ):
        size, hashed = stream.tell(), deque(maxlen=_AHEAD)

        def append(data: bytes | np.ndarray) -> int:
            if len(hashed) == _AHEAD:
                hashed[0].result()  # what waits for it is in memory
            hashed.append(hashing.submit(digest.update, data))
            left = memoryview(data)
            while left:
                left = left[stream.write(left) :]
            return len(data)

        size += append(bytes(-size % GGUF_DEFAULT_ALIGNMENT))
        for tensor in tensors:
            before = size
            for piece in tensor.pieces(pool):
                size += append(piece)
                bar.update(piece.size)
            if size - before != tensor.nbytes:
                raise ValueError(f"{tensor.name} has {size - before} bytes, expected {tensor.nbytes}")
            size += append(bytes(-size % GGUF_DEFAULT_ALIGNMENT))
    return {"size": size, "sha256": digest.hexdigest()}


def modelfile(file: str, vocabulary: Vocabulary, context: int) -> str:
    """The text of a Modelfile: the model continues a text; it answers no questions."""
    return (
        f"FROM ./{file}\n"
        f'TEMPLATE """{vocabulary.prefix}{{{{ .Prompt }}}}"""\n'
        f"PARAMETER num_ctx {context}\n"
        f"PARAMETER num_predict {_SAMPLES}\n"
    )


def _verify(path: Path, target: Path, tensors: Sequence[_Written]) -> None:
    """Read what was written back and compare every byte with the source, converted once more."""
    header = GGUFHeader(path)
    with _converting() as pool:
        for tensor in tensors:
            info = header.infos.get(tensor.name)
            sound = info is not None and info.type == tensor.kind and info.nbytes == tensor.nbytes
            if not sound or not _same(path, info.start, tensor.pieces(pool)):
                remedy = "the disk may be failing, convert again to another place"
                raise UserError(f"{target}: tensor {tensor.name} differs from the source after writing; {remedy}")


def _same(path: Path, start: int, pieces: Iterator[np.ndarray]) -> bool:
    """Whether the file has these bytes there."""
    for piece in pieces:
        if not np.array_equal(map_bytes(path, start, piece.size), piece):
            return False
        start += piece.size
    return True


def _wanted(source: Source, dtype: str | None) -> str:
    """The type of matrices in ggml's words."""
    if dtype is None:
        return _TYPES[source.tensors["embedding.word.weight"].dtype]
    if dtype not in _DTYPES:
        raise UserError(f"--dtype: '{dtype}' is unknown; choose one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _vocabulary(source: Source, save: Callable[[Path], object] | None) -> Vocabulary:
    if save is None:
        raise UserError(f"{source.path}: does not say which tokenizer it has, and GGUF needs it; add --tokenizer")
    with TemporaryDirectory() as directory:
        save(Path(directory))
        return vocabulary_of(Path(directory), source.config.vocab_size, source.config.eos_token_id)


def _warnings(source: Source) -> list[str]:
    if getattr(source.config, "rotary_dtype", "fp32") == "fp32":
        return []
    return [f"llama.cpp rotates by FP32 angles, this model rounds them to {source.config.rotary_dtype} (rotary_dtype)"]


def _target(output: Path, model: Source, replace: bool) -> Path:
    if output.suffix == GGUF_SUFFIX:
        raise UserError(f"--output {output}: is a directory, for the model and its Modelfile; leave {GGUF_SUFFIX} out")
    return free_target(output, model.path, replace)


def export_gguf(
    source: Source,
    output: Path,
    *,
    dtype: str | None = None,
    verify: bool = False,
    progress: bool = True,
    replace: bool = False,
    origin: Mapping[str, Any] = CONVERTED,
) -> dict[str, Any]:
    """Write the directory `output` with `<family>-<type>.gguf` and a Modelfile; returns what `convert` does.

    `dtype`: f32, f16, bf16, q8_0 or q4_0 for the matrices, None for their own. `verify`, `replace` and `origin` as for
    `convert`. Raises `UserError` for a family or tokenizer that llama.cpp cannot run, and as `convert` does.
    """
    begin = time.monotonic()
    its, wanted = architecture_of(source.family.name), _wanted(source, dtype)
    target = _target(Path(output), source, replace)
    vocabulary = _vocabulary(source, source.save_tokenizer)
    tensors = _tensors(source, its, wanted)
    file = f"{source.family.name}-{wanted.lower()}{GGUF_SUFFIX}"

    def finish(temporary: Path) -> None:
        if verify:
            _verify(temporary / file, target, tensors)
        check_target(target, source.path, replace, True)  # it may have changed meanwhile
        hashes.statement(temporary, target, {**origin, "family": source.family.name, "to": "gguf", "dtype": dtype})

    with hashed(source.inputs) as hashes, atomic_directory(target, finish) as directory:
        _write_header(directory / file, its.name, _metadata(source, its, wanted, vocabulary), tensors)
        hashes.known(directory / file, _write_data(directory / file, tensors, progress))
        text = modelfile(file, vocabulary, source.config.max_position_embeddings)
        (directory / MODELFILE).write_text(text, encoding="utf-8")
    return {
        "source": str(source.path),
        "kind": source.kind,
        "family": source.family.name,
        "to": "gguf",
        "output": str(target),
        "files": 1,
        "tokenizer": True,
        "dtypes": sorted({tensor.kind for tensor in tensors}),
        "tensors": len(tensors),
        "skipped": list(source.skipped),
        "left_out": [],
        "guessed": {name: source.fields[name] for name in source.guessed},
        "warnings": [*_warnings(source), *vocabulary.limits],
        "parameters": source.parameters,
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "verified": verify,
        "seconds": round(time.monotonic() - begin, 3),
        "architecture": its.name,
        "prompt_begins_with": vocabulary.prefix,
    }
