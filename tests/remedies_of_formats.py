"""Situations in which an error of `formats/` says what to do, and what a user then does."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import small_models
from remedies_read import CONVERTED, now
from remedies_shapes import AGAIN, Call, Entry, Said, Situation, each, followed, of_each, put, tried
from small_models import FIELDS, save_adapters, save_run

from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats import edits, provenance
from ms_codegeex.formats.adapters import as_trained, checked_scale
from ms_codegeex.formats.checkpoint import Checkpoint, prune, resolve
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint, write_ranks
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.files import RECORD, chosen_place
from ms_codegeex.formats.mindspore_checkpoint import TRAILER_BYTES, read_mindspore, write_mindspore
from ms_codegeex.formats.model_description import checkpoints_in, describe_model
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.peft import adapters_path, open_adapters
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.rounding import QuantisedMatrix, cast, check_bits
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.sources import checkpoint_adapters, open_source
from ms_codegeex.formats.strategy import find_rank_files, merge_slices, read_strategy
from ms_codegeex.formats.targets import free_target
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.formats.torch_zip import read_torch, write_torch

GEEX, GEN = FIELDS["codegeex"], FIELDS["codegen"]
STEP = "checkpoints/step-00000004"


# --- shapes of situations ---


def opened(path: Path, known: dict[str, Any] | None = None) -> object:
    """The model at a path, with all its numbers."""
    source = open_source(path, GEEX if known is None else known, say=lambda line: None)
    return [tensor.array() for tensor in source.tensors.values()]


def changed(
    make: Callable[[Path], object],
    spoil: Callable[[Path], object] = lambda path: None,
    mend: Callable[[Path], object] | None = None,
    call: Callable[[Path], object] = opened,
) -> Situation:
    """What `make` writes to a path and `spoil` changes; `mend`: what the user does, None: the same files again."""

    def anew(path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        make(path)

    do = lambda step: lambda at: step(at / "model")  # noqa: E731
    return tried((do(make), do(spoil), do(call)), (do(mend or anew), AGAIN))


def copy(old: str, new: str) -> Callable[[Path], object]:
    """Copies a file or a folder of the situation."""
    return lambda at: (shutil.copytree if (at / old).is_dir() else shutil.copy)(at / old, at / new)


def renamed(old: str, new: str) -> Callable[[Path], object]:
    return lambda at: (at / old).rename(at / new)


def at_path(call: Callable[..., object], name: str, *values: Any, **options: Any) -> Callable[[Path], object]:
    """A call of a path of the situation."""
    return lambda at: call(at / name, *values, **options)


# --- models ---


def directory(path: Path, name: str = "small-hf") -> None:
    shutil.copytree(name, path)


gen_directory = partial(directory, name="small-codegen-hf")
checkpoint = partial(directory, name="small")
of_gen = partial(opened, known=GEN)
by_itself = partial(opened, known={})
with_alpha = partial(opened, known=GEN | {"lora_alpha": 4})
to_hf = partial(convert, Path("small"), "hf", progress=False)


def megatron(path: Path, ranks: int = 1) -> None:
    convert(Path("small"), "megatron", path, tensor_parallel=ranks, progress=False)


def mindspore(path: Path, ranks: int = 1) -> None:
    convert(Path("small"), "mindspore", path, tensor_parallel=ranks, progress=False)


def ckpt(path: Path) -> Path:
    return next(path.rglob("*.ckpt"))


def flipped(path: Path) -> None:
    """Other bytes in a file."""
    content = path.read_bytes()
    middle = len(content) // 5
    path.write_bytes(content[:middle] + bytes(4) + content[middle + 4 :])


def torch_file(path: Path, tree: object = None) -> None:
    write_torch(path, tree or {"w": from_array(np.ones((2, 2), np.float32))})


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> None:
    """A zip file with other records, or some more."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in records.items():
            if (new := change(name, content)) is not None:
                archive.writestr(name, new)


def safetensors(path: Path, arrays: dict[str, np.ndarray], **metadata: str) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    write_safetensors(path, {name: from_array(array) for name, array in arrays.items()}, metadata)


def weights(name: str = "small-hf") -> dict[str, np.ndarray]:
    return {key: tensor.array() for key, tensor in ModelDirectory(Path(name)).tensors.items()}


def without(file: str) -> Callable[[Path], None]:
    return lambda path: (path / file).unlink()


def setting(file: str, **values: Any) -> Callable[[Path], None]:
    """Sets keys of a JSON file, or removes those that are `...`."""

    def change(path: Path) -> None:
        content = read_json(path / file) | values
        write_json(path / file, {key: value for key, value in content.items() if value is not ...})

    return change


def tensors(
    change: Callable[[dict[str, np.ndarray]], object], file: str = "model.safetensors"
) -> Callable[[Path], None]:
    """Writes a file of tensors again, after a change."""

    def write(path: Path) -> None:
        arrays = {name: tensor.array().copy() for name, tensor in SafetensorsFile(path / file).tensors.items()}
        change(arrays)
        (path / file).unlink()
        safetensors(path / file, arrays)

    return write


def first(arrays: dict[str, np.ndarray], part: str = "") -> str:
    return next(name for name in arrays if part in name)


