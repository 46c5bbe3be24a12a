"""Opens a model for generation, in any of the formats in which it may be stored, and adapters (LoRA) on it. Adapters
are applied row by row: the rows of a pass may have different ones, or none. A quantised model opens in a fraction of a
second, so what only other models and adapters need is imported where they are opened."""

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
QUANTISED = "quantised"  # kind of the source of such a model


@dataclass(frozen=True)
class LoadedModel:
    """A model at `path`: its family, its sizes, its weights, which are read on demand, and what else is known of it.
    `find_source` gives the model that adapters belong to."""

    path: Path
    family: Family
    config: Any
    weights: Weights
    description: ModelDescription
    find_tokenizer: Callable[[], Tokenizer]
    find_source: Callable[[], Source]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that it was trained with; `UserError` if it is not recorded."""
        return self.find_tokenizer()

    @cached_property
    def sentinels(self) -> Sentinels | None:
        """How to prompt it to fill in the middle; None if it was not trained for that. `UserError` if what is known of
        it contradicts its tokenizer or its table."""
        return self.checked(self.description, self.path).infill

    def checked(self, known: ModelDescription, path: Path) -> ModelDescription:
        """What is known of it, or of an adapter on it, at `path`; `UserError`, naming the fact, if it contradicts the
        tokenizer or the model's table."""
        place = path / FILE if (path / FILE).is_file() else path
        known.check(self.tokenizer, self.config.vocab_size, place)
        return known


def adapter_description(path: Path) -> ModelDescription:
    from ms_codegeex.formats.peft import description_of

    return description_of(path)


def at_checkpoint(model: Path, which: str | None) -> Path:
    """The place in a run that `--checkpoint` names; `model` itself for None."""
    if which is None:
        return model
    from ms_codegeex.formats.files import chosen_place

    return chosen_place(model, which)


def stored_at(model: Path, adapter: Path | None = None) -> tuple[Path, Path | None]:
    """The paths of the files of a model and of a LoRA adapter: for a run, the checkpoint that counts."""
    from ms_codegeex.formats.peft import adapters_path
    from ms_codegeex.formats.sources import open_source

    path = model if is_quantised(model) else open_source(model).path
    return path, adapter and adapters_path(adapter)


def verify_stored(paths: Iterable[Path]) -> None:
    """Compare all bytes of models and adapters with their `provenance.json`, if they have one. A changed, missing or
    extra file that has a part in the answers is a `UserError`."""
    for path in paths:
        check(path, thorough=True)


def load_model(path: Path, bits: int | None = None, say: Callable[[str], object] = print_once) -> LoadedModel:
    """Open a quantised model directory or anything that `open_source` opens; `UserError` if it cannot be. Files that
    its `provenance.json` has otherwise are an error, as far as sizes and both ends of a file show it. With `bits` 8 or
    4, each matrix is rounded when it is read; a quantised model must have these bits already. `say` as in
    `open_source`."""
    if is_quantised(path):
        model = QuantisedModel(path)
        if bits not in (None, model.bits):
            raise UserError(f"--bits: {path} has {model.bits} bits; leave out --bits, or give its original")
        check(model.path)
        known, source = read_description(model.path), partial(_shapes_of, model)
        find_tokenizer = partial(load_tokenizer, model.path)
        return LoadedModel(model.path, model.family, model.config, model, known, find_tokenizer, source)
    from ms_codegeex.formats.sources import open_source

    check(Path(path))  # before messages about files that may have changed
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
    """An adapter by the name that requests give; `matrices` by the names of the weights that it changes."""

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
    """The adapters in these places by their names. `UserError` for one that does not belong to the model."""
    return [_loaded(name, Path(path), model) for name, path in paths.items()]


def _loaded(name: str, path: Path, model: LoadedModel) -> Adapter:
    from ms_codegeex.formats.peft import adapters_path, open_adapters

    source = model.find_source()
    exact = source.kind != QUANTISED  # rounded numbers do not show which model it was
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
    """Each adapter's addition to the product with this matrix; None if none adds anything."""
    additions = [adapter.matrices.get(name) for adapter in adapters]
    return additions if any(each is not None for each in additions) else None
