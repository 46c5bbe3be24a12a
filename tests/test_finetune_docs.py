"""The commands of docs/finetune.md, on a small model."""

import json
import re
import shlex
from dataclasses import asdict

import pytest
import small_models
from conftest import ROOT, command

from ms_codegeex.models.registry import family
from ms_codegeex.training.rank_state import initial_weight

PAGE = (ROOT / "docs" / "finetune.md").read_text("utf-8")
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
QUICK = "devices=1 training.steps=2 training.global_batch=2 training.evaluate_samples=2 data.seq_length=32"
ADDED = {"finetune": f"{QUICK} logging.plots=false", "generate": "--max-new-tokens 4"}
SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}


def test_every_command_is_understood():
    from ms_codegeex.cli import build_parser

    assert {words[1] for words in LINES} == {"finetune", "generate", "adapter", "convert", "plan"}
    for words in LINES:
        assert words[0] == "ms-codegeex"
        build_parser().parse_args(words[1:])


@pytest.mark.slow  # three runs
def test_every_command_works(tmp_path):
    sizes = family("codegeex").config.build_config("tiny", SIZES)
    arrays = {name: initial_weight(name, shape, 0.02, 1) for name, shape in sizes.parameter_shapes().items()}
    small_models.save_run(tmp_path / "runs" / "base", "codegeex", arrays, **asdict(sizes))
    rows = [{"prompt": f"def f{i}():\n", "completion": f"    return {i}\n"} for i in range(60)]
    for name in ("pairs.jsonl", "more.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in LINES:
        done = command(*words[1:], *shlex.split(ADDED.get(words[1], "")), cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "runs/lora/adapter/adapter_model.safetensors").stat().st_size < 10**6
