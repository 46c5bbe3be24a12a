"""Opens models in any supported format, and LoRA adapters for them, for generation. Adapters are applied row by row:
the rows of a pass may use different ones, or none. Opening a quantised model takes a fraction of a second, so modules
that only other models and adapters need are imported on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_once
from ms_codegeex.data.description import FILE, ModelDescription, read_description
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.formats.provenance import check
from ms_codegeex.generation.matrices import MAX_ADAPTER_RANK, LoraTerm, TensorWeights, Weights
from ms_codegeex.generation.quantised import QuantisedModel, is_quantised
from ms_codegeex.models.parameters import LORA_A, LORA_B
from ms_codegeex.models.registry import Family

if TYPE_CHECKING:
    from ms_codegeex.formats.sources import Source
    from ms_codegeex.generation.device_shares import SharedWeights

MAX_PASS_ROWS = 1 << 16
QUANTISED = "quantised"  # `Source.kind` of a quantised model


@dataclass(frozen=True)
class LoadedModel:
    """An opened model at `path`: its family, its sizes (`config`), its `weights`, which are read on demand, and its
    `description`. `find_source` returns the source to which adapters are matched."""

    path: Path
    family: Family
    config: Any
    weights: Weights
    description: ModelDescription
    find_tokenizer: Callable[[], Tokenizer]
    find_source: Callable[[], Source]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with. Raises `UserError` if it is not recorded."""
        return self.find_tokenizer()

    @cached_property
    def sentinels(self) -> Sentinels | None:
        """The sentinels for infilling, or None if the model was not trained for it. Raises as `checked` does."""
        return self.checked(self.description, self.path).infill

    def checked(self, known: ModelDescription, path: Path) -> ModelDescription:
        """Return `known`, the description of the model or of an adapter at `path`. Raises `UserError`, naming the fact,
        if it contradicts the tokenizer or the size of the model's vocabulary."""
        place = path / FILE if (path / FILE).is_file() else path
        known.check(self.tokenizer, self.config.vocab_size, place)
        return known


def adapter_description(path: Path) -> ModelDescription:
    from ms_codegeex.formats.peft import description_of

    return description_of(path)


def at_checkpoint(model: Path, which: str | None) -> Path:
    """Return the checkpoint of the run `model` that `which` (from `--checkpoint`) names; `model` itself for None."""
    if which is None:
        return model
    from ms_codegeex.formats.files import chosen_place

    return chosen_place(model, which)


def stored_at(model: Path, adapter: Path | None = None) -> tuple[Path, Path | None]:
    """Return where a model and a LoRA adapter are stored: for a run, the path of the checkpoint that is used."""
    from ms_codegeex.formats.peft import adapters_path
    from ms_codegeex.formats.sources import open_source

    path = model if is_quantised(model) else open_source(model).path
    return path, adapter and adapters_path(adapter)


def verify_stored(paths: Iterable[Path]) -> None:
    """Compare all bytes of models and adapters with their `provenance.json`, if there is one. Raises `UserError` if a
    file that affects answers was changed, removed or added."""
    for path in paths:
        check(path, thorough=True)


def load_model(path: Path, bits: int | None = None, say: Callable[[str], object] = print_once) -> LoadedModel:
    """Open a quantised model directory or anything that `open_source` opens. With `bits` 8 or 4, each matrix is rounded
    when it is read; a quantised model must have these bits already. Raises `UserError` for what cannot be opened, and
    for files that differ from `provenance.json`, judged by their sizes and both ends. `say` as in `open_source`."""
    if is_quantised(path):
        model = QuantisedModel(path)
        if bits not in (None, model.bits):
            raise UserError(f"--bits: {path} has {model.bits} bits; leave out --bits, or give its original")
        check(model.path)
        known, source = read_description(model.path), partial(_shapes_of, model)
        find_tokenizer = partial(load_tokenizer, model.path)
        return LoadedModel(model.path, model.family, model.config, model, known, find_tokenizer, source)
    from ms_codegeex.formats.sources import open_source

    check(Path(path))  # first, because changed files would cause misleading messages
    source = open_source(Path(path), say=say)
    if source.path != Path(path):
        check(source.path)
    used = source if bits is None else source.for_rounding()
    weights = TensorWeights(used.tensors, bits, products=used.config.product_names())
    return LoadedModel(
        source.path, source.family, used.config, weights, source.description, source.tokenizer, lambda: source
    )


def _shapes_of(model: QuantisedModel) -> Source:
    from ms_codegeex.formats.sources import Source
    from ms_codegeex.formats.tensors import LazyTensor

    shapes = model.original.parameter_shapes()
    tensors = {name: LazyTensor("float32", shape, lambda: np.zeros(0)) for name, shape in shapes.items()}
    known = read_description(model.path)
    return Source(model.path, QUANTISED, model.family, model.fields, tensors, None, description=known)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, by the name that requests give. `matrices` maps the names of weights to what it adds to them."""

    name: str
    path: Path
    matrices: Mapping[str, LoraTerm]

    def part(self, weights: SharedWeights) -> Adapter:
        parts = {
            name: LoraTerm(each.a[:, weights.part(name, 1)], each.b[weights.part(name, 0)])
            for name, each in self.matrices.items()
        }
        return Adapter(self.name, self.path, parts)


def load_adapters(paths: Mapping[str, Path], model: LoadedModel) -> list[Adapter]:
    """Load the adapters at `paths`, by name. Raises `UserError` for one that does not belong to the model."""
    return [_loaded(name, Path(path), model) for name, path in paths.items()]


def _loaded(name: str, path: Path, model: LoadedModel) -> Adapter:
    from ms_codegeex.formats.peft import adapters_path, open_adapters

    source = model.find_source()
    exact = source.kind != QUANTISED  # rounded weights no longer have the original's fingerprint
    opened = open_adapters(path, source, check_fingerprint=exact)
    check(adapters_path(path))
    matrices, scale = {}, np.float32(opened.alpha / opened.rank)
    for layer in opened.layers:
        a, b = (opened.tensors[f"{layer}.{kind}"].float32() for kind in (LORA_A, LORA_B))
        used = b.any(0)
        if np.count_nonzero(used) > MAX_ADAPTER_RANK:
            raise UserError(f"--adapter: {path}: rank {len(a)} of {layer} is too large; {MAX_ADAPTER_RANK} is the most")
        if used.any():
            matrices[f"{layer}.weight"] = LoraTerm(a[used], scale * b[:, used])
    return Adapter(name, path, matrices)


def of_matrix(adapters: Sequence[Adapter], name: str) -> list[LoraTerm | None] | None:
    """Return what each adapter adds to the product with the matrix `name`, or None if no adapter adds anything."""
    additions = [adapter.matrices.get(name) for adapter in adapters]
    return additions if any(each is not None for each in additions) else None