# --- checkpoints ---


def folder(name: str) -> Callable[[Path], object]:
    return lambda at: (at / name).mkdir(parents=True)


def manifest(path: Path, **values: Any) -> None:
    from ms_codegeex.formats.checkpoint import manifest_digest

    file = path / STEP / "manifest.json"
    content = read_json(file) | values
    write_json(file, content | {"sha256": manifest_digest(content)})


def adapted(at: Path, name: str = "codegen", **options: Any) -> tuple[Path, Path]:
    """A model directory and adapters in PEFT's layout for it."""
    shutil.copytree("small-codegen-hf", at / "base")
    save_adapters(at / "tuned", name, at / "base", **options)
    write_peft(open_source(at / "tuned", say=lambda line: None), at / "adapter")
    return at / "base", at / "adapter"


def adapters(name: str = "adapter", of: str = "base", **options: Any) -> Callable[[Path], object]:
    """Opens adapters, for a model of the situation or else of the place."""
    return lambda at: open_adapters(at / name, open_source(at / of if (at / of).exists() else Path(of)), **options)


def another(path: Path) -> None:
    save_run(path, "codegen", small_models.parameters("codegen", seed=9))


def peft(spoil: Callable[[Path], object], mend: Callable[[Path], object] | None = None) -> Situation:
    """Adapters that are changed. `mend(adapter)`, and they are opened again; BASE: the base model alone is; None: with
    the same files again."""
    again = (lambda at: shutil.rmtree(at / "adapter"), copy("whole", "adapter"), AGAIN)
    if mend is not None:
        again = at_path(by_itself, "base") if mend is BASE else (lambda at: mend(at / "adapter"), AGAIN)
    return tried((adapted, copy("adapter", "whole"), lambda at: spoil(at / "adapter"), adapters()), again)


def BASE(path: Path) -> None:
    """What merge_and_unload makes is a model directory, which is read."""


MERGED = "adapter merge --model {at}/base --adapter {at}/tuned --output {at}/merged"
SLICES = {"w": Slice((2,), (0,), np.ones(2, np.float32))}


# --- targets and numbers ---


def there(path: Path, **options: Any) -> object:
    return to_hf(path / "there", **options)


def choices(call: Callable[[Any], object], wrong: Any, kind: Callable[[str], Any] = str) -> Situation:
    """A value that is not known; each of those that the message lists."""

    def chosen(at: Path, listed: str) -> None:
        for value in listed.split(", "):
            call(kind(value))

    return tried(lambda at: call(wrong), Said("(?:one of|expected one of) ([^;]*)$", chosen))


def ones(shape: Any = 2, kind: Any = np.float32, times: float = 1) -> Any:
    return from_array(np.full(shape, times, kind))


def mixed(path: Path) -> None:
    """A run in which one matrix has another type."""
    arrays = small_models.parameters("codegen")
    name = first(arrays, "attention.key.weight")
    save_run(path, "codegen", arrays | {name: arrays[name].astype(np.float16)})


def target(output: str, **options: Any) -> Situation:
    """An output that cannot be written, and another one."""

    def situation(at: Path) -> Iterator[Call]:
        directory(at / "source")
        place = at / output
        (at / "loop").symlink_to(at / "loop")
        (at / "link").symlink_to(at / "source")
        (at / "file").write_text("")
        yield lambda: free_target(place, at / "source", False)
        yield lambda: free_target(at / "another", at / "source", False)

    return situation


def of_four_bits(at: Path) -> Iterator[Call]:
    matrix = QuantisedMatrix(np.ones((2, 64), np.int8), 4, np.ones((2, 1), np.float32), 64)
    eight = QuantisedMatrix(np.ones((2, 64), np.int8), 8, np.ones(2, np.float32))
    yield lambda: matrix.part(slice(None), slice(0, 21))
    yield lambda: matrix.part(slice(None), slice(0, 32))
    yield lambda: eight.part(slice(None), slice(0, 21))


def of_checksums(at: Path) -> Iterator[Call]:
    """A file of ours that another program saved with other numbers and our metadata."""
    from safetensors.numpy import load_file, save_file

    file = at / "a.safetensors"
    write_safetensors(file, {"w": from_array(np.ones(2, np.float32))}, {}, checksums=True)
    metadata = SafetensorsFile(file).metadata
    arrays = {name: array * 2 for name, array in load_file(file).items()}
    save_file(arrays, file, metadata)
    said = yield lambda: SafetensorsFile(file).tensors["w"].array()
    prefix = re.search(r"begin with '(.*)'$", said)[1]
    save_file(arrays, file, {key: value for key, value in metadata.items() if not key.startswith(prefix)})


# --- strategies ---


def packed(at: Path) -> None:
    directory(at / "inside")
    subprocess.run(["tar", "-cf", at / "model.tar", "-C", at, "inside"], check=True)
    (at / "there").mkdir()


def with_a_nan(path: Path) -> None:
    arrays = small_models.parameters("codegeex")
    arrays["embedding.word.weight"][0, 0] = np.nan
    save_run(path, "codegeex", arrays)


