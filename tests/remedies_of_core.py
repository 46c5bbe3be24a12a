"""Situations in which an error of `config`, `base`, `commands` or `generation` says what to do, and what is done."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from remedies_of_corpora import command, failing
from remedies_of_data import Call, Situation, instead, run
from remedies_of_formats import adapted, changed, directory, first, opened, setting, tensors, without
from small_models import save_adapters

from ms_codegeex.base import quarantine, reading
from ms_codegeex.base.cache import cached_folder, user_cache
from ms_codegeex.base.cuda.driver import Driver
from ms_codegeex.base.cuda.plugin import cuda_folder
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, shared_files
from ms_codegeex.base.installed import mindspore_directory
from ms_codegeex.base.processes import ProcessSpec, json_from_module, run_processes
from ms_codegeex.base.shipped import find_config
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.commands import convert as convert_verb
from ms_codegeex.config.chips import check_kind, driver_hardware
from ms_codegeex.config.loading import load_config
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.choice import TokenChoice, pack
from ms_codegeex.generation.device_shares import check_devices
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.grammars import prepared
from ms_codegeex.generation.loading import load_adapters, load_model
from ms_codegeex.generation.matrices import MAX_ADAPTER_RANK
from ms_codegeex.generation.quantising import write_quantised
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.targets import compiled_library
from ms_codegeex.generation.text_options import read_key
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory

# --- configurations ---


def loaded(words: str, file: str | Path = "run.yaml") -> object:
    return load_config(Path(file), shlex.split(words))


def given(wrong: str, *more: str, file: str = "run.yaml") -> Situation:
    """Overrides of a configuration that are refused, and further ones that the message says; later ones count."""
    return instead(*(partial(_loaded_at, each, file) for each in (wrong, *(f"{wrong} {each}" for each in more))))


def rather(wrong: str, *others: str) -> Situation:
    """The same, with others in their place."""
    return instead(*(partial(_loaded_at, each, "run.yaml") for each in (wrong, *others)))


def _loaded_at(words: str, file: str, at: Path) -> object:
    return loaded(words.replace("AT", str(at)), file)


def written(wrong: str, *others: str, where: str = "a.yaml") -> Situation:
    """A file of a configuration that is refused, and what the user writes instead."""

    def situation(at: Path) -> Iterator[Call]:
        for each in (wrong, *others):
            (at / where).write_text(each)
            yield partial(loaded, "model.preset=tiny training.steps=1", at / "a.yaml")

    return situation


def on_driver(driver: str, wrong: str, *others: str) -> Situation:
    """A run on Ascend, whose driver names the device."""
    configs = [f"device=ascend {each}" for each in (wrong, *others)]
    return instead(*(lambda at, each=each: driver_hardware(loaded(each), driver) for each in configs))


# a configuration | what is refused | each way out
RULES = """
TINY | parallel.fusion.attention=true | parallel.fusion.attention=null
EIGHT | parallel.fusion.attention=true training.dropout=0 | parallel.hardware=ascend910b | parallel.fusion.attention=null
BIG | parallel.fusion.attention=true parallel.fusion.documents=true | training.attention_dropout=0 | parallel.fusion.documents=false
BIG | parallel.fusion.documents=true | training.attention_dropout=0 | parallel.fusion.documents=false
BIG | parallel.fusion.attention=true data.seq_length=2044 | data.seq_length=2040 | parallel.fusion.attention=null
BIG | parallel.fusion.attention=true training.precision=fp32 | training.precision=bf16 | parallel.fusion.attention=null
BIG | parallel.fusion.attention=true model.num_heads=64 | model.num_heads=32 | parallel.fusion.attention=null
BIG | parallel.fusion.attention=true model.family=codegen model.preset=2b-mono model.vocab_size=51200 parallel.optimizer_shard=1 | model.scores_fp32=false | parallel.fusion.attention=null
TINY | model.family=codegeex2 model.preset=6b parallel.fusion.norm=true | parallel.fusion.norm=null
EIGHT | parallel.fusion.dropout=true | parallel.fusion.dropout=null
TINY | lora.frozen=fp16 | lora.rank=4
TINY | device=gpu devices=1 lora.rank=4 lora.frozen=bf16 parallel.hardware=a100 | lora.frozen=fp16 training.precision=fp16 | lora.frozen=fp32
TINY | training.initial.attention=previous model.family=codegen model.preset=tiny | training.initial.attention=normal
TINY | training.initial.attention=previous model.num_heads=8 training.initial.positions=sinusoid | model.num_heads=4 | training.initial.attention=normal
TINY | data.seq_length=512 | data.seq_length=256 | model.max_position_embeddings=512
TINY | data.train=ids 'data.blend={ids: 1}' | data.train=null | data.blend=null
TINY | training.tokens=9999 | training.steps=null | training.tokens=null
TINY | training.initial.attention=previous model.num_heads=4 | training.initial.positions=sinusoid | training.initial.attention=normal
TINY | training.schedule.warmup_steps=9 training.schedule.decay_steps=9 | training.schedule.warmup_steps=8
TINY | lora.rank=4 lora.frozen=int8 devices=2 | device=cpu devices=1 training.precision=fp32 | lora.frozen=fp32
TINY | lora.rank=4 lora.frozen=bf16 | lora.frozen=fp16 training.precision=fp32 | lora.frozen=fp32
TINY | lora.rank=4 lora.frozen=fp16 device=gpu devices=2 training.precision=fp16 | devices=1 | lora.frozen=fp32
TINY | data.functions_from=0 'data.blend={ids: 1}' | data.functions_from=null
TINY | data.tokenizer_size=300 data.tokenizer=codegeex | data.tokenizer=null
TINY | training.steps=null | training.steps=9 | training.tokens=9999
TINY | training.evaluate_every=0 training.patience=2 | training.evaluate_every=9 | training.patience=0
TINY | lora.rank=4 lora.targets=[] | lora.targets=[attention] | lora.rank=0
TINY | lora.rank=4 model.fresh=[embedding] | model.fresh=null | lora.rank=0
EIGHT | training.loss_chunk=256 | training.loss_chunk=0
TINY | training.loss_chunk=8 training.precision=bf16 | training.loss_chunk=0 | training.precision=fp32
TINY | training.precision=bf16 training.loss_scale.window=7 | training.precision=fp16 | training.loss_scale.window=1000
TINY | training.precision=bf16 parallel.fusion.graph_kernel=true | parallel.fusion.graph_kernel=null
TINY | training.precision=bf16 parallel.fusion.dropout=true | parallel.fusion.dropout=null
TINY | profile.steps=4..3 | profile.steps=3..4
TINY | profile.steps=239..241 | profile.steps=239..240
TINY | profile.steps=1..2 profile.ranks=[2] devices=2 | profile.ranks=[0,1]
EIGHT | cluster.silent_check=true parallel.optimizer_shard=1 | cluster.silent_check=false | training.precision=bf16 parallel.hardware=ascend910b
BIG | cluster.silent_check=true training.precision=bf16 devices=1 parallel.tensor=1 parallel.optimizer_shard=1 | cluster.silent_check=false
BIG | cluster.silent_check=true training.precision=bf16 | cluster.silent_check=false | parallel.optimizer_shard=1
TINY | training.optimizer.name=muon device=gpu devices=2 | training.optimizer.name=adamw | devices=1
TINY | training.optimizer.name=muon lora.rank=4 | training.optimizer.name=adamw | lora.rank=0
EIGHT | parallel.tensor=3 | parallel.tensor=4 parallel.optimizer_shard=2 | parallel.tensor=8 parallel.optimizer_shard=1 training.micro_batch=8
EIGHT | parallel.data=2 | parallel.data=4 | parallel.data=null
EIGHT | training.global_batch=255 | training.global_batch=256
EIGHT | parallel.micro_batches=8 | parallel.micro_batches=null | training.micro_batch=null
EIGHT | parallel.micro_batches=3 training.micro_batch=null | parallel.micro_batches=2 | training.global_batch=768
EIGHT | parallel.sequence=true parallel.tensor=1 | parallel.sequence=false
EIGHT | model.num_heads=5 | parallel.tensor=1 | model.num_heads=4
EIGHT | model.intermediate_size=20485 | parallel.tensor=1 model.intermediate_size=20488 | model.intermediate_size=20488
EIGHT | model.vocab_size=52221 | parallel.tensor=1 parallel.optimizer_shard=1 | model.vocab_size=52224
EIGHT | model.family=codegeex2 model.preset=6b model.num_heads=24 model.num_kv_groups=4 model.hidden_size=3072 model.intermediate_size=13824 devices=24 training.global_batch=288 parallel.tensor=6 parallel.optimizer_shard=1 training.micro_batch=6 parallel.server_devices=24 model.vocab_size=65280 | parallel.tensor=4 training.micro_batch=4
LARGE | parallel.server_devices=4 | parallel.tensor=4
PIPE | parallel.stage_layers=[20,20] | parallel.stage_layers=[10,10,10,10] | parallel.stage_layers=null
PIPE | parallel.stage_layers=[9,10,10,10] | parallel.stage_layers=[10,10,10,10] | parallel.stage_layers=null
EIGHT | parallel.stage_layers=[40] | parallel.stage_layers=null
EIGHT | parallel.virtual_stages=2 | parallel.virtual_stages=1
PIPE | parallel.virtual_stages=2 parallel.stage_layers=[11,10,10,9] | parallel.stage_layers=null | parallel.virtual_stages=1
PIPE | parallel.virtual_stages=3 | parallel.virtual_stages=2
PIPE | parallel.virtual_stages=2 training.global_batch=2304 | training.global_batch=3072
PIPE | parallel.virtual_stages=2 parallel.overlap.parts=2 | parallel.overlap.parts=1 | parallel.virtual_stages=1
PIPE | parallel.virtual_stages=2 parallel.overlap.recompute_collectives=false | parallel.overlap.recompute_collectives=true | parallel.virtual_stages=1
PIPE | parallel.virtual_stages=2 training.recompute_blocks=[1,1,1,1] | training.recompute_blocks=null | parallel.virtual_stages=1
PIPE | model.num_layers=3 | parallel.pipeline=3 devices=1152 | parallel.pipeline=2
PIPE | training.micro_batch=null | parallel.micro_batches=4
EIGHT | parallel.graph_micro_batches=3 | parallel.graph_micro_batches=2 | parallel.graph_micro_batches=null
EIGHT | parallel.optimizer_shard=8 | parallel.optimizer_shard=4 | devices=16
BIG | parallel.optimizer_shard=1 parallel.optimizer_level=2 | parallel.optimizer_shard=2 | parallel.optimizer_level=1
BIG | parallel.pipeline=2 parallel.micro_batches=2 parallel.optimizer_level=3 | parallel.optimizer_level=2
EIGHT | parallel.optimizer_level=2 parallel.overlap.parts=2 | parallel.optimizer_level=1 | parallel.overlap.parts=1
BIG | parallel.optimizer_level=2 lora.rank=4 | parallel.optimizer_level=1 | lora.rank=0
LARGE | model.intermediate_size=20424 | parallel.optimizer_shard=1
EIGHT | training.recompute=none training.recompute_blocks=[9] | training.recompute=full | training.recompute_blocks=null
EIGHT | training.recompute_blocks=[9,9] | training.recompute_blocks=[9]
EIGHT | training.recompute_blocks=[99] | training.recompute_blocks=[32]
EIGHT | parallel.tensor=1 parallel.overlap.parts=2 | parallel.overlap.parts=1
EIGHT | parallel.tensor=1 parallel.overlap.recompute_collectives=false | parallel.overlap.recompute_collectives=true
EIGHT | parallel.overlap.parts=3 | parallel.overlap.parts=2
EIGHT | parallel.overlap.recompute_collectives=false training.recompute=selective | parallel.overlap.recompute_collectives=true | training.recompute=full
EIGHT | parallel.overlap.recompute_collectives=false parallel.sequence=true | parallel.overlap.recompute_collectives=true | parallel.sequence=false
EIGHT | parallel.overlap.recompute_collectives=false training.recompute_blocks=[9] | parallel.overlap.recompute_collectives=true | training.recompute_blocks=null
EIGHT | parallel.overlap.recompute_collectives=false lora.rank=4 | parallel.overlap.recompute_collectives=true | lora.rank=0
EIGHT | parallel.overlap.recompute_collectives=false parallel.fusion.dropout=true training.dropout=0 | parallel.overlap.recompute_collectives=true | parallel.fusion.dropout=false
EIGHT | parallel.short_gradients=true training.precision=fp32 | training.precision=fp16 | parallel.short_gradients=false
"""  # noqa: E501
FILES = {"TINY": "codegeex_tiny_release", "LARGE": "codegeex_13b", "PIPE": "codegeex_13b_pipeline"}
FILES |= dict.fromkeys(("EIGHT", "BIG"), "codegeex_2.6b_8")
BIG = "devices=4 parallel.hardware=ascend910b parallel.optimizer_shard=2"


def of_a_rule(line: str) -> Situation:
    file, wrong, *ways = (cell.strip() for cell in line.split("|"))
    wrong = f"{BIG} {wrong}" if file == "BIG" else wrong
    return given(wrong, *ways, file=FILES[file])


def of_a_shared_batch(wrong: str) -> Situation:
    """A micro-batch that devices cannot share: what the message says, all at once."""

    def situation(at: Path) -> Iterator[Call]:
        said = yield lambda: loaded(wrong, "codegeex_2.6b_8")
        yield lambda: loaded(f"{wrong} {said.rpartition('; set ')[2]}", "codegeex_2.6b_8")

    return situation


def quoted(wrong: str, key: str = "output") -> Situation:
    """A value that the shell has unquoted; what the message shows, as a shell reads it."""

    def situation(at: Path) -> Iterator[Call]:
        said = yield lambda: load_config(Path("run.yaml"), [f"{key}={wrong}"])
        shown = said.rpartition("quote it as ")[2]
        yield lambda: load_config(Path("run.yaml"), shlex.split(f"{key}={shown}"))

    return situation


SHARED = (
    "training.micro_batch=6",
    "training.micro_batch=1",
    "parallel.tensor=8 parallel.optimizer_shard=1 training.micro_batch=12",
    "parallel.tensor=8 parallel.optimizer_shard=1 training.global_batch=4 training.micro_batch=4",
    "parallel.tensor=8 parallel.optimizer_shard=1 training.global_batch=4 training.micro_batch=8",
)


def of_a_measured_chip(at: Path) -> Iterator[Call]:
    words = f"device=ascend output={at}/RUN parallel.hardware="
    directory = RunDirectory(at / "RUN")
    directory.path.mkdir()
    write_config(directory, loaded(f"{words}ascend910b"))
    steps = [{"step": n, "step_seconds": 1.0, "compiling": n == 1} for n in range(1, 9)]
    directory.log.write_text("".join(f"{json.dumps(step)}\n" for step in steps))
    said = yield lambda: loaded(f"{words}{at}/mine.yaml")
    line = re.search("`ms-codegeex (.*?)`", said)[1].replace("FILE", str(at / "mine"))
    run(line.replace("RUN", str(at / "RUN")))
    yield lambda: loaded(f"{words}{at}/mine.yaml")
    yield lambda: loaded(f"{words}ascend910b")


def of_hardware_without_base(at: Path) -> Iterator[Call]:
    (at / "mine.yaml").write_text("source: a run\n")
    said = yield lambda: loaded(f"device=ascend parallel.hardware={at}/mine.yaml")
    (at / "mine.yaml").write_text(f"source: a run\n{said.rpartition('such as ')[2]}\n")
    yield lambda: loaded(f"device=ascend parallel.hardware={at}/mine.yaml")


def of_fresh_parameters(at: Path) -> Iterator[Call]:
    said = yield lambda: loaded("model.fresh=[qqqq]")
    yield lambda: loaded(f"model.fresh=[{said.rpartition('one of them is ')[2]}]")


CONFIG: dict[str, Situation | tuple[Situation, ...] | str] = {
    # blends
    "write - {from_step: 0, weights: …}": given(
        "data.train=null 'data.blend={from_step: 0, weights: {ids: 1}}'",
        "'data.blend=- {from_step: 0, weights: {ids: 1}}'",
    ),
    "expected {directory: weight} or a list of {from_step, weights}": given(
        "data.train=null data.blend=ids", "'data.blend={ids: 1}'", "'data.blend=[{from_step: 0, weights: {ids: 1}}]'"
    ),
    "expected the keys from_step and weights": given(
        "data.train=null 'data.blend=[{weights: {ids: 1}}]'", "'data.blend=[{from_step: 0, weights: {ids: 1}}]'"
    ),
    "expected a step after the one before, {} or later": given(
        "data.train=null 'data.blend=[{from_step: 0, weights: {ids: 1}}, {from_step: 0, weights: {run: 1}}]'",
        "'data.blend=[{from_step: 0, weights: {ids: 1}}, {from_step: 1, weights: {run: 1}}]'",
    ),
    "expected 0, where a run begins": given(
        "data.train=null 'data.blend=[{from_step: 1, weights: {ids: 1}}]'",
        "'data.blend=[{from_step: 0, weights: {ids: 1}}]'",
    ),
    "expected {directory: weight}": given(
        "data.train=null 'data.blend=[{from_step: 0, weights: ids}]'",
        "'data.blend=[{from_step: 0, weights: {ids: 1}}]'",
    ),
    "quote it": given("data.train=null 'data.blend={1: 1}'", "'data.blend={\"1\": 1}'"),
    "give more, or leave it out": given(
        "data.train=null 'data.blend={ids: 1, run: 1e-9}'", "'data.blend={ids: 1, run: 1e-3}'", "'data.blend={ids: 1}'"
    ),
    "leave out what is not wanted": given("data.train=null 'data.blend={ids: 1, run: 0}'", "'data.blend={ids: 1}'"),
    "write '{}={DIR: WEIGHT, DIR: WEIGHT}'": rather(
        "data.train=null data.blend.ids=1", "data.train=null 'data.blend={ids: 1, run: 1}'"
    ),
    # chips
    "name one of {}, or leave it out": instead(
        lambda at: check_kind(loaded("device=gpu parallel.hardware=ascend910")),
        lambda at: check_kind(loaded("device=gpu parallel.hardware=h100")),
        lambda at: check_kind(loaded("device=gpu")),
    ),
    "name the one it is most like, of {}: it decides kernels and memory": on_driver(
        "Ascend310P3", "seed=1", "parallel.hardware=ascend910"
    ),
    "set it to {} or leave it out": on_driver(
        "Ascend910B2", "parallel.hardware=ascend910", "parallel.hardware=ascend910b", "seed=1"
    ),
    # files
    "write it with `ms-codegeex plan --config RUN/config.yaml --measured RUN --write-hardware FILE.yaml`, or name a "
    "chip": of_a_measured_chip,
    "add one, such as base: ascend910b": of_hardware_without_base,
    "give its file as --config": instead(
        lambda at: load_config(None, ["base=codegen_tiny"]), lambda at: load_config(Path("codegen_tiny"))
    ),
    "break the circle": written("base: a.yaml", "base: codegen_tiny"),
    "no such configuration file": written("base: b.yaml", "base: codegen_tiny"),
    "expected sections with keys (model:, data:, training: …)": written("- 1", "seed: 1", "training: {steps: 4}"),
    "expected the name of a YAML file": written("base: 3", "base: codegen_tiny"),
    "write key=value, for example training.steps=40": rather("training.steps", "training.steps=40"),
    "quote it as {}": (quoted("@a"), quoted("a #b"), quoted('"a'), quoted("`a\\b\"c'd")),
    "correct it, in quotes if it has spaces": rather(
        "lora.targets=[attention, query]", "'lora.targets=[attention, query]'"
    ),
    # sections
    "expected a section with keys family, preset and sizes of the family": rather("model=3", "'model={preset: tiny}'"),
    "expected a section with keys {}": rather("training=3", "'training={steps: 3}'"),
    "input should be a finite number": given("model.init_std=.nan", "model.init_std=0.1"),
    "expected a model directory, a run or a checkpoint": given("model.weights=3", "model.weights=small"),
    "expected a list of {}, or none of them": given("model.grow=3", "'model.grow=[vocabulary]'", "model.grow=[]"),
    "expected parts of parameters' names, such as [embedding]": given(
        "model.fresh=embedding", "model.fresh=[embedding]"
    ),
    "one of them is {}": of_fresh_parameters,
    "did you mean '{}'?": (
        rather("training.stps=4", "training.steps=4"),
        rather("model.num_hads=4", "model.num_heads=4"),
    ),
    "known here: {}": rather("qqqq=3", "seed=3"),
    "put it in quotes (in a shell '\"…\"')": (
        rather("output=true", "'output=\"true\"'"),
        rather("'output=a: b'", "'output=\"a: b\"'"),
    ),
    "write [{}]": (
        given("lora.targets=attention,query", "lora.targets=[attention,query]"),
        given("profile.ranks=0", "profile.ranks=[0]"),
    ),
    "write {NAME: VALUE}": given("data.held_out=ids", "'data.held_out={C: ids}'"),
    "{} of validation": (
        given("training.steps=many", "training.steps=4"),
        written("training.steps: 3", "training:\n  steps: 3"),
        rather("steps=3 training.steps=4", "training.steps=3"),
    ),
    "{} of rules": (
        *map(of_a_rule, RULES.split("\n")[1:-1]),
        *map(of_a_shared_batch, SHARED),
        rather("stage=mono", "seed=1"),
    ),
}

# --- what all use ---


@contextmanager
def environment(**values: str | None) -> Iterator[pytest.MonkeyPatch]:
    """Meanwhile, these variables; None: without."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in values.items():
            patched.delenv(name, raising=False) if value is None else patched.setenv(name, value)
        yield patched


