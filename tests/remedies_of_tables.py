"""Situations in which a table of the package names what a file is and says what to do, and what a user then does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from remedies_of_formats import at_path, directory, opened, torch_file
from remedies_shapes import Said, Situation, tried

from ms_codegeex.runs.servers.rank_table import make_rank_table, write_rank_table


def inspected(content: dict[str, Any], step: Any, name: str = "other.json") -> Situation:
    """`inspect` on a file with this content; then what the message names."""
    table = make_rank_table([("10.0.0.1", {0: "192.168.0.1"})])
    written = lambda at: write_rank_table(at / "table.json", table)  # noqa: E731
    return tried(({name: content}, written, f"inspect {{at}}/{name}"), step)


def bridged(at: Path, line: str) -> None:
    """The mindformers command of a message. Its model is no model of ours, as it then says."""
    result = subprocess.run(line.split(), capture_output=True, text=True, cwd=at)
    assert result.returncode == 2 and "model.arch.type: " in result.stderr, result.stderr


BRIDGED = Said("`(.*?)`", bridged)


def held(make: Callable[[Path], object], *steps: Any) -> Situation:
    """A folder `it` that cannot be read as a model; then what the message says is done to it, or another path given."""
    made = (lambda at: (at / "it").mkdir(), lambda at: make(at / "it"))
    return tried((*made, lambda at: opened(at / "it")), *steps)


def model(name: str) -> Callable[[Path], object]:
    return lambda at: opened(Path(name))


ONE = at_path(opened, "it/one")
PAIR = lambda path: [directory(path / name) for name in ("one", "two")]  # noqa: E731


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
            {"run_mode": "train", "runner_config": {}, "trainer": {"model_name": "Qwen3"}}, BRIDGED, "other.yaml"
        ),
    ),
    "give the files that it names": inspected({"d": {"file_name": "a.jsonl"}}, "inspect corpus"),
    "`ms-codegeex rank-table check {}` checks it": inspected({"server_list": []}, CHECKED),
    "give the rank table beside it": inspected({"peer_list": [], "edge_list": []}, CHECKED),
    "`ms-codegeex evaluate --help` shows how to measure a model here": inspected(
        {"eval": {}, "hash": "h"}, "evaluate --help"
    ),
    "give the directory that it is in": inspected({"model_type": "codegen"}, "inspect model", "config.json"),
    "`ms-codegeex adapter merge --help` shows how": inspected({"peft_type": "LORA"}, "adapter merge --help"),
}
VERL = "python -m verl.model_merger merge --backend fsdp --local_dir {} --target_dir joined"
TRIED = "carried out in formats/test_sources.py"
LAYOUTS: dict[str, Situation] = {
    "give the model that vLLM loaded": held(
        lambda p: shutil.copy("small-hf/model.safetensors", p / "model-rank-0-part-0.safetensors"), model("small-hf")
    ),
    "write torch.save(model.state_dict(), 'model.pt') in the program that can load them, and give that file": held(
        lambda p: torch_file(p / "layer_01-model_00-model_states.pt"), model("small")
    ),
    "give its folder: {}": tried(
        lambda at: (directory(at / "it"), torch_file(at / "it/optimizer.pt"), opened(at / "it/optimizer.pt")),
        lambda at: opened(at / "it"),
    ),
    "give one of them": (
        held(
            lambda p: [np.savez(p / f"{n}.npz", a=np.ones(1)) or torch_file(p / f"{n}.pt") for n in "ab"],
            model("small"),
        ),
        held(PAIR, ONE),
    ),
    "give one of them, or --checkpoint last, best or a step": held(
        lambda p: (directory(p / "checkpoint-1"), PAIR(p)), ONE
    ),
    "unpack it (tar -xf {}) and give the file of weights in it": held(
        lambda p: subprocess.run(["tar", "-cf", p / "model.tar", "-C", "small-hf", "model.safetensors"], check=True),
        (
            lambda at: subprocess.run(["tar", "-xf", "it/model.tar"], cwd=at, check=True),
            lambda at: (at / "it/model.tar").unlink(),
            lambda at: shutil.copy("small-hf/config.json", at),
            opened,
        ),
    ),
    "save the model as safetensors there": held(
        lambda p: (p / "tf_model.h5").write_bytes(b"\x89HDF"), model("small-hf")
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
