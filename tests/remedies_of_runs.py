"""Situations in which an error of `runs/` and what it uses says what to do, and what a user then does."""

from __future__ import annotations

import contextlib
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
from conftest import small_run, write_config
from remedies_of_corpora import command, failing
from remedies_of_data import Call, Situation, instead, run
from remedies_of_formats import adapted, changed, checkpoint, manifest, setting, tensors
from remedies_of_formats import opened as opened_model

from ms_codegeex.base.cuda.driver import Driver, Gpu
from ms_codegeex.base.cuda.probe import GpuBackend
from ms_codegeex.base.errors import Rewind, UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import FaultsConfig
from ms_codegeex.data.datasets.opening import content_hashes
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
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

DRY = "train --config run.yaml device=ascend devices=16 training.global_batch=16 output={at}/run --dry-run"
MEET = "--master-addr 10.0.0.11:8118"


def configured(**changes: Any) -> Any:
    """A configuration of the run on `ids`; keys with `__` for dots."""
    values = small_run(Path("ids").absolute(), Path("unused").absolute())
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


def of_runs(at: Path) -> Iterator[Call]:
    made(at / "runs/a")
    said = yield lambda: read_history(at / "runs")
    yield lambda: read_history(Path(re.search(r"such as (\S+)$", said)[1]))


def of_no_run(call: Callable[[RunDirectory], object]) -> Situation:
    return instead(lambda at: call(RunDirectory(at / "no")), lambda at: call(RunDirectory(made(at / "a"))))


# --- data and memory ---


def of_no_dataset(at: Path) -> Iterator[Call]:
    config = configured(data__train=None, training__global_batch=16)
    said = yield lambda: resolve_data(config, (), True, 2)
    line = re.search(r"`ms-codegeex (.*)` where", said)[1].replace("PATH", "tree").replace("DIR", f"{at}/made")
    yield failing(line)
    yield lambda: resolve_data(replace(config, data=replace(config.data, train=f"{at}/made")), (), True, 2)


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


def of_no_ascend(at: Path) -> Iterator[Call]:
    yield lambda: check_ascend(configured(device="ascend"))
    yield lambda: _shows("CANN", "doctor")


def _shows(words: str, line: str) -> None:
    from conftest import command_here

    shown = command_here(*line.split())
    assert words in shown.stdout + shown.stderr, shown


H200 = Gpu("H200", (9, 0), 140 * 10**9, 139 * 10**9)
USED, OLD = Driver("12.2", (replace(H200, free=20 * 10**6),)), Gpu("K80", (3, 7), 12 * 10**9, None)
LARGE = {"model__num_layers": 32, "training__global_batch": 64}


def gpus(wrong: tuple[dict[str, Any], Driver], *right: tuple[dict[str, Any], Driver]) -> Situation:
    """A run where the driver finds other GPUs."""

    def checked(settings: dict[str, Any], driver: Driver, at: Path) -> None:
        config = configured(**{"device": "gpu", "training__precision": "fp16"} | settings)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(memory_check, "probe_gpu_backend", lambda: GpuBackend((), driver, ""))
            check_gpus(config, config.devices)

    return instead(partial(checked, *wrong), *(partial(checked, *each) for each in right))


# --- the start of a run ---


def held(path: Path) -> None:
    with held_run(RunDirectory(path)):
        pass


def of_a_job_there(at: Path) -> Iterator[Call]:
    with held_run(RunDirectory(at / "run")):
        yield lambda: held(at / "run")
        yield lambda: held(at / "another")
    yield lambda: held(at / "run")


def opened(at: Path, name: str = "run", **changes: Any) -> None:
    (at / name).mkdir(exist_ok=True)
    open_run(configured(output=str(at / name), **changes), RunDirectory(at / name), StartingPoint())


def of_a_file_in_the_way(at: Path) -> Iterator[Call]:
    (at / "run").mkdir()
    (at / "run/logs").touch()
    yield lambda: opened(at)
    yield lambda: opened(at, "another")


def begun(at: Path, **state: Any) -> Path:
    """A copy of the run on `ids`, which knows the content of its data; its dataset lies beside it."""
    shutil.copytree("ids", at / "data")
    values = small_run(at / "data", at / "run")
    config = build_run_config(values)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in config.model.sizes.parameter_shapes().items()}
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}
    known = {"config": config.to_dict(), "samples": 4, "optimizer_step": 1, "tokens": 9}
    write_checkpoint(at / "run/checkpoints", 1, slices, known | {"datasets": content_hashes(config.data)} | state)
    write_config(at / "run.yaml", values)
    return at