def of_a_cache(at: Path) -> Iterator[Call]:
    with environment(XDG_CACHE_HOME="/proc/1/none") as patched:
        yield lambda: cached_folder("x", "programs", Path.touch)
        patched.setenv("XDG_CACHE_HOME", str(at))
        yield lambda: cached_folder("x", "programs", lambda folder: None)


def of_no_execution(at: Path) -> Iterator[Call]:
    with environment(XDG_CACHE_HOME=str(at / "a")) as patched:
        made = cuda_folder("x", "links", lambda folder: (folder / "lib64").mkdir())
        (made / "bin/nvcc").chmod(0o644)
        yield lambda: cuda_folder("x", "links", lambda folder: None)
        patched.setenv("XDG_CACHE_HOME", str(at / "b"))
        yield lambda: cuda_folder("x", "links", lambda folder: None)


def of_no_home(at: Path) -> Iterator[Call]:
    with environment(XDG_CACHE_HOME=None, HOME="/proc/1/none") as patched:
        patched.setattr(tempfile, "tempdir", str(at))
        (at / f"ms_codegeex-{os.getuid()}").mkdir(mode=0o755)
        yield user_cache
        patched.setenv("XDG_CACHE_HOME", str(at / "cache"))
        yield user_cache


def of_a_file(content: bytes | None, right: bytes | None, call: Callable[[Path], object]) -> Situation:
    """A file with this content, or None: without it, and what the user makes of it."""

    def situation(at: Path) -> Iterator[Call]:
        path = at / "file"
        for each in (content, right):
            path.unlink(missing_ok=True)
            if each is not None:
                path.write_bytes(each)
            yield partial(call, path)

    return situation


