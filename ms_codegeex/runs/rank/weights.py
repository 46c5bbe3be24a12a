"""The weights that a run starts from: the model of `model.weights`, and the initial values of `training.initial`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_once
from ms_codegeex.config import RunConfig
from ms_codegeex.config.model import GROWABLE, ModelConfig
from ms_codegeex.data.datasets.batches import read_info
from ms_codegeex.data.description import ModelDescription, recorded_description
from ms_codegeex.data.tokenizer import Tokenizer
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY, other_token, recorded_tokenizer
from ms_codegeex.formats.adapters import as_trained
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.peft import description_of, open_adapters
from ms_codegeex.formats.rounding import rounded_tensors
from ms_codegeex.formats.sources import Source, model_name, open_source, tokenizer_place
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.decoder_config import NOT_OF_WEIGHTS
from ms_codegeex.models.parameters import GROUP, NUMBERS, SCALES
from ms_codegeex.training.first_values import first_values


def absolute_weights(config: RunConfig) -> RunConfig:
    model, lora = (
        section if section.weights is None else replace(section, weights=str(Path(section.weights).absolute()))
        for section in (config.model, config.lora)
    )
    return replace(config, model=model, lora=lora)


def weights_of(config: RunConfig, begins: bool = True) -> Mapping[str, LazyTensor]:
    """Return the tensors that a run starts from, by our names: those of `model.weights` without those of `model.fresh`,
    and those that `training.initial` describes. With `lora.frozen` int8 or int4, also what their matrices are rounded
    to. Values are read lazily. The tensors of `lora.weights` are included only if the run `begins`; later its
    checkpoint has them.

    Raises:
        UserError: there is no model, its family or a size differs from the run's and may not grow, adapters have no
            model, or the adapters to start from do not match.
    """
    if config.model.weights is not None:
        source, fresh = _fitting_source(config.model, say=str), config.model.fresh_parameters
        tensors = {name: tensor for name, tensor in source.tensors.items() if name not in fresh}
        if bits := config.lora.bits:
            for name in source.config.matrix_names():
                numbers, scales = rounded_tensors(name, tensors[name], bits, GROUP).values()
                tensors |= {name + NUMBERS: numbers, name + SCALES: scales}
        return {**first_values(config), **tensors, **(_starting_adapters(config, source) if begins else {})}
    if config.lora.rank or config.lora.weights:
        raise UserError("lora.rank: model.weights is missing; set model.weights=DIR to the model of the adapters")
    return first_values(config)


def start_of(config: RunConfig, checkpoint: Checkpoint | None) -> tuple[Mapping[str, LazyTensor], ModelDescription]:
    """Return the tensors that a rank needs in addition to its checkpoint's, and the description of the model. Adapters
    need their model even when they continue from a checkpoint."""
    if checkpoint is not None:
        known = recorded_description(checkpoint.state, checkpoint.path)
        return weights_of(config, begins=False) if config.lora.rank else {}, known
    source = _fitting_source(config.model, say=str)
    known = source.description
    if config.lora.weights is not None:
        known = description_of(Path(config.lora.weights)).over(known)
    return weights_of(config), replace(known, base=model_name(source.path))


def check_weights(config: RunConfig, dataset: Path) -> str | None:
    """Check `model.weights` before any worker starts. Return a note for the user if the model or the dataset does not
    record its tokenizer, or if settings differ from the model's; otherwise None.

    Raises:
        UserError: as for `weights_of`, or if the dataset's ids have other meanings for the model.
    """
    if config.model.weights is None:
        weights_of(config)
        return None
    source = _fitting_source(config.model, read_info(dataset)["vocab_size"])
    _starting_adapters(config, source)
    theirs = None if source.save_tokenizer is None else source.tokenizer()
    option = "" if theirs is None else tokenizer_place(source)
    found = _check_tokenizers(config.model, str(source.path), theirs, option, dataset)
    notes = [found, *_changed(config.model, source)]
    return "; ".join(filter(None, notes)) or None


def _changed(model: ModelConfig, source: Source) -> Iterator[str]:
    for name in (*NOT_OF_WEIGHTS, *(() if model.fresh_vocabulary else ("eos_token_id",))):
        here, there = (getattr(config, name, None) for config in (model.sizes, source.config))
        if here != there and name != "init_std":
            yield f"model.{name} is {here}, {source.path} has {there}"


def _check_tokenizers(
    model: ModelConfig, where: str, theirs: Tokenizer | None, option: str, dataset: Path
) -> str | None:
    if model.fresh_vocabulary:
        return None
    record = read_info(dataset).get("tokenizer") or {}
    if theirs is None or not record:
        which = where if theirs is None else dataset
        return f"{which} does not say which tokenizer it has, so those of model and dataset were not compared"
    if theirs.fingerprint == record.get("fingerprint"):
        return None
    ours = recorded_tokenizer(record, dataset / TOKENIZER_DIRECTORY, dataset)
    odd = other_token(theirs, ours)
    if odd is None and ours.vocab_size < theirs.vocab_size:
        odd = ours.vocab_size
    if odd is None and "vocabulary" in model.grow:
        return None
    command = f"`ms-codegeex prepare --input PATH --output DIR --tokenizer {option}`"
    remedy = f"make another with {command} and set data.train=DIR"
    if odd is not None:
        raise UserError(f"model.weights: token {odd} of {where} is another one in the tokenizer of {dataset}; {remedy}")
    raise UserError(
        f"model.weights: {where} has another tokenizer than {dataset}, which only has more tokens; {remedy}, or set "
        f"model.grow=[{','.join(('vocabulary', *model.grow))}]"
    )


def _starting_adapters(config: RunConfig, source: Source) -> Mapping[str, LazyTensor]:
    """Return the tensors of `lora.weights`. `UserError` unless they are the ones that the run trains."""
    lora = config.lora
    if lora.weights is None:
        return {}
    adapters = open_adapters(Path(lora.weights), source)
    tensors, sizes = as_trained(adapters, source.family.table, lora.weights), config.model.sizes
    found = {name: tensor.shape for name, tensor in tensors.items()}
    wanted = sizes.adapter_shapes(lora.targets, lora.rank) if lora.rank else {}
    if found == wanted and adapters.alpha == lora.alpha:
        return tensors
    if found != sizes.adapter_shapes(adapters.targets, adapters.rank):
        raise UserError(
            f"lora.weights: {lora.weights} has other ranks than {adapters.rank} too, or not the layers of every block, "
            "which no run trains; merge it into its model with `ms-codegeex adapter merge` and train new ones on that"
        )
    raise UserError(
        f"lora.weights: {lora.weights} has rank {adapters.rank}, alpha {adapters.alpha:g} and targets "
        f"{', '.join(adapters.targets)}; set lora.rank, lora.alpha and lora.targets to them"
    )


def _fitting_source(model: ModelConfig, ids: int = 0, say: Callable[[str], object] = print_once) -> Source:
    """Return the model at `model.weights`. `ids`: the number of token ids in the dataset. `say` receives notes for the
    user; the ranks need not repeat those that the command already printed."""
    source = open_source(Path(str(model.weights)), say=say)
    _check_sizes(model, str(source.path), source.family.name, source.config, ids)
    return source


def _check_sizes(model: ModelConfig, where: str, family: str, theirs: Any, ids: int = 0) -> None:
    """Raise `UserError` unless a model of these sizes can start from the one at `where`."""
    if family != model.family:
        raise UserError(
            f"model.weights: {where} is a {family} model, the run's is {model.family}; use a configuration of that "
            f"family, or `ms-codegeex finetune --model {where} --data DATASET`"
        )
    growing = [GROWABLE[name] for name in model.grow]
    free = (*NOT_OF_WEIGHTS, "eos_token_id", *(("vocab_size",) if model.fresh_vocabulary else ()))
    pairs = {field.name: (getattr(theirs, field.name), getattr(model.sizes, field.name)) for field in fields(theirs)}
    larger = [name for name, (there, here) in pairs.items() if name in GROWABLE.values() and here > there]
    odd = {
        name: f"model.{name}={there}"
        for name, (there, here) in pairs.items()
        if there != here and name not in free and not (name in growing and name in larger)
    }
    if not odd:
        return
    grown = [name for name, size in GROWABLE.items() if size in odd and size in larger]
    ways = [" ".join(odd.values())]
    if "vocab_size" in odd and model.sizes.eos_token_id >= theirs.vocab_size:  # the end token would have no row
        ways[0] += f" model.eos_token_id={theirs.eos_token_id}"
    if grown:
        rest = [word for name, word in odd.items() if name not in larger]
        ways.append(" ".join([*rest, f"model.grow=[{','.join(sorted({*grown, *model.grow}))}]"]))
    if "vocabulary" in grown and ids > theirs.vocab_size:
        ways.pop(0)  # the table would be too small for the dataset
    first, (there, here) = next((name, pairs[name]) for name in odd)
    raise UserError(f"model.weights: {where} has {first} {there}, the run's model {here}; set {', or '.join(ways)}")
