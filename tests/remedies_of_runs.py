"""Situations in which an error of `runs/` and what it uses says what to do, and what a user then does."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_models
from cluster_runs import config as cluster
from cluster_runs import values as cluster_values
from conftest import command_here, small_run, write_config
from remedies_of_formats import adapted, another, by_itself, changed, checkpoint, manifest, setting, tensors
from remedies_read import (
    ALL_MEET,
    FINETUNE_PAIRS,
    FITTING,
    RESUME_RUN,
    TRAIN_CODEGEN,
    TRAIN_RUN,
    TRAIN_SERVERS,
    TRAIN_WEIGHTS,
    now,
)
from remedies_shapes import Call, Entry, Said, Situation, each, failing, followed, lines, of_each, run, tried

from ms_codegeex.base.cuda.driver import Driver, Gpu
from ms_codegeex.base.cuda.probe import GpuBackend
from ms_codegeex.base.errors import Rewind, UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import FaultsConfig
from ms_codegeex.data.datasets.opening import content_hashes, training_data, validation_data
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.kernels.levels import cpu_level, possible_levels
from ms_codegeex.models.registry import FAMILIES, family
from ms_codegeex.planning import hardware_files
from ms_codegeex.planning.hardware_files import HardwareFile, StepFactor, read_hardware_file, write_hardware_file
from ms_codegeex.runs import finetune_choices, memory_check
from ms_codegeex.runs.files.history import read_history
from ms_codegeex.runs.files.resolved_config import read_config
from ms_codegeex.runs.files.resolved_config import write_config as write_resolved
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.memory_check import check_ascend, check_gpus, check_memory, free_memory, required_memory
from ms_codegeex.runs.opening import StartingPoint, held_run, join_run, open_run, starting_point
from ms_codegeex.runs.rank.__main__ import first_weights
from ms_codegeex.runs.rank.from_model import weights_of_model
from ms_codegeex.runs.rank.weights import weights_of
from ms_codegeex.runs.resume import changes_since, check_places
from ms_codegeex.runs.servers import rendezvous
from ms_codegeex.runs.servers.attempts import with_restarts
from ms_codegeex.runs.servers.node import node_processes, resolve_node
from ms_codegeex.runs.servers.rank_table import (
    check_against_config,
    make_rank_table,
    merge_rank_tables,
    parse_rank_table,
    read_hccn_conf,
)
from ms_codegeex.runs.training_job import resolve_data
from ms_codegeex.training.faults import Faults
from ms_codegeex.training.start import RankPlace, RunData, RunStart

DRY = "train --config run.yaml device=ascend devices=16 training.global_batch=16 output={at}/run --dry-run"
MEET = "--master-addr 10.0.0.11:8118"


def configured(at: Path | None = None, **changes: Any) -> Any:
    """A configuration of the run on `ids`, with an output in `at`; keys with `__` for dots."""
    values = small_run(Path("ids").absolute(), at / "run" if at else Path("unused").absolute())
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return build_run_config(values)


# --- files of runs ---


def made(path: Path, **changes: Any) -> Path:
    """A run directory without steps."""
    path.mkdir(parents=True)
    write_resolved(RunDirectory(path), configured(output=str(path), **changes))
    return path


# --- data and memory ---


def resolved(at: Path, train: str | None = None) -> object:
    config = configured(data__train=train and f"{at}/{train}", training__global_batch=16)
    return resolve_data(config, (), True, 2)


def of_memory(at: Path) -> Iterator[Call]:
    """Activations alone fill it, so that each of what the message names halves them."""
    sizes = {"model__num_layers": 2, "model__max_position_embeddings": 64, "data__seq_length": 64, "devices": 2}

    def sized(rows: int, **more: Any) -> Any:
        more = sizes | {"training__micro_batch": rows, "training__global_batch": 2 * rows} | more
        return configured(**more | {"training__global_batch": more["devices"] * more["training__micro_batch"]})

    rows = 1
    while required_memory(sized(rows)) < 1.2 * free_memory():
        rows += 1 + rows // 4
    yield lambda: check_memory(sized(rows))
    for less in (
        {"model__num_layers": 1, "model__hidden_size": 2, "model__intermediate_size": 2, "model__num_heads": 1},
        {"data__seq_length": 16},
        {"training__micro_batch": rows // 4},
        {"devices": 1},
    ):
        yield partial(check_memory, sized(rows, **less))
    blocks = {"model__num_layers": 64}
    while required_memory(sized(rows, **blocks)) > free_memory():
        rows //= 2
    assert required_memory(sized(2 * rows, **blocks)) > free_memory()
    yield partial(check_memory, sized(2 * rows, **blocks, training__recompute="full"))


def of_a_large_model(times: int) -> Situation:
    """A model that has no room when it is trained whole, and adapters of one that is `times` larger neither."""

    def fitted(model: list[str], name: str = finetune_choices.FULL, *words: str) -> object:
        request = finetune_choices.TuningRequest(None, ["model.family=codegen", *model], ["output=unused", *words])
        return finetune_choices.fit(request, name, finetune_choices.Length((64,), ""))

    def of_layers(count: int) -> list[str]:
        return ["model.preset=2b-mono", f"model.num_layers={count}"]

    def situation(at: Path) -> Iterator[Call]:
        layers = times * next(n for n in range(8, 4096, 8) if _refused(partial(fitted, of_layers(n))))
        said = (yield partial(fitted, of_layers(layers))).rpartition("; ")[2]
        if smaller := re.match(r"the largest codegen that fits is (\S+), or free", said):
            yield partial(fitted, [f"model.preset={smaller[1]}"])
        else:
            file, *words = re.match(r"--config (.*) needs", said)[1].split()
            yield partial(fitted, of_layers(layers), file, *words)

    return situation


def _refused(call: Call) -> bool:
    with contextlib.suppress(UserError):
        call()
        return False
    return True


def shows(words: str, line: str) -> Callable[[Path], None]:
    """A command, which says this."""

    def called(at: Path) -> None:
        shown = command_here(*line.format(at=at).split())
        assert words.format(at=at) in shown.stdout + shown.stderr, shown

    return called


def gpus(*runs: tuple[dict[str, Any], Driver]) -> Situation:
    """Runs, each where the driver finds other GPUs."""

    def checked(settings: dict[str, Any], driver: Driver) -> None:
        config = configured(**{"device": "gpu", "training__precision": "fp16"} | settings)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(memory_check, "probe_gpu_backend", lambda: GpuBackend((), driver, ""))
            check_gpus(config, config.devices)

    return each(checked, *runs)


H200 = Gpu("H200", (9, 0), 140 * 10**9, 139 * 10**9)
ONE, TWO = Driver("12.2", (H200,)), Driver("12.2", (H200, H200))
USED, OLD = Driver("12.2", (replace(H200, free=20 * 10**6),)), Gpu("K80", (3, 7), 12 * 10**9, None)
LARGE = {"model__num_layers": 32, "training__global_batch": 64}


# --- the start of a run ---


def held(path: Path) -> None:
    with held_run(RunDirectory(path)):
        pass


def opened(at: Path, name: str = "run", **changes: Any) -> None:
    (at / name).mkdir(exist_ok=True)
    open_run(configured(output=str(at / name), **changes), RunDirectory(at / name), StartingPoint())


def of_a_job_there(at: Path) -> Iterator[Call]:
    with held_run(RunDirectory(at / "run")):
        yield lambda: held(at / "run")
        yield lambda: held(at / "another")
    yield lambda: held(at / "run")


def zeros(config: Any) -> dict[str, Slice]:
    shapes = config.model.sizes.parameter_shapes()
    return {name: Slice(shape, (0,) * len(shape), np.zeros(shape, np.float32)) for name, shape in shapes.items()}


def begun(at: Path) -> None:
    """A copy of the run on `ids`, which knows the content of its data; its dataset lies beside it."""
    shutil.copytree("ids", at / "data")
    values = small_run(at / "data", at / "run")
    config = build_run_config(values)
    known = {"config": config.to_dict(), "samples": 4, "optimizer_step": 1, "tokens": 9}
    write_checkpoint(at / "run/checkpoints", 1, zeros(config), known | {"datasets": content_hashes(config.data)})
    write_config(at / "run.yaml", values)


def of_moved_data(key: str, value: str = "{}", beside: str = "data") -> Situation:
    """A dataset that was moved after the run began; `beside`: a copy of it that only the run that continues names."""
    before = "data.train=null " * (key == "data.blend")

    def line(place: str) -> Callable[[Path], object]:
        return lambda at: run(f"{CONTINUE.format(at=at)} {before}'{key}={value.format(at / place)}'")

    def copied(at: Path) -> None:
        (at / "data" if beside == "data" else Path(shutil.copytree("ids", at / beside))).rename(at / "moved")

    return tried((begun, copied, line(beside)), (Said(f"; .*({key}=)", lambda at, said: None), line("moved")))


def of_another_tokenizer(at: Path) -> Iterator[Call]:
    def values(name: str) -> Any:
        return configured(at, data__train=str(Path(name).absolute()), model__vocab_size=60000)

    config, tokenizer = values("corpus"), read_json(Path("corpus/dataset.json"))["tokenizer"]
    state = {"config": config.to_dict(), "samples": 4, "datasets": content_hashes(config.data)}
    made = write_checkpoint(at / "checkpoints", 1, zeros(config), state | {"tokenizer": tokenizer})
    for name in ("other", "unvalidated"):
        yield lambda name=name: changes_since(values(name), Checkpoint(made), ["data.train"])
    yield lambda: starting_point(values("other"), RunDirectory(at / "run"))


# --- weights ---


def starting(at: Path, base: Path | str, **lora: Any) -> Any:
    """A run of the small CodeGen that starts from a model, with adapters."""
    model = {"family": "codegen", **small_models.FIELDS["codegen"], "weights": str(base)}
    training = {"steps": 1, "global_batch": 1}
    values = {"model": model, "lora": lora, "training": training, "data": {"train": "ids"}, "output": str(at / "run")}
    return build_run_config({**values, "devices": 1})


def of_adapters_elsewhere(check: Callable[[Any, Checkpoint], object]) -> Situation:
    """Adapters that continue on another model."""

    def checked(at: Path, base: str) -> None:
        config = starting(at, at / base, rank=2, alpha=6.0, targets=["attention", "feed_forward"])
        check(config, Checkpoint(at / "tuned/checkpoints/step-00000004"))

    made = (adapted, lambda at: another(at / "other"))
    return tried((*made, lambda at: checked(at, "other")), lambda at: checked(at, "base"))


def of_other_adapters(at: Path, rank: Any = 4, alpha: Any = 1, targets: str = "attention") -> object:
    lora = {"rank": int(rank), "alpha": float(alpha), "targets": targets.split(", ")}
    return weights_of(starting(at, at / "base", **lora, weights=str(at / "tuned")))


def of_other_ranks(at: Path) -> Iterator[Call]:
    """Adapters in PEFT's layout with a larger rank in one layer."""
    base, adapter = adapted(at, targets=("attention.output",))
    tensors(
        lambda arrays: [_doubled(arrays, name) for name in [*arrays] if ".1." in name], "adapter_model.safetensors"
    )(adapter)
    setting("adapter_config.json", rank_pattern={r"h\.1\..*": 4}, alpha_pattern={r"h\.1\..*": 12})(adapter)
    lora = {"rank": 2, "alpha": 6.0, "targets": ["attention.output"]}
    yield lambda: weights_of(starting(at, base, **lora, weights=str(adapter)))
    run(f"adapter merge --model {base} --adapter {adapter} --output {at / 'merged'}")
    yield lambda: weights_of(starting(at, at / "merged", **lora))


