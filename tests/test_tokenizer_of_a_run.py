"""The tokenizer of a corpus reaches the run that is trained on it, its checkpoints and what they generate."""

import json
import shutil

import pytest
from conftest import command, small_run, write_config
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.base.reading import read_json
from ms_codegeex.data.tokenizer import load_tokenizer


@pytest.mark.slow
def test_from_the_corpus_to_the_generated_text(tmp_path):
    for number in range(20):  # one of them is 5 % for validation
        (tmp_path / "src" / f"package{number}").mkdir(parents=True)
        lines = [f"def f_{number}_{i}(x):\n    return x + {i}\n" for i in range(4)]
        (tmp_path / "src" / f"package{number}" / "module.py").write_text("".join(lines))
    model, data, run = write_chatglm(tmp_path / "model"), tmp_path / "data", tmp_path / "run"
    made = command("prepare", "--input", tmp_path / "src", "--output", data, "--tokenizer", model, "--workers", "1")
    assert made.returncode == 0, made.stderr
    shutil.rmtree(model)
    values = small_run(data, run)
    values["model"] |= {"vocab_size": 448, "eos_token_id": 2}
    values["training"]["steps"] = 2
    config = write_config(tmp_path / "config.yaml", values)
    trained = command("train", "--config", config)
    assert trained.returncode == 0, trained.stderr

    summary = read_json(run / "summary.json")
    assert 0 < summary["ngram_bits_per_byte"] < summary["byte_frequency_bits_per_byte"] < 8
    assert summary["parse_share"] is None  # nothing was exported to draw samples from
    description = read_json(data / "dataset.json")["tokenizer"]
    assert read_json(run / "checkpoints/step-00000002/manifest.json")["tokenizer"] == description
    assert load_tokenizer(run / "tokenizer").fingerprint == description["fingerprint"]
    answer = command("generate", "--model", run, "--prompt", "def f():\n", "--max-new-tokens", "3", "--json")
    assert answer.returncode == 0, answer.stderr
    prompt_tokens = len(load_tokenizer(run / "tokenizer").encode_prompt("def f():\n"))  # two more than the text
    assert json.loads(answer.stdout)["prompt_tokens"] == prompt_tokens

    converted = command("convert", "--model", run, "--to", "hf", "--output", tmp_path / "hf")
    assert converted.returncode == 0, converted.stderr
    assert load_tokenizer(tmp_path / "hf").fingerprint == description["fingerprint"]

    shutil.rmtree(data)  # another corpus in the place of the first, with ids that mean something else
    write_chatglm(model, chatglm_model(vocab_size=400))
    made = command("prepare", "--input", tmp_path / "src", "--output", data, "--tokenizer", model, "--workers", "1")
    assert made.returncode == 0, made.stderr
    resumed = command("train", "--config", config, "--resume", "auto", "training.steps=3")
    assert resumed.returncode == 2 and "data.train: tokenizer fingerprint: " in resumed.stderr
