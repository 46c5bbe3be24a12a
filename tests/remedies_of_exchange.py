"""Situations in which an error of `extras/exchange/` and `extras/jobs/` says what to do, and what a user then does."""

from __future__ import annotations

import importlib
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_models
import numpy as np
import pytest
from gguf_models import gguf, info, key, text
from remedies_in_code import PACKAGE
from remedies_of_data import edited
from remedies_of_runs import table
from remedies_read import told
from remedies_shapes import AGAIN, Entry, Situation, each, lines, of_each, run, tried

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


def read(path: Path, line: str = "") -> None:
    run(f"convert --model {path} --to hf --output {path}-{len(line)} --replace {line}")


def renamed(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content and len(old) == len(new)
        return content.replace(old, new)

    return change


def value(name: str, kind: int, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return renamed(key(name, kind, old), key(name, kind, new))


def number(name: str, old: int, new: int) -> Callable[[bytes], bytes]:
    return value(name, UINT32, struct.pack("<I", old), struct.pack("<I", new))


def of_file(change: Callable[[bytes], bytes], then: str = "", name: str = "codegen") -> Situation:
    """A GGUF file that is changed. `then`: what the user adds to the command; nothing: gives the model's own file."""

    def spoilt(at: Path) -> None:
        (at / "changed.gguf").write_bytes(change(written(at, name).read_bytes()))
        read(at / "changed.gguf")

    def mended(at: Path) -> None:
        read(at / "changed.gguf" if then else next((at / "gguf").glob("*.gguf")), then.format(at=at))

    return tried(spoilt, mended)


def not_zero(at: Path) -> None:
    path = written(at)
    own, start = path.read_bytes(), GGUFHeader(path).infos["blk.1.attn_k.bias"].start
    (at / "own.gguf").write_bytes(own)
    path.write_bytes(own[: start + 3] + b"\x3f" + own[start + 4 :])
    open_gguf(path)


def of_type(at: Path, kind: tuple[int, int]) -> object:
    number, size = kind
    (at / "a.gguf").write_bytes(gguf([], [info("a", (2, 256), number, 0)], bytes(size)))
    return GGUFHeader(at / "a.gguf").tensor("a").float32()


def infinite(at: Path, kind: str) -> None:
    arrays = gguf_models.parameters("codegen")
    next(array for name, array in arrays.items() if "query" in name).flat[0] = np.nan
    model = gguf_models.source("codegen", at / f"tok-{kind}", arrays)
    convert(model, "gguf", at / kind, dtype=kind, progress=False, non_finite=True)


def as_directory(at: Path, **options: Any) -> None:
    for name in ("tok", "model"):
        shutil.rmtree(at / name, ignore_errors=True)
    convert(replace(gguf_models.source("codegen", at / "tok"), **options), "hf", at / "model", progress=False)


OF_IT = "convert --model {at}/model --to gguf --output {at}/out"


GGUF = "--to gguf --output {at}/out"


# --- triplets and MindRecord ---


def triplet(wrong: list[Any], right: list[Any], *tokenizers: str) -> Situation:
    """Rows of ids, attention and labels."""

    def made(at: Path, row: list[Any], tokenizer: str) -> object:
        for place, part in enumerate(("input_ids", "attention_mask", "labels")):
            with IndexedWriter(at / f"a_{part}", np.int32, lowest=-100) as writer:
                writer.add(row[place])
        return import_triplet(at / "a", at / f"out-{tokenizer}", tokenizer, validation_share=0.0, replace=True)

    first, second = tokenizers or ("codegeex", "codegeex")
    return tried(lambda at: made(at, wrong, first), lambda at: made(at, right, second))


GROUPS = "--set num_kv_groups=2"
OF_MONO = [[1, 2, 50290], [1, 1, 1], [-100] * 3]
COLUMNS = ["input_ids", "samples"]
GOOD = [[1, 2, 50256], [1, 1, 1], [-100, 2, 50256]]


def records(path: Path, row: list[Any], column: str = "input_ids", kind: str = "int32", **more: Any) -> None:
    """A MindRecord file of one row."""
    from mindspore.mindrecord import FileWriter

    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    columns = {column: row, **more}
    writer = FileWriter(str(path), shard_num=1)
    writer.add_schema({name: {"type": kind, "shape": [-1]} for name in columns}, "ids")
    writer.write_raw_data([{name: np.array(each, kind) for name, each in columns.items()}])
    writer.commit()


def mindrecord(spoil: Callable[[Path], object], mend: Callable[[Path], object] | None = None) -> Situation:
    """A MindRecord file that `spoil` changes. `mend`: None: it is written again."""

    def imported(at: Path) -> None:
        import_mindrecord([at / "a.mindrecord"], at / "out", "codegeex", validation_share=0.0, replace=True)

    do = lambda step: lambda at: step(at / "a.mindrecord")  # noqa: E731
    made = do(lambda path: records(path, [1, 2, 50256]))
    return tried((made, do(spoil), imported), (do(mend) if mend else made, AGAIN))


def moved(old: str, new: str) -> Callable[[Path], object]:
    return lambda path: path.with_name(old).rename(path.with_name(new))


EXPORT = "prepare --to mindrecord --seq-length 16 --input corpus --output {at}/out"
NEW = "prepare --to triplet --input {name} --output {{at}}/out"


# --- mindformers ---


def loaded(*words: str, name: str = "codegeex_tiny") -> Any:
    """A file of mindformers with our families; its import makes a directory for logs."""
    os.environ.setdefault("LOCAL_DEFAULT_PATH", "mindformers")
    pytest.importorskip("mindformers")
    bridge("").register()
    return bridge("settings").load(Path(name), words)


def bridge(module: str) -> Any:
    return importlib.import_module(f"ms_codegeex.extras.exchange.mindformers_bridge.{module}".rstrip("."))


def recipe(at: Path, name: str) -> Any:
    """A recipe under another name."""
    folder = shutil.copytree(shipped_directory("mindformers"), at / "recipes", dirs_exist_ok=True)
    return loaded(name=str((folder / "codegeex_tiny.yaml").rename(folder / name)))


def with_base(at: Path, more: str) -> Any:
    base = (PACKAGE.parent / "configs/mindformers/tiny_base.yaml").read_text()
    base += "model: {arch: {type: CodeGenForCausalLM}, model_config: {type: CodeGenConfig, preset: tiny}}\n"
    (at / "old.yaml").write_text(base.replace("runner_config:", f"runner_config:{more}", 1))
    return loaded(name=str(at / "old.yaml"))


def family_class() -> Any:
    loaded()
    return bridge("models").family_classes("codegeex")[0]


def rates(**settings: Any) -> object:
    loaded()
    from mindformers.core.lr import build_lr

    given = {"learning_rate": 1e-3, "total_steps": 20, "warmup_steps": 2, **settings}
    return bridge("settings").check_rates(build_lr(given))


def schedule(rate: Any) -> None:
    config = loaded(f"lr_schedule.learning_rate={rate}", "lr_schedule.total_steps=20")
    from mindformers.core.lr import build_lr

    with bridge("__main__").built():
        build_lr(config.lr_schedule)


def saved(at: Path, first: int) -> object:
    """A checkpoint without some parameters."""
    config = loaded(f"load_checkpoint={at / 'a.ckpt'}")
    from mindspore import Tensor, save_checkpoint

    known = {k: v for k, v in config.model.model_config.items() if k not in ("type", "checkpoint_name_or_path")}
    names = [*family_class()(**known).run_config().model.sizes.parameter_shapes()][first:]
    save_checkpoint([{"name": name, "data": Tensor(np.zeros(1, np.float32))} for name in names], str(at / "a.ckpt"))
    return bridge("__main__").check_weights(config)


def in_mode(mode: str) -> object:
    import mindspore as ms

    ms.set_auto_parallel_context(parallel_mode=mode)
    try:
        return bridge("wrapper").data_parallel_devices()
    finally:
        ms.reset_auto_parallel_context()


def set_in(*lines: str) -> Situation:
    """Overrides of mindformers' file, of which the first is refused; "": none."""
    return each(lambda word: loaded(*filter(None, [word])), *lines)


def loader(*settings: dict[str, Any]) -> Situation:
    """Settings of the data loader, of which the first are refused."""
    given = {"dataset_dir": "ids", "seq_length": 16, "column_names": COLUMNS}
    return each(lambda **changes: bridge("dataset").packed_sequences(**{**given, **changes}), *settings)


def clipped(**settings: Any) -> object:
    from mindspore import nn

    network = nn.Dense(2, 2)
    return bridge("wrapper").PortableTrainOneStepCell(network, nn.SGD(network.trainable_params(), 0.1), **settings)


EXCHANGE: dict[str, Entry] = {
    "{} of architectures": tried(f"convert --model small {GGUF}", "convert --model small --to hf --output {at}/out"),
    "expected {}": (
        of_each(of_type, (20, 288), (0, 2048)),
        of_file(value("general.architecture", STRING, text("phi2"), text("phi9"))),
    ),
    "choose --dtype f32": of_each(infinite, "q8_0", "f32"),
    "{} of reading": of_file(number("chatglm.attention.head_count_kv", 2, 3), GROUPS, "codegeex2"),
    "give the model's own file": of_file(value("general.type", STRING, text("model"), text("lora?"))),
    "give it with --set {}=N": of_file(
        renamed(b"attention.head_count_kv", b"attention.head_count_xx"), GROUPS, "codegeex2"
    ),
    "give a complete file": of_file(renamed(b"token_embd.weight", b"token_embx.weight")),
    "expected head_count": of_file(number("phi2.attention.head_count_kv", 4, 2)),
    "give a model without": of_file(renamed(text("general.file_type"), text("rope.scaling.abcd"))),
    "this {} model is not one of ours": tried(not_zero, lambda at: open_gguf(at / "own.gguf")),
    "convert with --tokenizer NAME|DIR": of_file(
        renamed(text("<|endoftext|>"), text("<|endoftexu|>")), "--tokenizer {at}/tok"
    ),
    "restore the file": each(lambda data: read_pieces(data, "x"), b"\x0a\x05a", b""),
    "give its own": lines(f"convert --model @ {GGUF} --tokenizer codegen-mono", "small-codegen", "model"),
    "give the model's own": lines(f"convert --model model {GGUF} --tokenizer @", "codegeex", "codegen-mono"),
    "leave the option out": lines(f"convert --model model {GGUF}@", " --tensor-parallel 2", ""),
    "choose one of {}": of_each(
        lambda at, kind: convert(Path("model"), "gguf", at / "a", dtype=kind, progress=False), "int8", "q8_0"
    ),
    "leave .gguf out": lines(f"convert --model model {GGUF}@", ".gguf", ""),
    "add --tokenizer DIR": tried(
        (lambda at: as_directory(at, save_tokenizer=None), OF_IT), f"{OF_IT} --tokenizer {{at}}/tok"
    ),
    "{} of writing": tried(
        (as_directory, {"model/vocab.json": "{"}, OF_IT),  # the message is that of the tokenizer
        (as_directory, AGAIN),
    ),
    "give the triplet's path without _input_ids, such as tuning/train": tried(
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
    "give --output a new directory": tried(EXPORT.replace("{at}/out", "one"), EXPORT),
    "give --tokenizer the one the ids were made with": triplet(OF_MONO, OF_MONO, "codegen-nl", "codegen-mono"),
    "give files with some": mindrecord(lambda path: records(path, [50256, 50256])),
    "export it --to mindrecord": tried(NEW.format(name="corpus"), EXPORT),
    "export it --to triplet": tried(EXPORT.replace("corpus", "tuning"), NEW.format(name="tuning")),
    "give as many or more": lines(f"{NEW.format(name='tuning')} --seq-length @", 4, 64),
    "prepare it again with --replace": edited(
        "tuning", "dataset.json", lambda at: export_triplet(at, at.with_name("out")), seq_length=1
    ),
    "write the token ids as input_ids": mindrecord(lambda path: records(path, [1], "ids")),
    "give token ids": mindrecord(lambda path: records(path, [1.5], kind="float32")),
    "write it again without attention_mask": mindrecord(lambda path: records(path, [1, 2, 50256], attention_mask=[1])),
    "add its .db, or write it again": (
        mindrecord(moved("a.mindrecord.db", "b.db"), moved("b.db", "a.mindrecord.db")),
        mindrecord(lambda path: path.write_bytes(b"x")),
    ),
    "name the file": tried(
        "prepare --from mindrecord --tokenizer codegen-mono --input tree --output {at}/back",
        EXPORT,
        "prepare --from mindrecord --tokenizer codegen-mono --output {at}/back "
        "--input {at}/out/train-00000-of-00001.mindrecord",
    ),
    "expected 0 to 2**32 - 1, as in a run": tried(
        *(f"{EXPORT} --order training --seed {seed}" for seed in (-1, 2**32 - 1))
    ),
    "expected 1 to {}, the number of rows": lines(f"{EXPORT} --files @", 100000, 1),
    "correct this, or leave it out": of_each(with_base, "\n  image_size: 224", ""),
    "give a checkpoint of this model, or `convert` one (docs/exchange.md)": of_each(saved, 1, 0),
    "correct it": each(schedule, "fast", 0.001),
    "make one with `ms-codegeex prepare --input PATH --output DIR`": loader({"dataset_dir": "no"}, {}),
    "give the model's seq_length": loader({"seq_length": None}, {}),
    "give the sequences per epoch, or leave it out": loader({"num_samples": 0}, {"num_samples": 4}, {}),
    "set it to {}": loader({"column_names": ["input_ids"]}, {"column_names": COLUMNS}),
    "train on them with `ms-codegeex train`": tried(
        lambda at: bridge("dataset").packed_sequences("tuning", 64, column_names=COLUMNS),
        "train --config codegen_tiny training.steps=1 data.seq_length=64 data.train=tuning data.reset_at_eos=true "
        "output={at}/run",
    ),
    "{} of models": each(lambda **sizes: family_class()(preset="tiny", **sizes), {"num_layer": 1}, {"num_layers": 1}),
    "give a finite number": set_in("lr_schedule.learning_rate=.nan", "lr_schedule.learning_rate=0.001"),
    "give all its numbers": each(
        rates, {"type": "ConstantWarmUpLR", "learning_rate": None}, {"type": "ConstantWarmUpLR"}
    ),
    "correct warmup_steps, decay_steps and total_steps": each(
        lambda steps: rates(type="PolynomialWithWarmUpLR", warmup_steps=0, decay_steps=steps, power=0.5), 3, 20
    ),
    "its name must end in .yaml": of_each(recipe, "mine", "mine.yaml"),
    "did you mean {}?": set_in("load_checkpiont=a.ckpt", "load_checkpoint=a.ckpt"),
    "{} of settings": (
        set_in("model.model_config.pet_config={pet_type: LoRA}", ""),
        set_in("model.model_config.checkpoint_name_or_path=a.ckpt", "load_checkpoint=a.ckpt"),
        set_in("model.model_config.compute_dtype=float16", "model.model_config.precision=fp16"),
        set_in("runner_config.gradient_accumulation_steps=2", "runner_config.batch_size=8"),
    ),
    "`ms-codegeex train` shards them over tensor and pipeline devices": each(
        in_mode, "semi_auto_parallel", "stand_alone"
    ),
    "set use_clip_grad: False": each(lambda clip: clipped(use_clip_grad=clip, max_grad_norm=0.0), True, False),
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


OTHER = f"{JOB} devices=16 --job acjob --rank-table"


JOBS: dict[str, Entry] = {
    "change one of them": tried(
        (lambda at: write_json(at / "table.json", table(4, 4)), f"{OTHER} {{at}}/table.json"),
        f"{OTHER} servers.json",
        f"{OTHER} {{at}}/table.json parallel.server_devices=4",
    ),
    "choose volcano, or set device=ascend": tried(
        f"{JOB.replace('ascend', 'gpu')} devices=8 --job acjob",
        f"{JOB.replace('ascend', 'gpu')} devices=8 --job volcano",
        f"{JOB} devices=8 --job acjob",
    ),
    "set device=ascend": told(f"{JOB.replace('ascend', 'cpu')} --job slurm"),
    "choose a multiple": lines(f"{JOB} devices=@ parallel.server_devices=16 --job slurm", 24, 32),
}