def of_damaged_checkpoints(at: Path) -> Iterator[Call]:
    begun(at)
    next((at / "run").rglob("*.safetensors")).unlink()
    line = f"train --config {at / 'run.yaml'} --resume auto"
    yield failing(line)
    yield failing(f"{line} output={at / 'another'}")


def of_moved_data(key: str, value: str = "{}", more: str = "") -> Situation:
    """A dataset that was moved after the run began; `more`: a copy of it that only the run that continues names."""

    def situation(at: Path) -> Iterator[Call]:
        place = begun(at) / (more or "data")
        if more:
            shutil.copytree("ids", place)
        line = f"train --config {at / 'run.yaml'} --resume auto"
        line += " data.train=null" * (key == "data.blend") + f" '{key}={value.format(place)}'"
        place.rename(at / "moved")
        said = yield failing(line)
        assert f"{key}=" in said.rpartition("; ")[2]
        yield failing(f"{line} '{key}={value.format(at / 'moved')}'")

    return situation


def of_another_model(at: Path) -> Iterator[Call]:
    """Adapters that continue on another model."""
    adapted(at)
    other = small_models.save_run(at / "other", "codegen", small_models.parameters("codegen", seed=9))

    def checked(weights: Path) -> None:
        model = {"family": "codegen", **small_models.FIELDS["codegen"], "weights": str(weights)}
        lora = {"rank": 2, "alpha": 6.0, "targets": ["attention", "feed_forward"]}
        data, training = {"train": "ids"}, {"steps": 1, "global_batch": 1}
        config = build_run_config({"model": model, "lora": lora, "data": data, "training": training})
        check_places(config, Checkpoint(at / "tuned/checkpoints/step-00000004"))

    yield lambda: checked(other)
    yield lambda: checked(at / "base")


def of_another_tokenizer(at: Path) -> Iterator[Call]:
    def values(name: str) -> Any:
        return configured(data__train=str(Path(name).absolute()), model__vocab_size=60000)

    begun(at)
    (at / "of-tokens").mkdir()
    config, checkpoints = values("corpus"), at / "of-tokens/checkpoints"
    state = {"config": config.to_dict(), "samples": 4, "datasets": content_hashes(config.data)}
    names = {name: np.zeros(shape, np.float32) for name, shape in config.model.sizes.parameter_shapes().items()}
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in names.items()}
    made = Checkpoint(
        write_checkpoint(
            checkpoints, 1, slices, state | {"tokenizer": read_json(Path("corpus/dataset.json"))["tokenizer"]}
        )
    )
    yield lambda: changes_since(values("other"), made, ["data.train"])
    yield lambda: changes_since(values("unvalidated"), made, ["data.train"])
    anew = replace(values("other"), output=str(at / "another"))
    yield lambda: starting_point(anew, RunDirectory(at / "another"))


# --- weights ---


def starting(at: Path, base: Path | str, **lora: Any) -> Any:
    """A run of the small CodeGen that starts from a model, with adapters."""
    model = {"family": "codegen", **small_models.FIELDS["codegen"], "weights": str(base)}
    training = {"steps": 1, "global_batch": 1}
    values = {"model": model, "lora": lora, "training": training, "data": {"train": "ids"}, "output": str(at / "run")}
    return build_run_config({**values, "devices": 1})


def of_the_other_program(at: Path) -> Iterator[Call]:
    config = starting(at, "small-codegen")
    said = yield lambda: first_weights(config, None)
    program = re.search(r"start (\S+), as", said)[1]
    write_config(at / "run.yaml", config.to_dict())
    yield lambda: _shows(program, f"train --config {at / 'run.yaml'} --dry-run")
    yield lambda: weights_of_model(config, None)


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


def of_other_adapters(at: Path) -> Iterator[Call]:
    base, _ = adapted(at)
    said = yield lambda: weights_of(starting(at, base, rank=4, targets=["attention"], weights=str(at / "tuned")))
    rank, alpha, targets = re.search(r"has rank (\d+), alpha (\S+) and targets (.*);", said).groups()
    lora = {"rank": int(rank), "alpha": float(alpha), "targets": targets.split(", ")}
    yield lambda: weights_of(starting(at, base, **lora, weights=str(at / "tuned")))