def filled(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("x")


def shared(path: Path) -> None:
    with shared_files(path) as (temporary,):
        temporary.write_text("x")


def below_a_file(call: Callable[[Path], object]) -> Situation:
    """A path of which a part is a file; then it is not, or another place is given."""

    def situation(at: Path) -> Iterator[Call]:
        (at / "folder").write_text("")
        yield lambda: call(at / "folder/x")
        (at / "folder").unlink()
        (at / "folder").mkdir()
        yield lambda: call(at / "folder/x")
        yield lambda: call(at / "x")

    return situation


def of_a_link(at: Path) -> Iterator[Call]:
    (at / "link").symlink_to(at / "file")
    yield lambda: filled(at / "link")
    yield lambda: filled(at / "file")


def of_a_closed_input(at: Path) -> Iterator[Call]:
    (at / "file").write_text("x")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdin", None)
        yield lambda: reading.given_text("-", "--prompt-file")
        yield lambda: reading.given_text(str(at / "file"), "--prompt-file")


def in_a_model(spoil: Callable[[Path], object]) -> Situation:
    return changed(directory, spoil, None, quarantine.admit)


def crowded(path: Path) -> None:
    for number in range(quarantine.MAX_ENTRIES + 1):
        (path / f"{number}").touch()


def linked(path: Path, hard: bool = False) -> None:
    """config.json becomes a link out of the directory, or another name of a file there."""
    (path / "config.json").rename(path.parent / "outside")
    if hard:
        (path / "config.json").hardlink_to(path.parent / "outside")
    else:
        (path / "config.json").symlink_to(path.parent / "outside")


def copied_in(path: Path) -> None:
    content = (path / "config.json").read_bytes()
    (path / "config.json").unlink()
    (path / "config.json").write_bytes(content)


def named(wrong: str, group: str = "", right: str | None = None) -> Situation:
    """A name of a shipped file, and those of the message, or `right`."""

    def situation(at: Path) -> Iterator[Call]:
        said = yield lambda: find_config(wrong, group)
        names = said.rpartition("shipped: ")[2].partition(", and the ")[0].split(", ")
        for each in [right] if right else [*re.findall("mean '(.*?)'", said), *names]:
            yield partial(find_config, each, group)

    return situation


def of_records(rows: list[Any], verb: str) -> Situation:
    """A file of records in place of a configuration or a model; the command of the message takes it."""

    def situation(at: Path) -> Iterator[Call]:
        (at / "file.json").write_text(json.dumps(rows))
        said = yield failing(f"inspect {at}/file.json")
        line = re.search(f"`ms-codegeex ({verb} .*?)`", said)[1].replace("--model DIR", "--model model")
        yield failing(line.replace("DIR", str(at / "made")))

    return situation


def installed(package: str, call: Callable[..., object], otherwise: str = "") -> Situation:
    """A call without a package, which is there afterwards; `otherwise`: what the call then says."""

    def situation(at: Path) -> Iterator[Call]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            yield partial(call, at)
        if not otherwise:
            return
        with pytest.raises(UserError, match=otherwise):
            call(at)
        yield lambda: None

    return situation


def of_no_extras(at: Path) -> Iterator[Call]:
    line = f"train --config codegeex_2.6b_8 data.train=corpus output={at / 'run'}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "ms_codegeex.extras.jobs.job_files", None)
        yield failing(f"{line} --job slurm")
        yield failing(f"{line} --dry-run --nodes 1")


def _written(path: Path) -> None:
    if path.parent.is_dir():
        path.write_text("a: 1")


def of_a_rank_table_for_others(at: Path) -> Iterator[Call]:
    made = f"rank-table make --server 10.0.0.1=192.168.0.1,192.168.1.1 --output {at / 'table'}"
    run(made)
    check = f"rank-table check {at / 'table'} --config run.yaml"
    yield failing(check)
    yield failing(f"{check} devices=2")
    run(f"{made.replace(',192.168.1.1', '')} --replace")
    yield failing(check)


of_a_lookalike = changed(
    partial(directory, name="small-codegen-hf"),
    setting("config.json", _name_or_path="Salesforce/codegen2-1B"),
    setting("config.json", _name_or_path="mine"),
    lambda path: opened(path, {}),
)


def process(program: str, at: Path) -> None:
    run_processes([ProcessSpec("it", (program,), at, at / "log")])


EXAMPLES = [{"prompt": f"def f{n}(x):\n", "completion": f"    return x + {n}\n"} for n in range(24)]
TEXTS = Path(__file__).read_text().split("\n\n\n")
BASE: dict[str, Situation | tuple[Situation, ...] | str] = {
    # places
    "set XDG_CACHE_HOME to a folder you can write to": of_a_cache,
    "set XDG_CACHE_HOME to a directory that can": of_no_home,
    "set XDG_CACHE_HOME to a folder on a file system that is not mounted with noexec": of_no_execution,
    "{} of files": below_a_file(shared),
    "{}, {}": below_a_file(filled),
    "choose another": instead(lambda at: filled(at / ".."), lambda at: filled(at / "x")),
    "choose another name": instead(lambda at: filled(Path("/dev/null")), lambda at: filled(at / "null")),
    "give the file that it leads to": of_a_link,
    # files of a user
    "restore or recreate it": of_a_file(b"{", b"{}", reading.read_json),
    "{} of reading": of_a_file(None, b"x", lambda path: reading.opened(path).__enter__().close()),
    "shorten it": of_a_file(b"long", b"x", lambda path: reading.read_regular(path, 2)),
    "give a file in UTF-8": of_a_file(b"\xff", b"x", lambda path: reading.given_text(str(path), "--file")),
    "give a file, or pipe the text in": of_a_closed_input,
    "put one there": instead(
        lambda at: reading.read_regular(at, 9), lambda at: ((at / "x").touch(), reading.read_regular(at / "x", 9))
    ),
    "correct it": of_a_file(b"a: [", b"a: []", read_yaml_file),
    "restore it or choose another": below_a_file(lambda path: (_written(path), read_yaml_file(path))),
    "give another path or a shipped name": named("x" * 300, right="codegeex_tiny"),
    "did you mean '{}'? shipped: {}, and the {} of docs/recipes.md": named("codegeex_tin"),
    "shipped: {}, and the {} of docs/recipes.md": named("qqqq"),
    "did you mean '{}'? shipped: {}": named("bigpyton", "corpora"),
    "shipped: {}": named("qqqq", "corpora"),
    # files of a model
    "restore it or name another": (
        of_a_file(None, b"{}", reading.read_json),
        changed(
            lambda path: path.write_text(""),
            lambda path: None,
            lambda path: (path.unlink(), directory(path)),
            quarantine.entries,
        ),
    ),
    "give the directory of a single model": changed(directory, crowded, None, quarantine.entries),
    "restore the file": in_a_model(lambda path: (path / "model.gguf").symlink_to("nowhere")),
    "restore it": changed(
        directory, without("config.json"), None, lambda path: reading.read_inside(path, "config.json", 1 << 20)
    ),
    "restore it from the model": in_a_model(setting("config.json", x="x" * (5 << 20))),
    "replace it with a copy of itself if it belongs there": changed(
        directory, partial(linked, hard=True), copied_in, quarantine.admit
    ),
    "replace it with a copy of that file if it belongs there": changed(directory, linked, copied_in, quarantine.admit),
    "{} of kinds": (  # and those of base/kinds.yaml, in remedies_of_tables.py
        of_records(EXAMPLES, "finetune"),
        of_records([{"text": text, "language": "python"} for text in TEXTS], "prepare"),
    ),
    "give a model of this family, or correct that if it is one": of_a_lookalike,
    # options and devices
    "did you mean '{}'?": given("parallel.hardware=ascend911", "parallel.hardware=ascend910"),
    "known here: {}": given("parallel.hardware=tpu", "parallel.hardware=h100"),
    "choose fp16 or fp32, or another parallel.hardware": given(
        "device=ascend training.precision=bf16 parallel.hardware=ascend910",
        "training.precision=fp16",
        "training.precision=fp32",
        "parallel.hardware=ascend910b",
    ),
    "choose such a number": given(
        "device=gpu devices=6 training.global_batch=12", "devices=4", "devices=2", "devices=8 training.global_batch=16"
    ),
    "give {}": command(
        "checkpoint reshard small --output {at}/a --data 0", "checkpoint reshard small --output {at}/a --data 1"
    ),
    "leave it out": "an option for corpora",
    "{} of errors": of_a_rank_table_for_others,
    "install driver {} or newer": instead(lambda at: Driver("11.7").check(), lambda at: Driver("11.8").check()),
    "use such a machine or a container": instead(
        lambda at: mindspore_directory("x", ["vax"], [], ""),
        lambda at: mindspore_directory("x", [platform.machine()], [], ""),
    ),
    "run `pip install -r requirements.txt`": installed(
        "mindspore", lambda at: mindspore_directory("x", [platform.machine()], [], "")
    ),
    "run `{}`": installed("openai", lambda at: failing("complete --url http://127.0.0.1:9 x")(), "cannot be reached"),
    "missing, MindSpore {} {}": instead(
        lambda at: mindspore_directory("x", [platform.machine()], ["nothing"], "came without it"),
        lambda at: mindspore_directory("x", [platform.machine()], ["__init__.py"], ""),
    ),
    "leave the option out, or run `pip install --force-reinstall ms-codegeex`": of_no_extras,
    # processes
    "{} could not be started ({})": instead(lambda at: process("no-such-program", at), lambda at: process("true", at)),
    "{} did not finish within {} s": instead(
        lambda at: json_from_module("ms_codegeex.base.cuda.driver", "the query", 0.001),
        lambda at: json_from_module("ms_codegeex.base.cuda.driver", "the query", 60),
    ),
    "{} of processes": instead(
        lambda at: json_from_module("ms_codegeex.no_such", "the query", 60),
        lambda at: json_from_module("ms_codegeex.base.cuda.driver", "the query", 60),
    ),
}
BASE_UNTRIED = {
    **dict.fromkeys(
        (
            "install it, or choose the device cpu",
            "call ms_codegeex.base.cuda.libraries.prepare() first, or start the program with `python -m "
            "ms_codegeex.base.cuda PROGRAM`",
            "remove {}",
            "run pip install 'ms-codegeex[gpu]' (in a checkout: bash ascend_scripts/setup.sh --gpu)",
        ),
        "of a machine with GPUs",
    ),
}

# --- commands ---

SERVER = "rank-table make --output {at}/t --replace --server"
SHARED_RUN = "train --config codegeex_2.6b_8 data.train=corpus output={at}/run"


def of_no_adapters(at: Path) -> Iterator[Call]:
    _, adapter = adapted(at)
    yield failing("adapter list small")
    yield failing(f"adapter list {adapter}")


def of_expected_ranks(at: Path) -> Iterator[Call]:
    """What a script of converters/ is told of the files."""
    convert(Path("small"), "megatron", at / "parts", tensor_parallel=2, progress=False)
    arguments = convert_verb.Arguments(model=at / "parts", to="hf", output=at / "made", sizes=("num_heads=4",))
    yield lambda: convert_verb.run(arguments, 1)
    yield lambda: convert_verb.run(arguments, 2)


def of_code_of_a_gguf(at: Path) -> Iterator[Call]:
    run(f"convert --model model --to gguf --output {at / 'gguf'}")
    line = f"convert --model {at / 'gguf'} --to hf --output {at / 'made'}"
    yield failing(f"{line} --keep-code")
    yield failing(line)


def past(line: str, wrong: str) -> Call:
    """A command that meets no more than what this machine lacks."""

    def call() -> None:
        try:
            failing(line)()
        except UserError as error:
            assert wrong not in str(error)

    return call


def of_two_servers(at: Path) -> Iterator[Call]:
    with environment(RANK_TABLE_FILE=str(at / "t")) as patched:
        run(f"{SERVER} 10.0.0.1=192.168.0.1 --server 10.0.0.2=192.168.0.2".format(at=at))
        line = f"finetune --model model --data pairs.jsonl training.steps=1 output={at / 'run'} device=ascend devices="
        yield failing(f"{line}1")
        run(f"{SERVER} 10.0.0.1=192.168.0.1".format(at=at))
        yield past(f"{line}1", "RANK_TABLE_FILE")
        patched.delenv("RANK_TABLE_FILE")
        yield past(f"{line}1", "RANK_TABLE_FILE")


def of_nothing_known(at: Path) -> Iterator[Call]:
    (at / "made").mkdir()
    yield failing(f"inspect {at / 'made'}")
    run(f"convert --model small --to hf --output {at / 'made/a'}")
    yield failing(f"inspect {at / 'made/a'}")


def of_a_directory_above(at: Path) -> Iterator[Call]:
    for name in ("corpus", "other"):
        shutil.copytree(name, at / "above" / name)
    said = yield failing(f"inspect {at / 'above'}")
    for name in said.rpartition("such as ")[2].split(", "):
        yield failing(f"inspect {name}")


def of_a_device_without_address(at: Path) -> Iterator[Call]:
    line = f"{SERVER} 10.0.0.1=192.168.0.1,192.168.0.2 --devices".format(at=at)
    said = yield failing(f"{line} 0,2")
    yield failing(f"{line} {said.rpartition('it has ')[2].replace(', ', ',')}")


def of_no_servers(at: Path) -> Iterator[Call]:
    (at / "servers").write_text("10.0.0.1=192.168.0.1\n")
    line = f"rank-table make --replace --output {at / 't'}"
    yield failing(line)
    yield failing(f"{line} --server 10.0.0.1=192.168.0.1")
    yield failing(f"{line} --servers {at / 'servers'}")


def of_a_checked_table(at: Path) -> Iterator[Call]:
    run(f"{SERVER} 10.0.0.1=192.168.0.1".format(at=at))
    yield failing(f"rank-table check {at / 't'} seed=1")
    yield failing(f"rank-table check {at / 't'} seed=1 --config run.yaml")


def of_a_table_there(at: Path) -> Iterator[Call]:
    line = f"rank-table make --server 10.0.0.1=192.168.0.1 --output {at / 't'}"
    run(line)
    yield failing(line)
    yield failing(f"{line} --replace")
    yield failing(f"{line}-2")


COMMANDS: dict[str, Situation | tuple[Situation, ...] | str] = {
    "give a run's adapter folder": of_no_adapters,
    "expected at most {}, since each writes its file": command(
        "checkpoint reshard small --output {at}/a --data 65537", "checkpoint reshard small --output {at}/a --data 2"
    ),
    "give --to hf without --tokenizer, or leave it out": tuple(
        command(
            f"convert --model model --output {{at}}/a --keep-code {wrong}",
            "convert --model model --output {at}/a --keep-code --to hf",
            f"convert --model model --output {{at}}/b {wrong}",
        )
        for wrong in ("--to hf --tokenizer codegen-mono", "--to mindspore")
    ),
    "choose --to mindspore, or leave the option out": "a layout",
    "leave the option out": of_code_of_a_gguf,
    "is a file missing, or one too many?": of_expected_ranks,
    "expected NAME=VALUE, for example num_heads=40": command(
        "convert --model small.ckpt --to hf --output {at}/a --set rotary_dim=4 --set eos_token_id=4 --set num_heads",
        "convert --model small.ckpt --to hf --output {at}/a --set rotary_dim=4 --set eos_token_id=4 --set num_heads=4",
    ),
    "add --device ascend, or leave it and all overrides out": command("doctor training.dropout=0", "doctor"),
    "name files or a dataset directory first": command(
        "finetune --model model --data training.steps=1 output={at}/run",
        "finetune --model model --data pairs.jsonl training.steps=1 output={at}/run",
    ),
    "name a table of this one, or unset it": of_two_servers,
    "{} of finetune": "tuning on long answers",
    "add --json": command(
        "generate --model model --prompt x --max-new-tokens 1 --log-probabilities 2",
        "generate --model model --prompt x --max-new-tokens 1 --log-probabilities 2 --json",
    ),
    "give a token's id and a number, for example 198=-100": command(
        "generate --model model --prompt x --max-new-tokens 1 --logit-bias 198",
        "generate --model model --prompt x --max-new-tokens 1 --logit-bias 198=-100",
    ),
    "name it with --language": command(
        "generate --model model --prompt x --max-new-tokens 1 --stop-at block",
        "generate --model model --prompt x --max-new-tokens 1 --stop-at block --language python",
    ),
    "leave out --tensors": command("inspect corpus --tensors", "inspect corpus"),
    "leave out --{}": "documents of a model",
    "give the directory of the dataset, model or run that has it": command(
        "inspect corpus/dataset.json", "inspect corpus"
    ),
    "give a dataset, a model directory, a checkpoint or a run": command(
        "inspect nothing", "inspect corpus", "inspect model", "inspect small/checkpoints/step-00000004"
    ),
    "name one in it, such as {}": of_a_directory_above,
    "see `prepare`, `convert`, `quantize` and `train`": of_nothing_known,
    "name each server with --server ID=SOURCE, or all in --servers FILE": of_no_servers,
    "expected numbers such as 0,1,2,3": command(
        f"{SERVER} a=192.168.0.1 --devices x", f"{SERVER} a=192.168.0.1 --devices 0"
    ),
    "give each once": command(f"{SERVER} a=192.168.0.1 --devices 0,0", f"{SERVER} a=192.168.0.1 --devices 0"),
    "expected ID=SOURCE such as 10.0.0.11=/etc/hccn.conf": command(
        f"{SERVER} 10.0.0.1", f"{SERVER} 10.0.0.1=192.168.0.1"
    ),
    "expected an IP address or one hccn.conf": command(f"{SERVER} a=192.168.0.1,x", f"{SERVER} a=192.168.0.1"),
    "it has {}": of_a_device_without_address,
    "overrides need --config FILE": of_a_checked_table,
    "choose another name or give --replace": of_a_table_there,
    "leave out --json": command(
        "train --config run.yaml output={at}/run --script --dry-run --json",
        "train --config run.yaml output={at}/run --script --dry-run",
    ),
    "add it": command(
        "train --config run.yaml output={at}/run --script", "train --config run.yaml output={at}/run --script --dry-run"
    ),
    "leave it out": command(
        "train --config run.yaml output={at}/run --first-run --resume auto",
        "train --config run.yaml output={at}/run --resume auto",
    ),
    "name a configuration, such as --config codegeex_tiny": command(
        "train output={at}/run data.train=corpus",
        "train output={at}/run data.train=corpus --config codegen_tiny",
    ),
    "leave it out, or set devices or parallel.server_devices": command(
        f"{SHARED_RUN} --job slurm --nodes 2",
        f"{SHARED_RUN} --job slurm",
        f"{SHARED_RUN} --job slurm --nodes 2 devices=16",
        f"{SHARED_RUN} --job slurm --nodes 2 parallel.server_devices=4",
    ),
    "{} of train": (
        *(
            command(f"{SHARED_RUN} --job slurm {word}", f"{SHARED_RUN} --job slurm")
            for word in (
                "--restarts 2",
                "--node-rank 0",
                "--master-addr a:1",
                "--dry-run",
                "--script --dry-run",
                "--json",
            )
        ),
        command(f"{SHARED_RUN} --job slurm --dry-run", f"{SHARED_RUN} --dry-run"),
        command(f"{SHARED_RUN} --job slurm --corpus tree", f"{SHARED_RUN} --job slurm data.train=corpus"),
    ),
}

# --- generation ---


def sampling(right: dict[str, Any], **wrong: Any) -> Situation:
    return instead(lambda at: SamplingSettings(**wrong), lambda at: SamplingSettings(**right))


def generator(model: str | Path = "model", **options: Any) -> Generator:
    return Generator(Path(model), threads=1, **options)


def quantised(path: Path, bits: int = 8, model: str = "model") -> None:
    run(f"quantize --model {model} --bits {bits} --output {path}")


def requantised(spoil: Callable[[Path], object]) -> Situation:
    return changed(quantised, spoil, None, load_model)


def formed(wrong: dict[str, Any], right: dict[str, Any]) -> Situation:
    return instead(lambda at: prepared(SamplingSettings(**wrong)), lambda at: prepared(SamplingSettings(**right)))


def of_another_tokenizer(at: Path) -> Iterator[Call]:
    run(f"convert --model model --to hf --output {at / 'other'} --tokenizer codegen-nl")
    yield lambda: generator(speculate=at / "other")
    yield lambda: generator(speculate="model")


def of_a_long_prompt(at: Path) -> Iterator[Call]:
    (at / "long").write_text("x = 1\n" * 99)
    line = f"generate --model model --max-new-tokens 1 --prompt-file {at / 'long'}"
    yield failing(line)
    yield failing(f"{line} --cut-prompt")
    (at / "long").write_text("x = 1\n")
    yield failing(line)


def of_other_bits(at: Path) -> Iterator[Call]:
    quantised(at / "model")
    yield lambda: load_model(at / "model", 4)
    yield lambda: load_model(at / "model")
    yield lambda: load_model(Path("model"), 4)


def of_no_operators(at: Path) -> Iterator[Call]:
    quantised(at / "made")
    line = f"generate --model {at / 'made'} --prompt x --max-new-tokens 1 --fast"
    yield failing(f"{line} --threads 0")
    yield failing(line)


def chosen(at: Path, rows: int) -> None:
    """The token after one row of logits, with settings for so many."""
    inputs = np.zeros((1, 9), np.float32), *pack([TokenChoice()], rows, 9), np.zeros((1, 1, 2))
    compiled_library(1)[0].run("choose", *inputs)


def of_a_large_rank(at: Path) -> Iterator[Call]:
    for name, rank in (("large", MAX_ADAPTER_RANK + 1), ("small", MAX_ADAPTER_RANK)):
        save_adapters(at / name, "codegen", Path("small-codegen-hf").absolute(), rank=rank, targets=("query",))
    model = load_model(Path("small-codegen-hf"))
    yield lambda: load_adapters({"": at / "large"}, model)
    yield lambda: load_adapters({"": at / "small"}, model)


def of_a_place_there(at: Path) -> Iterator[Call]:
    quantised(at / "model")
    line = f"quantize --model model --bits 8 --output {at / 'model'}"
    yield failing(line)
    yield failing(f"{line}-2")
    yield failing(f"{line} --replace")


def of_a_language_tag(at: Path) -> Iterator[Call]:
    said = yield lambda: generator().encode("")
    yield lambda: generator().encode(re.search("for example '(.*)'", said)[1])


def of_fast_decoding(at: Path) -> Iterator[Call]:
    line = "generate --prompt x --max-new-tokens 1 --fast --model"
    said = yield failing(f"{line} model")
    verb = re.search("'ms-codegeex (.*?)'", said)[1]
    run(f"{verb} --model model --bits 8 --output {at / 'made'}")
    yield failing(f"{line} {at / 'made'}")


ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
GENERATION: dict[str, Situation | tuple[Situation, ...] | str] = {
    "give one of {}": instead(lambda at: block("SQL", "x"), lambda at: block("Python", "x")),
    "its weights are damaged or it diverged": changed(
        lambda path: shutil.copytree("model", path),
        tensors(lambda arrays: [array.fill(np.nan) for array in arrays.values()]),
        None,
        lambda path: generator(path).generate("x", SamplingSettings(1)),
    ),
    "give 1 to {}": instead(
        lambda at: check_devices(loaded("seed=1").model.sizes, 3),
        lambda at: check_devices(loaded("seed=1").model.sizes, 2),
    ),
    "leave it out": instead(lambda at: compiled_library(0, "plain"), lambda at: compiled_library(0)),
    "give a model with the same one": of_another_tokenizer,
    "give some text, for example '# language: Python'": of_a_language_tag,
    "shorten the prompt, or drop its start with --cut-prompt": of_a_long_prompt,
    "known are {}": instead(lambda at: generator().logits([1], "x"), lambda at: generator().logits([1])),
    "{} tokens, the model takes 1 to {}": instead(
        lambda at: generator().logits([]), lambda at: generator().logits([1] * 128)
    ),
    "ids are 0 to {}": (
        instead(lambda at: generator().logits([-1]), lambda at: generator().logits([0])),
        instead(
            lambda at: generator().submit([1], SamplingSettings(1, logit_bias={60000: 1.0})),
            lambda at: generator().submit([1], SamplingSettings(1, logit_bias={5: 1.0})),
        ),
    ),
    "give {} at most": formed({"grammar": f'root ::= "{"x" * 16384}"'}, {"grammar": 'root ::= "x"'}),
    "let one be left out": formed(
        {"json_schema": json.dumps(ENDLESS)}, {"json_schema": json.dumps({**ENDLESS, "required": []})}
    ),
    "{} of grammars": formed({"json_schema": '{"description": "%s"}' % ("x" * 20000)}, {"json_schema": "{}"}),
    "correct it": formed({"grammar": 'root ::= "x'}, {"grammar": 'root ::= "x"'}),
    "run `pip install llguidance` where the server runs": installed(
        "llguidance", lambda at: prepared(SamplingSettings(json_schema="{}"))
    ),
    "leave out --bits, or give its original": of_other_bits,
    "{} is the most": of_a_large_rank,
    "quantise the model again with this version": requantised(setting("quantised.json", format=0)),
    "quantise the model again": (
        requantised(setting("quantised.json", bits=7)),
        requantised(setting("quantised.json", bits=4, group=5)),
        requantised(setting("quantised.json", sizes={"n_embd": 3})),
        requantised(
            tensors(
                lambda arrays: arrays.update({first(arrays, "norm"): np.zeros(3, np.float32)}), "quantised.safetensors"
            )
        ),
        requantised(tensors(lambda arrays: arrays.pop(first(arrays, "norm")), "quantised.safetensors")),
    ),
    "choose 8 or 4": instead(
        lambda at: write_quantised(open_source(Path("model")), 16, 32, at / "a"),
        lambda at: write_quantised(open_source(Path("model")), 8, 32, at / "a"),
    ),
    "choose another place, or give --replace for a quantised model": of_a_place_there,
    "{} of quantising": "no tokenizer",
    "give one of them": (
        sampling({"json_schema": "{}"}, json_schema="{}", grammar="x"),
        command(
            "generate --model model --prompt x --max-new-tokens 1 --fast --exact",
            "generate --model model --prompt x --max-new-tokens 1 --exact",
        ),
    ),
    "give an id and a number of at most 1e6": sampling({"logit_bias": {1: 1e6}}, logit_bias={1: 1e7}),
    "give one or more characters": sampling({"stop": ("x",)}, stop=("",)),
    "leave out one or the other": (
        sampling({"beams": 2}, beams=2, json_schema="{}"),
        sampling({"beams": 2}, beams=2, presence_penalty=1.0),
    ),
    "give as many beams or more": sampling({"n": 3, "beams": 3}, n=3, beams=2),
    "run `ms-codegeex doctor` for details, or use --device cpu": command(
        "generate --model model --prompt x --max-new-tokens 1 --device ascend",
        "generate --model model --prompt x --max-new-tokens 1 --device cpu",
    ),
    "choose 32 or 16": instead(lambda at: generator(cache_bits=8), lambda at: generator(cache_bits=16)),
    "give one made by 'ms-codegeex quantize'": of_fast_decoding,
    "leave out --threads 0 and --device, or install g++ or 'ziglang'": of_no_operators,
    "memory is out, or its inputs are wrong": instead(partial(chosen, rows=2), partial(chosen, rows=1)),
    "expected one word": of_a_file(b"two words", b"word", read_key),
}
GENERATION_UNTRIED = {
    "load the model again": "of a program that uses the engine after one of its processes has ended",
    **dict.fromkeys(
        (
            "device {} became rank {} of MindSpore's communication",
            "device {} could not load the compiled operators",
            "{} of scheduler",
            "{} of network",
            "the program ends",
        ),
        "names no remedy; of a process that fails",
    ),
    "start a new one": "of thousands of models in one process",
    "check CUDA_VISIBLE_DEVICES, or give {}": "of a machine with GPUs",
    "give fewer slots, --devices N, or --device cpu": "of a machine with GPUs",
}
CORE = {
    "config": (CONFIG, {}),
    "base": (BASE, BASE_UNTRIED),
    "commands": (COMMANDS, {}),
    "generation": (GENERATION, GENERATION_UNTRIED),
}
