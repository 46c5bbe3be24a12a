"""Open a model in any known layout, recognised by its content: family, sizes and tensors under our names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ms_codegeex.base.errors import UserError, suggestion
from ms_codegeex.base.files import moved_along
from ms_codegeex.base.lookalikes import lookalikes, refuse_lookalike
from ms_codegeex.base.printing import print_once
from ms_codegeex.base.quarantine import entries, has_file, is_copied, is_read, is_weights, read_json_inside
from ms_codegeex.config.model import SECTION
from ms_codegeex.config.validation import Natural, validated
from ms_codegeex.data.description import FILE as DESCRIPTION
from ms_codegeex.data.description import ModelDescription, description_from, read_description, recorded_description
from ms_codegeex.data.infilling.sentinels import sentinels
from ms_codegeex.data.tokenizer import TOKENIZER_FILES, TOKENIZER_NAMES, Tokenizer, load_tokenizer
from ms_codegeex.data.tokenizer.copying import GENERATION, copy_all, copy_data, left_out, without_code
from ms_codegeex.data.tokenizer.files import CONFIG as TOKENIZER_CONFIG
from ms_codegeex.data.tokenizer.files import MODULES, read_object
from ms_codegeex.data.tokenizer.recorded import (
    DEFAULTS,
    TOKENIZER_DIRECTORY,
    checkpoint_has_tokenizer,
    checkpoint_tokenizer,
    family_tokenizer,
)
from ms_codegeex.formats import layout
from ms_codegeex.formats.adapters import ALPHA, Adapters, by_layer, checked_scale, merged, recorded_alpha, unmerged
from ms_codegeex.formats.checkpoint import MANIFEST, Checkpoint, fingerprint, resolve
from ms_codegeex.formats.family import QUANTISED_KEYS, FamilyFormats, UnknownSize, check_layers, model_types
from ms_codegeex.formats.files import RawModel, find_model
from ms_codegeex.formats.layout import ForeignTensors
from ms_codegeex.formats.mindspore_checkpoint import is_extra, is_training_state, state_table
from ms_codegeex.formats.model_directory import CONFIG, SaveTokenizer, read_config
from ms_codegeex.formats.provenance import PROVENANCE, Input, inputs_of
from ms_codegeex.formats.strategy import merge
from ms_codegeex.formats.tensors import BLOCK_BYTES, LazyTensor, finite, pieces
from ms_codegeex.models.foreign import ForeignLayout, ForeignName, added_parts, spellings
from ms_codegeex.models.parameters import LORA_A
from ms_codegeex.models.registry import FAMILIES, Family, family

OPTIMIZER_PREFIX = "optimizer."
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Dropout = Annotated[float, Field(ge=0, lt=1, strict=True)]
Say = Callable[[str], object]
_UNQUANTISED = "give the model before it was quantised"
_JOIN = "join the parts with DeepSpeed's script beside them: python zero_to_fp32.py . joined"
_TIED = "tie_word_embeddings"
_MAX_PREFIXES = 5  # in a message
_CHECKPOINTS, _EXPORT = "checkpoints", "huggingface"  # directories of a run that do not name a model
_ENOUGH = 0.5  # share of a layout's names that identifies the layout; the others then count as missing


@dataclass(frozen=True)
class Source:
    """A model found at `path`. `kind` is "checkpoint", "huggingface" (a model directory), "megatron" (PyTorch files
    without one) or "mindspore". `fields`: the sizes, `tensors`: all parameters, both in our names.
    `save_tokenizer(directory)` writes the tokenizer's files; None if there are none. `skipped`: tensors that are not
    parameters. `config_json`: a model directory's, without what names code unless the user keeps it. `guessed`: sizes
    that were taken from a preset. `ranks`: the number of tensor-parallel files. `adapters` are in the tensors already.
    `checkpoint`: the opened one at `path`, if it is one. `description`: what else is known of the model. `left_out`:
    files of a model directory that are not copied. `inputs`: all files that count. `tokenizer_name`: of the tokenizer
    that a file records, which needs no files."""

    path: Path
    kind: str
    family: Family
    fields: dict[str, Any]
    tensors: dict[str, LazyTensor]
    save_tokenizer: SaveTokenizer | None
    skipped: tuple[str, ...] = ()
    config_json: Mapping[str, Any] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()
    ranks: int = 1
    adapters: Adapters | None = None
    description: ModelDescription = field(default_factory=ModelDescription)
    checkpoint: Checkpoint | None = None
    left_out: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    tokenizer_name: str = ""

    @property
    def config(self) -> Any:
        return self.family.config.build_config(None, self.fields)

    @property
    def parameters(self) -> int:
        return sum(tensor.size for tensor in self.tensors.values())

    def for_rounding(self) -> Source:
        """The same with the tensors of `config.rounded()`: a tied head has the numbers of the word table."""
        config = self.config.rounded()
        if config == self.config:
            return self
        heads = {f"{x.name}.weight": self.tensors[f"{x.copy_of}.weight"] for x in self.config.table.last if x.copy_of}
        return replace(self, fields={**self.fields, "tied_head": False}, tensors={**self.tensors, **heads})

    def finite(self) -> Source:
        """The same, whose tensors raise a `UserError` instead of giving numbers that are not finite."""
        remedy = "give a sound one, such as an earlier checkpoint; `convert --allow-non-finite` copies it as it is"
        sound = {name: finite(name, tensor, str(self.path), remedy) for name, tensor in self.tensors.items()}
        return replace(self, tensors=sound)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with; `UserError` if nothing records which one."""
        if self.kind == "huggingface":
            return load_tokenizer(self.path)
        if self.checkpoint is not None:
            return checkpoint_tokenizer(self.path, self.checkpoint.state, self.family.name)
        if self.tokenizer_name:
            return load_tokenizer(self.tokenizer_name)
        remedy = converting(self.path, "--tokenizer NAME|DIR")
        return family_tokenizer(self.path, self.family.name, remedy, known=self.save_tokenizer is not None)


