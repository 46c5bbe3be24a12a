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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from remedies_of_formats import adapted, by_itself, changed, directory, first, gen_directory, setting, tensors, without
from remedies_read import CONVERTED, FINETUNE_PAIRS, PREPARE_PAIRS, now, told
from remedies_shapes import (
    AGAIN,
    Call,
    Entry,
    Said,
    Situation,
    each,
    environment,
    failing,
    lines,
    of_each,
    put,
    run,
    tried,
)
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


def rather(*lines: str, file: str = "run.yaml") -> Situation:
    """Overrides of a configuration that are refused, and others in their place."""
    return of_each(lambda at, words: loaded(words, file), *lines)


def given(wrong: str, *more: str, file: str = "run.yaml") -> Situation:
    """The same with further overrides, which the message says; later ones count."""
    return rather(wrong, *(f"{wrong} {each}" for each in more), file=file)


def blend(*values: str) -> Situation:
    """Values of data.blend, of which the first is refused."""
    return rather(*(f"data.train=null 'data.blend={value}'" for value in values))


def written(*texts: str) -> Situation:
    """Files of a configuration, of which the first is refused."""
    words = "model.preset=tiny training.steps=1"
    return tried(*(({"a.yaml": text}, lambda at: loaded(words, at / "a.yaml")) for text in texts))


def on_driver(driver: str, *lines: str) -> Situation:
    """Runs on Ascend, whose driver names the device."""
    return each(lambda words: driver_hardware(loaded(f"device=ascend {words}"), driver), *lines)


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
BIG | devices=8 parallel.pipeline=2 parallel.optimizer_level=3 | parallel.optimizer_level=2
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
    at_once = Said(".*; set (.*)", lambda at, words: loaded(f"{wrong} {words}", "codegeex_2.6b_8"))
    return tried(lambda at: loaded(wrong, "codegeex_2.6b_8"), at_once)


def quoted(wrong: str) -> Situation:
    """A value that the shell has unquoted; what the message shows, as a shell reads it."""
    shown = Said(".*quote it as (.*)", lambda at, value: loaded(f"output={value}"))
    return tried(lambda at: load_config(Path("run.yaml"), [f"output={wrong}"]), shown)


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


