"""Writes a model as GGUF, some rows at a time, with a Modelfile for Ollama beside it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.files import atomic_directory
from ms_codegeex.data.conversations import ChatTemplate
from ms_codegeex.data.description import Chat, bound
from ms_codegeex.data.jinja_templates import JinjaTemplate
from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.extras.exchange.gguf_files.architectures import HEAD, LlamaArchitecture, architecture_of
from ms_codegeex.extras.exchange.gguf_files.header import QUANTISED, GGUFHeader
from ms_codegeex.extras.exchange.gguf_files.quantising import quantised
from ms_codegeex.extras.exchange.gguf_files.vocabulary import KEYS, Vocabulary, vocabulary_of
from ms_codegeex.formats.convert import Check
from ms_codegeex.formats.files import GGUF_SUFFIX
from ms_codegeex.formats.layout import to_foreign
from ms_codegeex.formats.provenance import FileHashes
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, from_array, map_bytes, pieces

MODELFILE = "Modelfile"
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# --dtype -> the type of matrices; llama.cpp's number of such a file has the name of its type
_DTYPES = {"fp32": "F32", "f32": "F32", "fp16": "F16", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPES = {name: LlamaFileType[f"MOSTLY_{name}"] for name in ("F16", "BF16", *QUANTISED)}
_FILE_TYPES["F32"] = LlamaFileType.ALL_F32
_NUMPY = {kind: dtype for dtype, kind in _TYPES.items()}
_LISTS = {GGUFValueType.FLOAT32: "<f4", GGUFValueType.INT32: "<i4"}
_HEAD_TYPES = {"Q4_0": "Q8_0"}  # finer, as in llama.cpp's own tool: the head suffers most
_PIECE = 1 << 20  # bytes of a source that are converted at once
_THREADS = 4  # that convert, at most
_AHEAD = 4  # pieces that wait to be written, and as many that wait to be hashed
_SAMPLES = 256  # most tokens of an answer in Ollama


def _converting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))


@dataclass(frozen=True)
class _OutputTensor:
    """A tensor as it is written: its numbers, ggml's type, and its shape in bytes if the type has blocks."""

    name: str
    numbers: LazyTensor
    kind: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * (1 if self.kind in QUANTISED else NUMPY_DTYPES[_NUMPY[self.kind]].itemsize)

    def made(self, piece: np.ndarray) -> np.ndarray:
        """The bytes of a piece of the numbers, one axis. `UserError` for what the type cannot represent."""
        if self.kind in _NUMPY:
            numbers = cast(self.name, from_array(piece, self.numbers.dtype), _NUMPY[self.kind])
            return numbers.array().reshape(-1).view(np.uint8)
        with located(self.name):
            return quantised(piece, self.numbers.dtype, GGMLQuantizationType[self.kind])

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


