"""Choose what neither the file nor the command line of `finetune` states, and explain each choice in a line."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.digests import json_digest, sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import extra
from ms_codegeex.base.reading import read_json
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.model import model_config
from ms_codegeex.config.sections import warm_up_of
from ms_codegeex.config.values import flattened, merged, parse_overrides, read_yaml
from ms_codegeex.data.conversations import ChatTemplate
from ms_codegeex.data.datasets.batches import ENDS_INSIDE, KIND, is_dataset
from ms_codegeex.data.datasets.opening import held_out_like, training_data
from ms_codegeex.data.description import Chat, chat_json, chat_name, chat_of
from ms_codegeex.data.summary_lines import print_tally
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY
from ms_codegeex.formats.peft import open_adapters
from ms_codegeex.formats.sources import Source, tokenizer_place
from ms_codegeex.formats.tensors import SHORT_NAMES
from ms_codegeex.models.registry import family
from ms_codegeex.runs import fitting
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.memory_check import available_for, required_memory

FULL, ADAPTERS = "finetune_full", "finetune_lora"
SMALL = 100_000_000  # parameters up to which a model is trained whole; adapters would save little
DEFAULTS = ("training.steps", "training.evaluate_every")  # in the two files above, these are only defaults
CHOSEN = ("data.seq_length", "devices", "training.recompute", "training.micro_batch", "lora.frozen", *DEFAULTS)
LENGTHS = (2048, 1024, 512, 256, 128)  # tried for documents, which have no natural length


@dataclass(frozen=True)
class TuningRequest:
    """What the user states: the `file`, if any, and overrides in `words`. `model`: the overrides that `--model` and
    `--adapter` mean. `stored`: the single type of the model's matrices in its files, "" if there are several."""

    file: str | None
    model: Sequence[str]
    words: Sequence[str]
    adapter: bool = False
    stored: str = ""

    @classmethod
    def of(cls, source: Source, file: str | None, words: Sequence[str], adapter: Path | None) -> TuningRequest:
        """Return the request for an opened model, and for the adapters to train further, if any."""
        model = model_words(source)
        if adapter is not None:
            adapters = open_adapters(adapter, source)
            lora = {"rank": adapters.rank, "alpha": adapters.alpha, "targets": adapters.targets}
            lora["weights"] = str(adapter.absolute())
            model += [f"lora.{key}={json.dumps(value)}" for key, value in lora.items()]
        types = {tensor.dtype for tensor in source.tensors.values() if len(tensor.shape) == 2}
        return cls(file, model, words, adapter is not None, types.pop() if len(types) == 1 else "")

    def stated(self, name: str) -> Mapping[str, Any]:
        """Return the dotted keys that the user has fixed, if the run's file is `name`."""
        given = read_yaml(find_config(Path(name)))
        if given.get("model") is not None:
            raise UserError(f"{name}: model: --model names the model; remove the section, or leave out --config")
        keys = flattened(merged(given, {}))
        if name in (FULL, ADAPTERS):
            keys = {key: value for key, value in keys.items() if key not in DEFAULTS}
        return {**keys, **flattened(parse_overrides(self.words))}

    def load(self, name: str, chosen: Sequence[str] = ()) -> RunConfig:
        return load_config(Path(name), [*self.model, *chosen, *self.words])


@dataclass(frozen=True)
class TuningData:
    """Files of records, or one dataset directory. `task`: the kind of the records; None: recognise it. `epochs`: passes
    over them; None: choose. `quiet`: show no progress."""

    paths: Sequence[str]
    task: str | None = None
    epochs: float | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Length:
    """The sequence lengths to try, the longest first, and the reason; a single None if the length is stated."""

    candidates: tuple[int | None, ...]
    reason: str


def file_of(request: TuningRequest) -> tuple[str, str]:
    """Return the run's file and why it was chosen: adapters for all but small models."""
    if request.file is not None:
        return request.file, f"{request.file}, as --config says"
    if request.adapter:
        return ADAPTERS, "adapters, as --adapter says"
    words = flattened(parse_overrides(request.words))
    if lora := [key for key in words if key.startswith("lora.")]:
        name = ADAPTERS if words.get("lora.rank", True) else FULL
        return name, f"{name}, as {', '.join(lora)} says"
    size = request.load(FULL).model.sizes.parameter_count()
    if size <= SMALL:
        return FULL, f"every weight is trained, of {size / 1e6:.0f} million (--config {ADAPTERS} trains adapters)"
    return ADAPTERS, f"adapters (LoRA), for a model of {size / 1e6:,.0f} million weights (--config {FULL} trains all)"