# --- checkpoints of another mesh ---


def resharded(*lines: str) -> Situation:
    return command(*(f"checkpoint reshard run --output {{at}}/out{n} {line}" for n, line in enumerate(lines)))


def merged(path: Path) -> object:
    return failing(f"checkpoint merge {path} --output {path}-merged")()


# --- servers ---


def served(keys: dict[str, Any], wrong: dict[str, Any], *right: dict[str, Any]) -> Situation:
    """`resolve_node` of a run on 16 devices; keys in capitals are of the configuration."""

    def resolved(options: dict[str, Any], at: Path) -> object:
        given = keys | {key.lower(): value for key, value in options.items() if key.isupper()}
        return resolve_node(cluster(**given), **{key: value for key, value in options.items() if not key.isupper()})

    return instead(partial(resolved, wrong), *(partial(resolved, each) for each in right))


def of_no_name(at: Path) -> Iterator[Call]:
    def processes(master: str) -> object:
        node = replace(resolve_node(cluster(), None, 1, 2, master), table=at / "table.json")
        return node_processes(cluster(), node, RunDirectory(at / "run"), ["x"])

    yield lambda: processes("no-such-host.invalid:8118")
    yield lambda: processes("10.0.0.11:8118")


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
        first = rendezvous.Rendezvous(at, 0, 2).__enter__()
        clock.meanwhile = first._write
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