def model_name(path: Path) -> str:
    """The name of a model's run, directory or file."""
    path = path.resolve()
    if path.parent.name == _CHECKPOINTS:
        path = path.parent.parent
    if path.name == _EXPORT:
        path = path.parent
    return (path.stem if path.is_file() else path.name) or "model"


def converting(path: Path, options: str) -> str:
    return f"`ms-codegeex convert --model {path} --to hf --output DIR {options}`, and give DIR instead"


def tokenizer_place(source: Source) -> str:
    """Name or directory of the tokenizer that a model was trained with; `UserError` as for `Source.tokenizer`."""
    if (name := source.tokenizer().name) in TOKENIZER_NAMES:
        return name
    run = source.path.absolute().parent.parent
    return str(source.path.absolute() if source.kind == "huggingface" else run / TOKENIZER_DIRECTORY)


def _tokenizer_saver(name: str, path: Path, state: Mapping[str, Any] | None = None) -> SaveTokenizer | None:
    if state is not None and checkpoint_has_tokenizer(path, state, name):
        return lambda directory: checkpoint_tokenizer(path, state, name).save(directory)
    return (lambda directory: family_tokenizer(path, name, "").save(directory)) if name in DEFAULTS else None


@dataclass(frozen=True)
class _Lora:
    """The adapters of a checkpoint, as its configuration describes them; rank 0: none."""

    rank: Natural
    alpha: Alpha
    dropout: Dropout | None = None