def model_words(source: Source) -> list[str]:
    model = {"family": source.family.name, **source.fields, "weights": str(source.path.absolute())}
    return [f"model.{key}={json.dumps(value)}" for key, value in model.items()]


def length_of(stated: Mapping[str, Any], sizes: np.ndarray | None, limit: int, dataset: Path | None) -> Length:
    """Return the sequence lengths to try. `sizes`: tokens of each example, None for a prepared `dataset`. `limit`: the
    model's maximum."""
    if stated.get("data.seq_length") is not None:
        return Length((None,), "as data.seq_length says")
    if sizes is not None:
        length = fitting.length_of(sizes, limit)
        longer = int((sizes > length).sum())
        whole = f"{sizes.size - longer:,} of {sizes.size:,} examples are no longer"
        whole += ", the others are cut, or dropped if their answers are longer" * bool(longer)
        return Length((length,), whole)
    info = read_json(dataset / "dataset.json") if dataset else {}
    if info.get("kind") == KIND and type(info.get("seq_length")) is int:
        return Length((min(limit, info["seq_length"]),), f"that of {dataset}")
    return Length(tuple(dict.fromkeys(min(limit, length) for length in LENGTHS)), "the longest that fits")


def _types(request: TuningRequest, base: RunConfig, stated: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Return the types to try for frozen weights, preferred first. 16 bits come first if the model's files have that
    type, otherwise last, because the weights are then rounded. In one process of a CPU, 8 bits follow."""
    precision = base.training.precision
    bf16_on_cpu = precision == "bf16" and base.device == "cpu"
    if not base.lora.rank or base.partitioned or "lora.frozen" in stated or bf16_on_cpu:
        return (None,)
    held = "fp16" if base.device == "cpu" else precision
    if held == "fp32" or (base.device == "cpu" and request.stored == "bfloat16"):
        return (None,)
    types = (held,) if SHORT_NAMES[held] == request.stored else ("fp32", held)
    alone = base.devices == 1 or not any(key == "devices" or key.startswith("parallel.") for key in stated)
    return (*types, "int8") if base.device == "cpu" and precision == "fp32" and alone else types


def _candidates(request: TuningRequest, name: str, length: Length, stated: Mapping[str, Any]) -> Iterator[RunConfig]:
    base = request.load(name)
    batch: int | None = base.training.global_batch
    if "training.micro_batch" in stated or "parallel.micro_batches" in stated:
        batch = None
    free = "training.recompute" not in stated and "training.recompute_blocks" not in stated
    meshed = any(key.startswith("parallel.") for key in stated)
    devices: tuple[int | None, ...] = (None,)
    if base.device == "cpu" and not meshed and "devices" not in stated:
        devices = (1,)  # one process with all cores is faster than several, and holds the weights once
    again, types = ("none", "full") if free else (None,), _types(request, base, stated)
    at_once = fitting.AT_ONCE if base.device == "cpu" else None
    local = None if batch is None else batch // (base.mesh.data if devices == (None,) else 1)
    for choice in fitting.settings(length.candidates, devices, again, local, at_once, types):
        yield request.load(name, choice.words())


def fit(request: TuningRequest, name: str, length: Length) -> tuple[RunConfig, str]:
    """Return the first configuration that fits into memory, and a line about it. `UserError` if none does."""
    stated, output = request.stated(name), request.load(name).output
    before = _earlier(Path(output), stated)
    if before:
        config = request.load(name, before)
        return config, f"settings of {output}, which continues: " + ", ".join(before)
    free = available_for(request.load(name))
    budget = int(fitting.SHARE * free)
    found, least = fitting.first_that_fits(_candidates(request, name, length, stated), required_memory, budget)
    known = least.config.device == "cpu" or least.config.parallel.hardware is not None
    if found is None and known and least.needed > free:
        raise UserError(_refusal(request, name, least, free))
    chosen = found or least
    config = chosen.config
    processes = f"{config.devices} process{'es' * (config.devices > 1)}"
    recomputed = {"none": "nothing recomputed", "full": "blocks recomputed"}
    again = recomputed.get(config.training.recompute, "some recomputed")
    figures = f"about {chosen.needed / 1e9:.1f} GB of {free / 1e9:.1f} GB that are free"
    at_once = f"{config.micro_batch} of {config.training.global_batch} sequences at once"
    keys = "devices, training.micro_batch, training.recompute"
    if config.lora.frozen != "fp32":
        as_stored = SHORT_NAMES.get(config.lora.frozen) == request.stored
        again += f", frozen weights in {config.lora.frozen}" + (", as stored" if as_stored else ", rounded")
        keys += ", lora.frozen"
    return config, f"memory: {figures}; {config.training.precision}, {processes}, {at_once}, {again} ({keys})"


def _earlier(output: Path, stated: Mapping[str, Any]) -> list[str]:
    file = RunDirectory(output.absolute()).config
    if stated.get("checkpoint.resume") != "auto" or not os.path.isfile(file):
        return []
    values = flattened(read_yaml(file))
    return [f"{key}={values[key]}" for key in CHOSEN if key not in stated and values.get(key) is not None]


def _refusal(request: TuningRequest, name: str, least: fitting.Fit, free: int) -> str:
    config = least.config
    size = config.model.sizes.parameter_count() / 1e6
    what = f"{size:,.0f} million weights and {config.micro_batch} x {config.seq_length} tokens"
    need = f"--model: {what} need about {least.needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
    for file, words, fits in _smaller(request, name, config):
        if (needed := required_memory(fits)) <= free:
            change = " ".join([*([f"--config {file}"] if file != name else []), *words])
            return f"{need}; {change} needs {needed / 1e9:.1f} GB"
    presets = family(config.family).config.PRESETS
    models = (model_config({"family": config.family, "preset": preset}) for preset in presets)
    needs = zip((required_memory(replace(config, model=model)) for model in models), presets, strict=True)
    fitting_ones = [each for each in needs if each[0] <= free]
    largest = f"the largest {config.family} that fits is {max(fitting_ones)[1]}, or " if fitting_ones else ""
    return f"{need}; {largest}free {(least.needed - free) / 1e9:.1f} GB"


def _smaller(request: TuningRequest, name: str, config: RunConfig) -> Iterator[tuple[str, list[str], RunConfig]]:
    least = ["training.micro_batch=1", "training.recompute=full", "devices=1"]
    changes: list[tuple[str, list[str]]] = [] if config.lora.rank else [(ADAPTERS, least)]
    changes += [(name, least)]
    changes += [(name, [*least, f"lora.rank={n}"]) for n in (4, 1) if n < config.lora.rank]
    changes += [(name, [*least, f"data.seq_length={n}"]) for n in LENGTHS if n < config.seq_length]
    for file, words in changes:
        with contextlib.suppress(UserError):  # the change contradicts a stated key
            asked = replace(request, words=[*request.words, *words])
            yield file, words, asked.load(file, [f"data.seq_length={config.seq_length}"])


def with_steps(config: RunConfig, stated: Mapping[str, Any], epochs: float | None) -> tuple[RunConfig, str]:
    """Return the configuration with the run length that suits its data, which must exist, and a line about it."""
    training, rest = config.training, "ends when the held-out loss stops falling" * bool(config.training.patience)
    if epochs is None and (stated.get("training.steps") or stated.get("training.tokens")):
        return config, f"at most {config.steps} steps of {training.global_batch} sequences, as stated; {rest}"
    data = training_data(config)
    examples = int(data.info.get("splits", {}).get("train", {}).get("documents") or data.size)
    passes = epochs if epochs is not None else fitting.passes_over(examples)
    config = with_passes(config, passes, data.size)
    if "training.evaluate_every" not in stated and training.evaluate_every:
        every = fitting.evaluations_every(config.steps, training.evaluate_every)
        config = replace(config, training=replace(config.training, evaluate_every=every))
    counts = f"{config.steps} steps of {training.global_batch} sequences: {passes:g} passes over {examples:,} examples"
    return config, f"at most {counts} (training.steps); {rest}"


def with_passes(config: RunConfig, passes: float, size: int) -> RunConfig:
    """Set the length to `passes` over `size` sequences, and the schedule's, with at most a tenth as warm-up."""
    schedule = replace(config.training.schedule, decay_steps=None)
    steps = max(1, round(passes * size / config.training.global_batch))
    if schedule.warmup_steps is not None:
        schedule = replace(schedule, warmup_steps=min(schedule.warmup_steps, warm_up_of(steps)))
    return replace(config, training=replace(config.training, steps=steps, tokens=None, schedule=schedule))


def tuned(request: TuningRequest, name: str, source: Source, data: TuningData) -> tuple[RunConfig, list[str]]:
    """Prepare the data, and return the configuration that fits it and this machine, with the lines that explain the
    choices. `name`: the run's file. Also prints which records were left out."""
    stated, config = request.stated(name), request.load(name)
    records = extra("finetune --data", "records")
    words = flattened(parse_overrides(request.words))
    if key := next((key for key in words if key.startswith(("data.train", "data.blend"))), None):
        raise UserError(f"{key}: --data names what to train on; leave it out")
    ready = next((path for path in map(Path, data.paths) if is_dataset(path)), None)
    if ready and len(data.paths) > 1:
        raise UserError(f"--data: {ready} is a dataset; give it alone, or the records that made it")
    dataset = ready.absolute() if ready else None
    task = None if ready else data.task or records.recognised_task(data.paths)
    held_out, settings = config.data.validation, None
    named = [] if held_out is None or is_dataset(Path(held_out)) else [held_out]  # records
    limit, sizes = config.model.sizes.max_position_embeddings, None
    if task is not None:
        settings = _settings(task, limit + 1, source, config, named)  # longer examples need not be told apart
        if stated.get("data.seq_length") is None:
            sizes = records.example_sizes(data.paths, settings)
    length = length_of(stated, sizes, limit, dataset)
    config, memory = fit(request, name, length)
    if settings is not None:
        dataset = prepared_data(data.paths, replace(settings, seq_length=config.seq_length), config, data.quiet)
        held_out = None if named else held_out
    elif named:
        held_out = str(_like(dataset, named, config, data.quiet))
    whole = read_json(dataset / "dataset.json").get(ENDS_INSIDE) is True  # if so, attention must not restart
    chosen = replace(config.data, train=str(dataset), blend=None, validation=held_out)
    config = replace(config, data=replace(chosen, reset_at_eos=chosen.reset_at_eos and not whole))
    config, steps = with_steps(config, stated, data.epochs)
    tokens = f"sequences of {config.seq_length} tokens: {length.reason} (data.seq_length)"
    if not ready and (tally := read_json(dataset / "dataset.json").get("tally")):
        print_tally(tally)
        if left := tally["read"] - tally["kept"]:
            tokens += f"; {left} of {tally['read']} records were left out"
    return config, [tokens, *_chat_lines(source.description.chat, dataset), memory, steps]


def _chat_lines(own: Chat | None, dataset: Path) -> Iterator[str]:
    written = read_json(dataset / "dataset.json").get("chat")
    if written is None:
        return
    chat = chat_of(written)
    name = chat_name(chat)
    how = f"as {name}" if name else "in a format of its own" if isinstance(chat, ChatTemplate) else "in a chat template"
    if own is None:
        why = "since the model has no chat template; saved with it, in Jinja too"
    else:
        why = "the model's own" if own == chat else f"which REPLACES the model's own; {dataset} was made so"
    yield f"conversations: written {how}, {why}"


def _settings(task: str, length: int, source: Source, config: RunConfig, held_out: Sequence[str]) -> Any:
    chat = source.description.chat
    known = {"seed": config.seed, "chat": None if chat is None else chat_json(chat), "validation": held_out}
    return extra("finetune --data", "records").FinetuneSettings(task, length, tokenizer_place(source), **known)


def prepared_data(data: Sequence[str], settings: Any, config: RunConfig, quiet: bool) -> Path:
    """Return a dataset directory next to the run, made on first use from these files with these `FinetuneSettings`.
    Equal files and settings give the same directory."""
    records = extra("finetune --data", "records")
    roots = map(Path, (*data, *settings.validation))
    found = {file: root for root in roots for file in (root, *root.rglob("*")) if file.is_file()}
    files = [[str(file.relative_to(root)), sha256(file)] for file, root in sorted(found.items())]
    key = json_digest({"settings": settings.record(), "files": files})
    directory = Path(config.output).absolute().parent / f"tuning-{key[:12]}"
    if not (directory / "dataset.json").is_file():
        directory.parent.mkdir(parents=True, exist_ok=True)
        records.prepare_finetune(data, directory, settings, progress=not quiet)
    return directory


def _like(dataset: Path, held_out: Sequence[str], config: RunConfig, quiet: bool) -> Path:
    info, kind = read_json(dataset / "dataset.json"), extra("finetune --data", "records").FinetuneSettings
    made = info.get("settings") if info.get("kind") == KIND else None
    if made is None:
        remedy = f"make one with `{held_out_like(held_out[0], [str(dataset)])}` and give --validation DIR"
        raise UserError(f"data.validation: {held_out[0]} is not a dataset, as {dataset} is; {remedy}")
    known = {each.name: made[each.name] for each in fields(kind) if each.name in made}
    own = dataset / TOKENIZER_DIRECTORY
    tokenizer = str(own) if own.is_dir() else made["tokenizer"]
    known |= {"tokenizer": tokenizer, "chat": info.get("chat"), "infill": None, "validation": held_out}
    settings = kind(**known)
    return prepared_data((), settings, config, quiet)
