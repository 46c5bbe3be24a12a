"""The model card of an exported directory: README.md in the Hugging Face hub's format, from what the source records.
The same source gives the same bytes: no times, no paths of this machine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ms_codegeex.base.errors import UserError, escaped
from ms_codegeex.base.nested import flattened
from ms_codegeex.base.quarantine import read_json_inside
from ms_codegeex.base.reading import read_inside
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.config.sections import warm_up_of
from ms_codegeex.data.datasets.batches import read_info
from ms_codegeex.data.datasets.opening import CONTENT, content_hash
from ms_codegeex.data.description import HUB_NAME
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.sources import Source, model_name

CARD, PLOT = "README.md", "loss.png"
RUN_SUMMARY = "summary.json"
MAX_PLOT_BYTES = 16 << 20
_CHECKPOINTS = "checkpoints"
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+!|&~$@])")
_WARM_UP = "training.schedule.warmup_steps"


@dataclass(frozen=True)
class _Run:
    """The records of a checkpoint's run: the manifest, the flat configuration, and summary.json if it is of this
    checkpoint. `directory`: the run's."""

    directory: Path
    step: int
    state: Mapping[str, Any]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def weights(self) -> str | None:
        weights = self.config.get("model.weights")
        return model_name(Path(weights)) if isinstance(weights, str) else None


def card_files(source: Source, adapter: bool = False) -> dict[str, bytes]:
    """README.md for a model directory of this source, or for its adapters, and the loss plot of its run."""
    run = _run(source)
    plot = run.directory / PLOT if run is not None else None
    files = {PLOT: read_inside(plot.parent, PLOT, MAX_PLOT_BYTES)} if plot is not None and os.path.lexists(plot) else {}
    parts = [_front_matter(source, run, adapter), f"# {_text(model_name(source.path))}", _opening(source, run, adapter)]
    parts += ["## Model", _table("size", "value", _sizes(source))]
    if run is not None:
        parts += ["## Training", _table("setting", "value", _training(run))]
        parts += [f"![loss curve]({PLOT})"] if files else []
        parts += _data(run)
        figures = list(_figures(run.summary))
        parts += ["## Evaluation", _table("on the validation split", "value", figures)] if figures else []
    parts += ["## Use", _use(source, run, adapter)]
    parts += ["## Limits", _limits(source, run)]
    return {CARD: ("\n\n".join(parts) + "\n").encode("utf-8"), **files}


def _run(source: Source) -> _Run | None:
    checkpoint = source.checkpoint
    if checkpoint is None or source.path.resolve().parent.name != _CHECKPOINTS:
        return None
    directory = source.path.resolve().parent.parent
    try:
        summary = _part(read_json_inside(directory, RUN_SUMMARY))
    except UserError:
        summary = {}
    if Path(str(summary.get("checkpoint"))).name != source.path.name:
        summary = {}
    return _Run(directory, checkpoint.step, checkpoint.state, flattened(checkpoint.state["config"]), summary)


def _texts() -> Mapping[str, Any]:
    return shipped_table(Path(__file__).with_name("card.yaml"))


def _text(value: object) -> str:
    return _MARKDOWN.sub(r"\\\1", escaped(str(value)))


def _part(tree: object, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}


def _table(first: str, second: str, rows: Iterable[tuple[str, str]]) -> str:
    return "\n".join([f"| {first} | {second} |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _datasets(run: _Run) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, digest in sorted(_part(run.state, "datasets").items()):
        try:
            info = read_info(Path(path)) if content_hash(Path(path)) == digest else {}
        except UserError:
            info = {}
        yield Path(path).name, str(digest), info


def _tokens(info: Mapping[str, Any]) -> dict[str, int]:
    languages = _part(info, "splits", "train", "languages")
    tokens = {name: _part(counts).get("tokens") for name, counts in languages.items()}
    counted = {name: number for name, number in tokens.items() if type(number) is int}
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _front_matter(source: Source, run: _Run | None, adapter: bool) -> str:
    names = {name for _, _, info in _datasets(run) for name in _tokens(info)} if run is not None else set()
    languages = sorted({escaped(name) for name in names} - {"", "unknown"})
    content: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "language": ["code"],
        "tags": ["code", "ms-codegeex", source.family.name, *(["lora"] if adapter else [])],
    }
    if source.description.licence is not None:
        content["license"] = source.description.licence
    if languages:
        content["programming_language"] = languages
    if run is not None and run.weights is not None and _HUB_NAME.fullmatch(run.weights):
        content["base_model"] = run.weights
    elif source.description.base is not None and HUB_NAME.fullmatch(source.description.base):
        content["base_model"] = source.description.base
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1 << 20)}---"