def _recorded(checkpoint: Checkpoint) -> tuple[dict[str, Any], _Lora]:
    where, config = checkpoint.path / MANIFEST, checkpoint.state.get("config")
    model, lora = (config.get("model"), config.get("lora")) if isinstance(config, dict) else (None, None)
    if not isinstance(model, dict) or not isinstance(model.get("family"), str):
        lacks = "config.model.family is missing, so the model cannot be rebuilt"
        raise UserError(f"{where}: {lacks}; use another checkpoint")
    if not isinstance(lora, dict | None):
        raise UserError(f"{where}: config.lora: found {lora!r:.99}, expected an object; use another checkpoint")
    described = lora if lora and lora.get("rank") else {"rank": 0, "alpha": 1.0}
    adapters = validated(_Lora, described, f"{where}: config.lora.")
    if adapters.rank:
        checked_scale(adapters.alpha / adapters.rank, f"{where}: config.lora")
    return model, adapters


def _open_checkpoint(path: Path, known: Mapping[str, Any], say: Say) -> Source:
    checkpoint = resolve(path, say=say)
    model, lora = _recorded(checkpoint)
    its_family = family(model["family"])
    sizes = {name: value for name, value in model.items() if name not in SECTION}
    with _reading_sizes(checkpoint.path / MANIFEST, its_family, known) as formats:
        fields = formats.from_ours({**sizes, **known})
    tensors = {name: checkpoint.lazy(name) for name in checkpoint.names if not name.startswith(OPTIMIZER_PREFIX)}
    config = its_family.config.build_config(None, fields)
    adapters, inputs = None, [checkpoint_inputs(checkpoint)]
    if lora.rank:
        adapters = checkpoint_adapters(checkpoint)
        base = _base(checkpoint, adapters.base, say)
        inputs += [replace(each, role="base") for each in base.inputs]
        tensors = merged(base.tensors, adapters, str(checkpoint.path))
    check_layers(config, tensors, str(checkpoint.path))
    shapes = config.parameter_shapes()
    layout.check_tensors(tensors, shapes, str(checkpoint.path))
    saver = _tokenizer_saver(its_family.name, checkpoint.path, checkpoint.state)
    tensors, directory = {name: tensors[name] for name in shapes}, checkpoint.path
    known = checkpoint_description(checkpoint)
    further = {"adapters": adapters, "description": known, "checkpoint": checkpoint, "inputs": tuple(inputs)}
    return Source(directory, "checkpoint", its_family, fields, tensors, saver, **further)


def checkpoint_description(checkpoint: Checkpoint) -> ModelDescription:
    """What its manifest says of the model, and a `serving.json` that a user has put into its run. A checkpoint of an
    earlier version gets no step."""
    known = recorded_description(checkpoint.state, checkpoint.path / MANIFEST)
    run = checkpoint.path.resolve().parent.parent
    if has_file(run, DESCRIPTION):
        known = description_from(read_json_inside(run, DESCRIPTION), run / DESCRIPTION).over(known)
    return replace(known, step=checkpoint.step) if "description" in checkpoint.state else known


def checkpoint_adapters(checkpoint: Checkpoint) -> Adapters:
    """The adapters that a checkpoint holds. `UserError` if it has none."""
    model, lora = _recorded(checkpoint)
    if not lora.rank:
        raise UserError(f"{checkpoint.path}: holds no adapters; give a run that trained some (lora.rank)")
    names = [name for name in checkpoint.names if not name.startswith(OPTIMIZER_PREFIX)]
    tensors = by_layer({name: checkpoint.lazy(name) for name in names}, family(model["family"]).table)
    base, recorded = Path(str(model.get("weights"))), checkpoint.state.get("base")
    return Adapters(base, tensors, lora.rank, lora.alpha, lora.dropout or 0.0, recorded)


def checkpoint_inputs(checkpoint: Checkpoint) -> Input:
    """Its files, and its run's tokenizer."""
    path = checkpoint.path
    run = path.resolve().parent.parent
    its = inputs_of("model", path, [path / MANIFEST, *(path / name for name in checkpoint.files)])
    folder = run / TOKENIZER_DIRECTORY
    names = (name for name in entries(folder) if is_read(name) or is_copied(name)) if folder.is_dir() else ()
    tokenizer = {f"{TOKENIZER_DIRECTORY}/{name}": folder / name for name in names}
    return replace(its, name=f"{run.name}/{its.name}", files={**its.files, **tokenizer})


