import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT, command_here, small_run, write_config

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.runs import memory_check

SIZES = {"hidden_size": 1024, "num_heads": 8, "intermediate_size": 4096, "eos_token_id": 0}
LORA = {"rank": 8, "targets": ["attention", "feed_forward"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lora", "layers", "seq", "operators"),
    [
        ({}, 3, 256, "composed"),
        (LORA, 3, 256, "composed"),
        *((LORA | {"frozen": held}, 10, 64, "composed") for held in ("fp32", "fp16", "int8")),
        *((LORA | {"frozen": held}, 10, 64, "compiled") for held in ("int8", "int4")),
    ],
    ids=["full", "LoRA", "fp32", "fp16", "int8", "int8-compiled", "int4-compiled"],
)
def test_the_plan_is_within_15_percent_of_the_peak(dataset, tmp_path, lora, layers, seq, operators):
    """69 million parameters, or 160 million, most of which are matrices that FP32 copies would show; in a separate
    process. The baseline is the process with the engine loaded."""
    if operators == "compiled" and library_path() is None:
        pytest.skip("no C++ compiler")
    values = small_run(dataset, tmp_path / "run")
    model = {"preset": "tiny", "vocab_size": 16384, "max_position_embeddings": 1024, "weights": str(tmp_path / "model")}
    values["model"] = {"family": "codegeex", **SIZES, **model, "num_layers": layers}
    values["data"]["seq_length"] = seq
    values["training"] |= {"steps": 2, "global_batch": 2, "loss_chunk": None, "evaluate_samples": 2}
    values["lora"] = lora
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, str(ROOT / "tests" / "runs" / "measured_run.py"), json.dumps(values), operators]
    for _ in range(2):  # the first makes the model
        environment = {**os.environ, "PYTHONPATH": paths}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1200, check=False)
        assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["compiled"] == (operators == "compiled")
    assert found["planned"] == pytest.approx(found["measured"], rel=0.15)


@pytest.mark.parametrize(
    ("family", "parameters"), [("codegeex", "12,873"), ("codegen", "356,712"), ("codegeex2", "6,243")]
)
def test_a_model_too_large_for_the_memory_is_named_by_its_size(monkeypatch, family, parameters):
    """Whatever the family's default preset is, none has been named here."""
    config = build_run_config({"model": {"family": family}, "training": {"steps": 1}})
    monkeypatch.setattr(memory_check.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    with pytest.raises(UserError, match=rf"model: {parameters},\d\d\d.* parameters .* 1\.0 GB are free"):
        memory_check.check_memory(config)


@pytest.mark.parametrize("changes", [{"checkpoint": {"every": 5}}, {"training": {"patience": 2, "evaluate_every": 5}}])
def test_a_run_that_saves_in_the_background_needs_a_copy(dataset, tmp_path, changes):
    values = small_run(dataset, tmp_path / "run")
    for section, keys in changes.items():
        values[section] |= keys
    needed = []
    for background in (False, True):
        values["checkpoint"]["background"] = background
        needed.append(memory_check.required_memory(build_run_config(values)))
    assert needed[0] < needed[1]


def test_the_memory_that_the_shipped_configuration_promises_is_the_estimate():
    path = ROOT / "configs" / "finetune_full.yaml"
    promised = re.findall(r"(\w+)/([\w-]+) ([\d.]+) GB with ((?:[\w.]+=\w+ ?)+)", path.read_text())
    assert len(promised) == 2
    for family, preset, size, words in promised:
        config = load_config(path, [f"model.family={family}", f"model.preset={preset}", *words.split()])
        assert f"{memory_check.required_memory(config, compiled=True) / 1e9:.1f}" == size


def test_ascend_without_canns_variables_is_one_line_before_a_worker_starts(dataset, tmp_path, monkeypatch):
    """As on a server where nobody has sourced set_env.sh. test_ascend_start.py has the plugin that loads."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    config = write_config(tmp_path / "run.yaml", small_run(dataset, tmp_path / "run"))
    result = command_here("train", "--config", config, "device=ascend", "devices=1", "training.precision=fp16")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "device: ascend: MindSpore's plugin does not load (libge_runner.so: " in result.stderr
    assert "source CANN's set_env.sh in this shell; `ms-codegeex doctor` shows" in result.stderr
    assert not (tmp_path / "run").exists()