def parts(path: Path, ranks: int = 2) -> None:
    """The files of two ranks, and a strategy file, of a network that MindSpore would cut by rows."""
    layout = {"dev_matrix": [2], "tensor_map": [0, -1], "opt_weight_shard_size": 0, "opt_weight_shard_step": 0}
    content = {"parallel_strategy_item": {"a": {"stage": 0}}, "parallel_layout_item": {"w": layout}}
    path.mkdir()
    write_json(path / "strategy.json", content)
    whole = np.arange(32, dtype=np.float32).reshape(8, 4)
    for rank in range(ranks):
        (path / f"rank_{rank}").mkdir()
        part = from_array(np.ascontiguousarray(whole[rank * 4 : rank * 4 + 4]))
        write_mindspore(path / f"rank_{rank}/net-1_2.ckpt", {"w": part})


def joined(path: Path) -> object:
    files, strategy = find_rank_files(path), read_strategy([*path.glob("*strategy*.json")])
    return {name: tensor.array() for name, tensor in merge_slices(files, strategy).items()}


def strategy(spoil: Callable[[Path], object], mend: Callable[[Path], object] | None = None) -> Situation:
    return changed(parts, spoil, mend, joined)


def part(rank: int, **arrays: np.ndarray) -> Callable[[Path], None]:
    """Other tensors in a rank's file."""
    return lambda path: write_mindspore(
        path / f"rank_{rank}/net-1_2.ckpt", {name: from_array(array) for name, array in arrays.items()}
    )


def layout(**values: Any) -> Callable[[Path], None]:
    """Other values in the layout of the strategy file."""

    def change(path: Path) -> None:
        content = read_json(path / "strategy.json")
        content["parallel_layout_item"]["w"] |= values
        write_json(path / "strategy.json", content)

    return change


def sets(*words: str) -> Situation:
    """What is given to --set; "": nothing."""
    return each(edits.assignments, *([word] if word else [] for word in words))


def mindformers(path: Path) -> None:
    """A checkpoint of two ranks in mindformers' newer layout."""
    described = small_models.two_ranks(path / "iteration_00000002", small_models.parameters("codegen"))
    write_json(path / "iteration_00000002/metadata.json", described)


MERGE = "merge the adapters with PEFT (merge_and_unload) and give that model"
FILES_OF_STATE = "restore the files, or make the model again from what it was made from"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
RELU, CHAT = setting("config.json", hidden_act="relu"), setting("tokenizer_config.json", chat_template=TEMPLATE)


def shards(path: Path) -> None:
    directory(path)
    arrays = weights()
    (path / "model.safetensors").unlink()
    names = sorted(arrays)
    for number, part_ in enumerate((names[:9], names[9:]), 1):
        safetensors(path / f"model-0000{number}-of-00002.safetensors", {name: arrays[name] for name in part_})
    table = {name: f"model-0000{1 if name in names[:9] else 2}-of-00002.safetensors" for name in names}
    write_json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": table})


def of_rank_parts(at: Path) -> Iterator[Call]:
    mindformers(at / "parts")
    folder = at / "parts/iteration_00000002"
    kept = (folder / "metadata.json").read_bytes()
    (folder / "metadata.json").unlink()
    said = yield lambda: of_gen(at / "parts")
    (folder / "metadata.json").write_bytes(kept)
    yield lambda: of_gen(at / "parts")
    (folder / "metadata.json").unlink()
    for file in folder.glob("model-*"):
        safetensors(file, small_models.parameters("codegen"))
    yield lambda: of_gen(Path(re.search(r"or give (\S+) if each", said)[1]))


def described(change: Callable[[dict[str, Any]], object]) -> Situation:
    """A checkpoint of mindformers whose description is changed."""

    def spoil(path: Path) -> None:
        file = path / "iteration_00000002/metadata.json"
        content = read_json(file)
        change(content)
        write_json(file, content)

    return changed(mindformers, spoil, None, of_gen)


UP = "blocks.1.feed_forward.up.weight"


def torch_tree(tree: object) -> Situation:
    """A `.pt` file of something else than a model, and a model."""
    return changed(partial(torch_file, tree=tree), mend=lambda path: (path.unlink(), megatron(path)))


def widened(path: Path) -> None:
    """The small CodeGen with a larger feed-forward layer."""
    gen_directory(path)
    tensors(lambda arrays: arrays.update({n: np.repeat(a, 2, 0) for n, a in arrays.items() if "fc_in" in n}))(path)
    tensors(lambda arrays: arrays.update({n: np.repeat(a, 2, 1) for n, a in arrays.items() if "fc_out.w" in n}))(path)
    setting("config.json", n_inner=2 * weights("small-codegen-hf")["transformer.h.0.mlp.fc_in.bias"].size)(path)


def continued(at: Path, run: str, base: str, untied: bool = False) -> None:
    """Adapters of a run that continue as others."""
    save_adapters(at / run, "codegen", at / base, untied=untied)
    as_trained(checkpoint_adapters(resolve(at / run)), small_models.config("codegen").table, run)


def arrays_folder(path: Path) -> None:
    """A folder of arrays, as CodeGeeX's export makes it."""
    path.mkdir(exist_ok=True)
    for name, array in small_models.parameters("codegeex").items():
        np.save(path / f"{name}.npy", array)