CONFIG: dict[str, Entry] = {
    "write - {from_step: 0, weights: …}": blend(
        "{from_step: 0, weights: {ids: 1}}", "- {from_step: 0, weights: {ids: 1}}"
    ),
    "expected {directory: weight} or a list of {from_step, weights}": blend(
        "ids", "{ids: 1}", "[{from_step: 0, weights: {ids: 1}}]"
    ),
    "expected the keys from_step and weights": blend("[{weights: {ids: 1}}]", "[{from_step: 0, weights: {ids: 1}}]"),
    "expected a step after the one before, {} or later": blend(
        *(f"[{{from_step: 0, weights: {{ids: 1}}}}, {{from_step: {step}, weights: {{run: 1}}}}]" for step in (0, 1))
    ),
    "expected 0, where a run begins": blend(*(f"[{{from_step: {step}, weights: {{ids: 1}}}}]" for step in (1, 0))),
    "expected {directory: weight}": blend("[{from_step: 0, weights: ids}]", "[{from_step: 0, weights: {ids: 1}}]"),
    "quote it": blend("{1: 1}", '{"1": 1}'),
    "give more, or leave it out": blend("{ids: 1, run: 1e-9}", "{ids: 1, run: 1e-3}", "{ids: 1}"),
    "leave out what is not wanted": blend("{ids: 1, run: 0}", "{ids: 1}"),
    "write '{}={DIR: WEIGHT, DIR: WEIGHT}'": rather(
        "data.train=null data.blend.ids=1", "data.train=null 'data.blend={ids: 1, run: 1}'"
    ),
    "name one of {}, or leave it out": each(
        lambda words: check_kind(loaded(f"device=gpu {words}")),
        *("parallel.hardware=ascend910", "parallel.hardware=h100", "seed=1"),
    ),
    "name the one it is most like, of {}: it decides kernels and memory": on_driver(
        "Ascend310P3", "seed=1", "parallel.hardware=ascend910"
    ),
    "set it to {} or leave it out": on_driver(
        "Ascend910B2", "parallel.hardware=ascend910", "parallel.hardware=ascend910b", "seed=1"
    ),
    "write it with `ms-codegeex plan --config RUN/config.yaml --measured RUN --write-hardware FILE.yaml`, or name a "
    "chip": of_a_measured_chip,
    "add one, such as base: ascend910b": tried(
        ({"mine.yaml": "source: a run\n"}, lambda at: loaded(f"device=ascend parallel.hardware={at}/mine.yaml")),
        (Said(".*such as (.*)", lambda at, line: put(at, {"mine.yaml": f"source: a run\n{line}\n"})), AGAIN),
    ),
    "give its file as --config": tried(
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
    "expected a section with keys family, preset and sizes of the family": rather("model=3", "'model={preset: tiny}'"),
    "expected a section with keys {}": rather("training=3", "'training={steps: 3}'"),
    "input should be a finite number": given("model.init_std=.nan", "model.init_std=0.1"),
    "expected a model directory, a run or a checkpoint": given("model.weights=3", "model.weights=small"),
    "expected a list of {}, or none of them": given("model.grow=3", "'model.grow=[vocabulary]'", "model.grow=[]"),
    "expected parts of parameters' names, such as [embedding]": rather(
        "model.fresh=embedding", "model.fresh=[embedding]"
    ),
    "one of them is {}": tried(
        lambda at: loaded("model.fresh=[qqqq]"),
        Said("one of them is (.*)", lambda at, one: loaded(f"model.fresh=[{one}]")),
    ),
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

    def called(at: Path, content: bytes | None) -> object:
        (at / "file").unlink(missing_ok=True)
        put(at, {} if content is None else {"file": content})
        return call(at / "file")

    return of_each(called, content, right)


def below_a_file(call: Callable[[Path], object]) -> Situation:
    """A path of which a part is a file; then it is not, or another place is given."""
    again = (lambda at: (at / "folder").unlink(), lambda at: (at / "folder").mkdir(), AGAIN)
    return tried(({"folder": ""}, lambda at: call(at / "folder/x")), again, lambda at: call(at / "x"))


def filled(path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("x")


def shared(path: Path) -> None:
    with shared_files(path) as (temporary,):
        temporary.write_text("x")


def in_a_model(spoil: Callable[[Path], object], mend: Callable[[Path], object] | None = None) -> Situation:
    return changed(directory, spoil, mend, quarantine.admit)


def of_a_closed_input(at: Path) -> Iterator[Call]:
    put(at, {"file": "x"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdin", None)
        for name in ("-", f"{at}/file"):
            yield partial(reading.given_text, name, "--prompt-file")


def linked(path: Path, how: str = "symlink_to") -> None:
    """config.json becomes a link out of the directory, or another name of a file there."""
    (path / "config.json").rename(path.parent / "outside")
    getattr(path / "config.json", how)(path.parent / "outside")


def copied_in(path: Path) -> None:
    (path / "config.json").unlink()
    shutil.copy(path.parent / "outside", path / "config.json")


def named(wrong: str, group: str = "", right: str | None = None) -> Situation:
    """A name of a shipped file, and those of the message, or `right`."""

    def situation(at: Path) -> Iterator[Call]:
        said = yield lambda: find_config(wrong, group)
        names = said.rpartition("shipped: ")[2].partition(", and the ")[0].split(", ")
        for name in [right] if right else [*re.findall("mean '(.*?)'", said), *names]:
            yield partial(find_config, name, group)

    return situation


def installed(package: str, call: Callable[..., object], otherwise: str = "") -> Situation:
    """A call without a package, which is there afterwards; `otherwise`: what the call then says."""

    def situation(at: Path) -> Iterator[Call]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            yield partial(call, at)
        if otherwise:
            with pytest.raises(UserError, match=otherwise):
                call(at)
            yield lambda: None

    return situation


def of_records(rows: list[Any], verb: str) -> Situation:
    """A file of records in place of a configuration or a model; the command of the message takes it."""

    def taken(at: Path, line: str) -> None:
        run(line.replace("--model DIR", "--model model").replace("DIR", str(at / "made")))

    return tried(
        ({"file.json": json.dumps(rows)}, "inspect {at}/file.json"), Said(f"`ms-codegeex ({verb} .*?)`", taken)
    )


def of_no_extras(at: Path) -> Iterator[Call]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "ms_codegeex.extras.jobs.job_files", None)
        for more in ("--job slurm", "--dry-run --nodes 1"):
            yield failing(f"{SHARED_RUN.format(at=at)} {more}")


MAKE = "rank-table make --output {at}/t --server 10.0.0.1=192.168.0.1"
CHECK = "rank-table check {at}/t"
DRIVERS = "ms_codegeex.base.cuda.driver"


def process(program: str, at: Path) -> None:
    run_processes([ProcessSpec("it", (program,), at, at / "log")])


EXAMPLES = [{"prompt": f"def f{n}(x):\n", "completion": f"    return x + {n}\n"} for n in range(24)]
TEXTS = Path(__file__).read_text(encoding="utf-8").split("\n\n\n")
BASE: dict[str, Entry] = {
    "set XDG_CACHE_HOME to a folder you can write to": of_a_cache,
    "set XDG_CACHE_HOME to a directory that can": of_no_home,
    "set XDG_CACHE_HOME to a folder on a file system that is not mounted with noexec": of_no_execution,
    "{} of files": below_a_file(shared),
    "{}, {}": below_a_file(filled),
    "choose another": of_each(lambda at, name: filled(at / name), "..", "x"),
    "choose another name": of_each(lambda at, name: filled(at / name), "/dev/null", "null"),
    "give the file that it leads to": tried(
        (lambda at: (at / "link").symlink_to(at / "file"), lambda at: filled(at / "link")),
        lambda at: filled(at / "file"),
    ),
    "restore or recreate it": of_a_file(b"{", b"{}", reading.read_json),
    "{} of reading": of_a_file(None, b"x", lambda path: reading.opened(path).__enter__().close()),
    "shorten it": of_a_file(b"long", b"x", lambda path: reading.read_regular(path, 2)),
    "give a file in UTF-8": of_a_file(b"\xff", b"x", lambda path: reading.given_text(str(path), "--file")),
    "give a file, or pipe the text in": of_a_closed_input,
    "put one there": tried(
        lambda at: reading.read_regular(at, 9), ({"x": ""}, lambda at: reading.read_regular(at / "x", 9))
    ),
    "correct it": of_a_file(b"a: [", b"a: []", read_yaml_file),
    "restore it or choose another": below_a_file(
        lambda path: (path.parent.is_dir() and path.write_text("a: 1"), read_yaml_file(path))
    ),
    "give another path or a shipped name": named("x" * 300, right="codegeex_tiny"),
    "did you mean '{}'? shipped: {}, and the {} of docs/recipes.md": named("codegeex_tin"),
    "shipped: {}, and the {} of docs/recipes.md": named("qqqq"),
    "did you mean '{}'? shipped: {}": named("bigpyton", "corpora"),
    "shipped: {}": named("qqqq", "corpora"),
    "restore it or name another": (
        of_a_file(None, b"{}", reading.read_json),
        changed(
            lambda path: path.write_text(""),
            lambda path: None,
            lambda path: (path.unlink(), directory(path)),
            quarantine.entries,
        ),
    ),
    "give the directory of a single model": changed(
        directory,
        lambda path: [(path / f"{n}").touch() for n in range(quarantine.MAX_ENTRIES + 1)],
        None,
        quarantine.entries,
    ),
    "restore the file": in_a_model(lambda path: (path / "model.gguf").symlink_to("nowhere")),
    "restore it": changed(
        directory, without("config.json"), None, lambda path: reading.read_inside(path, "config.json", 1 << 20)
    ),
    "restore it from the model": in_a_model(setting("config.json", x="x" * (5 << 20))),
    "replace it with a copy of itself if it belongs there": in_a_model(partial(linked, how="hardlink_to"), copied_in),
    "replace it with a copy of that file if it belongs there": in_a_model(linked, copied_in),
    "{} of kinds": (  # and those of base/kinds.yaml, in remedies_of_tables.py
        of_records(EXAMPLES, "finetune"),
        of_records([{"text": text, "language": "python"} for text in TEXTS], "prepare"),
    ),
    "give a model of this family, or correct that if it is one": changed(
        gen_directory,
        setting("config.json", _name_or_path="Salesforce/codegen2-1B"),
        setting("config.json", _name_or_path="mine"),
        by_itself,
    ),
    "did you mean '{}'?": given("parallel.hardware=ascend911", "parallel.hardware=ascend910"),
    "known here: {}": given("parallel.hardware=tpu", "parallel.hardware=h100"),
    "choose fp16 or fp32, or another parallel.hardware": given(
        "device=ascend training.precision=bf16 parallel.hardware=ascend910",
        *("training.precision=fp16", "training.precision=fp32", "parallel.hardware=ascend910b"),
    ),
    "choose such a number": given(
        "device=gpu devices=6 training.global_batch=12", "devices=4", "devices=2", "devices=8 training.global_batch=16"
    ),
    "give {}": lines("checkpoint reshard small --output {at}/a --data @", 0, 1),
    "leave it out": now(f"{PREPARE_PAIRS} --input pairs.jsonl --languages python"),
    "{} of errors": tried(
        (f"{MAKE},192.168.1.1", f"{CHECK} --config run.yaml"),
        f"{CHECK} --config run.yaml devices=2",
        (f"{MAKE} --replace", AGAIN),
    ),
    "install driver {} or newer": each(lambda version: Driver(version).check(), "11.7", "11.8"),
    "use such a machine or a container": each(
        lambda kind: mindspore_directory("x", [kind], [], ""), "vax", platform.machine()
    ),
    "run `pip install -r requirements.txt`": installed(
        "mindspore", lambda at: mindspore_directory("x", [platform.machine()], [], "")
    ),
    "run `{}`": installed("openai", lambda at: failing("complete --url http://127.0.0.1:9 x")(), "cannot be reached"),
    "missing, MindSpore {} {}": each(
        lambda name: mindspore_directory("x", [platform.machine()], [name], "came without it"), "nothing", "__init__.py"
    ),
    "leave the option out, or run `pip install --force-reinstall ms-codegeex`": of_no_extras,
    "{} could not be started ({})": of_each(lambda at, name: process(name, at), "no-such-program", "true"),
    "{} did not finish within {} s": each(lambda seconds: json_from_module(DRIVERS, "the query", seconds), 0.001, 60),
    "{} of processes": each(lambda name: json_from_module(name, "the query", 60), "ms_codegeex.no_such", DRIVERS),
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


SHORT = "--prompt x --max-new-tokens 1"
GENERATE = f"generate --model model {SHORT}"
LONG = "generate --model model --max-new-tokens 1 --prompt-file {at}/long"
QUANTISE = "quantize --model model --bits 8 --output {at}/made"
OF_CKPT = "convert --model small.ckpt --to hf --output {at}/a"
FAST = f"generate --model {{at}}/made {SHORT} --fast"


def of_expected_ranks(at: Path) -> Iterator[Call]:
    """What a script of converters/ is told of the files."""
    convert(Path("small"), "megatron", at / "parts", tensor_parallel=2, progress=False)
    arguments = convert_verb.Arguments(model=at / "parts", to="hf", output=at / "made", sizes=("num_heads=4",))
    yield lambda: convert_verb.run(arguments, 1)
    yield lambda: convert_verb.run(arguments, 2)


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


COMMANDS: dict[str, Entry] = {
    "give a run's adapter folder": tried((adapted, "adapter list small"), "adapter list {at}/adapter"),
    "expected at most {}, since each writes its file": lines(
        "checkpoint reshard small --output {at}/a --data @", 65537, 2
    ),
    "give --to hf without --tokenizer, or leave it out": tuple(
        tried(
            f"convert --model model --output {{at}}/a --keep-code {wrong}",
            "convert --model model --output {at}/a --keep-code --to hf",
            f"convert --model model --output {{at}}/b {wrong}",
        )
        for wrong in ("--to hf --tokenizer codegen-mono", "--to mindspore")
    ),
    "choose --to mindspore, or leave the option out": now(
        "convert --model small --to hf --layout mindformers --output {at}/o", 2
    ),
    "leave the option out": tried(
        (
            "convert --model model --to gguf --output {at}/g",
            "convert --model {at}/g --to hf --output {at}/o --keep-code",
        ),
        "convert --model {at}/g --to hf --output {at}/o",
    ),
    "is a file missing, or one too many?": of_expected_ranks,
    "expected NAME=VALUE, for example num_heads=40": lines(
        f"{OF_CKPT} --set rotary_dim=4 --set eos_token_id=4 --set num_heads@", "", "=4"
    ),
    "add --device ascend, or leave it and all overrides out": tried("doctor training.dropout=0", "doctor"),
    "name files or a dataset directory first": lines(
        "finetune --model model --data @ training.steps=1 output={at}/run", "", "pairs.jsonl"
    ),
    "name a table of this one, or unset it": of_two_servers,
    "{} of finetune": now(f"{FINETUNE_PAIRS} data.seq_length=4", 1, {"N": "64"}),
    "add --json": told(f"{GENERATE} --log-probabilities 2"),
    "give a token's id and a number, for example 198=-100": lines(f"{GENERATE} --logit-bias @", "198", "198=-100"),
    "name it with --language": tried(f"{GENERATE} --stop-at block", f"{GENERATE} --stop-at block --language python"),
    "leave out --tensors": told("inspect corpus --tensors"),
    "leave out --{}": now("inspect model --document 1"),
    "give the directory of the dataset, model or run that has it": tried(
        "inspect corpus/dataset.json", "inspect corpus"
    ),
    "give a dataset, a model directory, a checkpoint or a run": lines(
        "inspect @", "nothing", "corpus", "model", "small/checkpoints/step-00000004"
    ),
    "name one in it, such as {}": tried(
        (
            *(lambda at, name=name: shutil.copytree(name, at / "above" / name) for name in ("corpus", "other")),
            "inspect {at}/above",
        ),
        *(Said(f"such as {before}([^,]*)", "inspect {0}") for before in ("", "[^,]*, ")),
    ),
    "see `prepare`, `convert`, `quantize` and `train`": tried(
        (lambda at: (at / "made").mkdir(), "inspect {at}/made"),
        ("convert --model small --to hf --output {at}/made/a", "inspect {at}/made/a"),
    ),
    "name each server with --server ID=SOURCE, or all in --servers FILE": tried(
        ({"servers": "10.0.0.1=192.168.0.1\n"}, "rank-table make --replace --output {at}/t"),
        f"{MAKE} --replace",
        "rank-table make --replace --output {at}/t --servers {at}/servers",
    ),
    "expected numbers such as 0,1,2,3": lines(f"{MAKE} --devices @", "x", "0"),
    "give each once": lines(f"{MAKE} --devices @", "0,0", "0"),
    "expected ID=SOURCE such as 10.0.0.11=/etc/hccn.conf": tried(
        "rank-table make --output {at}/t --server 10.0.0.1", MAKE
    ),
    "expected an IP address or one hccn.conf": tried(f"{MAKE},x", MAKE),
    "it has {}": tried(
        f"{MAKE},192.168.0.2 --devices 0,2", Said(r"it has (\d), (\d)", f"{MAKE},192.168.0.2 --devices {{0}},{{1}}")
    ),
    "overrides need --config FILE": tried((MAKE, f"{CHECK} seed=1"), f"{CHECK} seed=1 --config run.yaml"),
    "choose another name or give --replace": tried((MAKE, MAKE), f"{MAKE} --replace", MAKE.replace("/t", "/u")),
    "leave out --json": told("train --config run.yaml output={at}/o --script --dry-run --json"),
    "add it": lines("train --config run.yaml output={at}/run --script@", "", " --dry-run"),
    "leave it out": lines("train --config run.yaml output={at}/run @--resume auto", "--first-run ", ""),
    "name a configuration, such as --config codegeex_tiny": lines(
        "train output={at}/run data.train=corpus@", "", " --config codegen_tiny"
    ),
    "leave it out, or set devices or parallel.server_devices": tried(
        f"{SHARED_RUN} --job slurm --nodes 2",
        f"{SHARED_RUN} --job slurm",
        f"{SHARED_RUN} --job slurm --nodes 2 devices=16",
        f"{SHARED_RUN} --job slurm --nodes 2 parallel.server_devices=4",
    ),
    "{} of train": (
        *(
            tried(f"{SHARED_RUN} --job slurm {wrong}", f"{SHARED_RUN} --job slurm")
            for wrong in (
                "--restarts 2",
                "--node-rank 0",
                "--master-addr a:1",
                "--dry-run",
                "--script --dry-run",
                "--json",
            )
        ),
        tried(f"{SHARED_RUN} --job slurm --dry-run", f"{SHARED_RUN} --dry-run"),
        tried(f"{SHARED_RUN} --job slurm --corpus tree", f"{SHARED_RUN} --job slurm data.train=corpus"),
    ),
}

# --- generation ---


def generator(model: str | Path = "model", **options: Any) -> Generator:
    return Generator(Path(model), threads=1, **options)


def quantised(path: Path, bits: int = 8, model: str = "model") -> None:
    run(f"quantize --model {model} --bits {bits} --output {path}")


def requantised(spoil: Callable[[Path], object]) -> Situation:
    return changed(quantised, spoil, None, load_model)


sampling = partial(each, SamplingSettings)
formed = partial(each, lambda **how: prepared(SamplingSettings(**how)))


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


ENDLESS = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
GENERATION: dict[str, Entry] = {
    "give one of {}": each(lambda language: block(language, "x"), "SQL", "Python"),
    "its weights are damaged or it diverged": changed(
        lambda path: shutil.copytree("model", path),
        tensors(lambda arrays: [array.fill(np.nan) for array in arrays.values()]),
        None,
        lambda path: generator(path).generate("x", SamplingSettings(1)),
    ),
    "give 1 to {}": each(lambda count: check_devices(loaded("seed=1").model.sizes, count), 3, 2),
    "leave it out": tried(lambda at: compiled_library(0, "plain"), lambda at: compiled_library(0)),
    "give a model with the same one": tried(
        (
            "convert --model model --to hf --output {at}/other --tokenizer codegen-nl",
            lambda at: generator(speculate=at / "other"),
        ),
        lambda at: generator(speculate="model"),
    ),
    "give some text, for example '# language: Python'": tried(
        lambda at: generator().encode(""), Said("for example '(.*)'", lambda at, text: generator().encode(text))
    ),
    "shorten the prompt, or drop its start with --cut-prompt": tried(
        ({"long": "x = 1\n" * 99}, LONG), f"{LONG} --cut-prompt", ({"long": "x = 1\n"}, AGAIN)
    ),
    "known are {}": tried(lambda at: generator().logits([1], "x"), lambda at: generator().logits([1])),
    "{} tokens, the model takes 1 to {}": each(lambda ids: generator().logits(ids), [], [1] * 128),
    "ids are 0 to {}": (
        each(lambda ids: generator().logits(ids), [-1], [0]),
        each(lambda token: generator().submit([1], SamplingSettings(1, logit_bias={token: 1.0})), 60000, 5),
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
    "leave out --bits, or give its original": tried(
        (lambda at: quantised(at / "model"), lambda at: load_model(at / "model", 4)),
        lambda at: load_model(at / "model"),
        lambda at: load_model(Path("model"), 4),
    ),
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
    "choose 8 or 4": of_each(
        lambda at, bits: write_quantised(open_source(Path("model")), bits, 32, at / f"{bits}"), 16, 8, 4
    ),
    "choose another place, or give --replace for a quantised model": tried(
        (QUANTISE, QUANTISE), f"{QUANTISE}-2", f"{QUANTISE} --replace"
    ),
    "{} of quantising": now("quantize --model small-codegen --bits 8 --output {at}/o", 1, CONVERTED),
    "give one of them": (
        sampling({"json_schema": "{}", "grammar": "x"}, {"json_schema": "{}"}),
        tried(f"{GENERATE} --fast --exact", f"{GENERATE} --exact"),
    ),
    "give an id and a number of at most 1e6": sampling({"logit_bias": {1: 1e7}}, {"logit_bias": {1: 1e6}}),
    "give one or more characters": sampling({"stop": ("",)}, {"stop": ("x",)}),
    "leave out one or the other": (
        sampling({"beams": 2, "json_schema": "{}"}, {"beams": 2}),
        sampling({"beams": 2, "presence_penalty": 1.0}, {"beams": 2}),
    ),
    "give as many beams or more": sampling({"n": 3, "beams": 2}, {"n": 3, "beams": 3}),
    "run `ms-codegeex doctor` for details, or use --device cpu": lines(f"{GENERATE} --device @", "ascend", "cpu"),
    "choose 32 or 16": each(lambda bits: generator(cache_bits=bits), 8, 16, 32),
    "give one made by 'ms-codegeex quantize'": tried(
        f"{GENERATE} --fast",
        (
            Said("'ms-codegeex (.*?)'", "{0} --model model --bits 8 --output {at}/made"),
            FAST,
        ),
    ),
    "leave out --threads 0 and --device, or install g++ or 'ziglang'": tried((QUANTISE, f"{FAST} --threads 0"), FAST),
    "memory is out, or its inputs are wrong": of_each(chosen, 2, 1),
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
