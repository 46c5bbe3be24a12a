"""Writes a model as GGUF, tensor by tensor, with a Modelfile for Ollama beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, size_label
from gguf.quants import quantize

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, remove_leftovers
from ms_codegeex.formats.convert import CONVERTED, measured
from ms_codegeex.formats.files import GGUF_SUFFIX
from ms_codegeex.formats.layout import to_foreign
from ms_codegeex.formats.output import check_target, resolved
from ms_codegeex.formats.provenance import hashed
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import LazyTensor, cast, from_array
from ms_codegeex.gguf_files.architectures import FREQUENCY_BASE, LlamaArchitecture, architecture_of
from ms_codegeex.gguf_files.header import QUANTISED, GGUFHeader
from ms_codegeex.gguf_files.vocabulary import KEYS, Vocabulary, vocabulary_of

MODELFILE = "Modelfile"
_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# --dtype -> the type of matrices; llama.cpp's number of such a file has the name of its type
_DTYPES = {"fp32": "F32", "f32": "F32", "fp16": "F16", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_FILE_TYPES = {"F32": LlamaFileType.ALL_F32} | {
    name: LlamaFileType[f"MOSTLY_{name}"] for name in ("F16", "BF16", *QUANTISED)
}
_NUMPY = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FINER = {"Q4_0": "Q8_0"}  # of the head, the matrix that suffers most, as llama.cpp's own tool has it
_ROWS = 1 << 20  # numbers that are quantised at once
_SAMPLES = 256  # tokens a question is answered with in Ollama


def _quantised(tensor: LazyTensor, kind: GGMLQuantizationType) -> LazyTensor:
    """The tensor's bytes in a type of ggml that has blocks, made some rows at a time."""
    block, size = GGML_QUANT_SIZES[kind]
    shape = (*tensor.shape[:-1], tensor.shape[-1] // block * size)

    def load() -> np.ndarray:
        array, result = tensor.array(), np.empty(shape, np.uint8)
        rows = max(1, _ROWS // tensor.shape[-1])
        for start in range(0, len(array), rows):
            part = from_array(array[start : start + rows], tensor.dtype).float32()
            if not np.isfinite(part).all():
                raise UserError("holds numbers that are not finite, which a quantised type cannot; choose --dtype f32")
            result[start : start + rows] = quantize(part, kind)
        return result

    return LazyTensor("uint8", shape, load)


def _typed(name: str, tensor: LazyTensor, wanted: str) -> tuple[LazyTensor, str]:
    """The tensor as it is written, and its type: norms and vectors FP32, matrices as wanted. Where the rows do not
    divide into blocks it is FP16, as in llama.cpp's converter."""
    if len(tensor.shape) < 2:
        return cast(name, tensor, "float32"), "F32"
    kind = _FINER.get(wanted, wanted) if name == "output.weight" else wanted
    if kind in _NUMPY:
        return cast(name, tensor, _NUMPY[kind]), kind
    if tensor.shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]:
        return cast(name, tensor, "float16"), "F16"
    return _quantised(tensor, GGMLQuantizationType[kind]), kind


def _tensors(source: Source, its: LlamaArchitecture, wanted: str) -> dict[str, tuple[LazyTensor, str]]:
    """Every tensor of the file with its type, in the file's order; nothing is loaded yet."""
    config = source.config
    ours = to_foreign(its.entries(config.num_layers), its.reordered(source.tensors, config))
    zeros = {
        name: LazyTensor("float32", shape, partial(np.zeros, shape, np.float32))
        for name, shape in its.zero_shapes(config).items()
    }
    return {name: _typed(name, tensor, wanted) for name, tensor in {**ours, **zeros}.items()}


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


def _write(
    path: Path, name: str, metadata: Iterator[tuple[str, str, Any]], tensors: Mapping[str, tuple[LazyTensor, str]]
) -> None:
    """Write the file; one tensor is in memory at a time, and what is loaded ahead."""
    writer = GGUFWriter(path, name)
    for key, kind, value in metadata:
        getattr(writer, f"add_{kind}")(key, value)
    for key, (tensor, kind) in tensors.items():
        form = np.dtype(np.uint8 if tensor.dtype == "uint8" else np.float32)
        writer.add_tensor_info(key, tensor.shape, form, tensor.nbytes, GGMLQuantizationType[kind])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for key, (tensor, _) in tensors.items():
            try:
                writer.write_tensor_data(tensor.array())
            except UserError as error:
                raise error if str(error).startswith(key) else UserError(f"{key}: {error}") from None
    finally:
        writer.close()


def modelfile(file: str, vocabulary: Vocabulary, context: int) -> str:
    """The text of a Modelfile: the model continues a text; it answers no questions."""
    return (
        f"FROM ./{file}\n"
        f'TEMPLATE """{vocabulary.prefix}{{{{ .Prompt }}}}"""\n'
        f"PARAMETER num_ctx {context}\n"
        f"PARAMETER num_predict {_SAMPLES}\n"
    )


def _verify(path: Path, target: Path, tensors: Mapping[str, tuple[LazyTensor, str]]) -> None:
    """Read what was written back and compare every byte with the source, converted once more."""
    header = GGUFHeader(path)
    for name, (tensor, kind) in tensors.items():
        info = header.infos.get(name)
        sound = info is not None and info.type == kind and info.nbytes == tensor.nbytes
        if not sound or not np.array_equal(header.bytes_of(info), tensor.array().reshape(-1).view(np.uint8)):
            remedy = "the disk may be failing, convert again to another place"
            raise UserError(f"{target}: tensor {name} differs from the source after writing; {remedy}")


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
    try:
        target = resolved(output) if output.is_symlink() else output
        remove_leftovers(target)
        check_target(target, model.path, replace, True)
    except OSError as error:
        raise UserError(f"{output}: cannot be used ({error.strerror}); choose another --output") from None
    return target


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

    lazy = {name: tensor for name, (tensor, _) in tensors.items()}
    with (
        hashed(source.inputs) as hashes,
        measured([lazy], "convert to gguf", progress) as [ahead],
        atomic_directory(target, finish) as directory,
    ):
        typed = {name: (ahead[name], kind) for name, (_, kind) in tensors.items()}
        _write(directory / file, its.name, _metadata(source, its, wanted, vocabulary), typed)
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
        "dtypes": sorted({kind for _, kind in tensors.values()}),
        "tensors": len(tensors),
        "skipped": list(source.skipped),
        "left_out": [],
        "guessed": {name: source.fields[name] for name in source.guessed},
        "warnings": [*_warnings(source), *vocabulary.limits],
        "parameters": source.parameters,
        "bytes": sum(tensor.nbytes for tensor, _ in tensors.values()),
        "verified": verify,
        "seconds": round(time.monotonic() - begin, 3),
        "architecture": its.name,
        "prompt_begins_with": vocabulary.prefix,
    }
