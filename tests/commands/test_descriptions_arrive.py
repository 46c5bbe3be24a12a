"""What is known of a model arrives: each verb that writes a model, and each that reads what it wrote."""

import json
from itertools import product
from pathlib import Path

import gguf_models
import pytest

from ms_codegeex.cli import main
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.description import ModelDescription, description_from, read_description
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.jinja_templates import JinjaTemplate
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.model import described_model, with_adapter
from ms_codegeex.formats.checkpoint import Checkpoint, fingerprint, resolve
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.peft import description_of
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import checkpoint_description, open_source
from ms_codegeex.generation.loading import load_model
from ms_codegeex.runs.rank.weights import start_of

CHATML = (
    "{%- for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}\n"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
MARKS = Sentinels(376, 377, 378, ("suffix", "prefix", "middle"))
KNOWN = {
    "own template": ModelDescription(chat=JinjaTemplate((("default", CHATML),)), infill=MARKS, licence="mit"),
    "ours": ModelDescription(chat=TEMPLATES["plain"], infill=MARKS, licence="mit"),
}


def ran(*words):
    assert main([*map(str, words)]) == 0, words


def fields_of(source):
    return {"family": source.family.name, "preset": None, **source.fields}


def run_of(place: Path, known: ModelDescription, weights=None, **state) -> Path:
    """A run with one checkpoint, as training leaves it."""
    source = gguf_models.source("codegen", place / "model")
    tokenizer = load_tokenizer(place / "model")
    tokenizer.save(place / "run" / "tokenizer")
    arrays = weights or {name: tensor.array() for name, tensor in source.tensors.items()}
    whole = {"config": {"model": fields_of(source)}, "tokenizer": tokenizer.description()}
    write_checkpoint(place / "run/checkpoints", 4, arrays, {**whole, "description": known.to_json(), **state})
    return place / "run"


def adapter_run(place: Path, base: Path, known: ModelDescription) -> Path:
    """A run that trained adapters on a base, and knows more than that."""
    source = open_source(base)
    shapes = source.config.adapter_shapes(["attention"], 2)
    arrays = {name: gguf_models.np.full(shape, 0.01, gguf_models.np.float32) for name, shape in shapes.items()}
    model = {**fields_of(source), "weights": str(base)}
    config = {"model": model, "lora": {"rank": 2, "alpha": 4.0, "targets": ["attention"]}}
    return run_of(place, known, arrays, config=config, base=fingerprint(source.tensors))


def written(place: Path, known: ModelDescription) -> dict[str, Path]:
    """What each verb that writes a model makes of one of which this is known."""
    run, out = run_of(place / "of", known), {}
    plain = run_of(place / "base", ModelDescription())
    tuned = adapter_run(place / "adapters", plain, known)
    write_peft(open_source(tuned), place / "peft")
    out |= {"train": run, "train (adapters)": tuned}
    for name, words in {
        "convert --to hf": ("convert", "--model", run, "--to", "hf"),
        "convert --to gptj": ("convert", "--model", run, "--to", "gptj"),
        "convert --to megatron": ("convert", "--model", run, "--to", "megatron"),
        "convert --to megatron, 2 ranks": ("convert", "--model", run, "--to", "megatron", "--tensor-parallel", 2),
        "convert --to mindspore": ("convert", "--model", run, "--to", "mindspore"),
        "convert --to mindspore, 2 ranks": ("convert", "--model", run, "--to", "mindspore", "--tensor-parallel", 2),
        "convert --to gguf": ("convert", "--model", run, "--to", "gguf"),
        "quantize --bits 8": ("quantize", "--model", run, "--bits", 8),
        "quantize --bits 4": ("quantize", "--model", run, "--bits", 4, "--group", 32),
        "adapter merge": ("adapter", "merge", "--model", plain, "--adapter", place / "peft"),
        "checkpoint reshard": ("checkpoint", "reshard", run, "--tensor", 2),
        "checkpoint merge": ("checkpoint", "merge", run),
    }.items():
        out[name] = place / name.replace(" ", "-")
        ran(*words, "--output", out[name])
    ran("adapter", "unmerge", "--model", out["adapter merge"], "--adapter", place / "peft", "--output", place / "un")
    out["adapter unmerge"] = place / "un"
    for name in ("checkpoint reshard", "checkpoint merge"):  # a checkpoint looks for its run's tokenizer
        (place / name / "checkpoints").mkdir(parents=True)
        load_tokenizer(run / "tokenizer").save(place / name / "tokenizer")
        out[name] = out[name].rename(place / name / "checkpoints" / "step-00000004")
    return {**out, "convert --to gguf": next(out["convert --to gguf"].glob("*.gguf")), "train (PEFT)": place / "peft"}


@pytest.fixture(scope="module", params=KNOWN)
def models(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return KNOWN[request.param], written(place, KNOWN[request.param]), place / "base" / "run"


RANKS = ("convert --to megatron, 2 ranks", "convert --to mindspore, 2 ranks")
FILES = ("convert --to megatron", "convert --to mindspore", *RANKS)  # without a tokenizer that `serve` could use
GGUF = ("convert --to gguf",)
QUANTISED, ADAPTERS = ("quantize --bits 8", "quantize --bits 4"), ("train (PEFT)",)


def in_inspect(model, base, place, capsys):
    path = resolve(model).path if (model / "checkpoints").is_dir() else model
    capsys.readouterr()
    ran("inspect", path, "--json")
    shown = json.loads(capsys.readouterr().out)["description"]
    return description_from(shown, "inspect")


def in_convert(model, base, place, capsys):
    ran("convert", "--model", model, "--to", "hf", "--output", place / "hf", "--tokenizer", base / "tokenizer")
    return read_description(place / "hf")


def in_two_conversions(model, base, place, capsys):
    ran("convert", "--model", model, "--to", "mindspore", "--output", place / "m.ckpt")
    return in_convert(place / "m.ckpt", base, place, capsys)


def in_quantize(model, base, place, capsys):
    ran("quantize", "--model", model, "--bits", 8, "--output", place / "q")
    return read_description(place / "q")


def in_training(model, base, place, capsys):
    source = open_source(model)
    section = {"family": source.family.name, **source.fields, "weights": str(model)}
    config = build_run_config({"model": section, "training": {"steps": 1, "global_batch": 1}, "devices": 1})
    return start_of(config, None)[1]


def in_resharding(model, base, place, capsys):
    ran("checkpoint", "reshard", model, "--output", place / "r", "--tensor", 2)
    return checkpoint_description(Checkpoint(place / "r"))


def in_serving(model, base, place, capsys):
    """`serve`, `chat` and `complete` open a model so."""
    loaded = load_model(model)
    served = described_model(loaded, model)
    assert served.chat is not None and served.sentinels == loaded.description.infill
    assert served.chat.prompt([("user", "x")]) in ("User:\nx\n\nAssistant:\n", in_chatml("x"))
    return loaded.description


def in_chatml(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def as_adapter(model, base, place, capsys):
    """`serve --adapter` opens it so."""
    served = with_adapter(described_model(load_model(base), base), "talk", model)
    assert served.chat is not None and served.sentinels == MARKS
    return description_of(model)


def in_merge(model, base, place, capsys):
    ran("adapter", "merge", "--model", base, "--adapter", model, "--output", place / "merged")
    found = read_description(place / "merged")
    assert (found.adapter, found.base) == (model.name if model.name == "peft" else found.adapter, "run")
    return found


READERS = {  # and what each does not read: the others' own formats, and adapters without their model
    "inspect": (in_inspect, FILES),  # which names what the pickles of a file would import
    "convert": (in_convert, (*QUANTISED, *ADAPTERS)),
    "convert twice": (in_two_conversions, (*QUANTISED, *ADAPTERS, *GGUF)),
    "quantize": (in_quantize, (*QUANTISED, *ADAPTERS, *FILES, *GGUF)),
    "train, finetune": (in_training, (*QUANTISED, *ADAPTERS, *GGUF)),
    "checkpoint reshard": (in_resharding, (*QUANTISED, *ADAPTERS, *GGUF, "train (adapters)")),
    "serve, chat, complete": (in_serving, (*ADAPTERS, *FILES, *GGUF)),
}
READERS_OF_ADAPTERS = {"serve --adapter": as_adapter, "adapter merge": in_merge}


def test_it_arrives(models, tmp_path, capsys):
    known, places, base = models
    missing, adapters = [], ("train (adapters)", "train (PEFT)")
    pairs = [(reader, writer) for reader, (_, refused) in READERS.items() for writer in places.keys() - {*refused}]
    for reader, writer in [*pairs, *product(READERS_OF_ADAPTERS, adapters)]:
        read = READERS_OF_ADAPTERS.get(reader) or READERS[reader][0]
        place = tmp_path / reader / writer
        place.mkdir(parents=True)
        found = read(places[writer], base, place, capsys)
        if (found.chat, found.infill, found.licence) != (known.chat, known.infill, known.licence):
            missing.append((writer, reader, found))
    assert missing == []


def test_sizes_come_back_from_our_own_files(models, tmp_path):
    _, places, _ = models
    sizes = open_source(places["train"]).fields
    for writer in ("convert --to megatron", "convert --to mindspore", "convert --to mindspore, 2 ranks"):
        source = open_source(places[writer])
        assert source.fields == sizes and source.guessed == (), writer
    assert checkpoint_description(resolve(places["train"])).step == 4
