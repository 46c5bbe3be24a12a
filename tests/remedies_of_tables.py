"""Situations in which a table of the package names what a file is and says what to do, and what a user then does."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from remedies_of_corpora import command
from remedies_of_data import Call, Situation, instead
from remedies_of_formats import directory, opened, torch_file

from ms_codegeex.base.files import write_json
from ms_codegeex.runs.servers.rank_table import make_rank_table, write_rank_table


def inspected(content: object, *then: str, name: str = "other.json") -> Situation:
    """`inspect` on a file with this content; then the commands that the message names, with {at} for its folder."""

    def situation(at: Path) -> Iterator[Call]:
        write_json(at / name, content)
        write_rank_table(at / "table.json", make_rank_table([("10.0.0.1", {0: "192.168.0.1"})]))
        yield from command(f"inspect {{at}}/{name}", *then)(at)

    return situation


def bridged(at: Path, said: str) -> str:
    """The mindformers command of a message. Its model is no model of ours, as it then says."""
    words = said.partition("`")[2].partition("`")[0].split()
    result = subprocess.run(words, capture_output=True, text=True, cwd=at)
    assert result.returncode == 2 and "model.arch.type: " in result.stderr, result.stderr
    return "--help"


def held(make: Callable[[Path], object], *then: Callable[[Path], object]) -> Situation:
    """A folder `it` that cannot be read as a model; then what the message says is done to it, or another path given."""

    def situation(at: Path) -> Iterator[Call]:
        (at / "it").mkdir()
        make(at / "it")
        yield from instead(lambda at: opened(at / "it"), *then)(at)

    return situation


def archive(path: Path) -> None:
    with tarfile.open(path / "model.tar", "w") as packed:
        packed.add("small-hf/model.safetensors", "model.safetensors")


def unpacked(at: Path) -> object:
    subprocess.run(["tar", "-xf", "it/model.tar"], cwd=at, check=True)
    shutil.copy("small-hf/config.json", at)
    (at / "it/model.tar").unlink()
    return opened(at)


def two_runs(path: Path) -> None:
    directory(path / "checkpoint-1")
    for name in ("one", "two"):
        directory(path / name)


TUNED = "finetune --model model --data pairs.jsonl output={at}/out"
CHECKED = "rank-table check {at}/table.json"
KINDS: dict[str, Situation] = {
    "`ms-codegeex finetune --model DIR --data FILE output=DIR` trains on its data (docs/finetune.md)": (
        inspected({"model_name_or_path": "m", "dataset": "d"}, TUNED),
        inspected({"base_model": "m", "datasets": []}, TUNED),
    ),
    "a run says that with `parallel` and `training` (docs/configuration.md)": inspected(
        {"train_micro_batch_size_per_gpu": 1}, "train --config run.yaml output={at}/out training.micro_batch=1"
    ),
    "`python -m ms_codegeex.mindformers_bridge --config {}` trains it if its model is one of ours (docs/exchange.md)": (
        inspected(
            {"run_mode": "train", "runner_config": {}, "trainer": {"model_name": "Qwen3"}}, bridged, name="other.yaml"
        )
    ),
    "give the files that it names": inspected({"d": {"file_name": "a.jsonl"}}, "inspect corpus"),
    "`ms-codegeex rank-table check {}` checks it": inspected({"server_list": []}, CHECKED),
    "give the rank table beside it": inspected({"peer_list": [], "edge_list": []}, CHECKED),
    "`ms-codegeex evaluate --help` shows how to measure a model here": inspected(
        {"eval": {}, "hash": "h"}, "evaluate --help"
    ),
    "give the directory that it is in": inspected({"model_type": "codegen"}, "inspect model", name="config.json"),
    "`ms-codegeex adapter merge --help` shows how": inspected({"peft_type": "LORA"}, "adapter merge --help"),
}
VERL = "python -m verl.model_merger merge --backend fsdp --local_dir {} --target_dir joined"
TRIED = "carried out in formats/test_sources.py"
LAYOUTS: dict[str, Situation] = {
    "give the model that vLLM loaded": held(
        lambda p: shutil.copy("small-hf/model.safetensors", p / "model-rank-0-part-0.safetensors"),
        lambda at: opened(Path("small-hf")),
    ),
    "write torch.save(model.state_dict(), 'model.pt') in the program that can load them, and give that file": held(
        lambda p: torch_file(p / "layer_01-model_00-model_states.pt"),
        lambda at: opened(Path("small")),
    ),
    "give its folder: {}": instead(
        lambda at: (directory(at / "it"), torch_file(at / "it/optimizer.pt"), opened(at / "it/optimizer.pt")),
        lambda at: opened(at / "it"),
    ),
    "give one of them": (
        held(
            lambda p: [np.savez(p / f"{n}.npz", a=np.ones(1)) or torch_file(p / f"{n}.pt") for n in "ab"],
            lambda at: opened(Path("small")),
        ),
        held(lambda p: [directory(p / n) for n in ("one", "two")], lambda at: opened(at / "it/one")),
    ),
    "give one of them, or --checkpoint last, best or a step": held(two_runs, lambda at: opened(at / "it/one")),
    "unpack it (tar -xf {}) and give the file of weights in it": held(archive, unpacked),
    "save the model as safetensors there": held(
        lambda p: (p / "tf_model.h5").write_bytes(b"\x89HDF"), lambda at: opened(Path("small-hf"))
    ),
}
TABLES: dict[str, tuple[dict, dict[str, str]]] = {
    "base/kinds.yaml": (KINDS, {}),
    "formats/layouts.yaml": (
        LAYOUTS,
        {
            "convert it first: ms-codegeex convert --model {} --to hf --output DIR": TRIED,
            "make one file of it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {} model.pt": TRIED,
            "save it with --ckpt-format torch": "needs Megatron-LM",
            f"join them with verl: {VERL}": "needs verl",
            "join them with DeepSpeed's script in the folder above: python zero_to_fp32.py . joined": "needs DeepSpeed",
        },
    ),
}