def _typed(name: str, tensor: LazyTensor, wanted: str, head: str) -> _OutputTensor:
    """The tensor as it is written: norms and vectors FP32, matrices of the `wanted` type. Where the rows do not
    divide into blocks it is FP16, as in llama.cpp's converter."""
    kind = "F32" if len(tensor.shape) < 2 else _HEAD_TYPES.get(wanted, wanted) if name == head else wanted
    if kind in _NUMPY:
        return _OutputTensor(name, tensor, kind, tensor.shape)
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if tensor.shape[-1] % block:
        return _OutputTensor(name, tensor, "F16", tensor.shape)
    return _OutputTensor(name, tensor, kind, (*tensor.shape[:-1], tensor.shape[-1] // block * size))


def _tensors(source: Source, its: LlamaArchitecture, wanted: str) -> list[_OutputTensor]:
    config = source.config
    ours = to_foreign(its.entries(config), source.tensors)
    shapes = its.zero_shapes(config).items()
    zeros = {name: LazyTensor("float32", shape, partial(np.zeros, shape, np.float32)) for name, shape in shapes}
    head = HEAD if HEAD in ours else "token_embd.weight"
    return [_typed(name, tensor, wanted, head) for name, tensor in {**ours, **zeros}.items()]


_Key = tuple[str, str, Any]  # of the header: its name, its type and its value


def _name(source: Source) -> str:
    path = source.path.resolve()
    return path.parent.parent.name if source.checkpoint is not None else path.stem if path.is_file() else path.name


def _metadata(
    source: Source, its: LlamaArchitecture, wanted: str, vocabulary: Vocabulary, tokenizer: Tokenizer
) -> Iterator[_Key]:
    config = source.config
    yield "general.type", "string", "model"
    yield "general.name", "string", _name(source)
    yield "general.size_label", "string", size_label(source.parameters, source.parameters, 0, 0)
    for name, key in its.sizes.items():
        value = getattr(config, name)
        yield f"{its.name}.{key}", "float32" if isinstance(value, float) else "uint32", value
    if "num_kv_groups" not in its.sizes:
        yield f"{its.name}.attention.head_count_kv", "uint32", config.num_heads
    if "rotary_base" not in its.sizes:
        yield f"{its.name}.rope.freq_base", "float32", config.rotary_base
    yield "general.file_type", "uint32", int(_FILE_TYPES[wanted])
    yield "general.quantization_version", "uint32", GGML_QUANT_VERSION
    yield f"{KEYS}model", "string", vocabulary.model
    yield f"{KEYS}pre", "string", vocabulary.pre
    yield f"{KEYS}tokens", "array", vocabulary.tokens
    lists = {"scores": vocabulary.scores, "token_type": vocabulary.types, "merges": vocabulary.merges}
    for name, values in lists.items():
        if values:
            yield f"{KEYS}{name}", "array", values
    for name, number in vocabulary.special.items():
        yield f"{KEYS}{name}_token_id", "uint32", number
    yield f"{KEYS}add_bos_token", "bool", False
    yield from source.description.gguf(tokenizer, vocabulary.prefix)


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


def _write_header(path: Path, name: str, metadata: Iterator[_Key], tensors: Sequence[_OutputTensor]) -> None:
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


def _write_data(path: Path, tensors: Sequence[_OutputTensor], progress: bool) -> dict[str, Any]:
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
                hashed[0].result()  # pieces that wait for it are in memory
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


def modelfile(file: str, vocabulary: Vocabulary, context: int, chat: Chat | None = None) -> str:
    """The text of a Modelfile: the model continues a text, or is asked in its chat format. Ollama takes a template in
    Jinja, and one that counts rounds, from the file itself, if it knows it."""
    template = f'TEMPLATE """{vocabulary.prefix}{{{{ .Prompt }}}}"""\n'
    if chat is not None:
        rounds = isinstance(chat, ChatTemplate) and "{round}" in chat.user + chat.assistant + chat.system
        own = isinstance(chat, JinjaTemplate) or rounds
        template = "" if own else f'TEMPLATE """{vocabulary.prefix}{_for_ollama(chat)}"""\n'
        ends = chat.stop if isinstance(chat, ChatTemplate) else chat.ends or ()
        template += "".join(f"PARAMETER stop {json.dumps(end, ensure_ascii=False)}\n" for end in ends)
    return f"FROM ./{file}\n{template}PARAMETER num_ctx {context}\nPARAMETER num_predict {_SAMPLES}\n"


def _for_ollama(chat: ChatTemplate) -> str:
    roles = ("system", "user", "assistant")
    said = (f'{{{{ if eq .Role "{role}" }}}}{getattr(chat, role)}{{{{ end }}}}' for role in roles)
    text = "".join(said).replace("{content}", "{{ .Content }}")
    return f"{{{{ range .Messages }}}}{text}{{{{ end }}}}{chat.assistant.partition('{content}')[0]}"


class GGUFOutput:
    """The directory with `<family>-<type>.gguf` and a Modelfile; methods as those of `formats.convert.TensorFiles`.
    `dtype`: f32, f16, bf16, q8_0 or q4_0 for the matrices, None for their own. `UserError` for a family or tokenizer
    that llama.cpp cannot run."""

    def __init__(self, source: Source, to: str, dtype: str | None, ranks: int) -> None:
        if ranks != 1:
            raise UserError(f"--tensor-parallel: --to {to} is one file; leave the option out")
        self.source, self.its, self.choices = source, architecture_of(source.family.name), {"dtype": dtype}
        if dtype is not None and dtype not in _DTYPES:
            raise UserError(f"--dtype: '{dtype}' is unknown; choose one of {', '.join(_DTYPES)}")
        self.wanted = _DTYPES[dtype] if dtype else _TYPES[source.tensors["embedding.word.weight"].dtype]
        self.name = f"{source.family.name}-{self.wanted.lower()}{GGUF_SUFFIX}"

    def file(self, output: Path) -> tuple[str, Sequence[str]]:
        """Nothing: a directory is written. `UserError` if it would have a file's suffix."""
        if output.suffix == GGUF_SUFFIX:
            what = "names a directory, for the model and its Modelfile"
            raise UserError(f"--output {output}: {what}; leave {GGUF_SUFFIX} out")
        return "", ()

    def prepare(self) -> None:
        self.tokenizer, self.vocabulary = _vocabulary(self.source, self.source.save_tokenizer)
        self.tensors = _tensors(self.source, self.its, self.wanted)

    def write(self, output: Path, check: Check, hashes: FileHashes, progress: bool) -> None:
        """Write the directory; the model is hashed meanwhile."""
        with atomic_directory(output, check) as directory:
            path = directory / self.name
            metadata = _metadata(self.source, self.its, self.wanted, self.vocabulary, self.tokenizer)
            _write_header(path, self.its.name, metadata, self.tensors)
            hashes.known(path, _write_data(path, self.tensors, progress))
            context, chat = self.source.config.max_position_embeddings, self.source.description.chat
            text = modelfile(self.name, self.vocabulary, context, chat)
            (directory / MODELFILE).write_text(text, encoding="utf-8")

    def verify(self, written_to: Path, output: Path, _progress: bool) -> None:
        """Read what was written back and compare every byte with the source, converted once more."""
        path = written_to / self.name
        header = GGUFHeader(path)
        with _converting() as pool:
            for tensor in self.tensors:
                info = header.infos.get(tensor.name)
                sound = info is not None and info.type == tensor.kind and info.nbytes == tensor.nbytes
                if not sound or not _has_bytes(path, info.start, tensor.pieces(pool)):
                    remedy = "the disk may be failing, convert again to another place"
                    raise UserError(f"{output}: tensor {tensor.name} differs from the source after writing; {remedy}")

    def described(self, _output: Path) -> dict[str, Any]:
        return {
            "tokenizer": True,
            "dtypes": sorted({tensor.kind for tensor in self.tensors}),
            "tensors": len(self.tensors),
            "left_out": [],
            "warnings": [*_warnings(self.source, self.tokenizer), *self.vocabulary.limits],
            "bytes": sum(tensor.nbytes for tensor in self.tensors),
            "architecture": self.its.name,
            "prompt_begins_with": self.vocabulary.prefix,
        }


def _has_bytes(path: Path, start: int, pieces: Iterator[np.ndarray]) -> bool:
    """Whether the file has these bytes from `start` on."""
    for piece in pieces:
        if not np.array_equal(map_bytes(path, start, piece.size), piece):
            return False
        start += piece.size
    return True


def _vocabulary(source: Source, save: Callable[[Path], object] | None) -> tuple[Tokenizer, Vocabulary]:
    unknown = f"{source.path}: does not say which tokenizer it has, and GGUF needs it; add --tokenizer DIR"
    if save is None:
        raise UserError(unknown)
    with TemporaryDirectory() as directory:
        save(Path(directory))
        try:
            tokenizer, rows = load_tokenizer(directory), source.config.vocab_size
        except UserError as error:
            absent = str(error).startswith(f"{directory}: has no tokenizer")
            raise UserError(unknown if absent else str(error).replace(directory, str(source.path))) from None
        vocabulary = vocabulary_of(tokenizer, Path(directory), rows, source.config.eos_token_id)
    source.description.check(tokenizer, rows, source.path)
    return tokenizer, vocabulary


def _warnings(source: Source, tokenizer: Tokenizer) -> list[str]:
    warnings, chat = [], source.description.chat
    if (dtype := getattr(source.config, "rotary_dtype", "fp32")) != "fp32":
        warnings.append(f"llama.cpp rotates by FP32 angles, this model rounds them to {dtype} (rotary_dtype)")
    for end in () if chat is None else bound(chat, tokenizer).stop:
        if len(tokenizer.encode_marks(end)) != 1:
            warnings.append(f"llama.cpp does not end an answer at {end!r}, which is no token: send it as a stop text")
    return warnings
