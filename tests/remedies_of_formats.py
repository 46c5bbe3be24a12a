"""Situations in which an error of `formats/` says what to do, and what a user then does."""

from __future__ import annotations

import re
import shlex
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import small_models
from remedies_of_data import Call, Situation, instead, run
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
    spoil: Callable[[Path], object],
    mend: Callable[[Path], object] | None = None,
    call: Callable[[Path], object] = opened,
) -> Situation:
    """What `make` writes to a path and `spoil` changes; `mend`: what the user does, None: the same files again."""

    def situation(at: Path) -> Iterator[Call]:
        path = at / "model"
        make(path)
        spoil(path)
        yield partial(call, path)
        if mend is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            make(path)
        else:
            mend(path)

    return situation


# --- models ---


def directory(path: Path, name: str = "small-hf") -> None:
    shutil.copytree(name, path)


def megatron(path: Path, ranks: int = 1) -> None:
    convert(Path("small"), "megatron", path, tensor_parallel=ranks, progress=False)


def mindspore(path: Path, ranks: int = 1) -> None:
    convert(Path("small"), "mindspore", path, tensor_parallel=ranks, progress=False)


def ckpt(path: Path) -> Path:
    return next(path.rglob("*.ckpt"))


def two_tensors(path: Path) -> None:
    write_mindspore(path, {name: from_array(np.ones(2, np.float32)) for name in "ab"})


def flipped(path: Path) -> None:
    """Other bytes in a file."""
    content = path.read_bytes()
    middle = len(content) // 5
    path.write_bytes(content[:middle] + bytes(4) + content[middle + 4 :])


def checkpoint(path: Path) -> None:
    shutil.copytree("small", path)


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


def manifest(path: Path, **values: Any) -> None:
    from ms_codegeex.formats.checkpoint import manifest_digest

    file = path / STEP / "manifest.json"
    content = read_json(file) | values
    write_json(file, content | {"sha256": manifest_digest(content)})


def of_renamed_step(at: Path) -> Iterator[Call]:
    checkpoint(at / "run")
    moved = (at / "run" / STEP).rename(at / "run/checkpoints/step-00000009")
    said = yield lambda: Checkpoint(moved)
    new = moved.rename(moved.with_name(re.search(r"name it (\S+) again", said)[1]))
    yield lambda: Checkpoint(new)


def of_no_step(at: Path) -> Iterator[Call]:
    checkpoint(at / "run")
    said = yield lambda: resolve(at / "run", "9")
    yield lambda: resolve(at / "run", re.search(r"give one of (\d+)", said)[1])


def of_a_link_outside(at: Path) -> Iterator[Call]:
    checkpoint(at / "run")
    (at / "other/checkpoints").mkdir(parents=True)
    (at / "other" / STEP).symlink_to(at / "run" / STEP)
    said = yield lambda: resolve(at / "other")
    yield lambda: resolve(Path(re.search(r"leads to (\S+), outside", said)[1]))


def of_full_disk(at: Path) -> Iterator[Call]:
    tensors_ = {"w": Slice((2,), (0,), np.ones(2, np.float32))}
    (at / "checkpoints").write_text("in the way")
    yield lambda: write_checkpoint(at / "checkpoints", 1, tensors_, {})
    yield lambda: write_checkpoint(at / "other/checkpoints", 1, tensors_, {})


def of_no_place(at: Path) -> Iterator[Call]:
    tensors_ = {"w": Slice((2,), (0,), np.ones(2, np.float32))}
    (at / "file").write_text("")
    yield lambda: write_ranks(at / "file/step-00000001", 1, {}, [tensors_])
    yield lambda: write_ranks(at / "step-00000001", 1, {}, [tensors_])


def adapted(at: Path, name: str = "codegen", **options: Any) -> tuple[Path, Path]:
    """A model directory and adapters in PEFT's layout for it."""
    shutil.copytree("small-codegen-hf", at / "base")
    save_adapters(at / "tuned", name, at / "base", **options)
    write_peft(open_source(at / "tuned", say=lambda line: None), at / "adapter")
    return at / "base", at / "adapter"


