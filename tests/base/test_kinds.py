"""Files of other programs that are taken for ours: the first line says what they are."""

import json

import pytest
import yaml
from conftest import command_here

KINDS = {  # what the line says, and a content as the other program writes it
    "a recipe of LLaMA-Factory, TRL": {"model_name_or_path": "x", "stage": "sft", "finetuning_type": "lora"},
    "a recipe of axolotl": {"base_model": "x", "datasets": [{"path": "y"}], "adapter": "lora"},
    "a recipe of verl": {"actor_rollout_ref": {}, "data": {}, "trainer": {}},
    "settings of DeepSpeed": {"train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 2}},
    "settings of Accelerate": {"compute_environment": "LOCAL_MACHINE", "distributed_type": "FSDP"},
    "a recipe of mindformers": {"model": {"arch": {"type": "x"}}, "runner_config": {"epochs": 1}},
    "a recipe of mindformers;": {"run_mode": "predict", "output_dir": "x", "trainer": {}},
    "a topology of a server of Ascend 950": {"version": "2.0", "peer_list": [], "edge_list": []},
    "results of EvalPlus": {"date": "2026-01-01", "hash": "0", "eval": {"Mbpp/2": []}},
    "settings of an adapter": {"peft_type": "LORA", "r": 8, "alpha_pattern": {}},
    "a list of datasets of LLaMA-Factory": {"a": {"file_name": "a.json"}, "b": {"hf_hub_url": "c/d"}},
    "a rank table;": {"version": "2.0", "rank_list": []},
    "a rank table": {"server_list": [], "status": "completed"},
    "a model's configuration": {"model_type": "llama", "hidden_size": 8},
    "a list of records": [{"instruction": "a", "output": "b"}],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_what_a_file_is_comes_first(tmp_path, kind, ending):
    path = tmp_path / f"a file.{ending}"
    path.write_text(json.dumps(KINDS[kind]) if ending == "json" else yaml.safe_dump(KINDS[kind]))
    commands = [("inspect", path)]
    if ending == "json" and "rank table" not in kind:
        commands.append(("rank-table", "check", path))
    if ending == "yaml" and isinstance(KINDS[kind], dict):
        commands.append(("train", "--config", path))
    for words in commands:
        result = command_here(*map(str, words))
        assert result.returncode == 2 and f"{path}: found {kind}" in result.stderr and "; " in result.stderr


def test_our_own_files_are_none_of_them(tmp_path):
    (tmp_path / "run.yaml").write_text("model: {preset: tiny}\ntraining: {stps: 4}\n")
    result = command_here("train", "--config", str(tmp_path / "run.yaml"))
    assert "training.stps: unknown key" in result.stderr
    (tmp_path / "x.json").write_text("{}")
    assert "holds no weights" in command_here("inspect", str(tmp_path / "x.json")).stderr
