"""Situations in which an error of `extras/exchange/` and `extras/jobs/` says what to do, and what a user then does."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf_models
import numpy as np
import pytest
from gguf_models import gguf, info, key, text
from remedies_in_code import PACKAGE
from remedies_of_corpora import command, failing
from remedies_of_data import Call, Situation, edited, instead

from ms_codegeex.base.files import write_json
from ms_codegeex.base.shipped import shipped_directory
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.extras.exchange.gguf_files.header import GGUFHeader
from ms_codegeex.extras.exchange.gguf_files.reading import open_gguf
from ms_codegeex.extras.exchange.gguf_files.vocabulary import read_pieces
from ms_codegeex.extras.exchange.interchange.foreign import export_triplet, import_triplet
from ms_codegeex.extras.exchange.interchange.mindrecord import import_mindrecord
from ms_codegeex.formats.convert import convert

UINT32, STRING = 4, 8


# --- GGUF ---


def written(at: Path, name: str = "codegen", **options: Any) -> Path:
    """The path of an exported model."""
    source = gguf_models.source(name, at / "tok", **options)
    convert(source, "gguf", at / "gguf", dtype="f32", progress=False)
    return next((at / "gguf").glob("*.gguf"))


def read(line: str = "") -> Callable[[Path], object]:
    return lambda path: failing(f"convert --model {path} --to hf --output {path}-{len(line)} --replace {line}")()


def renamed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content and len(old) == len(new)
        return content.replace(old, new)

    return change


def value(name: str, kind: int, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return renamed(key(name, kind, old), key(name, kind, new))


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def of_file(change: Callable[[bytes], bytes], *then: Callable[[Path], object], name: str = "codegen") -> Situation:
    """A GGUF file that is changed. `then`: what the user does with it; nothing: the model's own file is given."""

    def situation(at: Path) -> Iterator[Call]:
        path = written(at, name)
        own, changed = path.read_bytes(), at / "changed.gguf"
        changed.write_bytes(change(own))
        yield lambda: read()(changed)
        for do in then:
            yield partial(do, changed)
        if not then:
            yield lambda: read()(path)

    return situation


def not_zero(at: Path) -> Iterator[Call]:
    path = written(at)
    own, start = path.read_bytes(), GGUFHeader(path).infos["blk.1.attn_k.bias"].start
    path.write_bytes(own[: start + 3] + b"\x3f" + own[start + 4 :])
    yield lambda: open_gguf(path)
    path.write_bytes(own)
    yield lambda: open_gguf(path)


def of_type(kind: int, size: int, at: Path) -> object:
    (at / "a.gguf").write_bytes(gguf([], [info("a", (2, 256), kind, 0)], bytes(size)))
    return GGUFHeader(at / "a.gguf").tensor("a").float32()


def of_infinite_numbers(at: Path) -> Iterator[Call]:
    arrays = gguf_models.parameters("codegen")
    next(array for name, array in arrays.items() if "query" in name).flat[0] = np.nan
    model = gguf_models.source("codegen", at / "tok", arrays)
    yield lambda: convert(model, "gguf", at / "q", dtype="q8_0", progress=False, non_finite=True)
    yield lambda: convert(model, "gguf", at / "f", dtype="f32", progress=False, non_finite=True)


def of_no_tokenizer(at: Path) -> Iterator[Call]:
    model = replace(gguf_models.source("codegen", at / "tok"), save_tokenizer=None)
    convert(model, "hf", at / "model", progress=False)
    line = f"convert --model {at / 'model'} --to gguf --output {at / 'out'}"
    yield failing(line)
    yield failing(f"{line} --tokenizer {at / 'tok'}")


def of_spoilt_tokenizer(at: Path) -> Iterator[Call]:
    """The message is that of the tokenizer."""
    convert(gguf_models.source("codegen", at / "tok"), "hf", at / "model", progress=False)
    vocabulary = (at / "model/vocab.json").read_bytes()
    (at / "model/vocab.json").write_text("{")
    line = f"convert --model {at / 'model'} --to gguf --output {at / 'out'}"
    yield failing(line)
    (at / "model/vocab.json").write_bytes(vocabulary)
    yield failing(line)


GGUF = "--to gguf --output {at}/out"


# --- triplets and MindRecord ---