def _doubled(arrays: dict[str, np.ndarray], name: str) -> None:
    arrays[name] = np.concatenate([arrays[name]] * 2, 0 if "lora_A" in name else 1)


# --- checkpoints of another mesh ---


# --- servers ---


def served(*options: dict[str, Any]) -> Situation:
    """`resolve_node` of a run on 16 devices; keys in capitals are of the configuration."""

    def resolved(**options: Any) -> object:
        given = {key.lower(): options.pop(key) for key in [*options] if key.isupper()}
        return resolve_node(cluster(**given), **options)

    return each(resolved, *options)


def at_master(master: str) -> Callable[[Path], object]:
    def processes(at: Path) -> object:
        node = replace(resolve_node(cluster(), None, 1, 2, master), table=at / "table.json")
        return node_processes(cluster(), node, RunDirectory(at / "run"), ["x"])

    return processes


def resharded(*lines: str) -> Situation:
    return tried(*(f"checkpoint reshard run --output {{at}}/out{n} {line}" for n, line in enumerate(lines)))


def merged(path: Path) -> None:
    run(f"checkpoint merge {path} --output {path}-merged")


class Clock:
    """In place of `time`: it moves only when somebody sleeps, and `meanwhile` is what the others do then."""

    now, meanwhile = 0.0, staticmethod(lambda: None)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@contextlib.contextmanager