def _base(checkpoint: Checkpoint, path: Path, say: Say) -> Source:
    holds, output = f"{checkpoint.path}: holds adapters for the model", checkpoint.state["config"].get("output")
    run = checkpoint.path.absolute().parent.parent
    there = moved_along(path, Path(output), run) if isinstance(output, str) else path
    if not there.exists():
        merge = f"ms-codegeex adapter merge --model MODEL --adapter {shlex.quote(str(checkpoint.path))} --output DIR"
        both = "`generate` and `evaluate` also take --model MODEL --adapter RUN"
        raise UserError(f"{holds} at {path}, which is gone; merge them into it where it is now: {merge}; {both}")
    if there != path:
        say(f"{checkpoint.path.absolute()}: its model has moved along, from {path} to {there}")
    base = open_source(there, say=say)
    if fingerprint(base.tensors) != checkpoint.state.get("base"):
        raise UserError(f"{holds} that was at {path}, but another one is there now; put the first back")
    return base


def _recognise(
    names: Collection[ForeignName], kind: str | None, said: Mapping[str, Any]
) -> tuple[Family, ForeignLayout] | None:
    def of(name: str, each: str | None) -> tuple[float, ForeignLayout | None, Family, int]:
        formats = FamilyFormats(family(name))
        sizes = sum(key in formats.defaults for key in said) + len(said) * (said.get("family") == name)
        return *formats.recognise(names, each), formats.family, sizes

    candidates = [of(name, each) for each, name in product(dict.fromkeys((kind, None)), FAMILIES)]
    share, its, owner, _ = max(candidates, key=lambda candidate: (candidate[0], candidate[3]))
    return (owner, its) if its is not None and share >= _ENOUGH else None


@contextmanager
def _reading_sizes(where: Path, its_family: Family, known: Mapping[str, Any]) -> Iterator[FamilyFormats]:
    """Meanwhile, a `UserError` names `where` the sizes are. `UserError` for a `known` one that the family lacks."""
    formats = FamilyFormats(its_family)
    fields = formats.defaults
    if wrong := [key for key in known if key not in fields]:
        hint = suggestion(wrong[0], [*fields])
        raise UserError(f"--set {wrong[0]}: {its_family.name} has no such size; {hint}")
    try:
        yield formats
    except UserError as error:
        raise type(error)(f"{where}: {error}") from None


def _named(raw: RawModel, its: ForeignLayout, say: Say) -> RawModel:
    """The tensors under the layout's names, without training state, which counts as skipped; says which parts of names
    were left away. `UserError` if two are equal."""
    ranks, prefixes, skipped = [], dict.fromkeys(()), dict.fromkeys(raw.skipped)
    for tensors, where in zip(raw.ranks, raw.where, strict=True):
        known, owners = its.own_names(tensors), dict[ForeignName, ForeignName]()
        names = {name: known.get(name, name) for name in tensors if not _is_state(name, tensors[name], known, its.kind)}
        skipped |= dict.fromkeys(layout.shown(name) for name in tensors if name not in names)
        for name, own in names.items():
            if (other := owners.setdefault(own, name)) != name:
                both = f"{layout.shown(other)} and {layout.shown(name)}"
                raise UserError(f"{where}: {both} are the same tensor but for a prefix; save the weights of one model")
            prefixes |= dict.fromkeys(added_parts(name, own))
            shown = layout.shown(name)
            if is_training_state("quantised", shown):
                raise UserError(f"{where}: tensor {shown} belongs to quantised weights; {_UNQUANTISED}")
            if not tensors[name].size:
                raise UserError(f"{where}: tensor {shown} is empty, as ZeRO 3 leaves it; {_JOIN}")
        ranks.append({own: tensors[name] for name, own in names.items()})
    if prefixes:
        without = ", ".join([*prefixes][:_MAX_PREFIXES])
        say(f"{raw.where[0]}: names of tensors are read without {without}, which a wrapper added")
    return replace(raw, ranks=ranks, skipped=[*skipped])