def triplet(wrong: list[Any], right: list[Any], tokenizers: tuple[str, str] = ("codegeex", "codegeex")) -> Situation:
    """Rows of ids, attention and labels."""

    def made(row: list[Any], tokenizer: str, at: Path) -> object:
        for place, part in enumerate(("input_ids", "attention_mask", "labels")):
            with IndexedWriter(at / f"a_{part}", np.int32, lowest=-100) as writer:
                writer.add(row[place])
        return import_triplet(at / "a", at / f"out-{tokenizer}", tokenizer, validation_share=0.0, replace=True)

    first, second = tokenizers
    return instead(partial(made, wrong, first), partial(made, right, second))


GOOD = [[1, 2, 50256], [1, 1, 1], [-100, 2, 50256]]


def records(path: Path, rows: list[Any], column: str = "input_ids", kind: str = "int32", **more: Any) -> Path:
    from mindspore.mindrecord import FileWriter

    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    columns = {column: rows, **more}
    writer = FileWriter(str(path), shard_num=1)
    writer.add_schema({name: {"type": kind, "shape": [-1]} for name in columns}, "ids")
    named = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    writer.write_raw_data([{name: np.array(each, kind) for name, each in row.items()} for row in named])
    writer.commit()
    return path


def mindrecord(spoil: Callable[[Path], object], *mends: Callable[[Path], object]) -> Situation:
    """A MindRecord file that `spoil` writes or changes; nothing in `mends`: it is written again."""

    def situation(at: Path) -> Iterator[Call]:
        path = records(at / "a.mindrecord", [[1, 2, 50256]])
        spoil(path)

        def imported() -> None:
            import_mindrecord([path], at / "out", "codegeex", validation_share=0.0, replace=True)

        yield imported
        for mend in (*mends, lambda path: records(path, [[1, 2, 50256]])):
            yield lambda mend=mend: (mend(path), imported())

    return situation


def of_a_moved_index(at: Path) -> Iterator[Call]:
    path = records(at / "a.mindrecord", [[1, 2, 50256]])
    (at / "a.mindrecord.db").rename(at / "b.db")
    yield lambda: import_mindrecord([path], at / "out", "codegeex", validation_share=0.0)
    (at / "b.db").rename(at / "a.mindrecord.db")
    yield lambda: import_mindrecord([path], at / "out", "codegeex", validation_share=0.0)


EXPORT = "prepare --to mindrecord --seq-length 16 --input corpus --output {at}/out"
NEW = "prepare --to triplet --input {name} --output {{at}}/out"


# --- mindformers ---


def bridge() -> None:
    """mindformers with our families; its import makes a directory for logs."""
    pytest.importorskip("mindformers")
    from ms_codegeex.extras.exchange.mindformers_bridge import register

    register()


def loaded(*words: str, name: str = "codegeex_tiny") -> Any:
    os.environ.setdefault("LOCAL_DEFAULT_PATH", "mindformers")
    bridge()
    from ms_codegeex.extras.exchange.mindformers_bridge.settings import load

    return load(Path(name), words)


def of_a_name(at: Path) -> Iterator[Call]:
    folder = shutil.copytree(shipped_directory("mindformers"), at / "recipes")
    (folder / "codegeex_tiny.yaml").rename(folder / "mine")
    yield lambda: loaded(name=str(folder / "mine"))
    (folder / "mine").rename(folder / "mine.yaml")
    yield lambda: loaded(name=str(folder / "mine.yaml"))


def set_in(wrong: str, *right: str) -> Situation:
    """An override of mindformers' file, and others; "": none."""
    return instead(lambda at: loaded(wrong), *(lambda at, word=word: loaded(*filter(None, [word])) for word in right))


def of_a_removed_key(at: Path) -> Iterator[Call]:
    base = (PACKAGE.parent / "configs/mindformers/tiny_base.yaml").read_text()
    base += "model: {arch: {type: CodeGenForCausalLM}, model_config: {type: CodeGenConfig, preset: tiny}}\n"
    (at / "old.yaml").write_text(base.replace("runner_config:", "runner_config:\n  image_size: 224", 1))
    yield lambda: loaded(name=str(at / "old.yaml"))
    (at / "old.yaml").write_text(base)
    yield lambda: loaded(name=str(at / "old.yaml"))