def peft(spoil: Callable[[Path], object], mend: Callable[[Path, Path], object] | None = None) -> Situation:
    """Adapters that are changed. `mend(adapter, base)`; None: the same files again."""

    def situation(at: Path) -> Iterator[Call]:
        base, adapter = adapted(at)
        shutil.copytree(adapter, at / "whole")
        spoil(adapter)
        yield lambda: open_adapters(adapter, open_source(base))
        if mend is not None:
            yield lambda: mend(adapter, base)
        else:
            shutil.rmtree(adapter)
            shutil.copytree(at / "whole", adapter)

    return situation


def merged_by_peft(adapter: Path, base: Path) -> None:
    """What merge_and_unload makes is a model directory, which is read."""
    opened(base, {})


def of_adapters_of_another_model(at: Path) -> Iterator[Call]:
    adapted(at)
    other = at / "other"
    save_run(other, "codegen", small_models.parameters("codegen", seed=9))
    said = yield lambda: open_adapters(at / "tuned", open_source(other))
    yield lambda: open_adapters(at / "tuned", open_source(Path(re.search(r"which was at (\S+)$", said)[1])))


def of_adapters_of_another_size(at: Path) -> Iterator[Call]:
    base, _ = adapted(at)
    yield lambda: open_adapters(at / "tuned", open_source(Path("small")))
    yield lambda: open_adapters(at / "tuned", open_source(base))


def of_a_moved_base(at: Path) -> Iterator[Call]:
    base, _ = adapted(at)
    base.rename(at / "moved")
    said = yield lambda: open_source(at / "tuned")
    merge = re.search(r"it is now: (ms-codegeex adapter merge .*?); ", said)[1]
    words = shlex.split(merge.replace("MODEL", str(at / "moved")).replace("DIR", str(at / "merged")))
    run(shlex.join(words[1:]))
    yield lambda: open_source(at / "merged")
    yield lambda: open_adapters(at / "tuned", open_source(at / "moved"))


def of_another_base(at: Path) -> Iterator[Call]:
    base, _ = adapted(at)
    before = shutil.copytree(base, at / "before")
    shutil.rmtree(base)
    save_run(base, "codegen", small_models.parameters("codegen", seed=9))
    yield lambda: open_source(at / "tuned")
    shutil.rmtree(base)
    before.rename(base)


def of_base_with_adapters(at: Path) -> Iterator[Call]:
    base, adapter = adapted(at)
    yield lambda: open_adapters(adapter, open_source(at / "tuned"))
    yield lambda: open_adapters(adapter, open_source(base))
    run(f"adapter merge --model {base} --adapter {at / 'tuned'} --output {at / 'merged'}")
    yield lambda: open_adapters(adapter, open_source(at / "merged"), check_fingerprint=False)


def of_adapters_as_model(at: Path) -> Iterator[Call]:
    base, adapter = adapted(at)
    said = yield lambda: open_source(adapter)
    merge = said.partition("merge them into theirs: ")[2]
    run(merge.replace("MODEL", str(base)).replace("DIR", str(at / "merged")).removeprefix("ms-codegeex "))
    yield lambda: open_source(at / "merged")


def of_missing_adapters(at: Path) -> Iterator[Call]:
    _, adapter = adapted(at)
    yield lambda: adapters_path(at / "nothing")
    yield lambda: adapters_path(at / "tuned")
    yield lambda: adapters_path(adapter)


# --- targets and numbers ---


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


def of_foreign_output(at: Path) -> Iterator[Call]:
    convert(Path("small"), "hf", at / "there", progress=False)
    (at / "there/notes").write_text("mine")
    yield lambda: convert(Path("small"), "hf", at / "there", progress=False, replace=True)
    (at / "there/notes").rename(at / "notes")
    yield lambda: convert(Path("small"), "hf", at / "there", progress=False, replace=True)
    yield lambda: convert(Path("small"), "hf", at / "another", progress=False)


def of_output_there(at: Path) -> Iterator[Call]:
    convert(Path("small"), "hf", at / "there", progress=False)
    yield lambda: convert(Path("small"), "hf", at / "there", progress=False)
    yield lambda: convert(Path("small"), "hf", at / "another", progress=False)
    yield lambda: convert(Path("small"), "hf", at / "there", progress=False, replace=True)