def _is_state(name: ForeignName, tensor: LazyTensor, known: Collection[ForeignName], kind: str) -> bool:
    if name not in known:
        shown = layout.shown(name)
        return is_extra(tensor, shown if kind == "mindspore" else ".") and not is_training_state("quantised", shown)
    return kind == "mindspore" and any(weight in known for weight in [*spellings(name)][1:])  # such as stat.<name>


def _ours(
    raw: RawModel, its_family: Family, its: ForeignLayout, fields: Mapping[str, Any], ranks: int = 1
) -> dict[str, LazyTensor]:
    formats, config = FamilyFormats(its_family), its_family.config.build_config(None, fields)
    check_layers(config, raw.ranks[0], raw.where[0])
    where = f"{raw.where[0]}: number of rank files in its folder"
    shapes = formats.rank_shapes(its, config, ranks, where, "is one missing?")
    entries = formats.entries(its, config, ranks)
    parts = [
        layout.to_ours(entries, {name: t for name, t in tensors.items() if not its.skips(name)}, shapes, path)
        for tensors, path in zip(raw.ranks, raw.where, strict=True)
    ]
    axes = {name: formats.axis(its, name) for name in shapes} if ranks > 1 else {}
    return merge(parts, axes, raw.where)


def _skipped(raw: RawModel, its: ForeignLayout) -> tuple[str, ...]:
    return (*raw.skipped, *(layout.shown(name) for name in raw.ranks[0] if its.skips(name)))


def _is_configured(path: Path, raw: RawModel) -> bool:
    its_family, its = model_types().get(str(read_config(path).get("model_type")), (None, None))
    names = raw.ranks[0] if its_family is not None and len(raw.ranks) == 1 else ()
    return bool(names) and FamilyFormats(its_family).recognise(names, its.kind)[0] == 1


def _open_model_directory(path: Path, raw: RawModel, known: Mapping[str, Any], keep_code: bool, say: Say) -> Source:
    settings = read_config(path)
    stated = {key: value for key, value in settings.items() if value is not None}
    kinds, kind = model_types(), settings.get("model_type")
    of = kinds[str(kind)][0].name if str(kind) in kinds else None
    refuse_lookalike(path / CONFIG, {**_settings(path / TOKENIZER_CONFIG), **stated}, of=of)
    if str(kind) not in kinds:
        remedy = "give a model of one of these" if kind else "write it there"
        raise UserError(f"{path / CONFIG}: model_type is {kind!r}, expected one of {', '.join(kinds)}; {remedy}")
    its_family, its = kinds[str(kind)]
    with _reading_sizes(path, its_family, known) as formats:
        config = formats.own_config(its, settings)
        if (left := [*filter(config.get, QUANTISED_KEYS)]) and not _is_quantised(raw.ranks[0], its):
            say(f"{path / CONFIG}: {left[0]} is not used; no tensor is quantised, so it was left there by training")
            config = {key: value for key, value in config.items() if key not in left}
        ties = settings.get(_TIED) is True and "tied_head" not in formats.defaults
        if ties and (tied := _tied(raw.ranks[0], its, path, say)):
            raw, config = replace(raw, ranks=[tied]), {**config, _TIED: False}
        fields = formats.from_ours({**formats.from_json(config), **known})
    tokenizer = None
    with suppress(UserError):  # whoever needs it reports it
        tokenizer = load_tokenizer(path)
    if "eos_token_id" not in known:
        fields |= {"eos_token_id": _end_token(path, tokenizer, settings.get("eos_token_id"), fields, say)}
    _say_if_unclear(path, its_family.name, fields, str(settings.get("_name_or_path")), say)
    recognised = _recognise(raw.ranks[0], its.kind, {"family": its_family.name})
    raw = _named(raw, its, say)
    if recognised is not None and recognised[0].name != its_family.name:
        said, theirs = its_family.name, recognised[0].name
        raise UserError(f"{path}: config.json says {said}, but the tensors are those of {theirs}; restore either")
    if fields.get("tied_head"):
        raw = _without_head(raw, its, path, say)
    data = (name for name in entries(path) if not is_weights(name) and (is_read(name) or is_copied(name)))
    used = sorted({*(path / name for name in data), *raw.files})
    tensors, saver = _ours(raw, its_family, its, fields), partial(_copy_files, path, keep_code)
    description = read_description(path)
    if tokenizer and tokenizer.infilling and description.infill is None and not (path / PROVENANCE).is_file():
        description = replace(description, infill=sentinels(tokenizer.infilling))  # released, so not by us
    further = {"description": description, "left_out": left_out(path, keep_code)}
    further |= {"config_json": config if keep_code else without_code(config), "skipped": _skipped(raw, its)}
    inputs = (inputs_of("model", path, used),)
    return Source(path, "huggingface", its_family, fields, tensors, saver, inputs=inputs, **further)


