"""A model that a run trains to fill in the middle says so wherever it goes, and is prompted with its sentinels."""

import heapq
import json
import textwrap

import numpy as np
import pytest
from code_dataset import functions, write_code
from conftest import command, command_here, small_run, write_config
from equal_runs import last_checkpoint
from tokenizer_files import write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.infilling import infill_filter, infill_prompt
from ms_codegeex.extras.serving.model import described_model
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.runs.files.records import read_log

ROWS = 448


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    tokenizer = load_tokenizer(write_chatglm(tmp_path_factory.mktemp("tokenizer")))
    return write_code(tmp_path_factory.mktemp("code"), tokenizer, functions(textwrap, heapq))


def run_values(code, output, **data):
    values = small_run(code, output)
    values["model"] |= {"vocab_size": ROWS, "eos_token_id": 2}
    values["data"]["infill"] = {"rate": 0.9, "mode": "spm"}
    values["data"] |= data
    values["training"]["steps"] = 6
    return values


def train(tmp_path, values, *words):
    done = command("train", "--config", write_config(tmp_path / "run.yaml", values), *words)
    assert done.returncode == 0, done.stderr
    return last_checkpoint(tmp_path / "run")


@pytest.fixture(scope="module")
def trained(code, tmp_path_factory):
    """A finished run, which is exported."""
    root = tmp_path_factory.mktemp("trained")
    values = run_values(code, root / "run")
    values["checkpoint"]["export"] = True
    train(root, values)
    return root / "run"


def check_prompts(path, tokenizer):
    """Serve and terminal ask the model at `path` with its sentinels, in the order that it was trained in."""
    model = described_model(load_model(path), path)
    assert model.infill == "trained" and infill_filter(model, "b").feed("ab") == "ab"
    ids, cut, _ = infill_prompt(model, "a = 1\n", "\nprint(a)", 30)
    prefix, suffix, middle = tokenizer.sentinels
    asked = [suffix, *tokenizer.encode_inside("\nprint(a)"), prefix, *tokenizer.encode("a = 1\n"), middle]
    assert ids == [*tokenizer.prefix, *asked] and not cut
    return ids


@pytest.mark.slow  # a run with processes that compile
def test_from_the_run_to_the_prompt_of_the_server(trained, code, tmp_path):
    tokenizer = load_tokenizer(code / "tokenizer")
    prefix, suffix, middle = tokenizer.sentinels
    declared = {"prefix": prefix, "suffix": suffix, "middle": middle, "order": ["suffix", "prefix", "middle"]}
    assert last_checkpoint(trained).state["description"]["infill"] == declared
    assert json.loads((trained / "huggingface/serving.json").read_text())["infill"] == declared
    for words in (
        ("convert", "--model", trained / "huggingface", "--to", "hf", "--output", tmp_path / "again"),
        ("quantize", "--model", trained, "--bits", "8", "--output", tmp_path / "int8"),
    ):
        done = command_here(*words)
        assert done.returncode == 0, done.stderr
    for place in (trained, trained / "huggingface", tmp_path / "again", tmp_path / "int8"):
        ids = check_prompts(place, tokenizer)
    generator = Generator(trained / "huggingface", threads=1)
    answer = list(generator.tokens(ids, SamplingSettings(max_new_tokens=8, temperature=1.0, seed=1)))
    assert not {*answer} & {*tokenizer.sentinels}
    assert len(generator.log_probabilities(ids)) == len(ids) - 1
    with pytest.raises(UserError, match=f"{middle + 1} is not a token's id"):
        generator.logits([middle + 1])

    further = {**run_values(code, tmp_path / "run"), "model": {}}
    source = open_source(trained)
    further["model"] = {"family": "codegeex", **source.fields, "weights": str(trained)}
    further["data"]["infill"] = {}  # it goes on without
    further["training"]["steps"] = 1
    assert train(tmp_path, further).state["description"]["infill"] == declared


@pytest.mark.slow  # four runs
def test_a_resumed_run_ends_with_the_same_bits_and_so_do_others_that_read_ahead(code, tmp_path):
    whole = train(tmp_path, run_values(code, tmp_path / "run", workers=0))
    weights = {name: whole.tensor(name) for name in whole.names}
    for directory, workers in (("one", 2), ("two", 1)):
        (tmp_path / directory).mkdir()
        values = run_values(code, tmp_path / directory / "run", workers=workers)
        if directory == "two":
            train(tmp_path / directory, {**values, "training": {**values["training"], "steps": 3}})
        again = train(tmp_path / directory, values, "--resume", "auto")
        assert again.step == 6
        for name in again.names:
            np.testing.assert_array_equal(again.tensor(name), weights[name])
    plain = write_config(tmp_path / "run.yaml", run_values(code, tmp_path / "run", infill={}))
    refused = command_here("train", "--config", plain, "--resume", "auto", "training.steps=8")
    assert refused.returncode == 2 and "data.infill.mode: both, but" in refused.stderr
    values = run_values(code, tmp_path / "both/run")
    (tmp_path / "both").mkdir()
    shared = train(tmp_path / "both", {**values, "devices": 2})
    logs = [read_log(directory / "run/log.jsonl") for directory in (tmp_path, tmp_path / "both")]
    assert [line["tokens"] for line in logs[0]] == [line["tokens"] for line in logs[1]]
    np.testing.assert_allclose([line["loss"] for line in logs[0]], [line["loss"] for line in logs[1]], rtol=1e-5)
    assert shared.step == 6