def of_mindpet(path: Path, alone: bool = False, rank: int = 2, **arrays: np.ndarray) -> None:
    """A checkpoint with adapters of mindformers."""
    own = {name: from_array(array) for name, array in small_models.parameters("codegen").items()}
    name = next(name for name in own if "query" in name and name.endswith("weight"))
    layer = name.removesuffix(".weight")
    rows, columns = own[name].shape
    factors = {f"{layer}.mindpet_delta_lora_a": np.ones((rank, columns), np.float32)}
    factors |= {f"{layer}.mindpet_delta_lora_b": np.ones((rows, rank), np.float32)}
    stored = {key: from_array(array) for key, array in (factors | arrays).items()}
    path.mkdir(exist_ok=True)
    write_mindspore(path / "model.ckpt", stored if alone else {**own, **stored})


FORMATS: dict[str, Entry] = {
    "copy it again": (
        changed(
            checkpoint, lambda p: (p / STEP / "manifest.json").write_text("{}"), None, lambda p: Checkpoint(p / STEP)
        ),
        changed(
            checkpoint, lambda p: setting(f"{STEP}/manifest.json", step=9)(p), None, lambda p: Checkpoint(p / STEP)
        ),
        changed(checkpoint, lambda p: next((p / STEP).glob("*.safe*")).unlink(), None, lambda p: Checkpoint(p / STEP)),
        changed(checkpoint, lambda p: manifest(p, headers={}), None, lambda p: Checkpoint(p / STEP)),
        changed(directory, lambda p: (p / "config.json").write_text("[]"), None, ModelDirectory),
        changed(directory, lambda p: (p / "model.safetensors").write_bytes(b"x" * 99), None, ModelDirectory),
        changed(shards, without("model-00001-of-00002.safetensors"), None, opened),
        changed(mindspore, lambda p: flipped(ckpt(p)), None, opened),
        changed(torch_file, lambda p: rewritten(p, lambda n, c: None if "data/0" in n else c), None, read_torch),
        changed(parts, setting("strategy.json", parallel_strategy_item={"a": {"stage": "x"}}), None, joined),
        described(lambda c: c["state_dict_metadata"][UP]["chunk"].pop()),
        described(lambda c: c.pop("storage_data")),
    ),
    "use a checkpoint of this model": each(
        lambda name: resolve(Path("small")).shape(name), "nothing", "embedding.word.weight"
    ),
    "name it {} again": tried(
        (
            at_path(checkpoint, "run"),
            renamed(f"run/{STEP}", "run/checkpoints/step-00000009"),
            at_path(Checkpoint, "run/checkpoints/step-00000009"),
        ),
        Said(
            r"name it (\S+) again",
            lambda at, name: Checkpoint((at / "run/checkpoints/step-00000009").rename(at / "run/checkpoints" / name)),
        ),
    ),
    "expected a checkpoint or run directory": tried(resolve, lambda at: resolve(Path("small"))),
    "give one of {}": tried(
        lambda at: resolve(Path("small"), "9"),
        Said(r"give one of (\d+)", lambda at, step: resolve(Path("small"), step)),
    ),
    "give that checkpoint itself": tried(
        (
            at_path(checkpoint, "run"),
            folder("other/checkpoints"),
            lambda at: (at / "other" / STEP).symlink_to(at / "run" / STEP),
            at_path(resolve, "other"),
        ),
        Said(r"leads to (\S+), outside", lambda at, path: resolve(Path(path))),
    ),
    "expected at least 1": of_each(lambda at, count: prune(at, count, 0), 0, 1),
    "the previous checkpoint is unchanged, {}": tried(
        ({"checkpoints": "in the way"}, at_path(write_checkpoint, "checkpoints", 1, SLICES, {})),
        at_path(write_checkpoint, "other/checkpoints", 1, SLICES, {}),
    ),
    "{} of checkpoint_writing": tried(
        ({"file": ""}, at_path(write_ranks, "file/step-00000001", 1, {}, [SLICES])),
        at_path(write_ranks, "step-00000001", 1, {}, [SLICES]),
    ),
    "give a checkpoint directory or a run directory": tried(
        checkpoints_in, lambda at: checkpoints_in(Path("small")), lambda at: checkpoints_in(Path("small") / STEP)
    ),
    "use another checkpoint": tuple(
        changed(checkpoint, lambda p, config=config: manifest(p, config=config))
        for config in ({}, {"model": {"family": "codegeex"}, "lora": 4})
    ),
    "give adapters with another one": each(lambda scale: checked_scale(scale, "a"), 0, 2),
    "give theirs, which was at {}": tried(
        (adapted, at_path(another, "other"), adapters("tuned", "other")),
        Said(r"which was at (\S+)$", lambda at, path: open_adapters(at / "tuned", open_source(Path(path)))),
    ),
    "use the model it was trained on": tried((adapted, adapters("tuned", "small")), adapters("tuned")),
    "`generate` and `evaluate` also take --model MODEL --adapter RUN": tried(
        (adapted, renamed("base", "moved"), at_path(open_source, "tuned")),
        (
            followed(r"it is now: ms-codegeex (adapter merge .*?); ", MODEL="{at}/moved", DIR="{at}/merged"),
            at_path(open_source, "merged"),
        ),
        adapters("tuned", "moved"),
    ),
    "put the first back": tried(
        (adapted, renamed("base", "before"), at_path(another, "base"), at_path(open_source, "tuned")),
        (lambda at: shutil.rmtree(at / "base"), renamed("before", "base"), AGAIN),
    ),
    "give the model that they are for, or merge them first": tried(
        (adapted, adapters(of="tuned")), adapters(), (MERGED, adapters(of="merged", check_fingerprint=False))
    ),
    "merge them into theirs: ms-codegeex adapter merge --model MODEL --adapter {} --output DIR": tried(
        (adapted, at_path(open_source, "adapter")),
        (
            followed("merge them into theirs: ms-codegeex (.*)", MODEL="{at}/base", DIR="{at}/merged"),
            at_path(open_source, "merged"),
        ),
    ),
    "give a run with adapters, or a directory in PEFT's layout": tried(
        (adapted, at_path(adapters_path, "nothing")), at_path(adapters_path, "tuned"), at_path(adapters_path, "adapter")
    ),
    "give a run that trained some (lora.rank), or a folder with adapter_config.json": tried(
        lambda at: adapters_path(Path("small-hf")),
        (adapted, at_path(adapters_path, "tuned")),
        at_path(adapters_path, "adapter"),
    ),
    "give a run that trained some (lora.rank)": tried(
        lambda at: write_peft(open_source(Path("small-codegen")), at / "out"),
        (adapted, lambda at: write_peft(open_source(at / "tuned"), at / "out")),
    ),
    MERGE: (
        peft(tensors(lambda a: a.clear() or a.update(x=np.ones(2, "f")), "adapter_model.safetensors"), BASE),
        peft(setting("adapter_config.json", use_dora=True), BASE),
        peft(setting("adapter_config.json", init_lora_weights="pissa"), BASE),
    ),
    f"{MERGE}, if it can": peft(setting("adapter_config.json", peft_type="IA3"), BASE),
    "copy both files of the adapters again": peft(
        tensors(lambda a: [a.pop(name) for name in [*a][:2]], "adapter_model.safetensors")
    ),
    "give the adapters' own file": peft(setting("adapter_config.json", rank_pattern={f"m{n}": 2 for n in range(99)})),
    "give adapters that PEFT wrote": peft(lambda p: (p / "adapter_config.json").write_text("[]")),
    "set stage3_gather_16bit_weights_on_model_save in DeepSpeed's settings (FSDP: full_state_dict), save again": peft(
        tensors(lambda a: a.update({first(a): np.ones((0, 2), "f")}), "adapter_model.safetensors")
    ),
    "give their model": peft(tensors(lambda a: a.pop(first(a, "lora_B")), "adapter_model.safetensors")),
    "give both files of the same adapters": peft(setting("adapter_config.json", r=3)),
    "write the names of the modules instead": peft(
        setting("adapter_config.json", rank_pattern={"(?<=x)y": 2}),
        setting("adapter_config.json", rank_pattern={"fc_in": 2}),
    ),
    "give a checkpoint of all parameters (mindformers' save_trainable_params writes adapters alone)": changed(
        partial(of_mindpet, alone=True), mend=of_mindpet, call=with_alpha
    ),
    "look for lora_alpha in the run's YAML file: {}": tried(
        (at_path(of_mindpet, "model"), at_path(of_gen, "model")),
        Said("(--set lora_alpha=N)", lambda at, option: with_alpha(at / "model")),
    ),
    "give its run, {}": tried(
        (at_path(checkpoint, "run"), {"run/config.yaml": ""}, at_path(edits.directories, f"run/{STEP}")),
        Said(r"give its run, (\S+)$", lambda at, path: edits.directories(Path(path))),
    ),
    "give the directory of a model, an adapter or a run, from which other files are made again": tried(
        at_path(edits.directories, "x"), lambda at: edits.directories(Path("model"))
    ),
    "expected KEY=VALUE, such as --set licence=apache-2.0": sets("licence", "licence=apache-2.0"),
    "leave it out": (
        sets("step=4", ""),
        each(partial(opened, Path("small-hf")), {"known": {"lora_alpha": 4}}, {"known": {}}),
    ),
    "did you mean '{}'?": tried(
        lambda at: edits.assignments(["licences=mit"]),
        Said(".*;.*'(.*)'", lambda at, key: edits.assignments([f"{key}=mit"])),
    ),
    "known here: {}": sets("qqqq=1", "licence=mit"),
    FILES_OF_STATE: tried(
        (there, copy("there/config.json", "kept"), at_path(RELU, "there"), at_path(provenance.check, "there")),
        (copy("kept", "there/config.json"), AGAIN),
        (at_path(to_hf, "again"), at_path(provenance.check, "again")),
    ),
    "restore it, or record a chat template with `ms-codegeex inspect {} --set chat=@FILE`": tried(
        (
            {"chat.jinja": TEMPLATE},
            lambda at: convert(Path("model"), "hf", at / "made", progress=False),
            copy("made/tokenizer_config.json", "kept"),
            at_path(CHAT, "made"),
            at_path(provenance.check, "made"),
        ),
        (copy("kept", "made/tokenizer_config.json"), AGAIN),
        (at_path(CHAT, "made"), followed(FILE="{at}/chat.jinja"), AGAIN),
    ),
    "restore it, or delete it if the model needs none": changed(
        to_hf,
        lambda p: (p / "provenance.json").write_text("{}"),
        without("provenance.json"),
        provenance.check,
    ),
    "write it there{}": changed(
        gen_directory, setting("config.json", n_head=...), setting("config.json", n_head=GEN["num_heads"]), by_itself
    ),
    "give a value like {}": changed(
        directory, setting("config.json", layer_norm_eps="x"), setting("config.json", layer_norm_eps=1e-5)
    ),
    "set it to {}": tried(
        lambda at: small_models.formats("codegen").from_json({"model_type": "x"}),
        lambda at: small_models.formats("codegen").from_json(read_json(Path("small-codegen-hf/config.json"))),
    ),
    "give the model before it was quantised": changed(
        directory,
        tensors(lambda a: a.update({first(a, "weight").replace(".weight", ".qweight"): np.ones((2, 2), np.int32)})),
    ),
    "leave only one there": tuple(
        changed(make, copy(old, new), without(new), call)
        for make, old, new, call in (
            (parts, "rank_0/net-1_2.ckpt", "rank_0/net-3_4.ckpt", joined),
            (parts, "rank_0/net-1_2.ckpt", "rank_0/other-1_2.ckpt", joined),
            (partial(megatron, ranks=2), "mp_rank_01_model_states.pt", "mp_rank_1_b.pt", opened),
        )
    ),
    "copy all files of the ranks": (
        changed(partial(megatron, ranks=2), without("mp_rank_00_model_states.pt")),
        described(lambda c: c["storage_data"].update({str((UP, (0, 0))): [{"file_name": "../x"}]})),
    ),
    "copy all the files of one model again, each under its own name, and give their folder": changed(
        partial(megatron, ranks=2), copy("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt")
    ),
    "copy it too, or give {} if each rank has the whole model": of_rank_parts,
    "give one checkpoint's files": described(lambda c: c["state_dict_metadata"].pop(UP)),
    "give the files of one checkpoint": described(
        lambda c: c["state_dict_metadata"][UP]["chunk"][1]["local_shape"].append(1)
    ),
    "save it with fewer ranks": described(
        lambda c: c["state_dict_metadata"][UP].update(chunk=c["state_dict_metadata"][UP]["chunk"] * 3000)
    ),
    "give one that is, such as {}": tried(
        (
            *(folder(name) for name in "ab"),
            *(at_path(megatron, f"{name}/model.pt") for name in "ab"),
            {"latest": "c"},
            opened,
        ),
        (Said(r"such as (\S+)$", lambda at, path: put(at, {"latest": Path(path).name})), AGAIN),
    ),
    "give another folder": tried(
        ({"run/latest": "c"}, at_path(opened, "run")), (at_path(megatron, "other.pt"), at_path(opened, "other.pt"))
    ),
    "leave it out, or name one of a run with --model": tried(
        *(
            lambda at, name=name, which=which: opened(chosen_place(Path(name), which))
            for name, which in (("small-hf", "last"), ("small-hf", None), ("small", "last"))
        )
    ),
    "expected last, best or the number of a step": each(partial(chosen_place, Path("small")), "newest", "last", "4"),
    "name a file, as {}": tried(
        (
            *(
                lambda at, kind=kind: safetensors(at / f"model.{kind}.safetensors", weights())
                for kind in ("fp16", "bf16")
            ),
            opened,
        ),
        Said(r"name a file, as (\S+)$", lambda at, path: opened(Path(path))),
    ),
    "copy all, with the index": changed(
        shards,
        lambda p: [(p / n).unlink() for n in ("model.safetensors.index.json", "model-00002-of-00002.safetensors")],
    ),
    "restore the index": (
        changed(shards, lambda p: (p / "model.safetensors.index.json").write_text("{}")),
        changed(
            shards,
            lambda p: (
                without("model.safetensors.index.json")(p),
                shutil.copy(p / "model-00001-of-00002.safetensors", p / "x"),
                tensors(
                    lambda a: a.update({sorted(weights())[0]: weights()[sorted(weights())[0]]}),
                    "model-00002-of-00002.safetensors",
                )(p),
            ),
        ),
    ),
    "expected config.json and model.safetensors (or model.safetensors.index.json) in it": changed(
        directory, without("config.json"), None, ModelDirectory
    ),
    "write it there": tuple(
        changed(directory, setting("config.json", model_type=...), setting("config.json", model_type="codegeex"), call)
        for call in (opened, describe_model)
    ),
    "give a model of one of these": changed(directory, setting("config.json", model_type="foo")),
    "give a model that has it": changed(
        gen_directory, setting("config.json", activation_function="relu"), None, of_gen
    ),
    "rename or remove the key": changed(
        gen_directory,
        setting("config.json", n_layers=GEN["num_layers"], n_layer=...),
        setting("config.json", n_layers=..., n_layer=GEN["num_layers"]),
        by_itself,
    ),
    "choose --to hf": of_each(lambda at, to: convert(Path("small"), to, at / "out", progress=False), "gptj", "hf"),
    "choose one of {}": (choices(check_bits, 3, int), choices(partial(check_bits, 4), 3, int)),
    "expected one of {}": choices(lambda kind: cast("w", ones(), kind).array(), "float8"),
    "give all the files of one model": (
        changed(directory, tensors(lambda a: a.pop(first(a)))),
        changed(directory, tensors(lambda a: a.update({first(a): a[first(a)][:1]}))),
    ),
    "restore either": changed(gen_directory, setting("config.json", n_layer=10**6), None, by_itself),
    "choose one with --dtype": tried(
        (at_path(mixed, "run"), lambda at: convert(at / "run", "hf", at / "out", progress=False)),
        lambda at: convert(at / "run", "hf", at / "out", progress=False, dtype="fp32"),
    ),
    "convert with --dtype fp32": each(lambda kind: cast("w", ones(times=1e30), kind).array(), "float16", "float32"),
    "choose another number of devices, or 8 bits": of_four_bits,
    "copy it again, or save it again with mindspore.save_checkpoint without a key": changed(
        mindspore, lambda p: ckpt(p).write_bytes(ckpt(p).read_bytes()[:200])
    ),
    "copy it again, or save it with PyTorch 1.6 or newer": changed(
        torch_file, lambda p: p.write_bytes(p.read_bytes()[:-9]), None, read_torch
    ),
    "save it with torch.save": (
        changed(torch_file, lambda p: rewritten(p, lambda n, c: None if "data.pkl" in n else c), None, read_torch),
        changed(torch_file, lambda p: rewritten(p, lambda n, c: c, compression=zipfile.ZIP_DEFLATED), None, read_torch),
    ),
    "save it on another one": changed(
        torch_file, lambda p: rewritten(p, lambda n, c: b"big" if "byteorder" in n else c), None, read_torch
    ),
    "save the state dict alone": changed(
        directory,
        lambda p: (without("model.safetensors")(p), torch_file(p / "pytorch_model.bin", {"a": {"b": {"c": "text"}}})),
    ),
    "save the model's state dict": torch_tree([1]),
    "if that was meant, save it without the metadata keys that begin with '{}'": of_checksums,
    "expected a MindSpore checkpoint": changed(
        mindspore, lambda p: ckpt(p).write_bytes(b""), None, lambda p: read_mindspore(ckpt(p))
    ),
    "expected a strategy file of a partitioned run": strategy(setting("strategy.json", parallel_layout_item={})),
    "give a folder with rank_0/*.ckpt, rank_1/*.ckpt ... or model0-50.ckpt, model1-50.ckpt ...": strategy(
        lambda p: [shutil.rmtree(p / f"rank_{rank}") for rank in (0, 1)]
    ),
    "give the checkpoint of rank {} too": strategy(lambda p: shutil.rmtree(p / "rank_1")),
    "expected one for each part of the model": tried(
        lambda at: merge_slices({}, {}), (at_path(parts, "p"), at_path(joined, "p"))
    ),
    "give the strategy file of this run": strategy(
        lambda p: [part(rank, w=np.ones((2, 2, 2), np.float32) * rank)(p) for rank in (0, 1)]
    ),
    "give the files of one run": strategy(layout(tensor_shape=[9, 9])),
    "copy the files of all ranks again": strategy(copy("rank_0/net-1_2.ckpt", "rank_1/net-1_2.ckpt")),
    "give the files of one {}": strategy(part(1, w=np.ones((4, 4), np.float16))),
    "give all the files of one run": strategy(part(1, v=np.ones((4, 4), np.float32))),
    "give the strategy file of this run, saved with all parameters": strategy(
        part(0, w=np.ones((4, 4), np.float32), v=np.ones((4, 4), np.float32))
    ),
    "give the strategy files of one run": strategy(
        lambda p: (copy("strategy.json", "strategy_1.json")(p), layout(dev_matrix=[4])(p)),
        copy("strategy_1.json", "strategy.json"),
    ),
    "give one run's": tried(
        (
            at_path(of_mindpet, "model"),
            {"model/adapter_config.json": {"lora_alpha": 4, "r": 8}},
            at_path(of_gen, "model/model.ckpt"),
        ),
        ({"model/adapter_config.json": {"lora_alpha": 4, "r": 2}}, AGAIN),
    ),
    "now fused layers share one, as in PEFT, so merge these adapters into their model with `ms-codegeex adapter merge` "
    "and train new ones on that": tried(
        (at_path(gen_directory, "base"), lambda at: continued(at, "old", "base", untied=True)),
        (
            followed(more="--model {at}/base --adapter {at}/old --output {at}/merged"),
            lambda at: continued(at, "new", "merged"),
        ),
    ),
    "add {}": now("convert --model small.ckpt --to hf --output {at}/o", 1, {"N": "4"}),
    "{} of sources": now("quantize --model small.ckpt --bits 8 --output {at}/o", 1, CONVERTED),
    "{} of convert": (
        now("convert --model small --to hf --output {at}/o --tensor-parallel 2"),
        now("convert --model small --to mindspore --layout mindformers --output {at}/o --tensor-parallel 2"),
    ),
    "{} of family": of_each(lambda at, ranks: megatron(at / "out", ranks), 3, 2),
    "expected a run directory, a checkpoint directory, a model directory (config.json and *.safetensors or "
    "pytorch_model*.bin), a Megatron .pt file or mp_rank_XX files, a MindSpore .ckpt file or rank files, or a folder "
    "of .npy": tried(opened, lambda at: opened(Path("small"))),
    "save it again with a single stage": torch_tree({"model0": {}, "model1": {}}),
    "convert the model again": torch_tree({"module": {}, RECORD: "{"}),
    "{} of files": (
        tried(
            (packed, at_path(opened, "model.tar")),
            (
                Said(r"\((tar [^)]*)\)", lambda at, line: subprocess.run(line.split(), check=True, cwd=at / "there")),
                at_path(opened, "there/inside"),
            ),
        ),
        tried(
            ("convert --model model --to gguf --output {at}/gguf", at_path(opened, "gguf")),
            (followed("first: ms-codegeex (.*)$", DIR="{at}/made"), at_path(by_itself, "made")),
        ),
    ),
    "give the stages of one model": changed(
        lambda p: (p.mkdir(), [torch_file(p / f"mp_rank_00_00{stage}.pt") for stage in (0, 1)]),
        mend=lambda p: (shutil.rmtree(p), megatron(p)),
    ),
    "save it as float32": changed(
        arrays_folder, lambda p: np.save(p / "final_norm.bias.npy", np.ones(8, np.uint16)), arrays_folder
    ),
    "expected once, save the file again": changed(
        lambda p: write_mindspore(p, {name: ones() for name in "ab"}),
        lambda p: p.write_bytes(2 * p.read_bytes()[:-TRAILER_BYTES]),
        None,
        read_mindspore,
    ),
    "drop it": of_each(lambda at, size: write_mindspore(at / "a.ckpt", {"w": ones(size)}), 0, 2),
    "{} of model_directory": changed(shards, lambda p: (p / "model-00001-of-00002.safetensors").write_bytes(b"")),
    "give the model that the adapters were trained on": tried(
        (adapted, at_path(widened, "wide"), adapters(of="wide", check_fingerprint=False)), adapters()
    ),
    "save the adapters alone": peft(
        tensors(
            lambda a: a.update({n.replace("base_model.model.", "base_model.model.module."): a[n] for n in [*a][:2]}),
            "adapter_model.safetensors",
        )
    ),
    "give the checkpoint of one run": changed(
        lambda p: of_mindpet(
            p, **{f"blocks.1.attention.key.mindpet_delta_lora_{k}": np.ones((3, 3), "f") for k in "ab"}
        ),
        mend=of_mindpet,
        call=with_alpha,
    ),
    "give a model of {}": torch_tree({"w": ones()}),
    "give the model that it was made from": tried(({"quantised.json": "{}"}, opened), lambda at: opened(Path("small"))),
    "leave the option out": now("convert --model small --to hf --output {at}/o --keep-code"),
    "{} tensors {}": changed(mindspore, lambda p: write_mindspore(ckpt(p), {f"Parameter#{n}": ones() for n in (1, 2)})),
    "save the weights of one model": changed(
        directory, tensors(lambda a: a.update({f"module.{first(a)}": a[first(a)]}))
    ),
    "{} of tensors": tried(
        (at_path(with_a_nan, "run"), lambda at: convert(at / "run", "hf", at / "out", progress=False)),
        (
            Said("(--allow-non-finite)", "convert --model {at}/run --to hf --tokenizer codegeex --output {at}/out {0}"),
            at_path(by_itself, "out"),
        ),
    ),
    "refused, because {}": changed(
        torch_file, lambda p: rewritten(p, lambda n, c: b"cos\nsystem\n." if "data.pkl" in n else c), None, read_torch
    ),
    "choose another --output": tuple(map(target, ("source", "source/inside", "loop", "x" * 300, "link"))),
    "choose another --output or add --replace": tried(
        (there, there), at_path(to_hf, "another"), lambda at: there(at, replace=True)
    ),
    "move that elsewhere or choose another --output": tried(
        (there, {"there/notes": "mine"}, lambda at: there(at, replace=True)),
        (renamed("there/notes", "notes"), AGAIN),
        at_path(to_hf, "another"),
    ),
}
FORMATS_UNTRIED = {
    "see its log": "needs a rank that fails",
    "see the ranks' logs": "needs ranks that fail",
    "the disk may be failing, convert again to another place": "needs a disk that fails",
    "a newer version may have written it: use that one": "of a file that a later version wrote",
    "remove it": "of a parameter that only a training with sparse tables has",
    "convert it to one of {}": "of a type that no tool of this machine writes",
    "join the parts with DeepSpeed's script beside them: python zero_to_fp32.py . joined": "needs DeepSpeed",
    "copy the strategy file again": "of a file that MindSpore does not write",
    "try again": "needs a run that deletes checkpoints meanwhile",
}