def put(whole: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The table with another value at a path; `...` removes it."""
    *keys, last = [int(word) if word.isdigit() else word for word in path.split()]
    place = whole
    for key in keys:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return whole


def ranked(path: str, value: Any, right: Any = None, of: Callable[[], dict[str, Any]] = table) -> Situation:
    """A value of a table that is wrong, and what is right; None: the value of before."""
    good = (lambda: of()) if right is None else lambda: put(of(), path, right)
    return instead(lambda at: parse_rank_table(put(of(), path, value)), lambda at: parse_rank_table(good()))


def hccn(wrong: bytes, right: str = "address_0=192.168.1.1\n") -> Situation:
    def read(content: bytes, at: Path) -> object:
        (at / "hccn.conf").write_bytes(content)
        return read_hccn_conf(at / "hccn.conf")

    return instead(partial(read, wrong), partial(read, right.encode()))


def of_other_kind(at: Path) -> Iterator[Call]:
    said = yield lambda: parse_rank_table({"rank_list": []})
    line = re.search(r"`ms-codegeex (.*)`", said)[1]
    servers = "--server 10.0.0.11=192.168.1.1 --server 10.0.0.12=192.168.1.2"
    run(f"{line} {servers} --output {at / 'table.json'}")
    yield lambda: parse_rank_table(read_json(at / "table.json"))


def split(servers: int, devices: int, tensor: int) -> object:
    whole = parse_rank_table(table(servers, devices))
    return check_against_config(whole, cluster(devices=whole.world, tensor=tensor))


# --- training ---


def of_empty_steps(at: Path) -> Iterator[Call]:
    from ms_codegeex.training.progress import EMPTY_STEPS, TrainingProgress

    progress = TrainingProgress()
    yield lambda: [progress.advance(4, 0.0, True) for _ in range(EMPTY_STEPS)]
    yield lambda: _shows("tokens", "inspect corpus --sample 0")


def trainer(**changes: Any) -> Any:
    from ms_codegeex.data.datasets.opening import training_data, validation_data
    from ms_codegeex.training.start import RankPlace, RunData, RunStart
    from ms_codegeex.training.trainer import Trainer

    config = configured(**changes)
    return Trainer(config, RunData(training_data(config), validation_data(config)), RunStart(), RankPlace(), ())


def restored(right: Callable[[Path], object], **saved: Any) -> Situation:
    """A checkpoint of other settings, `saved`, is read by the run of `configured`."""

    def situation(at: Path) -> Iterator[Call]:
        other = trainer(**saved)
        state = {**other.rank_state.state(), "config": other.config.to_dict()}
        path = write_checkpoint(at / "checkpoints", 1, other.rank_state.slices(), state)
        yield lambda: trainer().rank_state.restore(Checkpoint(path))
        yield lambda: right(path)

    return situation


def of_adapters_elsewhere(at: Path) -> Iterator[Call]:
    from ms_codegeex.data.datasets.opening import training_data
    from ms_codegeex.training.rank_state import Provenance
    from ms_codegeex.training.start import RunData, RunStart

    adapted(at)
    other = small_models.save_run(at / "other", "codegen", small_models.parameters("codegen", seed=9))

    def checked(weights: Path) -> None:
        config = starting(at, weights, rank=2, targets=["attention"])
        data = training_data(configured())
        start = Provenance(config, RunData(data, data), RunStart(weights_of(config)), 0)
        start.check(Checkpoint(at / "tuned/checkpoints/step-00000004"))

    yield lambda: checked(other)
    yield lambda: checked(at / "base")


def set_to(value: float, kind: str) -> None:
    """A frozen weight of a model in this type."""
    import mindspore as ms

    from ms_codegeex.training.rank_state import _set

    _set(ms.Parameter(ms.Tensor(np.zeros(2, kind)), name="w"), np.full(2, value, np.float32))


def started(value: float) -> object:
    from ms_codegeex.formats.tensors import from_array
    from ms_codegeex.training.rank_state import starting_weight

    return starting_weight("w", (2,), 0.1, 1, None, {"w": from_array(np.full(2, value, np.float32))})


def faulty(policy: str, *lines: str) -> Situation:
    """Steps that are not finite, and the commands that the message leads to, after `begun`."""

    def situation(at: Path) -> Iterator[Call]:
        from ms_codegeex.training.faults import Faults

        faults, record = Faults(FaultsConfig(policy=policy, most=2)), SimpleNamespace(step=3, loss=np.inf)
        record.gradient_norm = np.inf
        yield lambda: [(faults.judge(np.inf, np.inf, False), faults.answer(record, 40)) for _ in range(3)]
        begun(at)
        for line in lines:
            yield failing(line.format(at=at))

    return situation


def of_infinite_loss(at: Path) -> Iterator[Call]:
    yield lambda: trainer(training__schedule={"learning_rate": 1e30, "warmup_steps": 0}).run()
    yield lambda: _shows("tokens", "inspect corpus --sample 0")
    yield lambda: trainer(training__schedule={"learning_rate": 1e-3, "warmup_steps": 0}).run()


AGAIN = "train --config {at}/run.yaml --resume auto"
LOWER = "lower training.schedule.learning_rate and resume with --resume auto --allow-change training.schedule"
AT_A_LOWER_RATE = faulty("skip", f"{AGAIN} --allow-change training.schedule training.schedule.learning_rate=1e-4")
TRAINING: dict[str, Situation | str | tuple[Situation | str, ...]] = {
    "look at the dataset with `ms-codegeex inspect --sample`": of_empty_steps,
    "this batch is left out from now on, resume with --resume auto": faulty("rewind", AGAIN),
    "look at these samples": faulty("stop", "inspect corpus --sample 40"),
    LOWER: AT_A_LOWER_RATE,
    f"look at the data around sample {{}}, or {LOWER}": of_infinite_loss,
    "set lora.frozen=fp32": instead(lambda at: set_to(1e6, "float16"), lambda at: set_to(1e6, "float32")),
    "start from another model": instead(lambda at: started(np.nan), lambda at: started(1.0)),
    "choose another output without --resume": restored(lambda path: trainer(), model__num_layers=2),
    "use the run's model, or another output without --resume": restored(
        lambda path: trainer(model__intermediate_size=16).rank_state.restore(Checkpoint(path)),
        model__intermediate_size=16,
    ),
    "restore that model, or set another output without --resume": of_adapters_elsewhere,
}
TRAINING_UNTRIED = {"check the configuration with `ms-codegeex rehearse`": "of a bug"}


# --- models, kernels and plans ---


def sizes(*right: dict[str, Any], name: str = "codegeex2", **wrong: Any) -> Situation:
    """The small model of a family with a wrong size, and right ones."""

    def built(values: dict[str, Any], at: Path) -> object:
        return family(name).config.build_config(None, small_models.FIELDS[name] | values)

    return instead(partial(built, wrong), *(partial(built, each) for each in right))


def converted(*lines: str, family: str = "codegeex2", **fields: Any) -> Situation:
    """Conversions of a small run."""

    def situation(at: Path) -> Iterator[Call]:
        arrays = small_models.parameters(family)
        small_models.save_run(at / "run", family, arrays, **fields)
        for line in lines:
            yield failing(line.format(at=at))

    return situation


def width_of_heads(name: str, key: str) -> Situation:
    return changed(
        lambda path: _as_directory(path, name),
        setting("config.json", **{key: 7}),
        setting("config.json", **{key: small_models.config(name).head_dim}),
        lambda path: opened_model(path, {}),
    )


def _as_directory(path: Path, name: str) -> None:
    small_models.save_run(path.with_name("run"), name, small_models.parameters(name))
    run(f"convert --model {path.with_name('run')} --to hf --output {path}")


MODELS: dict[str, Situation | str | tuple[Situation | str, ...]] = {
    "give a number above 0": sizes({"num_layers": 1}, num_layers=0),
    "choose a divisor": (sizes({"num_heads": 4}, num_heads=3), sizes({"num_kv_groups": 2}, num_kv_groups=3)),
    "set model.vocab_size={} or more, or model.eos_token_id to one of its ids": sizes(
        {"eos_token_id": 99, "vocab_size": 100}, {"eos_token_id": 5}, eos_token_id=99
    ),
    "choose a divisor of model.hidden_size that leaves an even number": instead(
        *(
            lambda at, heads=heads: family("qwen2").config.build_config("tiny", {"num_heads": heads})
            for heads in (128, 4)
        )
    ),
    "give an even number up to {}": sizes({"rotary_dim": 4}, rotary_dim=3),
    "choose fp32, fp16 or bf16": sizes(*({"rotary_dtype": x} for x in ("fp32", "fp16", "bf16")), rotary_dtype="x"),
    "known are {}": instead(
        lambda at: small_models.config("codegen").adapted_layers(["x"]),
        lambda at: small_models.config("codegen").adapted_layers(["attention.query"]),
    ),
    "choose one of {}": (
        instead(lambda at: family("x"), *(lambda at, name=name: family(name) for name in FAMILIES)),
        "an unknown preset",
    ),
    "expected hidden_size / num_attention_heads": (
        width_of_heads("codegeex2", "kv_channels"),
        width_of_heads("qwen2", "head_dim"),
    ),
    "train with model.rotary_dim={}, or convert it --to mindspore": converted(
        "convert --model {at}/run --to hf --output {at}/out",
        "convert --model {at}/run --to mindspore --output {at}/out",
        rotary_dim=2,
    ),
}
KERNELS: dict[str, Situation | str] = {
    "choose auto or one of {}": instead(
        lambda at: cpu_level("x"),
        lambda at: cpu_level("auto"),
        *(lambda at, name=name: cpu_level(name) for name in possible_levels()),
    ),
}
KERNELS_UNTRIED = {"could not compile the operators ({})": "of a note; MindSpore's operators compute then"}
MEASURED = HardwareFile("ascend910b", "a run", StepFactor(1.0, 0.9, 1.1))


def hardware(spoil: Callable[[Path], object], *mends: Callable[[Path], object]) -> Situation:
    """A hardware file that `spoil` changes. `mends`: each makes one that is read."""

    def situation(at: Path) -> Iterator[Call]:
        file = at / "mine.yaml"
        write_hardware_file(file, MEASURED)
        spoil(file)
        yield lambda: read_hardware_file(file)
        for mend in (*mends, measured):
            yield lambda mend=mend: (mend(file), read_hardware_file(file))

    return situation


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


def of_another_chip(at: Path) -> Iterator[Call]:
    write_hardware_file(at / "mine.yaml", MEASURED)
    file = str(at / "mine.yaml")
    yield lambda: planned(hardware="ascend910", calibration=file)
    yield lambda: planned(hardware="ascend910")
    write_config(at / "run.yaml", {**ON_ASCEND, "parallel": {"tensor": 8, "hardware": file}})
    yield failing(f"plan --config {at / 'run.yaml'}")


NEW_FILE = "write it with `ms-codegeex plan --config FILE --measured RUN --write-hardware NEW.yaml`"
PLANNING: dict[str, Situation | str] = {
    f"{NEW_FILE}, or set it to null": (
        hardware(lambda file: file.unlink()),
        instead(
            lambda at: planned(hardware="ascend910b", calibration=str(at / "gone.yaml")),
            lambda at: planned(hardware="ascend910b", calibration=None),
        ),
    ),
    NEW_FILE: hardware(lambda file: file.write_text("[]")),
    f"correct it, or {NEW_FILE}": hardware(
        lambda file: file.write_text("base: x"), lambda file: write_hardware_file(file, MEASURED)
    ),
    "correct it": hardware(
        lambda file: write_hardware_file(file, replace(MEASURED, factor=StepFactor(2.0, 3.0, 4.0))),
        lambda file: write_hardware_file(file, MEASURED),
    ),
    "name the file as parallel.hardware, or set parallel.calibration to null": of_another_chip,
}


RUNS: dict[str, Situation | str | tuple[Situation | str, ...]] = {
    # files
    "name a run in it, such as {}": of_runs,
    "name the output of a run": (
        of_no_run(lambda run: read_history(run.path)),
        of_no_run(lambda run: read_config(run)),
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
    # what is given
    "leave it out": ("data beside --data", "restarts of several servers"),
    "give it alone, or the records that made it": command(
        "finetune --model model --data tuning chats.jsonl training.steps=1 output={at}/a",
        "finetune --model model --data tuning training.steps=1 output={at}/a",
        "finetune --model model --data pairs.jsonl training.steps=1 output={at}/a",
    ),
    "make one with `{}` and give --validation DIR": "records beside a corpus",
    "remove the section, or leave out --config": "a model in the file",
    "leave out --corpus, or set data.train=null": "a corpus beside a dataset",
    "leave out --corpus, or set data.blend=null": "a corpus beside a blend",
    "make it with `ms-codegeex prepare --input PATH --output DIR` where all of them can read it, and set "
    "data.train=DIR": of_no_dataset,
    "prepare it with the tokenizer of {}": command(
        "train --config codegen_tiny training.steps=1 output={at}/a data.seq_length=64 data.train=corpus "
        "data.validation=ids",
        "train --config codegen_tiny training.steps=1 output={at}/a data.seq_length=64 data.train=corpus "
        "data.validation=unvalidated",
    ),
    # memory and devices
    "{} of finetune_choices": (of_a_large_model(1), of_a_large_model(100)),
    "choose a smaller model, data.seq_length, training.micro_batch or --devices, or set "
    "training.recompute=full": of_memory,
    "`ms-codegeex doctor` shows what is missing": of_no_ascend,
    "set it to fp16 or fp32": gpus(
        ({"training__precision": "bf16"}, Driver("12.2", (H200,))),
        ({}, Driver("12.2", (H200,))),
        ({"training__precision": "fp32"}, Driver("12.2", (H200,))),
    ),
    "run `ms-codegeex doctor` for details, or set device=cpu": gpus(
        ({}, Driver(problem="no driver")),
        ({"device": "cpu"}, Driver(problem="no driver")),
    ),
    "set devices={}, or check CUDA_VISIBLE_DEVICES": gpus(
        ({"devices": 2}, Driver("12.2", (H200,))),
        ({}, Driver("12.2", (H200,))),
        ({"devices": 2}, Driver("12.2", (H200, H200))),
    ),
    "choose another with CUDA_VISIBLE_DEVICES": gpus(({}, Driver("12.2", (OLD,))), ({}, Driver("12.2", (H200,)))),
    "lower it, set training.recompute=full, or stop what uses the rest (nvidia-smi)": gpus(
        ({"training__micro_batch": 64, **LARGE}, USED),
        ({"training__micro_batch": 1, **LARGE}, USED),
        ({"training__micro_batch": 64, "training__recompute": "full", **LARGE}, USED),
        ({"training__micro_batch": 64, **LARGE}, Driver("12.2", (H200,))),
    ),
    # outputs
    "choose another output": (
        instead(lambda at: ((at / "file").touch(), held(at / "file/run")), lambda at: held(at / "other")),
        of_damaged_checkpoints,
    ),
    "wait for it or choose another output": of_a_job_there,
    "rename it, or choose another": instead(
        lambda at: opened(at, data__train=os.fsdecode(b"caf\xe9")), lambda at: opened(at, data__train="café")
    ),
    "{} of opening": of_a_file_in_the_way,
    "give every server the same command": instead(
        lambda at: join_run(configured(seed=8), RunDirectory(made(at / "a"))),
        lambda at: join_run(read_config(RunDirectory(at / "a")), RunDirectory(at / "a")),
    ),
    "choose another output, or --resume auto for the newest that is sound": "an earlier checkpoint",
    "continue it with --resume auto, or choose another output": "a run is there",
    # a run that continues
    "did you mean {}?": "a key of another name that may change",
    "choose one of {}": "a key that may always change",
    "keep it, or start another run from these weights: without --resume, with --from {} output=DIR": (
        "another optimizer"
    ),
    "use the same, or choose another output without --resume{}": ("other sizes", "another seed"),
    "if it was moved, {}={DIR: WEIGHT, …} says where it is now": of_moved_data("data.blend", "{{{}: 1}}"),
    "if it was moved, {}=DIR says where it is now": (
        of_moved_data("data.train"),
        of_moved_data("data.validation", more="held"),
        of_moved_data("data.held_out.py", more="held"),
    ),
    "set model.weights=DIR to theirs": of_another_model,
    LOWER: AT_A_LOWER_RATE,
    "use a dataset with the same tokenizer, or choose another output without --resume": of_another_tokenizer,
    "continue with a higher faults.most, or add faults.policy=skip --allow-change faults.policy": of_rewinds,
    # weights
    "start ms_codegeex.runs.rank.from_model, as `train --dry-run` shows": of_the_other_program,
    "make another with `ms-codegeex prepare --input PATH --output DIR --tokenizer {}` and set data.train=DIR": (
        "another tokenizer"
    ),
    "make another with `ms-codegeex prepare --input PATH --output DIR --tokenizer {}` and set data.train=DIR, or set "
    "model.grow=[{}]": "a tokenizer with more tokens",
    "merge it into its model with `ms-codegeex adapter merge` and train new ones on that": of_other_ranks,
    "set lora.rank, lora.alpha and lora.targets to them": of_other_adapters,
    "use a configuration of that family, or `ms-codegeex finetune --model {} --data DATASET`": "another family",
    "set {}": ("sizes", "a larger vocabulary", "a longer context"),
    "set model.weights=DIR to the model of the adapters": "no model for adapters",
    # meshes
    "give a checkpoint of a run": changed(checkpoint, partial(manifest, config=None), None, merged),
    "give as many or fewer": resharded("--pipeline 9", "--pipeline 1"),
    "give a divisor": (
        resharded("--data 2 --optimizer-shard 4", "--data 2 --optimizer-shard 2"),
        resharded("--tensor 3", "--tensor 2"),
        resharded("--data 3 --optimizer-shard 3", "--data 2 --optimizer-shard 2"),
    ),
    "choose another --output": command("checkpoint merge run --output one", "checkpoint merge run --output {at}/out"),
    "call it {}, or something else": command(
        "checkpoint merge run --output {at}/step-00000009",
        lambda at, said: f"checkpoint merge run --output {at / re.search(r'call it ([^,]+)', said)[1]}",
        "checkpoint merge run --output {at}/out",
    ),
    # servers
    "set device=ascend": ("a rank table for a CPU", "several servers of a CPU"),
    "rehearse it with `ms-codegeex rehearse`, or set device=ascend": "tensor parallelism on a CPU",
    "give --node-rank K, this server's number, 0 to {}": "no number of a server",
    "give --master-addr HOST:PORT of server 0, where all {} meet": "no address of server 0",
    "set devices={}, or give `train` --nodes N --node-rank K --master-addr HOST:PORT, or --rank-table FILE --node-rank "
    "K, or set parallel.server_devices={} if a server has as many": "no servers",
    "expected 0 to {}, one of the job's servers": command(
        f"{DRY} --nodes 2 --node-rank 2 {MEET}", f"{DRY} --nodes 2 --node-rank 1 {MEET}"
    ),
    "leave --nodes out": "servers beside a table",
    "expected HOST:PORT with a port from 1024 to 65535": command(
        f"{DRY} --nodes 2 --node-rank 0 --master-addr head:80", f"{DRY} --nodes 2 --node-rank 0 --master-addr head:1024"
    ),
    "correct it or give a host name": command(
        f"{DRY} --nodes 2 --node-rank 0 --master-addr 10.0.0:8118",
        f"{DRY} --nodes 2 --node-rank 0 {MEET}",
        f"{DRY} --nodes 2 --node-rank 0 --master-addr head:8118",
    ),
    "give the HOST:PORT of server 0 with its IP address": of_no_name,
    "change one of them": command(
        f"{DRY} --nodes 3 --node-rank 0 {MEET}",
        f"{DRY} --nodes 2 --node-rank 0 {MEET}",
        f"{DRY} --nodes 3 --node-rank 0 {MEET} devices=24 training.global_batch=24",
    ),
    "use fewer servers or a smaller parallel.tensor": served(
        {},
        {"nodes": 4, "node_rank": 0, "master": "a:8118"},
        {"nodes": 2, "node_rank": 0, "master": "a:8118"},
        {"nodes": 4, "node_rank": 0, "master": "a:8118", "TENSOR": 4},
    ),
    "start it with --node-rank 0, and give all servers the same `output` on a shared file system": of_no_server_0,
    "start it again": meeting(lambda first, second, at: rendezvous.Rendezvous(at, 0, 2).__enter__()),
    "its message: {}": meeting(lambda first, second, at: first.__exit__(UserError, UserError("x; do y"), None)),
    "check that machine and start again with --resume auto": meeting(lambda first, second, at: None),
    # rank tables
    "{} of rank_table": (
        ranked("server_list 0 device 0 rank_id", 0, "0"),
        ranked("server_list 0 device 0 rank_id", "00"),
        ranked("server_list 0 device 0 rank_id", "16"),
        ranked("server_list 0 device 0 device_id", "16"),
        ranked("server_list 0 device 0 device_ip", "x"),
        ranked("server_list 0 host_nic_ip", []),
        ranked("server_list 0", []),
        ranked("server_list 0 server_id", ""),
        ranked("server_list 0 server_id", "10.0.0"),
        ranked("status", "initializing"),
        ranked("version", "1.1"),
        ranked("server_count", "3", "2"),
        ranked("version", "1.0", "1.2", lambda: pods("a", "b")),
        ranked("super_pod_list 0 super_pod_id", "", None, lambda: pods("a", "b")),
        ranked("super_pod_list 0 server_list 0 server_id", "x", None, lambda: pods("a", "b")),
        ranked("super_pod_list 0 server_list 0", ..., None, lambda: pods("a", "a")),
        ranked("server_list 0 device 0 super_device_id", "x", None, lambda: pods("a", "b")),
        instead(
            lambda at: check_against_config(parse_rank_table(table(1, 16)), cluster()),
            lambda at: check_against_config(parse_rank_table(table(2, 8)), cluster()),
            lambda at: check_against_config(parse_rank_table(table(1, 16)), cluster(server_devices=16)),
        ),
    ),
    "add it": ranked("server_list 0 device 0 super_device_id", ..., None, lambda: pods("a", "b")),
    "add it, or make the table with `ms-codegeex rank-table make`": ranked("server_list 0 server_id", ...),
    "list every one that takes part": ranked("server_list 0 device", []),
    "give each its own": (
        ranked("server_list 0 device 1 device_id", "0"),
        ranked("server_list 1 server_id", "10.0.0.11"),
    ),
    "give each server contiguous ranks": instead(
        lambda at: parse_rank_table(
            put(put(table(), "server_list 0 device 7 rank_id", "8"), "server_list 1 device 0 rank_id", "7")
        ),
        lambda at: parse_rank_table(table()),
    ),
    "give each super pod contiguous ranks": instead(
        lambda at: parse_rank_table(pods("a", "b", "a")), lambda at: parse_rank_table(pods("a", "a", "b"))
    ),
    "make a table with `ms-codegeex rank-table make`": of_other_kind,
    "set devices={} or make a table of {}": "devices of a table",
    "give every server a multiple of parallel.tensor {} devices, or choose a smaller parallel.tensor": instead(
        lambda at: split(4, 4, 8), lambda at: split(2, 8, 8), lambda at: split(4, 4, 4)
    ),
    "it is /etc/hccn.conf of the server": instead(
        lambda at: read_hccn_conf(at / "a"),
        lambda at: ((at / "a").write_text("address_0=::1"), read_hccn_conf(at / "a")),
    ),
    "copy it from the server again": hccn(b"address_0=\xff"),
    "expected key=value such as address_0=192.168.1.1": hccn(b"address_0"),
    "expected an IP address, and a device's number in the name": hccn(b"address_0=x"),
    "keep one": hccn(b"address_0=192.168.1.1\naddress_0=192.168.1.1\n"),
    "set the devices' addresses with hccn_tool": hccn(b"# none\n"),
    "make all of one version": instead(
        lambda at: merge_rank_tables([parse_rank_table(table(1)), parse_rank_table(pods("a"))]),
        lambda at: merge_rank_tables(
            [parse_rank_table(table(1)), make_rank_table([("10.0.0.99", {0: "192.168.9.9"})])]
        ),
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