def of_choices(wrong: Callable[[], object], right: Callable[[str], object]) -> Situation:
    """A value that is not known; each of those that the message lists."""

    def situation(at: Path) -> Iterator[Call]:
        said = yield wrong
        for each in re.search(r"(?:one of|expected one of) ([^;]*)$", said)[1].split(", "):
            yield partial(right, each)

    return situation


def of_mixed_types(at: Path) -> Iterator[Call]:
    arrays = small_models.parameters("codegen")
    name = next(name for name in arrays if "attention.key.weight" in name)
    arrays[name] = arrays[name].astype(np.float16)
    save_run(at / "run", "codegen", arrays)
    yield lambda: convert(at / "run", "hf", at / "out", progress=False)
    yield lambda: convert(at / "run", "hf", at / "out", progress=False, dtype="fp32")


def of_large_numbers(at: Path) -> Iterator[Call]:
    tensor = from_array(np.full(2, 1e30, np.float32))
    yield lambda: cast("w", tensor, "float16").array()
    yield lambda: cast("w", tensor, "float32").array()


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


def mindformers(path: Path) -> None:
    """A checkpoint of two ranks in mindformers' newer layout."""
    described = small_models.two_ranks(path / "iteration_00000002", small_models.parameters("codegen"))
    write_json(path / "iteration_00000002/metadata.json", described)


def of_gen(path: Path) -> object:
    return opened(path, GEN)


MERGE = "merge the adapters with PEFT (merge_and_unload) and give that model"
FILES_OF_STATE = "restore the files, or make the model again from what it was made from"


def of_undescribed_change(at: Path) -> Iterator[Call]:
    convert(Path("small"), "hf", at / "made", progress=False)
    kept = (at / "made/config.json").read_bytes()
    setting("config.json", hidden_act="relu")(at / "made")
    yield lambda: provenance.check(at / "made")
    (at / "made/config.json").write_bytes(kept)
    yield lambda: provenance.check(at / "made")
    setting("config.json", hidden_act="relu")(at / "made")
    convert(Path("small"), "hf", at / "again", progress=False)
    yield lambda: provenance.check(at / "again")