def clocked() -> Iterator[Clock]:
    """The clock of servers that meet."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rendezvous, "time", clock := Clock())
        yield clock


def meeting(happens: Callable[[rendezvous.Rendezvous, rendezvous.Rendezvous, Path], object]) -> Situation:
    """Two servers; what one does ends the other. Then both start again."""

    def situation(at: Path) -> Iterator[Call]:
        with clocked() as clock:

            def both(folder: Path = at) -> list[rendezvous.Rendezvous]:
                first = rendezvous.Rendezvous(folder, 0, 2).__enter__()
                clock.meanwhile = first._write
                second = rendezvous.Rendezvous(folder, 1, 2).__enter__()
                clock.meanwhile = lambda: None
                return [first, second]

            first, second = both()

            def watched() -> None:
                happens(first, second, at)
                for _ in range(100):
                    clock.sleep(rendezvous.BEAT_SECONDS)
                    second.beat()

            yield watched
            yield both

    return situation


def of_no_server_0(at: Path) -> Iterator[Call]:
    with clocked() as clock:
        yield lambda: rendezvous.Rendezvous(at, 1, 2).__enter__()
        clock.meanwhile = rendezvous.Rendezvous(at, 0, 2).__enter__()._write
        yield lambda: rendezvous.Rendezvous(at, 1, 2).__enter__()


def of_rewinds(at: Path) -> Iterator[Call]:
    def attempt(number: int) -> None:
        if number < 3:
            raise Rewind("step 3: spike; this batch is left out from now on, resume with --resume auto")

    run_directory = RunDirectory(made(at / "made"))
    yield lambda: with_restarts(run_directory, 0, 2, attempt)
    yield lambda: with_restarts(run_directory, 0, 3, attempt)
    begun(at)
    line = f"train --config {at / 'run.yaml'} --resume auto faults.policy=skip"
    yield failing(f"{line} --allow-change faults.policy")


# --- rank tables ---


def table(servers: int = 2, devices: int = 8, **more: Any) -> dict[str, Any]:
    ports = [{d: f"192.168.{100 + d}.{11 + i}" for d in range(devices)} for i in range(servers)]
    return make_rank_table([(f"10.0.0.{11 + i}", each) for i, each in enumerate(ports)]).to_json() | more


def pods(*of: str) -> dict[str, Any]:
    """A table with a super pod of each server's name in `of`."""
    whole = table(len(of), version="1.2")
    listed = [
        [each["server_id"] for each, pod in zip(whole["server_list"], of, strict=True) if pod == one] for one in of
    ]
    for server in whole["server_list"]:
        for device in server["device"]:
            device["super_device_id"] = f"{server['server_id'][-2:]}{device['device_id']}"
    whole["super_pod_list"] = [
        {"super_pod_id": pod, "server_list": [{"server_id": name} for name in names]}
        for pod, names in dict(zip(of, listed, strict=True)).items()
    ]
    return whole