def loader(wrong: dict[str, Any], *right: dict[str, Any]) -> Situation:
    """Settings of the data loader."""

    def made(changes: dict[str, Any], at: Path) -> object:
        from ms_codegeex.extras.exchange.mindformers_bridge.dataset import packed_sequences

        return packed_sequences(**{"dataset_dir": "ids", "seq_length": 16, "column_names": COLUMNS, **changes})

    return instead(partial(made, wrong), *(partial(made, each) for each in right))


COLUMNS = ["input_ids", "samples"]


def of_examples(at: Path) -> Iterator[Call]:
    from ms_codegeex.extras.exchange.mindformers_bridge.dataset import packed_sequences

    yield lambda: packed_sequences("tuning", 64, column_names=COLUMNS)
    line = "train --config codegen_tiny training.steps=1 data.seq_length=64 data.train=tuning data.reset_at_eos=true"
    yield failing(f"{line} output={at / 'run'}")


def rates(settings: dict[str, Any]) -> object:
    loaded()
    from mindformers.core.lr import build_lr

    from ms_codegeex.extras.exchange.mindformers_bridge.settings import check_rates

    return check_rates(build_lr({"learning_rate": 1e-3, "total_steps": 20, "warmup_steps": 2, **settings}))


def of_refused_part(at: Path) -> Iterator[Call]:
    def schedule(rate: Any) -> None:
        from mindformers.core.lr import build_lr

        from ms_codegeex.extras.exchange.mindformers_bridge.__main__ import built

        with built():
            build_lr(loaded(f"lr_schedule.learning_rate={rate}", "lr_schedule.total_steps=20").lr_schedule)

    loaded()
    yield lambda: schedule("fast")
    yield lambda: schedule(0.001)


def of_another_checkpoint(at: Path) -> Iterator[Call]:
    loaded()
    from mindspore import Tensor, save_checkpoint

    from ms_codegeex.extras.exchange.mindformers_bridge.__main__ import check_weights
    from ms_codegeex.extras.exchange.mindformers_bridge.models import family_classes

    config = loaded(f"load_checkpoint={at / 'a.ckpt'}")
    known = {k: v for k, v in config.model.model_config.items() if k not in ("type", "checkpoint_name_or_path")}
    names = [*family_classes("codegeex")[0](**known).run_config().model.sizes.parameter_shapes()]
    for kept in (names[1:], names):
        save_checkpoint([{"name": name, "data": Tensor(np.zeros(1, np.float32))} for name in kept], str(at / "a.ckpt"))
        yield lambda: check_weights(config)


def of_a_model_of_it(at: Path) -> Iterator[Call]:
    """The message is that of the configuration, with the keys of mindformers' file."""
    loaded()
    from ms_codegeex.extras.exchange.mindformers_bridge.models import family_classes

    made = family_classes("codegeex")[0]
    yield lambda: made(preset="tiny", num_layer=1)
    yield lambda: made(preset="tiny", num_layers=1)


def clipped(**settings: Any) -> object:
    from mindspore import nn

    from ms_codegeex.extras.exchange.mindformers_bridge.wrapper import PortableTrainOneStepCell

    network = nn.Dense(2, 2)
    return PortableTrainOneStepCell(network, nn.SGD(network.trainable_params(), 0.1), **settings)


def of_a_mode(at: Path) -> Iterator[Call]:
    import mindspore as ms

    from ms_codegeex.extras.exchange.mindformers_bridge.wrapper import data_parallel_devices

    ms.set_auto_parallel_context(parallel_mode="semi_auto_parallel")
    yield data_parallel_devices
    ms.reset_auto_parallel_context()
    yield data_parallel_devices


