"""The commands of docs/finetune.md, on a small model."""

import json
import re
import shlex
from dataclasses import asdict

import pytest
import small_models
from conftest import ROOT, command

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.models.registry import family
from ms_codegeex.training.first_values import initial_weight

PAGE = (ROOT / "docs" / "finetune.md").read_text("utf-8").partition("\n## Fine-tuning data\n")[0]
RELEASED, *OTHERS = (
    [shlex.split(line, comments=True) for line in block.splitlines()]
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
)
LINES = [words for block in OTHERS for words in block]
QUICK = "devices=1 training.steps=2 training.global_batch=2 training.evaluate_samples=2 data.seq_length=32"
ADDED = {"finetune": f"{QUICK} logging.plots=false", "generate": "--max-new-tokens 4"}
SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}


@pytest.mark.slow  # three runs
def test_every_command_works(tmp_path):
    sizes = family("codegeex").config.build_config("tiny", SIZES)
    arrays = {name: initial_weight(name, shape, 0.02, 1) for name, shape in sizes.parameter_shapes().items()}
    small_models.save_run(tmp_path / "runs" / "base", "codegeex", arrays, **asdict(sizes))
    rows = [{"prompt": f"def f{i}():\n", "completion": f"    return {i}\n"} for i in range(60)]
    for name in ("pairs.jsonl", "more.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words in LINES:
        command(*words[1:], *shlex.split(ADDED.get(words[1], "")), cwd=tmp_path, status=0)
    assert (tmp_path / "runs/lora/adapter/adapter_model.safetensors").stat().st_size < 10**6


@pytest.mark.slow  # a run with 50,000 tokens
def test_from_a_released_directory_to_an_answering_adapter_in_three_commands(tmp_path):
    """A small model that transformers writes, with CodeGen's own tokenizer; its matrices are too small for adapters
    to be chosen, so that they are stated."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 256, "n_ctx": 256}
    config = transformers.CodeGenConfig(vocab_size=50400, eos_token_id=50256, initializer_range=0.2, **sizes)
    transformers.CodeGenForCausalLM(config).save_pretrained(tmp_path / "models" / "codegen")
    load_tokenizer("codegen-mono").save(tmp_path / "tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    tokenizer.save_pretrained(tmp_path / "models" / "codegen")
    names = ["add", "plus", "total", "both"]
    rows = [{"prompt": f"def {names[i % 4]}(a, b):", "completion": " return a + b"} for i in range(400)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    added = {
        "finetune": "--config finetune_lora training.steps=40 training.evaluate_samples=2 logging.plots=false",
        "generate": "--max-new-tokens 5 --temperature 0",
    }
    assert [words[1] for words in RELEASED] == ["finetune", "adapter", "generate"]
    for words in RELEASED:
        done = command(*words[1:], *shlex.split(added.get(words[1], "")), cwd=tmp_path, status=0)
    assert "return a + b" in done.stdout
    assert (tmp_path / "runs/mine/adapter/adapter_model.safetensors").is_file()