def put_in(whole: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of the table with another value at a path; `...` removes it."""
    *keys, last = [int(word) if word.isdigit() else word for word in path.split()]
    place = whole = copy.deepcopy(whole)
    for key in keys:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return whole


# --- training ---


def of_training(module: str) -> Any:
    """A module that takes MindSpore, whose import takes seconds."""
    return importlib.import_module(f"ms_codegeex.training.{module}")


def trainer(**changes: Any) -> Any:
    config = configured(**changes)
    data = RunData(training_data(config), validation_data(config))
    return of_training("trainer").Trainer(config, data, RunStart(), RankPlace(), ())


def provenance(config: Any) -> Any:
    data = training_data(configured())
    return of_training("rank_state").Provenance(config, RunData(data, data), RunStart(weights_of(config)), 0)


def tables(*values: Any) -> Situation:
    """Rank tables, of which the first is refused."""
    return each(parse_rank_table, *((value,) for value in values))


def ranked(path: str, value: Any, right: Any = None, of: Any = None) -> Situation:
    """A value of a table that is wrong, and what is right; None: the value of before."""
    of = of or table()
    return tables(put_in(of, path, value), of if right is None else put_in(of, path, right))


def hccn(wrong: bytes) -> Situation:
    texts = (wrong, b"address_0=192.168.1.1\n")
    return tried(*(({"hccn.conf": text}, lambda at: read_hccn_conf(at / "hccn.conf")) for text in texts))


SHOW_SAMPLE = shows("tokens", "inspect corpus --sample 0")


def empty_steps(at: Path) -> None:
    training = of_training("progress")
    progress = training.TrainingProgress()
    for _ in range(training.EMPTY_STEPS):
        progress.advance(4, 0.0, True)


def restored(right: Callable[[Path], object], **saved: Any) -> Situation:
    """A checkpoint of other settings, `saved`, is read by the run of `configured`."""

    def situation(at: Path) -> Iterator[Call]:
        other = trainer(**saved)
        state = {**other.rank_state.state(), "config": other.config.to_dict()}
        path = write_checkpoint(at / "checkpoints", 1, other.rank_state.slices(), state)
        yield lambda: trainer().rank_state.restore(Checkpoint(path))
        yield lambda: right(path)

    return situation


def set_to(kind: str) -> None:
    """A large frozen weight of a model in this type."""
    import mindspore as ms

    of_training("rank_state")._set(ms.Parameter(ms.Tensor(np.zeros(2, kind)), name="w"), np.full(2, 1e6, np.float32))


def started(value: float) -> object:
    return of_training("rank_state").starting_weight(
        "w", (2,), 0.1, 1, None, {"w": from_array(np.full(2, value, np.float32))}
    )


def faulty(policy: str, line: str) -> Situation:
    """Steps that are not finite, and the command that the message leads to, after `begun`."""
    record = SimpleNamespace(step=3, loss=np.inf, gradient_norm=np.inf)

    def judged(at: Path) -> None:
        faults = Faults(FaultsConfig(policy=policy, most=2))
        for _ in range(3):
            faults.judge(np.inf, np.inf, False)
            faults.answer(record, 40)

    return tried(judged, (begun, line))


def at_rate(rate: float) -> Callable[[Path], object]:
    return lambda at: trainer(training__schedule={"learning_rate": rate, "warmup_steps": 0}).run()


CONTINUE = "train --config {at}/run.yaml --resume auto"


LOWER = "lower training.schedule.learning_rate and resume with --resume auto --allow-change training.schedule"
AT_A_LOWER_RATE = faulty("skip", f"{CONTINUE} --allow-change training.schedule training.schedule.learning_rate=1e-4")
TRAINING: dict[str, Entry] = {
    "look at the dataset with `ms-codegeex inspect --sample`": tried(empty_steps, SHOW_SAMPLE),
    "this batch is left out from now on, resume with --resume auto": faulty("rewind", CONTINUE),
    "look at these samples": faulty("stop", "inspect corpus --sample 40"),
    LOWER: AT_A_LOWER_RATE,
    f"look at the data around sample {{}}, or {LOWER}": tried(at_rate(1e30), SHOW_SAMPLE, at_rate(1e-3)),
    "set lora.frozen=fp32": each(set_to, "float16", "float32"),
    "start from another model": each(started, np.nan, 1.0),
    "choose another output without --resume": restored(lambda path: trainer(), model__num_layers=2),
    "use the run's model, or another output without --resume": restored(
        lambda path: trainer(model__intermediate_size=16).rank_state.restore(Checkpoint(path)),
        model__intermediate_size=16,
    ),
    "restore that model, or set another output without --resume": of_adapters_elsewhere(
        lambda config, checkpoint: provenance(config).check(checkpoint)
    ),
}
TRAINING_UNTRIED = {"check the configuration with `ms-codegeex rehearse`": "of a bug"}


# --- models, kernels and plans ---


def sizes(*values: dict[str, Any], name: str = "codegeex2") -> Situation:
    """Sizes of the small model of a family, of which the first are refused."""
    fields = small_models.FIELDS[name]
    return each(family(name).config.build_config, *((None, fields | value) for value in values))


def width_of_heads(name: str, key: str) -> Situation:
    def directory(path: Path) -> None:
        small_models.save_run(path.with_name("run"), name, small_models.parameters(name))
        run(f"convert --model {path.with_name('run')} --to hf --output {path}")

    width = small_models.config(name).head_dim
    return changed(directory, setting("config.json", **{key: 7}), setting("config.json", **{key: width}), by_itself)


MODELS: dict[str, Entry] = {
    "give a number above 0": sizes({"num_layers": 0}, {"num_layers": 1}),
    "choose a divisor": (sizes({"num_heads": 3}, {"num_heads": 4}), sizes({"num_kv_groups": 3}, {"num_kv_groups": 2})),
    "set model.vocab_size={} or more, or model.eos_token_id to one of its ids": sizes(
        {"eos_token_id": 99}, {"eos_token_id": 99, "vocab_size": 100}, {"eos_token_id": 5}
    ),
    "choose a divisor of model.hidden_size that leaves an even number": each(
        lambda heads: family("qwen2").config.build_config("tiny", {"num_heads": heads}), 128, 4
    ),
    "give an even number up to {}": sizes({"rotary_dim": 3}, {"rotary_dim": 4}),
    "choose fp32, fp16 or bf16": sizes(*({"rotary_dtype": name} for name in ("x", "fp32", "fp16", "bf16"))),
    "known are {}": each(lambda layer: small_models.config("codegen").adapted_layers([layer]), "x", "attention.query"),
    "choose one of {}": (each(family, "x", *FAMILIES), now(f"{TRAIN_RUN} model.preset=foo")),
    "expected hidden_size / num_attention_heads": (
        width_of_heads("codegeex2", "kv_channels"),
        width_of_heads("qwen2", "head_dim"),
    ),
    "train with model.rotary_dim={}, or convert it --to mindspore": tried(
        (
            lambda at: small_models.save_run(
                at / "run", "codegeex2", small_models.parameters("codegeex2"), rotary_dim=2
            ),
            "convert --model {at}/run --to hf --output {at}/out",
        ),
        "convert --model {at}/run --to mindspore --output {at}/out",
    ),
}
KERNELS: dict[str, Entry] = {
    "choose auto or one of {}": each(cpu_level, "x", "auto", *possible_levels()),
}
KERNELS_UNTRIED = {"could not compile the operators ({})": "of a note; MindSpore's operators compute then"}
MEASURED = HardwareFile("ascend910b", "a run", StepFactor(1.0, 0.9, 1.1))


def hardware(*files: Callable[[Path], object]) -> Situation:
    """A hardware file that is refused, others that are read, and one that is measured."""
    read = lambda at: read_hardware_file(at / "mine.yaml")  # noqa: E731
    return tried(*((lambda at, make=make: make(at / "mine.yaml"), read) for make in (*files, measured)))


def measured(file: Path) -> None:
    """As the message says: of a run on the accelerator."""
    place, config = file.with_name("run"), write_config(file.with_name("run-config.yaml"), ON_ASCEND)
    if not place.exists():
        place.mkdir()
        write_resolved(RunDirectory(place), build_run_config(ON_ASCEND))
        lines = [{"step": n, "step_seconds": 1.0, "compiling": n == 1} for n in range(1, 5)]
        (place / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    file.unlink(missing_ok=True)
    run(f"plan --config {config} --measured {place} --write-hardware {file}")


ON_ASCEND = {**cluster_values(), "parallel": {"tensor": 8, "hardware": "ascend910b"}}
ON_ASCEND["training"]["recompute"] = "full"


def planned(**parallel: Any) -> object:
    return hardware_files.hardware_of(build_run_config({**ON_ASCEND, "parallel": {"tensor": 8, **parallel}}))


def good(file: Path) -> None:
    write_hardware_file(file, MEASURED)


NEW_FILE = "write it with `ms-codegeex plan --config FILE --measured RUN --write-hardware NEW.yaml`"
PLANNING: dict[str, Entry] = {
    f"{NEW_FILE}, or set it to null": (
        hardware(lambda file: None),
        of_each(
            lambda at, name: planned(hardware="ascend910b", calibration=name and f"{at}/{name}"), "gone.yaml", None
        ),
    ),
    NEW_FILE: hardware(lambda file: file.write_text("[]")),
    f"correct it, or {NEW_FILE}": hardware(lambda file: file.write_text("base: x"), good),
    "correct it": hardware(
        lambda file: write_hardware_file(file, replace(MEASURED, factor=StepFactor(2.0, 3.0, 4.0))), good
    ),
    "name the file as parallel.hardware, or set parallel.calibration to null": tried(
        (lambda at: good(at / "mine.yaml"), lambda at: planned(hardware="ascend910", calibration=f"{at}/mine.yaml")),
        lambda at: planned(hardware="ascend910"),
        (
            lambda at: write_config(
                at / "run.yaml", {**ON_ASCEND, "parallel": {"tensor": 8, "hardware": f"{at}/mine.yaml"}}
            ),
            "plan --config {at}/run.yaml",
        ),
    ),
}


TUNE = "finetune --model model training.steps=1 output={at}/a --data"
HELD = (
    "train --config codegen_tiny training.steps=1 output={at}/a data.seq_length=64 data.train=corpus data.validation="
)
NODE = f"{DRY} --node-rank 0 --nodes"
PODS = pods("a", "b")


RUNS: dict[str, Entry] = {
    "name a run in it, such as {}": tried(
        (lambda at: made(at / "runs/a"), lambda at: read_history(at / "runs")),
        Said(r"such as (\S+)$", lambda at, path: read_history(Path(path))),
    ),
    "name the output of a run": tuple(
        tried(lambda at, call=call: call(at / "no"), (lambda at: made(at / "a"), lambda at, call=call: call(at / "a")))
        for call in (read_history, lambda path: read_config(RunDirectory(path)))
    ),
    "restore it, or remove it": changed(
        made,
        lambda path: (path / "log.jsonl").symlink_to("log.jsonl"),
        lambda path: (path / "log.jsonl").unlink(),
        read_history,
    ),
    "restore it": (
        changed(made, lambda path: (path / "config.yaml").write_text("[]"), None, read_history),
        changed(made, lambda path: (path / "config.yaml").write_text("a: 1"), None, read_history),
        changed(
            checkpoint,
            lambda path: small_models.save_run(
                (shutil.rmtree(path), path)[1], "codegeex", small_models.parameters("codegeex") | {"x": np.ones(2)}
            ),
            None,
            merged,
        ),
    ),
    "leave it out": (now(f"{FINETUNE_PAIRS} data.train=corpus"), now(f"{TRAIN_SERVERS} {ALL_MEET} --restarts 2")),
    "give it alone, or the records that made it": lines(f"{TUNE} @", "tuning chats.jsonl", "tuning", "pairs.jsonl"),
    "make one with `{}` and give --validation DIR": now(
        "finetune --model model --data corpus training.steps=1 output={at}/o --validation one",
        1,
        {"DIR": "{at}/o-held"},
    ),
    "remove the section, or leave out --config": now(f"{FINETUNE_PAIRS} --config codegen_tiny"),
    "leave out --corpus, or set data.train=null": now(f"{TRAIN_CODEGEN} data.train=corpus --corpus tree", 2),
    "leave out --corpus, or set data.blend=null": now(
        f"{TRAIN_CODEGEN} 'data.blend={{{{corpus: 1}}}}' --corpus tree", 2
    ),
    "make it with `ms-codegeex prepare --input PATH --output DIR` where all of them can read it, and set "
    "data.train=DIR": tried(
        resolved, (followed("`ms-codegeex (.*)` where", PATH="tree", DIR="{at}/made"), lambda at: resolved(at, "made"))
    ),
    "prepare it with the tokenizer of {}": tried(f"{HELD}ids", f"{HELD}unvalidated"),
    "{} of finetune_choices": (of_a_large_model(1), of_a_large_model(100)),
    "choose a smaller model, data.seq_length, training.micro_batch or --devices, or set "
    "training.recompute=full": of_memory,
    "`ms-codegeex doctor` shows what is missing": tried(
        lambda at: check_ascend(configured(device="ascend")), shows("CANN", "doctor")
    ),
    "set it to fp16 or fp32": gpus(
        ({"training__precision": "bf16"}, ONE), ({}, ONE), ({"training__precision": "fp32"}, ONE)
    ),
    "run `ms-codegeex doctor` for details, or set device=cpu": gpus(
        ({}, Driver(problem="no driver")), ({"device": "cpu"}, Driver(problem="no driver"))
    ),
    "set devices={}, or check CUDA_VISIBLE_DEVICES": gpus(({"devices": 2}, ONE), ({}, ONE), ({"devices": 2}, TWO)),
    "choose another with CUDA_VISIBLE_DEVICES": gpus(({}, Driver("12.2", (OLD,))), ({}, ONE)),
    "lower it, set training.recompute=full, or stop what uses the rest (nvidia-smi)": gpus(
        ({"training__micro_batch": 64, **LARGE}, USED),
        ({"training__micro_batch": 1, **LARGE}, USED),
        ({"training__micro_batch": 64, "training__recompute": "full", **LARGE}, USED),
        ({"training__micro_batch": 64, **LARGE}, ONE),
    ),
    "choose another output": (
        tried(({"file": ""}, lambda at: held(at / "file/run")), lambda at: held(at / "other")),
        tried(
            (begun, lambda at: next((at / "run").rglob("*.safetensors")).unlink(), CONTINUE),
            f"{CONTINUE} output={{at}}/b",
        ),
    ),
    "wait for it or choose another output": of_a_job_there,
    "rename it, or choose another": of_each(
        lambda at, name: opened(at, data__train=name), os.fsdecode(b"caf\xe9"), "café"
    ),
    "{} of opening": tried(({"run/logs": ""}, opened), lambda at: opened(at, "another")),
    "give every server the same command": tried(
        lambda at: join_run(configured(seed=8), RunDirectory(made(at / "a"))),
        lambda at: join_run(read_config(RunDirectory(at / "a")), RunDirectory(at / "a")),
    ),
    "choose another output, or --resume auto for the newest that is sound": now(
        "train --config run.yaml --resume run/checkpoints/step-00000001 output=run", 2
    ),
    "continue it with --resume auto, or choose another output": now("train --config run.yaml output=run", 2),
    "did you mean {}?": now(f"{RESUME_RUN} output=run --allow-change sed"),
    "choose one of {}": now(f"{RESUME_RUN} output=run --allow-change zzz"),
    "keep it, or start another run from these weights: without --resume, with --from {} output=DIR": (
        now(f"{RESUME_RUN} output=run training.optimizer.name=muon", 1, {"DIR": "{at}/o"})
    ),
    "use the same, or choose another output without --resume{}": (
        now(f"{RESUME_RUN} output=run model.hidden_size=32"),
        now(f"{RESUME_RUN} output=run seed=3", 2),
    ),
    "if it was moved, {}={DIR: WEIGHT, …} says where it is now": of_moved_data("data.blend", "{{{}: 1}}"),
    "if it was moved, {}=DIR says where it is now": (
        of_moved_data("data.train"),
        of_moved_data("data.validation", beside="held"),
        of_moved_data("data.held_out.py", beside="held"),
    ),
    "set model.weights=DIR to theirs": of_adapters_elsewhere(check_places),
    LOWER: AT_A_LOWER_RATE,
    "use a dataset with the same tokenizer, or choose another output without --resume": of_another_tokenizer,
    "continue with a higher faults.most, or add faults.policy=skip --allow-change faults.policy": of_rewinds,
    "start ms_codegeex.runs.rank.from_model, as `train --dry-run` shows": tried(
        lambda at: first_weights(starting(at, "small-codegen"), None),
        (
            lambda at: write_config(at / "run.yaml", starting(at, "small-codegen").to_dict()),
            Said(r"start (\S+), as", lambda at, name: shows(name, "train --config {at}/run.yaml --dry-run")(at)),
        ),
        lambda at: weights_of_model(starting(at, "small-codegen"), None),
    ),
    "make another with `ms-codegeex prepare --input PATH --output DIR --tokenizer {}` and set data.train=DIR": (
        now(
            f"{TRAIN_CODEGEN} data.train=other model.weights=model {FITTING}", 1, {"PATH": "tree", "DIR": "{at}/o-data"}
        )
    ),
    "make another with `ms-codegeex prepare --input PATH --output DIR --tokenizer {}` and set data.train=DIR, or set "
    "model.grow=[{}]": now(f"{TRAIN_WEIGHTS}-nl {FITTING}", 2, {"PATH": "tree", "DIR": "{at}/o-data"}),
    "merge it into its model with `ms-codegeex adapter merge` and train new ones on that": of_other_ranks,
    "set lora.rank, lora.alpha and lora.targets to them": tried(
        (adapted, of_other_adapters), Said(r"has rank (\d+), alpha (\S+) and targets (.*);", of_other_adapters)
    ),
    "use a configuration of that family, or `ms-codegeex finetune --model {} --data DATASET`": now(
        "train --config run.yaml output={at}/o data.train=corpus model.weights=model", 1, {"DATASET": "corpus"}
    ),
    "set {}": (
        now(TRAIN_WEIGHTS, 2),
        now(f"{TRAIN_WEIGHTS} {FITTING} model.vocab_size=50500", 2),
        now(f"{TRAIN_WEIGHTS} {FITTING} model.max_position_embeddings=200", 2),
    ),
    "set model.weights=DIR to the model of the adapters": now(f"{TRAIN_RUN} lora.rank=2", 1, {"DIR": "run"}),
    "give a checkpoint of a run": changed(checkpoint, partial(manifest, config=None), None, merged),
    "give as many or fewer": resharded("--pipeline 9", "--pipeline 1"),
    "give a divisor": (
        resharded("--data 2 --optimizer-shard 4", "--data 2 --optimizer-shard 2"),
        resharded("--tensor 3", "--tensor 2"),
        resharded("--data 3 --optimizer-shard 3", "--data 2 --optimizer-shard 2"),
    ),
    "choose another --output": lines("checkpoint merge run --output @", "one", "{at}/out"),
    "call it {}, or something else": tried(
        "checkpoint merge run --output {at}/step-00000009",
        Said("call it ([^,]+)", "checkpoint merge run --output {at}/{0}"),
        "checkpoint merge run --output {at}/out",
    ),
    "set device=ascend": (
        now(f"{TRAIN_RUN} --dry-run --rank-table table.json"),
        now(f"{TRAIN_RUN} --dry-run devices=2 {ALL_MEET}"),
    ),
    "rehearse it with `ms-codegeex rehearse`, or set device=ascend": now(
        f"{TRAIN_RUN} --dry-run devices=2 parallel.tensor=2"
    ),
    "give --node-rank K, this server's number, 0 to {}": now(
        f"{TRAIN_SERVERS} --nodes 2 --master-addr a:8118", 1, {"K": "1"}
    ),
    "give --master-addr HOST:PORT of server 0, where all {} meet": now(
        f"{TRAIN_SERVERS} --nodes 2 --node-rank 0", 1, {"HOST:PORT": "a:8118"}
    ),
    "set devices={}, or give `train` --nodes N --node-rank K --master-addr HOST:PORT, or --rank-table FILE --node-rank "
    "K, or set parallel.server_devices={} if a server has as many": now(
        TRAIN_SERVERS, 4, {"N": "2", "K": "0", "HOST:PORT": "a:8118", "FILE": "servers.json"}
    ),
    "expected 0 to {}, one of the job's servers": lines(f"{DRY} --nodes 2 --node-rank @ {MEET}", 2, 1),
    "leave --nodes out": now(f"{TRAIN_SERVERS} --rank-table servers.json --node-rank 0 --nodes 3"),
    "expected HOST:PORT with a port from 1024 to 65535": lines(f"{NODE} 2 --master-addr head:@", 80, 1024),
    "correct it or give a host name": lines(f"{NODE} 2 --master-addr @:8118", "10.0.0", "10.0.0.11", "head"),
    "give the HOST:PORT of server 0 with its IP address": tried(
        *map(at_master, ("no-such-host.invalid:8118", "10.0.0.11:8118"))
    ),
    "change one of them": lines(f"{NODE} @ {MEET}", "3", "2", "3 devices=24 training.global_batch=24"),
    "use fewer servers or a smaller parallel.tensor": served(
        *(
            {"node_rank": 0, "master": "a:8118", **more}
            for more in ({"nodes": 4}, {"nodes": 2}, {"nodes": 4, "TENSOR": 4})
        )
    ),
    "start it with --node-rank 0, and give all servers the same `output` on a shared file system": of_no_server_0,
    "start it again": meeting(lambda first, second, at: rendezvous.Rendezvous(at, 0, 2).__enter__()),
    "its message: {}": meeting(lambda first, second, at: first.__exit__(UserError, UserError("x; do y"), None)),
    "check that machine and start again with --resume auto": meeting(lambda first, second, at: None),
    "{} of rank_table": (
        ranked("server_list 0 device 0 rank_id", 0, "0"),
        *(ranked("server_list 0 device 0 rank_id", value) for value in ("00", "16")),
        ranked("server_list 0 device 0 device_id", "16"),
        ranked("server_list 0 device 0 device_ip", "x"),
        ranked("server_list 0 host_nic_ip", []),
        ranked("server_list 0", []),
        *(ranked("server_list 0 server_id", value) for value in ("", "10.0.0")),
        ranked("status", "initializing"),
        ranked("version", "1.1"),
        ranked("server_count", "3", "2"),
        ranked("version", "1.0", "1.2", PODS),
        ranked("super_pod_list 0 super_pod_id", "", None, PODS),
        ranked("super_pod_list 0 server_list 0 server_id", "x", None, PODS),
        ranked("super_pod_list 0 server_list 0", ..., None, pods("a", "a")),
        ranked("server_list 0 device 0 super_device_id", "x", None, PODS),
        each(
            lambda whole, **keys: check_against_config(parse_rank_table(whole), cluster(**keys)),
            *({"whole": table(1, 16)}, {"whole": table(2, 8)}, {"whole": table(1, 16), "server_devices": 16}),
        ),
    ),
    "add it": ranked("server_list 0 device 0 super_device_id", ..., None, PODS),
    "add it, or make the table with `ms-codegeex rank-table make`": ranked("server_list 0 server_id", ...),
    "list every one that takes part": ranked("server_list 0 device", []),
    "give each its own": (
        ranked("server_list 0 device 1 device_id", "0"),
        ranked("server_list 1 server_id", "10.0.0.11"),
    ),
    "give each server contiguous ranks": tables(
        put_in(put_in(table(), "server_list 0 device 7 rank_id", "8"), "server_list 1 device 0 rank_id", "7"), table()
    ),
    "give each super pod contiguous ranks": tables(pods("a", "b", "a"), pods("a", "a", "b")),
    "make a table with `ms-codegeex rank-table make`": tried(
        lambda at: parse_rank_table({"rank_list": []}),
        (
            followed(more="--server 10.0.0.11=192.168.1.1 --server 10.0.0.12=192.168.1.2 --output {at}/table.json"),
            lambda at: parse_rank_table(read_json(at / "table.json")),
        ),
    ),
    "set devices={} or make a table of {}": now(f"{TRAIN_SERVERS} devices=8 --rank-table servers.json --node-rank 0"),
    "give every server a multiple of parallel.tensor {} devices, or choose a smaller parallel.tensor": each(
        lambda servers, devices, tensor: check_against_config(
            parse_rank_table(table(servers, devices)), cluster(devices=servers * devices, tensor=tensor)
        ),
        *((4, 4, 8), (2, 8, 8), (4, 4, 4)),
    ),
    "it is /etc/hccn.conf of the server": tried(
        lambda at: read_hccn_conf(at / "a"), ({"a": "address_0=::1"}, lambda at: read_hccn_conf(at / "a"))
    ),
    "copy it from the server again": hccn(b"address_0=\xff"),
    "expected key=value such as address_0=192.168.1.1": hccn(b"address_0"),
    "expected an IP address, and a device's number in the name": hccn(b"address_0=x"),
    "keep one": hccn(b"address_0=192.168.1.1\naddress_0=192.168.1.1\n"),
    "set the devices' addresses with hccn_tool": hccn(b"# none\n"),
    "make all of one version": each(
        lambda other: merge_rank_tables([parse_rank_table(table(1)), other]),
        parse_rank_table(pods("a")),
        make_rank_table([("10.0.0.99", {0: "192.168.9.9"})]),
    ),
}
RUNS_UNTRIED = {
    "run `ms-codegeex doctor`": "needs a MindSpore whose GPU plugin is broken; doctor itself is run for Ascend",
    "unset it, and {} if they are set": "needs Ascend; tests/runs/test_ascend_start.py has stub libraries of CANN",
    "leave it out, or stop what uses the rest (`npu-smi info`)": "needs Ascend, as above",
    "take the server out of the job, run `ascend-dmi` there, and have the device replaced if that finds it too": (
        "needs Ascend, as above"
    ),
    "see why in the worker's log, with GLOG_v=2 in the environment, or set it to none": "needs Ascend, as above",
    "check --nodes or the rank table, and that every server has its share of the devices": "needs several servers",
    "it is set aside, start the job again with --resume auto": "needs several servers",
    "end a program that has one": "needs ten thousand taken ports",
    "{} of supervision": "the words of a worker that ends",
    "test it before it trains again, and resume with --resume auto": "needs a device that computes wrongly",
}