EXCHANGE: dict[str, Situation | str | tuple[Situation | str, ...]] = {
    # GGUF
    "{} of architectures": command(f"convert --model small {GGUF}", "convert --model small --to hf --output {at}/out"),
    "expected {}": (
        instead(partial(of_type, 20, 288), partial(of_type, 0, 2048)),
        of_file(value("general.architecture", STRING, text("phi2"), text("phi9"))),
    ),
    "choose --dtype f32": of_infinite_numbers,
    "{} of reading": of_file(
        value("chatglm.attention.head_count_kv", UINT32, u32(2), u32(3)),
        read("--set num_kv_groups=2"),
        name="codegeex2",
    ),
    "give the model's own file": of_file(value("general.type", STRING, text("model"), text("lora?"))),
    "give it with --set {}=N": of_file(
        renamed(b"attention.head_count_kv", b"attention.head_count_xx"),
        read("--set num_kv_groups=2"),
        name="codegeex2",
    ),
    "give a complete file": of_file(renamed(b"token_embd.weight", b"token_embx.weight")),
    "expected head_count": of_file(value("phi2.attention.head_count_kv", UINT32, u32(4), u32(2))),
    "give a model without": of_file(renamed(text("general.file_type"), text("rope.scaling.abcd"))),
    "this {} model is not one of ours": not_zero,
    "convert with --tokenizer NAME|DIR": of_file(
        renamed(text("<|endoftext|>"), text("<|endoftexu|>")),
        lambda path: read(f"--tokenizer {path.with_name('tok')}")(path),
    ),
    "restore the file": instead(lambda at: read_pieces(b"\x0a\x05a", "x"), lambda at: read_pieces(b"", "x")),
    "give its own": command(
        f"convert --model small-codegen {GGUF} --tokenizer codegen-mono",
        f"convert --model model {GGUF} --tokenizer codegen-mono",
    ),
    "give the model's own": command(
        f"convert --model model {GGUF} --tokenizer codegeex", f"convert --model model {GGUF} --tokenizer codegen-mono"
    ),
    "leave the option out": command(
        f"convert --model model {GGUF} --tensor-parallel 2", f"convert --model model {GGUF}"
    ),
    "choose one of {}": instead(
        lambda at: convert(Path("model"), "gguf", at / "a", dtype="int8", progress=False),
        lambda at: convert(Path("model"), "gguf", at / "a", dtype="q8_0", progress=False),
    ),
    "leave .gguf out": command(f"convert --model model {GGUF}.gguf", f"convert --model model {GGUF}"),
    "add --tokenizer DIR": of_no_tokenizer,
    "{} of writing": of_spoilt_tokenizer,
    # triplets and MindRecord
    "give the triplet's path without _input_ids, such as tuning/train": command(
        "prepare --from triplet --tokenizer codegen-mono --input {at}/out/train_input_ids --output {at}/back",
        NEW.format(name="tuning"),
        "prepare --from triplet --tokenizer codegen-mono --input {at}/out/train --output {at}/back",
    ),
    "give a triplet": (
        triplet([[1, 2, 3], [1, 1], [1, 2, 3]], GOOD),
        triplet([[1, 2], [1, 1], [1, 2]], GOOD),
        triplet([[1, 2, 3], [1, 1, 1], [-100, 2, 4]], GOOD),
    ),
    "pad on the right only": triplet([[1, 2, 3], [0, 1, 1], [-100, 2, 3]], [[2, 3, 9], [1, 1, 0], [2, 3, -100]]),
    "give --output a new directory": command(
        "prepare --to mindrecord --seq-length 16 --input corpus --output one", EXPORT
    ),
    "give --tokenizer the one the ids were made with": triplet(
        [[1, 2, 50290], [1, 1, 1], [-100] * 3],
        [[1, 2, 50290], [1, 1, 1], [-100] * 3],
        ("codegen-nl", "codegen-mono"),
    ),
    "give files with some": mindrecord(lambda path: records(path, [[50256, 50256]])),
    "export it --to mindrecord": command(NEW.format(name="corpus"), EXPORT),
    "export it --to triplet": command(EXPORT.replace("corpus", "tuning"), NEW.format(name="tuning")),
    "give as many or more": command(
        f"{NEW.format(name='tuning')} --seq-length 4", f"{NEW.format(name='tuning')} --seq-length 64"
    ),
    "prepare it again with --replace": edited(
        "tuning", "dataset.json", lambda at: export_triplet(at, at.with_name("out")), seq_length=1
    ),
    "write the token ids as input_ids": mindrecord(lambda path: records(path, [[1]], "ids")),
    "give token ids": mindrecord(lambda path: records(path, [[1.5]], kind="float32")),
    "write it again without attention_mask": mindrecord(
        lambda path: records(path, [[1, 2, 50256]], attention_mask=[[1]])
    ),
    "add its .db, or write it again": (of_a_moved_index, mindrecord(lambda path: path.write_bytes(b"x"))),
    "name the file": command(
        "prepare --from mindrecord --tokenizer codegen-mono --input tree --output {at}/back",
        EXPORT,
        "prepare --from mindrecord --tokenizer codegen-mono --output {at}/back "
        "--input {at}/out/train-00000-of-00001.mindrecord",
    ),
    "expected 0 to 2**32 - 1, as in a run": command(
        f"{EXPORT} --order training --seed -1", f"{EXPORT} --order training --seed 4294967295"
    ),
    "expected 1 to {}, the number of rows": command(f"{EXPORT} --files 100000", f"{EXPORT} --files 1"),
    # mindformers
    "correct this, or leave it out": of_a_removed_key,
    "give a checkpoint of this model, or `convert` one (docs/exchange.md)": of_another_checkpoint,
    "correct it": of_refused_part,
    "make one with `ms-codegeex prepare --input PATH --output DIR`": loader({"dataset_dir": "no"}, {}),
    "give the model's seq_length": loader({"seq_length": None}, {}),
    "give the sequences per epoch, or leave it out": loader({"num_samples": 0}, {"num_samples": 4}, {}),
    "set it to {}": loader({"column_names": ["input_ids"]}, {"column_names": COLUMNS}),
    "train on them with `ms-codegeex train`": of_examples,
    "{} of models": of_a_model_of_it,
    "give a finite number": set_in("lr_schedule.learning_rate=.nan", "lr_schedule.learning_rate=0.001"),
    "give all its numbers": instead(
        lambda at: rates({"type": "ConstantWarmUpLR", "learning_rate": None}),
        lambda at: rates({"type": "ConstantWarmUpLR"}),
    ),
    "correct warmup_steps, decay_steps and total_steps": instead(
        lambda at: rates({"type": "PolynomialWithWarmUpLR", "warmup_steps": 0, "decay_steps": 3, "power": 0.5}),
        lambda at: rates({"type": "PolynomialWithWarmUpLR", "warmup_steps": 0, "decay_steps": 20, "power": 0.5}),
    ),
    "its name must end in .yaml": of_a_name,
    "did you mean {}?": set_in("load_checkpiont=a.ckpt", "load_checkpoint=a.ckpt"),
    "{} of settings": (
        set_in("model.model_config.pet_config={pet_type: LoRA}", ""),
        set_in("model.model_config.checkpoint_name_or_path=a.ckpt", "load_checkpoint=a.ckpt"),
        set_in("model.model_config.compute_dtype=float16", "model.model_config.precision=fp16"),
        set_in("runner_config.gradient_accumulation_steps=2", "runner_config.batch_size=8"),
    ),
    "`ms-codegeex train` shards them over tensor and pipeline devices": of_a_mode,
    "set use_clip_grad: False": instead(
        lambda at: clipped(use_clip_grad=True, max_grad_norm=0.0),
        lambda at: clipped(use_clip_grad=False, max_grad_norm=0.0),
    ),
}
EXCHANGE_UNTRIED = {
    "join them: llama-gguf-split --merge {} joined.gguf": "needs llama.cpp",
    "the disk may be failing, convert again to another place": "needs a disk that fails",
    "check the space and the mode of its directory": "needs a full disk",
    "write or copy it again": "of a file that MindSpore opens and cannot read to its end",
    "run `pip install 'ms-codegeex[mindformers]'` (docs/exchange.md)": "needs an index; the project has the extra",
}


# --- job files ---

JOB = "train --config run.yaml output={at}/run training.global_batch=96 device=ascend"


def of_other_servers(at: Path) -> Iterator[Call]:
    from remedies_of_runs import table

    write_json(at / "table.json", table(4, 4))
    line = f"{JOB.format(at=at)} devices=16 --job acjob --rank-table"
    yield failing(f"{line} {at / 'table.json'}")
    yield failing(f"{line} servers.json")
    yield failing(f"{line} {at / 'table.json'} parallel.server_devices=4")


JOBS: dict[str, Situation | str] = {
    "change one of them": of_other_servers,
    "choose volcano, or set device=ascend": command(
        f"{JOB.replace('ascend', 'gpu')} devices=8 --job acjob",
        f"{JOB.replace('ascend', 'gpu')} devices=8 --job volcano",
        f"{JOB} devices=8 --job acjob",
    ),
    "set device=ascend": command(f"{JOB.replace('ascend', 'cpu')} --job slurm", f"{JOB} --job slurm"),
    "choose a multiple": command(
        f"{JOB} devices=24 parallel.server_devices=16 --job slurm",
        f"{JOB} devices=32 parallel.server_devices=16 --job slurm",
    ),
}