def _is_quantised(tensors: ForeignTensors, its: ForeignLayout) -> bool:
    weights = its.own_names(tensors)
    return any(
        is_training_state("quantised", layout.shown(name)) or (name in weights and "float" not in tensor.dtype)
        for name, tensor in tensors.items()
    )


def _tied(tensors: ForeignTensors, its: ForeignLayout, path: Path, say: Say) -> dict[ForeignName, LazyTensor]:
    foreign = {entry.ours: entry.foreign for entry in its.entries if entry.packing.kind == "copy"}
    embedding, head = (foreign.get((ours,)) for ours in ("embedding.word.weight", "head.weight"))
    found = {own: name for name, own in its.own_names(tensors).items()}
    if embedding not in found or head is None:
        return {}
    table, own = tensors[found[embedding]], tensors.get(found.get(head, head))
    if own is not None and own.shape != table.shape:
        return {}
    same = own is not None and own.dtype == table.dtype
    parts = zip(pieces(table, BLOCK_BYTES), pieces(own, BLOCK_BYTES), strict=True) if same else ()
    if not same or not all(np.array_equal(one.view(np.uint8), other.view(np.uint8)) for one, other in parts):
        done = "is missing" if own is None else "has other numbers and is not used"
        say(f"{path}: {layout.shown(head)} {done}; by {_TIED}, the head is {layout.shown(embedding)}")
    return {**tensors, found.get(head, head): table}


def _without_head(raw: RawModel, its: ForeignLayout, path: Path, say: Say) -> RawModel:
    head = next(entry.foreign for entry in its.entries if entry.ours == ("head.weight",))
    if head not in raw.ranks[0]:
        return raw
    _tied(raw.ranks[0], its, path, say)
    without = [{name: tensor for name, tensor in tensors.items() if name != head} for tensors in raw.ranks]
    return replace(raw, ranks=without, skipped=[*raw.skipped, layout.shown(head)])


def _copy_files(path: Path, keep_code: bool, target: Path) -> None:
    """Copy a model directory's files besides configuration and weights. `UserError` for a tokenizer that is refused."""
    stated = _settings(path / TOKENIZER_CONFIG).get("tokenizer_class")
    known = {*TOKENIZER_FILES} - {TOKENIZER_CONFIG, *MODULES}
    if any((path / name).is_file() for name in known) or stated not in (None, "ChatGLMTokenizer"):
        load_tokenizer(path)
    (copy_all if keep_code else copy_data)(path, target)


def _settings(path: Path) -> dict[str, Any]:
    with suppress(UserError):
        return read_object(path, missing=True)
    return {}


def _end_token(path: Path, tokenizer: Tokenizer | None, stated: Any, fields: Mapping[str, Any], say: Say) -> int:
    if tokenizer is None or (end := tokenizer.eos_id) >= fields["vocab_size"]:
        return fields["eos_token_id"]
    of_answers = _settings(path / GENERATION).get("eos_token_id")
    for name, ends in ((CONFIG, stated), (GENERATION, of_answers)):
        if ends not in (None, end, [end]) and (isinstance(ends, list) or ends != stated):
            say(f"{path / name}: eos_token_id is {ends!r:.60}; answers end with the tokenizer's, {end}")
    return end


