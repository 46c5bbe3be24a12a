"""Generation from a model directory with random weights and the real tokenizer; the command as users run it."""

import json

import numpy as np
import pytest
from conftest import command
from twins import codegeex_numpy as twin

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.errors import UserError
from ms_codegeex.formats.checkpoint import write_checkpoint
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.choice import Chosen
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.models.codegeex.config import build_config

CONFIG = build_config(
    "tiny",
    {
        "hidden_size": 16,
        "num_layers": 1,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 24,
        "init_std": 0.3,
    },
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model directory, by way of a checkpoint and the converter."""
    from dataclasses import asdict

    from ms_codegeex.formats.convert import convert

    root, generator = tmp_path_factory.mktemp("model"), np.random.default_rng(5)
    tensors = {
        name: generator.normal(size=shape, scale=0.4).astype(np.float32)
        for name, shape in CONFIG.parameter_shapes().items()
    }
    tensors["embedding.word.weight"][50400:] *= 50  # rows without a token would win every time
    config = {"model": {"family": "codegeex", **asdict(CONFIG)}}
    checkpoint = write_checkpoint(root / "checkpoints", 1, tensors, {"config": config})
    convert(checkpoint, "hf", root / "hf", progress=False)
    return root / "hf"


@pytest.fixture(scope="module")
def generator(model):
    return Generator(model)


def test_logits_are_the_models_and_padding_does_not_matter(model, generator):
    ids = generator.tokenizer.encode_prompt("def f(x):")
    tensors = {name: tensor.array().astype(np.float64) for name, tensor in open_source(model).tensors.items()}
    expected = twin.logits(np.array([ids]), tensors, layers=1, heads=2, reset=False)[0, -1]
    np.testing.assert_allclose(generator.logits(ids), expected, atol=1e-5 * np.abs(expected).max())


def test_log_probabilities_are_those_of_the_raw_logits(generator):
    ids = generator.encode("def f(x): return x")
    raw = np.stack([generator.logits(ids[:n]) for n in range(1, len(ids))]).astype(np.float64)
    wanted = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    found = generator.log_probabilities(ids)
    np.testing.assert_allclose(found, wanted[np.arange(len(ids) - 1), ids[1:]], atol=1e-4)
    assert found.max() < 0 and generator.log_probabilities(ids[:1]).shape == (0,)
    for wrong in ([], [1] * 25, [5, 50400]):
        with pytest.raises(UserError):
            generator.log_probabilities(wrong)


def test_greedy_continues_with_the_likeliest_token_each_time(generator):
    ids = generator.encode("x = 1")
    new = list(generator.tokens(ids, SamplingSettings(5, temperature=0.0)))
    for token in new:
        logits = generator.logits(ids)[:50400]
        assert token == int(np.argmax(logits))
        ids.append(token)


def test_ids_without_a_token_are_never_sampled_and_refused_as_input(generator):
    assert int(np.argmax(generator.logits(generator.encode("x")))) >= 50400  # the model would like one
    settings = SamplingSettings(18, temperature=3.0, top_p=1.0, seed=2)
    assert all(token < 50400 for token in generator.tokens(generator.encode("x"), settings))
    with pytest.raises(UserError, match="50400"):
        generator.logits([5, 50400])
    with pytest.raises(UserError, match="-1"):
        generator.logits([-1])


def test_stops_at_eos_which_is_not_part_of_the_text(generator, monkeypatch):
    answers = iter([7, 8, 50256, 9])
    monkeypatch.setattr(generator.engine, "advance", lambda _: [[Chosen(next(answers), 0.0)]])
    monkeypatch.setattr(generator.scheduler, "_left", lambda _: 1)
    assert list(generator.tokens([1], SamplingSettings(10))) == [7, 8]


def test_stops_at_the_models_context_and_at_the_limit(generator):
    settings = SamplingSettings(1000, temperature=2.0, seed=4)
    assert len(list(generator.tokens([5] * 20, settings))) <= 4
    assert len(list(generator.tokens([5], SamplingSettings(3, temperature=2.0, seed=4)))) <= 3


def test_the_seed_decides(generator):
    a, b, c = (generator.generate("import", SamplingSettings(8, seed=s, temperature=2.0)) for s in (1, 1, 2))
    assert a == b != c


def test_streamed_pieces_are_whole_characters_and_make_up_the_text(generator, monkeypatch):
    ids = generator.tokenizer.encode("é 😀 你好 naïve")
    monkeypatch.setattr(generator, "tokens", lambda *_: iter(ids))
    pieces = list(generator.stream([1], SamplingSettings()))
    assert "".join(pieces) == "é 😀 你好 naïve" and not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("prompt,message", [("", "empty"), ("word " * 40, "tokens, the model's context is 24")])
def test_bad_prompts(generator, prompt, message):
    with pytest.raises(UserError, match=message):
        generator.encode(prompt)


def test_a_long_prompt_can_be_cut_on_the_left(generator):
    ids = generator.tokenizer.encode_prompt("word " * 40)
    assert generator.encode("word " * 40, truncate_for=4) == ids[-20:]
    assert generator.encode("word", truncate_for=4) == generator.encode("word")
    with pytest.raises(UserError, match="room for 0 tokens, expected 1 or more"):
        generator.encode("word", truncate_for=24)


def test_special_tokens_of_a_prompt_are_ids_and_the_tokenizer_comes_with_the_directory(generator, model):
    assert generator.encode("a<|endoftext|>b") == [64, 50256, 65]
    assert load_tokenizer(model).fingerprint == generator.tokenizer.fingerprint


def test_command_prints_prompt_and_continuation(model):
    result = command(
        "generate", "--model", model, "--language", "python", "--prompt", "x", "--greedy", "--max-new-tokens", "3"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("# language: Python\nx")
    again = command(
        *("generate", "--model", model, "--prompt", "# language: Python", "--greedy", "--max-new-tokens", "3", "--json")
    )
    answer = json.loads(again.stdout)
    assert answer["prompt"] == "# language: Python\n" and answer["new_tokens"] <= 3


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--prompt", "x", "--top-p", "2"], "top_p: 2.0"),
        (["--prompt", "x", "--language", "Pyton"], "Python"),
        (["--prompt-file", "no/such/file"], "no/such/file"),
        ([], "prompt: empty"),
    ],
)
def test_command_mistakes_are_one_line(model, arguments, message):
    result = command("generate", "--model", model, *arguments)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""


def test_command_names_a_missing_model(tmp_path):
    result = command("generate", "--model", tmp_path / "none", "--prompt", "x")
    assert result.returncode == 2 and str(tmp_path / "none") in result.stderr