def of_edited_tokenizer(at: Path) -> Iterator[Call]:
    convert(Path("model"), "hf", at / "made", progress=False)
    kept = (at / "made/tokenizer_config.json").read_bytes()
    (at / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    edit = setting("tokenizer_config.json", chat_template=(at / "chat.jinja").read_text())
    edit(at / "made")
    said = yield lambda: provenance.check(at / "made")
    command = re.search(r"`ms-codegeex (.*?)`", said)[1].replace("@FILE", f"@{at / 'chat.jinja'}")
    (at / "made/tokenizer_config.json").write_bytes(kept)
    yield lambda: provenance.check(at / "made")
    edit(at / "made")
    run(command)
    yield lambda: provenance.check(at / "made")


def of_set(word: str, *right: str) -> Situation:
    return instead(
        lambda at: edits.assignments([word]), *(lambda at, r=r: edits.assignments([r] if r else []) for r in right)
    )


def of_misspelt_setting(at: Path) -> Iterator[Call]:
    said = yield lambda: edits.assignments(["licences=mit"])
    yield lambda: edits.assignments([f"{re.search(chr(39) + '(.*)' + chr(39), said.rpartition(';')[2])[1]}=mit"])


def of_a_checkpoints_facts(at: Path) -> Iterator[Call]:
    checkpoint(at / "run")
    (at / "run/config.yaml").write_text("")
    said = yield lambda: edits.directories(at / "run" / STEP)
    yield lambda: edits.directories(Path(re.search(r"give its run, (\S+)$", said)[1]))


def of_two_variants(at: Path) -> Iterator[Call]:
    for kind in ("fp16", "bf16"):
        safetensors(at / f"model.{kind}.safetensors", weights())
    said = yield lambda: opened(at)
    yield lambda: opened(Path(re.search(r"name a file, as (\S+)$", said)[1]))


def shards(path: Path) -> None:
    directory(path)
    arrays = weights()
    (path / "model.safetensors").unlink()
    names = sorted(arrays)
    for number, part_ in enumerate((names[:9], names[9:]), 1):
        safetensors(path / f"model-0000{number}-of-00002.safetensors", {name: arrays[name] for name in part_})
    table = {name: f"model-0000{1 if name in names[:9] else 2}-of-00002.safetensors" for name in names}
    write_json(path / "model.safetensors.index.json", {"metadata": {}, "weight_map": table})


def of_pointer(at: Path) -> Iterator[Call]:
    for name in ("a", "b"):
        (at / name).mkdir()
        megatron(at / name / "model.pt")
    (at / "latest").write_text("c")
    said = yield lambda: opened(at)
    (at / "latest").write_text(Path(re.search(r"such as (\S+)$", said)[1]).name)


def of_pointer_to_nothing(at: Path) -> Iterator[Call]:
    (at / "run").mkdir()
    (at / "run/latest").write_text("c")
    megatron(at / "other.pt")
    yield lambda: opened(at / "run")
    yield lambda: opened(at / "other.pt")


def of_no_such_checkpoint(at: Path) -> Iterator[Call]:
    checkpoint(at / "run")
    directory(at / "model")
    yield lambda: opened(chosen_place(at / "model", "last"))
    yield lambda: opened(chosen_place(at / "model", None))
    yield lambda: opened(chosen_place(at / "run", "last"))


def of_unknown_step(at: Path) -> Iterator[Call]:
    checkpoint(at / "run")
    yield lambda: chosen_place(at / "run", "newest")
    for which in ("last", "4"):
        yield lambda which=which: chosen_place(at / "run", which)


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


def torch_tree_of_model(tree: object) -> Situation:
    """A `.pt` file of something else than a model, and a model."""

    def mend(path: Path) -> None:
        path.unlink()
        megatron(path)

    return changed(lambda path: torch_file(path, tree), lambda path: None, mend)


def arrays_folder(path: Path) -> None:
    """A folder of arrays, as CodeGeeX's export makes it."""
    path.mkdir(exist_ok=True)
    for name, array in small_models.parameters("codegeex").items():
        np.save(path / f"{name}.npy", array)


def of_a_larger_model(at: Path) -> Iterator[Call]:
    base, adapter = adapted(at)
    wide = shutil.copytree("small-codegen-hf", at / "wide")
    tensors(lambda arrays: arrays.update({n: np.repeat(a, 2, 0) for n, a in arrays.items() if "fc_in" in n}))(wide)
    tensors(lambda arrays: arrays.update({n: np.repeat(a, 2, 1) for n, a in arrays.items() if "fc_out.w" in n}))(wide)
    setting("config.json", n_inner=2 * weights("small-codegen-hf")["transformer.h.0.mlp.fc_in.bias"].size)(wide)
    yield lambda: open_adapters(adapter, open_source(wide), check_fingerprint=False)
    yield lambda: open_adapters(adapter, open_source(base))


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


def of_alpha(at: Path) -> Iterator[Call]:
    of_mindpet(at / "model")
    said = yield lambda: opened(at / "model", GEN)
    number = re.search(r"--set lora_alpha=N", said) and 4
    yield lambda: opened(at / "model", GEN | {"lora_alpha": number})


def of_two_ranks_of_alpha(at: Path) -> Iterator[Call]:
    of_mindpet(at / "model")
    write_json(at / "model/adapter_config.json", {"lora_alpha": 4, "r": 8})
    yield lambda: opened(at / "model/model.ckpt", GEN)
    write_json(at / "model/adapter_config.json", {"lora_alpha": 4, "r": 2})


def of_untied_adapters(at: Path) -> Iterator[Call]:
    shutil.copytree("small-codegen-hf", at / "base")

    def continued(run_: str, base: str, untied: bool = False) -> None:
        save_adapters(at / run_, "codegen", at / base, untied=untied)
        adapters = checkpoint_adapters(resolve(at / run_))
        as_trained(adapters, small_models.config("codegen").table, run_)

    said = yield lambda: continued("old", "base", untied=True)
    verb = re.search(r"`ms-codegeex (.*?)`", said)[1]
    run(f"{verb} --model {at / 'base'} --adapter {at / 'old'} --output {at / 'merged'}")
    yield lambda: continued("new", "merged")


def of_infinite(at: Path) -> Iterator[Call]:
    arrays = small_models.parameters("codegeex")
    arrays["embedding.word.weight"][0, 0] = np.nan
    save_run(at / "run", "codegeex", arrays)
    words = f"convert --model {at / 'run'} --to hf --tokenizer codegeex --output {at / 'out'}"
    said = yield lambda: convert(at / "run", "hf", at / "out", progress=False)
    run(f"{words} {re.search(r'--allow-non-finite', said)[0]}")
    yield lambda: opened(at / "out", {})


def of_archive(at: Path) -> Iterator[Call]:
    import subprocess

    directory(at / "inside")
    subprocess.run(["tar", "-cf", at / "model.tar", "-C", at, "inside"], check=True)
    said = yield lambda: opened(at / "model.tar")
    command = re.search(r"\((tar [^)]*)\)", said)[1]
    (at / "there").mkdir()
    subprocess.run(shlex.split(command), check=True, cwd=at / "there")
    yield lambda: opened(at / "there/inside")


def of_gguf(at: Path) -> Iterator[Call]:
    run(f"convert --model model --to gguf --output {at / 'gguf'}")
    said = yield lambda: opened(at / "gguf")
    command = re.search(r"first: ms-codegeex (.*)$", said)[1].replace("DIR", str(at / "made"))
    run(command)
    yield lambda: opened(at / "made", {})


FORMATS: dict[str, Situation | tuple[Situation, ...] | str] = {
    # checkpoints
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
    "use a checkpoint of this model": instead(
        lambda at: resolve(Path("small")).shape("nothing"),
        lambda at: resolve(Path("small")).shape("embedding.word.weight"),
    ),
    "name it {} again": of_renamed_step,
    "expected a checkpoint or run directory": instead(lambda at: resolve(at), lambda at: resolve(Path("small"))),
    "give one of {}": of_no_step,
    "give that checkpoint itself": of_a_link_outside,
    "expected at least 1": instead(lambda at: prune(at, 0, 0), lambda at: prune(at, 1, 0)),
    "the previous checkpoint is unchanged, {}": of_full_disk,
    "{} of checkpoint_writing": of_no_place,
    "give a checkpoint directory or a run directory": instead(
        lambda at: checkpoints_in(at),
        lambda at: checkpoints_in(Path("small")),
        lambda at: checkpoints_in(Path("small") / STEP),
    ),
    "use another checkpoint": (
        changed(
            checkpoint,
            lambda p: manifest(p, config={}),
            checkpoint_again := (lambda p: (shutil.rmtree(p), checkpoint(p))),
            opened,
        ),
        changed(
            checkpoint,
            lambda p: manifest(p, config={"model": {"family": "codegeex"}, "lora": 4}),
            checkpoint_again,
            opened,
        ),
    ),
    # adapters
    "give adapters with another one": instead(lambda at: checked_scale(0, "a"), lambda at: checked_scale(2, "a")),
    "give theirs, which was at {}": of_adapters_of_another_model,
    "use the model it was trained on": of_adapters_of_another_size,
    "`generate` and `evaluate` also take --model MODEL --adapter RUN": of_a_moved_base,
    "put the first back": of_another_base,
    "give the model that they are for, or merge them first": of_base_with_adapters,
    "merge them into theirs: ms-codegeex adapter merge --model MODEL --adapter {} --output DIR": of_adapters_as_model,
    "give a run with adapters, or a directory in PEFT's layout": of_missing_adapters,
    "give a run that trained some (lora.rank), or a folder with adapter_config.json": instead(
        lambda at: adapters_path(Path("small-hf")),
        lambda at: (adapted(at), adapters_path(at / "tuned")),
        lambda at: adapters_path(at / "adapter"),
    ),
    "give a run that trained some (lora.rank)": instead(
        lambda at: write_peft(open_source(Path("small-codegen")), at / "out"),
        lambda at: (adapted(at), write_peft(open_source(at / "tuned"), at / "out")),
    ),
    MERGE: (
        peft(
            lambda p: tensors(lambda a: a.clear() or a.update(x=np.ones(2, "f")), "adapter_model.safetensors")(p),
            merged_by_peft,
        ),
        peft(setting("adapter_config.json", use_dora=True), merged_by_peft),
        peft(setting("adapter_config.json", init_lora_weights="pissa"), merged_by_peft),
    ),
    f"{MERGE}, if it can": peft(setting("adapter_config.json", peft_type="IA3"), merged_by_peft),
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
        lambda adapter, base: (
            setting("adapter_config.json", rank_pattern={"fc_in": 2})(adapter),
            open_adapters(adapter, open_source(base)),
        ),
    ),
    "give a checkpoint of all parameters (mindformers' save_trainable_params writes adapters alone)": changed(
        lambda p: of_mindpet(p, alone=True), lambda p: None, of_mindpet, lambda p: opened(p, GEN | {"lora_alpha": 4})
    ),
    "look for lora_alpha in the run's YAML file: {}": of_alpha,
    # edits
    "give its run, {}": of_a_checkpoints_facts,
    "give the directory of a model, an adapter or a run, from which other files are made again": instead(
        lambda at: edits.directories(at / "x"), lambda at: edits.directories(Path("model"))
    ),
    "expected KEY=VALUE, such as --set licence=apache-2.0": of_set("licence", "licence=apache-2.0"),
    "leave it out": (
        of_set("step=4", ""),
        instead(lambda at: opened(Path("small-hf"), {"lora_alpha": 4}), lambda at: opened(Path("small-hf"), {})),
    ),
    "did you mean '{}'?": of_misspelt_setting,
    "known here: {}": of_set("qqqq=1", "licence=mit"),
    FILES_OF_STATE: of_undescribed_change,
    "restore it, or record a chat template with `ms-codegeex inspect {} --set chat=@FILE`": of_edited_tokenizer,
    "restore it, or delete it if the model needs none": (
        changed(
            lambda p: convert(Path("small"), "hf", p, progress=False),
            lambda p: (p / "provenance.json").write_text("{}"),
            lambda p: (p / "provenance.json").unlink(),
            provenance.check,
        ),
    ),
    # configurations
    "write it there{}": changed(
        lambda p: directory(p, "small-codegen-hf"),
        setting("config.json", n_head=...),
        setting("config.json", n_head=GEN["num_heads"]),
        lambda p: opened(p, {}),
    ),
    "give a value like {}": changed(
        directory, setting("config.json", layer_norm_eps="x"), setting("config.json", layer_norm_eps=1e-5)
    ),
    "set it to {}": instead(
        lambda at: small_models.formats("codegen").from_json({"model_type": "x"}),
        lambda at: small_models.formats("codegen").from_json(read_json(Path("small-codegen-hf/config.json"))),
    ),
    "give the model before it was quantised": changed(
        directory,
        tensors(lambda a: a.update({first(a, "weight").replace(".weight", ".qweight"): np.ones((2, 2), np.int32)})),
    ),
    # files and folders
    "leave only one there": (
        changed(
            parts,
            lambda p: shutil.copy(p / "rank_0/net-1_2.ckpt", p / "rank_0/net-3_4.ckpt"),
            lambda p: (p / "rank_0/net-3_4.ckpt").unlink(),
            joined,
        ),
        changed(
            parts,
            lambda p: shutil.copy(p / "rank_0/net-1_2.ckpt", p / "rank_0/other-1_2.ckpt"),
            lambda p: (p / "rank_0/other-1_2.ckpt").unlink(),
            joined,
        ),
        changed(
            lambda p: megatron(p, 2),
            lambda p: shutil.copy(p / "mp_rank_01_model_states.pt", p / "mp_rank_1_b.pt"),
            lambda p: (p / "mp_rank_1_b.pt").unlink(),
        ),
    ),
    "copy all files of the ranks": (
        changed(lambda p: megatron(p, 2), without("mp_rank_00_model_states.pt")),
        described(lambda c: c["storage_data"].update({str((UP, (0, 0))): [{"file_name": "../x"}]})),
    ),
    "copy all the files of one model again, each under its own name, and give their folder": changed(
        lambda p: megatron(p, 2),
        lambda p: shutil.copy(p / "mp_rank_00_model_states.pt", p / "mp_rank_01_model_states.pt"),
    ),
    "copy it too, or give {} if each rank has the whole model": of_rank_parts,
    "give one checkpoint's files": described(lambda c: c["state_dict_metadata"].pop(UP)),
    "give the files of one checkpoint": (
        described(lambda c: c["state_dict_metadata"][UP]["chunk"][1]["local_shape"].append(1)),
    ),
    "save it with fewer ranks": described(
        lambda c: c["state_dict_metadata"][UP].update(chunk=c["state_dict_metadata"][UP]["chunk"] * 3000)
    ),
    "give one that is, such as {}": of_pointer,
    "give another folder": of_pointer_to_nothing,
    "leave it out, or name one of a run with --model": of_no_such_checkpoint,
    "expected last, best or the number of a step": of_unknown_step,
    "name a file, as {}": of_two_variants,
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
    "write it there": (
        changed(directory, setting("config.json", model_type=...), setting("config.json", model_type="codegeex")),
        changed(
            directory,
            setting("config.json", model_type=...),
            setting("config.json", model_type="codegeex"),
            describe_model,
        ),
    ),
    "give a model of one of these": changed(directory, setting("config.json", model_type="foo")),
    "give a model that has it": (
        changed(
            lambda p: directory(p, "small-codegen-hf"), setting("config.json", activation_function="relu"), None, of_gen
        ),
    ),
    "rename or remove the key": changed(
        lambda p: directory(p, "small-codegen-hf"),
        setting("config.json", n_layers=GEN["num_layers"], n_layer=...),
        setting("config.json", n_layers=..., n_layer=GEN["num_layers"]),
        lambda p: opened(p, {}),
    ),
    "choose --to hf": instead(
        lambda at: convert(Path("small"), "gptj", at / "out", progress=False),
        lambda at: convert(Path("small"), "hf", at / "out", progress=False),
    ),
    "choose one of {}": (
        of_choices(lambda: check_bits(3), lambda each: check_bits(int(each))),
        of_choices(lambda: check_bits(4, 3), lambda each: check_bits(4, int(each))),
    ),
    "expected one of {}": of_choices(
        lambda: cast("w", from_array(np.ones(2, np.float32)), "float8").array(),
        lambda each: cast("w", from_array(np.ones(2, np.float32)), each).array(),
    ),
    "give all the files of one model": (
        changed(directory, tensors(lambda a: a.pop(first(a)))),
        changed(directory, tensors(lambda a: a.update({first(a): a[first(a)][:1]}))),
    ),
    "restore either": changed(
        lambda p: directory(p, "small-codegen-hf"), setting("config.json", n_layer=10**6), None, lambda p: opened(p, {})
    ),
    "choose one with --dtype": of_mixed_types,
    "convert with --dtype fp32": of_large_numbers,
    "choose another number of devices, or 8 bits": of_four_bits,
    # files of other programs
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
    "save the model's state dict": changed(
        lambda p: torch_file(p, [1]), lambda p: None, lambda p: (p.unlink(), megatron(p))
    ),
    "if that was meant, save it without the metadata keys that begin with '{}'": of_checksums,
    "expected a MindSpore checkpoint": changed(
        mindspore, lambda p: ckpt(p).write_bytes(b""), None, lambda p: read_mindspore(ckpt(p))
    ),
    # strategies
    "expected a strategy file of a partitioned run": strategy(setting("strategy.json", parallel_layout_item={})),
    "give a folder with rank_0/*.ckpt, rank_1/*.ckpt ... or model0-50.ckpt, model1-50.ckpt ...": strategy(
        lambda p: [shutil.rmtree(p / f"rank_{rank}") for rank in (0, 1)]
    ),
    "give the checkpoint of rank {} too": strategy(lambda p: shutil.rmtree(p / "rank_1")),
    "expected one for each part of the model": instead(
        lambda at: merge_slices({}, {}), lambda at: (parts(at / "p"), joined(at / "p"))
    ),
    "give the strategy file of this run": strategy(
        lambda p: [part(rank, w=np.ones((2, 2, 2), np.float32) * rank)(p) for rank in (0, 1)]
    ),
    "give the files of one run": strategy(lambda p: layout(tensor_shape=[9, 9])(p)),
    "copy the files of all ranks again": strategy(
        lambda p: shutil.copy(p / "rank_0/net-1_2.ckpt", p / "rank_1/net-1_2.ckpt")
    ),
    "give the files of one {}": strategy(part(1, w=np.ones((4, 4), np.float16))),
    "give all the files of one run": strategy(part(1, v=np.ones((4, 4), np.float32))),
    "give the strategy file of this run, saved with all parameters": strategy(
        part(0, w=np.ones((4, 4), np.float32), v=np.ones((4, 4), np.float32))
    ),
    "give the strategy files of one run": strategy(
        lambda p: (shutil.copy(p / "strategy.json", p / "strategy_1.json"), layout(dev_matrix=[4])(p)),
        lambda p: shutil.copy(p / "strategy_1.json", p / "strategy.json"),
    ),
    "give one run's": of_two_ranks_of_alpha,
    "now fused layers share one, as in PEFT, so merge these adapters into their model with `ms-codegeex adapter merge` "
    "and train new ones on that": of_untied_adapters,
    "add {}": "sizes to convert",
    "{} of sources": "sizes in no file",
    "{} of convert": ("an option for ranks", "ranks for mindformers"),
    "{} of family": instead(lambda at: megatron(at / "out", 3), lambda at: megatron(at / "out", 2)),
    "expected a run directory, a checkpoint directory, a model directory (config.json and *.safetensors or "
    "pytorch_model*.bin), a Megatron .pt file or mp_rank_XX files, a MindSpore .ckpt file or rank files, or a folder "
    "of .npy": instead(lambda at: opened(at), lambda at: opened(Path("small"))),
    "save it again with a single stage": torch_tree_of_model({"model0": {}, "model1": {}}),
    "convert the model again": torch_tree_of_model({"module": {}, RECORD: "{"}),
    "{} of files": (of_archive, of_gguf),
    "give the stages of one model": changed(
        lambda p: (p.mkdir(), [torch_file(p / f"mp_rank_00_00{stage}.pt") for stage in (0, 1)]),
        lambda p: None,
        lambda p: (shutil.rmtree(p), megatron(p)),
    ),
    "save it as float32": changed(
        arrays_folder, lambda p: np.save(p / "final_norm.bias.npy", np.ones(8, np.uint16)), arrays_folder
    ),
    "expected once, save the file again": changed(
        two_tensors, lambda p: p.write_bytes(2 * p.read_bytes()[:-TRAILER_BYTES]), None, read_mindspore
    ),
    "drop it": instead(
        lambda at: write_mindspore(at / "a.ckpt", {"w": from_array(np.ones(0, np.float32))}),
        lambda at: write_mindspore(at / "a.ckpt", {"v": from_array(np.ones(2, np.float32))}),
    ),
    "{} of model_directory": changed(shards, lambda p: (p / "model-00001-of-00002.safetensors").write_bytes(b"")),
    "give the model that the adapters were trained on": of_a_larger_model,
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
        lambda p: None,
        of_mindpet,
        lambda p: opened(p, GEN | {"lora_alpha": 4}),
    ),
    "give a model of {}": torch_tree_of_model({"w": from_array(np.ones(2, np.float32))}),
    "give the model that it was made from": instead(
        lambda at: ((at / "quantised.json").write_text("{}"), opened(at)), lambda at: opened(Path("small"))
    ),
    "leave the option out": "no code",
    "{} tensors {}": changed(
        mindspore,
        lambda p: write_mindspore(ckpt(p), {f"Parameter#{n}": from_array(np.ones(2, np.float32)) for n in (1, 2)}),
    ),
    "save the weights of one model": changed(
        directory, tensors(lambda a: a.update({f"module.{first(a)}": a[first(a)]}))
    ),
    "{} of tensors": of_infinite,
    "refused, because {}": changed(
        torch_file, lambda p: rewritten(p, lambda n, c: b"cos\nsystem\n." if "data.pkl" in n else c), None, read_torch
    ),
    # outputs
    "choose another --output": (
        target("source"),
        target("source/inside"),
        target("loop"),
        target("x" * 300),
        target("link"),
    ),
    "choose another --output or add --replace": of_output_there,
    "move that elsewhere or choose another --output": of_foreign_output,
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