def _say_if_unclear(path: Path, name: str, fields: Mapping[str, Any], of: str, say: Say) -> None:
    if not re.search(rf"{name}(?!\d)", of, re.IGNORECASE) and not (path / PROVENANCE).is_file():
        for other in lookalikes()["unclear"]:
            if other["of"] == name and other["sizes"].items() <= fields.items():
                fits = f"its names and sizes fit {other['name']}, too"
                say(f"{path}: taken for {name}; {fits}, and nothing here says which of them it is")


def _with_adapters(raw: RawModel, path: Path, alpha: Any, say: Say) -> RawModel:
    """The weights with mindformers' adapters merged into them. `alpha`: what `--set lora_alpha` says; None: what is
    recorded near its files. `UserError` if that is nothing, or the adapters do not fit."""
    parts = [unmerged(tensors, where) for tensors, where in zip(raw.ranks, raw.where, strict=True)]
    named = (item for _, factors in parts for item in factors.items())
    ranks = {tensor.shape[:1] or (0,) for name, tensor in named if name.endswith(LORA_A)}
    if not any(factors for _, factors in parts):
        if alpha is not None:
            raise UserError(f"--set {ALPHA}: {path} holds no adapters of mindformers; leave it out")
        return raw
    if len(ranks) != 1 or not all(map(all, ranks)):
        raise UserError(f"{path}: adapters of ranks {sorted(ranks)}, expected one; give the checkpoint of one run")
    ((rank,),) = ranks
    alpha = recorded_alpha(Path(raw.where[0]), rank) if alpha is None else alpha
    if type(alpha) not in (int, float):
        holds = f"holds adapters of mindformers of rank {rank}; their alpha is {alpha or 'in no file near it'}"
        remedy = converting(path, f"--set {ALPHA}=N --tokenizer NAME|DIR")
        raise UserError(f"{path}: {holds}; look for {ALPHA} in the run's YAML file: {remedy}")
    checked_scale(alpha / rank, f"{path}: {ALPHA} {alpha:g} of its adapters")
    say(f"{path}: mindformers' adapters of rank {rank} and alpha {alpha:g} are merged into the weights")
    adapters = [Adapters(path, factors, rank, alpha) for _, factors in parts]
    whole = [merged(own, its, where) for (own, _), its, where in zip(parts, adapters, raw.where, strict=True)]
    return replace(raw, ranks=whole)