def _opening(source: Source, run: _Run | None, adapter: bool) -> str:
    family = _texts()["families"].get(source.family.name, source.family.name)
    kind = f"Adapters (LoRA) for a {family} model" if adapter else f"A {family} language model of code"
    kind = f"{kind} with {source.parameters:,} parameters"
    if run is None:
        return f"{kind}, converted with ms-codegeex. How it was trained is not recorded."
    begun = "" if run.weights is None else f", from the weights of {_text(run.weights)}"
    return f"{kind}, trained with ms-codegeex{begun}."


def _sizes(source: Source) -> Iterator[tuple[str, str]]:
    yield "family", _texts()["families"].get(source.family.name, source.family.name)
    for name in FamilyFormats(source.family).defaults:
        yield _text(name), _text(source.fields[name])


def _training(run: _Run) -> Iterator[tuple[str, str]]:
    if run.weights is not None:
        yield "started from", _text(run.weights)
    yield "steps", f"{run.step:,}"
    for key, name in (("tokens", "tokens trained on"), ("samples", "sequences")):
        if type(run.state.get(key)) is int:
            yield name, f"{run.state[key]:,}"
    adapted = bool(run.config.get("lora.rank"))
    warmup = warm_up_of(steps) if type(steps := _part(run.state, "schedule").get("steps")) is int else None
    config = {**run.config, _WARM_UP: warmup} if run.config.get(_WARM_UP) is None else run.config
    for key, name in _texts()["settings"].items():
        if config.get(key) is not None and (adapted or not key.startswith("lora.")):
            yield name, _text(config[key])
    if tokenizer := _part(run.state, "tokenizer"):
        yield "tokenizer", f"{_text(Path(str(tokenizer.get('name'))).name)}, {_text(tokenizer.get('fingerprint'))}"


def _data(run: _Run) -> list[str]:
    parts = []
    for name, digest, info in _datasets(run):
        rows = [(_text(language or "other"), f"{tokens:,}") for language, tokens in _tokens(info).items()]
        licences = _part(info, "settings").get("licences")
        known = ", ".join(map(str, licences)) if isinstance(licences, list) else ""
        only = f", only files under {_text(known)}" if known else ""
        of = "content hash" if digest.startswith(CONTENT) else "hash of sizes and samples"
        words = f"**{_text(name)}**, {of} {_text(digest)}{only}"
        parts += [f"{words}.", *([_table("language", "tokens", rows)] if rows else [])]
    return ["## Data", *parts] if parts else []


def _figures(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, name in _texts()["figures"].items():
        value = summary.get(key)
        if isinstance(value, int | float):
            yield name, f"{value:.4f}"
    loss = summary.get("validation_loss")
    if isinstance(loss, int | float) and loss < 100:
        yield "perplexity", f"{math.exp(loss):.2f}"


def _use(source: Source, run: _Run | None, adapter: bool) -> str:
    if adapter:
        base = "the model that it was trained on" if run is None or run.weights is None else _text(run.weights)
        return _texts()["use_of_adapters"].format(base=base)
    formats = source.family.weights.FORMATS
    auto_map = formats.sizes.written(source.config).get("auto_map", {})
    modules = sorted({f"{name.partition('.')[0]}.py" for name in auto_map.values()})
    foreign = [name for name in modules if name not in formats.classes]
    copied = f"Copy {' and '.join(foreign)} of the release into it first. " if foreign else ""
    trust = ", trust_remote_code=True" if modules else ""
    classes = {"model": "AutoModelForCausalLM"}
    if source.save_tokenizer is not None:
        classes["tokenizer"] = "AutoTokenizer"
    lines = "\n".join(f'{name} = {auto}.from_pretrained("DIR"{trust})' for name, auto in classes.items())
    return _texts()["use"].format(copied=copied, classes=", ".join(classes.values()), lines=lines)


def _limits(source: Source, run: _Run | None) -> str:
    tokens, seen = None if run is None else run.state.get("tokens"), ""
    if type(tokens) is int and run is not None and run.weights is None:
        seen = f"\n- The run saw {tokens / source.parameters:.2g} tokens for each parameter."
    return _texts()["limits"].format(positions=source.fields["max_position_embeddings"], seen=seen)