def _open_raw(path: Path, raw: RawModel, given: Mapping[str, Any] | None, say: Say) -> Source:
    known = given or {}
    said, shown = {**raw.recorded, **known}, {"tensors": [layout.shown(name) for name in raw.ranks[0]]}
    recognised = _recognise(raw.ranks[0], raw.kind, said)
    refuse_lookalike(path, shown, of=recognised[0].name if recognised else None)
    if recognised is None:
        first = next((layout.shown(name) for name in raw.ranks[0]), "no tensors")
        holds = f"or only a part of one, as it holds {first} ({len(raw.ranks[0])} tensors)"
        raise UserError(f"{path}: not a checkpoint of a known family, {holds}; give a model of {' or '.join(FAMILIES)}")
    its_family, its = recognised
    raw = _named(raw, its, say)
    shapes = {name: tensor.shape for name, tensor in raw.ranks[0].items()}
    with _reading_sizes(path, its_family, known) as formats:
        ranks = 1 if formats.is_whole(its, shapes) else len(raw.ranks)
        try:
            fields = formats.infer(its, shapes, said, ranks)
        except UnknownSize as error:
            problem, _, settings = str(error).partition("; add ")
            if given is not None:
                raise
            raise UnknownSize(f"{problem}; {converting(path, f'{settings} --tokenizer NAME|DIR')}") from None
        keys, rows = formats.data.sizes, fields["vocab_size"]
        kind = its.config.get("model_type", keys.model_type)
        of = its_family.name
        refuse_lookalike(path, {"model_type": kind, keys.keys.get("vocab_size", "vocab_size"): rows}, of=of)
    _say_if_unclear(path, its_family.name, fields, str(path), say)
    if ranks < len(raw.ranks):
        say(f"{path}: {len(raw.ranks)} files of ranks, each with the whole model; they must be equal")
    tensors = _ours(raw, its_family, its, fields, ranks)
    kind = "mindspore" if its.kind == "mindspore" else "megatron"
    default = formats.defaults["eos_token_id"]
    released = fields.get("eos_token_id", default) == default  # else its tokenizer is another one
    saver, skipped = _tokenizer_saver(its_family.name, path) if released else None, _skipped(raw, its)
    further = {"guessed": formats.guessed(said), "inputs": (inputs_of("model", path, raw.files),)}
    further["description"] = description_from(raw.record.get("description", {}), path)
    if (named := raw.record.get("tokenizer")) in TOKENIZER_NAMES:
        saver, further["tokenizer_name"] = load_tokenizer(named).save, named
    return Source(path, kind, its_family, fields, tensors, saver, skipped, ranks=ranks, **further)


def open_source(
    path: Path, known: Mapping[str, Any] | None = None, keep_code: bool = False, say: Say = print_once
) -> Source:
    """Open a run or checkpoint directory of ours, a model directory, or files of other programs: all that
    `layouts.yaml` declares. `known` overrides single sizes (our field names), for files that do not record them.
    `keep_code`: the user trusts the Python files of a model directory, which then come out of a conversion too. `say`
    gets what the user has to know, such as what was passed over on the way to the weights. Numbers are read later.
    Raises `UserError` naming the file and tensor when anything is missing, unexpected, of another shape or dtype."""
    path, given, known = Path(path), known, known or {}
    if (path / "quantised.json").is_file():
        raise UserError(f"{path}: is a quantised model, which can only generate; give the model that it was made from")
    found = find_model(path)
    kind = found.layout.key
    if kind == "adapters":
        merge = f"ms-codegeex adapter merge --model MODEL --adapter {shlex.quote(str(found.place.path))} --output DIR"
        raise UserError(f"{found.place.path}: holds adapters, not a model; merge them into theirs: {merge}")
    if keep_code and kind != "directory":
        raise UserError(f"--keep-code: {path} is not a model directory and has no code to keep; leave the option out")
    if kind == "run":
        return _open_checkpoint(found.place.path, known, say)
    raw, folder, notes = found.layout.read(found.place, found.what), found.configured, list[str]()
    for pattern, why in state_table()["nameless"].items():
        if lost := [shown for name in raw.ranks[0] if re.fullmatch(pattern, shown := layout.shown(name))]:
            raise UserError(f"{raw.where[0]}: {len(lost)} tensors {why.format(lost[0])}")
    alpha, known = known.get(ALPHA), {key: value for key, value in known.items() if key != ALPHA}
    raw = _with_adapters(raw, found.place.path, alpha, notes.append)
    if folder is not None and (kind == "directory" or _is_configured(folder, raw)):
        source = _open_model_directory(folder, raw, known, keep_code, notes.append)
    else:
        source = _open_raw(found.place.path, raw, known if given is not None else None, notes.append)
    if source.skipped:
        more = f" and {len(source.skipped) - 1} more" if len(source.skipped) > 1 else ""
        notes.append(f"{found.place.path}: left out, not a parameter: {source.skipped[0]}{more}")
    notes += found.passed_over({file for each in source.inputs for file in each.files.values()})
    for note in notes:  # with the whole path, by which a command that opens a model twice says it once
        say(f"{path.absolute()}{note.removeprefix(str(path))}" if note.startswith(str(path)) else note)
    return source
