"""What `training.initial` describes: which weights, their numbers, and what the first heads attend to."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.runs.weights import weights_of
from ms_codegeex.training.first_values import first_values, sinusoids
from ms_codegeex.training.rank_state import initial_weight, starting_weight
from ms_codegeex.training.trainer import Trainer

INITIAL = {"outputs": "zero", "positions": "sinusoid", "attention": "previous"}
POSITIONS = {"embedding.position.weight", "top_query_embedding.weight"}
HEADS = {"blocks.0.attention.query.weight", "blocks.0.attention.key.weight"}


def config(*words: str, **initial: str):
    given = [f"training.initial.{name}={value}" for name, value in (initial or INITIAL).items()]
    return load_config(None, ["model.preset=tiny", "training.steps=1", *given, *words])


def test_a_run_begins_with_them_and_its_other_weights_are_as_without(run_values):
    def state(**initial):
        run_values["training"]["initial"] = initial
        run = build_run_config(run_values)
        trainer = Trainer(run, training_data(run), validation_data(run), weights=weights_of(run))
        return run, {name: value.asnumpy().copy() for name, value in trainer.rank_state.tensors().items()}

    _, plain = state()
    run, found = state(**INITIAL)
    changed = {name for name, value in found.items() if not np.array_equal(value, plain[name])}
    ends = ("attention.output.weight", "feed_forward.down.weight")
    outputs = {name for name in plain if name.endswith(ends) and not name.startswith("optimizer.")}
    assert changed == outputs | POSITIONS | HEADS and len(outputs) == 4
    assert not any(found[name].any() for name in outputs)
    for name, tensor in first_values(run).items():
        np.testing.assert_array_equal(found[name], tensor.array())


@pytest.mark.parametrize("channels", [16, 7])
def test_positions_are_sinusoids(channels):
    """Against the formula, value by value; an odd number of channels has a sine more."""
    found, first = sinusoids((24, channels), 0.02), -(-channels // 2)
    for position, channel in ((0, 0), (5, 3), (23, channels - 1), (11, 2)):
        angle = position * math.pi * ((channel % first + 0.5) / first) ** 1.2
        expected = 0.02 * (math.cos(angle) if channel >= first else math.sin(angle))
        assert found[position, channel] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("positions,channels", [(256, 128), (2048, 128), (2048, 5120)])
def test_no_two_positions_begin_alike(positions, channels):
    rows = sinusoids((positions, channels), 1.0).astype(np.float64)
    products = rows @ rows[0] / (channels / 2)  # cosines of the angles between them, of distances alone
    assert products[0] == pytest.approx(1) and np.abs(products[1:]).max() < 0.35
    np.testing.assert_allclose(rows[7:] @ rows[7] / (channels / 2), products[: positions - 7], atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_first_heads_attend_to_the_tokens_before(heads):
    """With random words, in float64: most of a head's attention is where it should be, and more than anywhere else."""
    run = config(f"model.num_heads={heads}", "model.vocab_size=1024", "model.eos_token_id=1005")
    tensors, sizes = first_values(run), run.model.sizes
    words = initial_weight("embedding.word.weight", (1024, 128), sizes.init_std, 0)
    ids = np.random.default_rng(0).integers(0, 1024, 256)
    rows = words[ids].astype(np.float64) + tensors["embedding.position.weight"].array()
    rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
    query, key = (
        (rows @ tensors[f"blocks.0.attention.{name}.weight"].array().T).reshape(256, heads, -1)
        for name in ("query", "key")
    )
    scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(128 / heads)
    scores[:, ~np.tri(256, dtype=bool)] = -np.inf
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    for head in range(heads):
        by_distance = [np.diagonal(shares[head], -distance)[32:].mean() for distance in range(32)]
        assert np.argmax(by_distance) == head + 1 and by_distance[head + 1] > 2 * sorted(by_distance)[-2]


def test_a_device_that_holds_a_part_takes_the_same_numbers():
    run = config()
    for name in HEADS | POSITIONS:
        tensors = first_values(run)
        whole = tensors[name].array()
        part = starting_weight(name, whole.shape, 0.08, 0, (slice(32, 64), slice(16, 48)), tensors)
        np.testing.assert_array_equal(part, whole[32:64, 16:48])


def test_another_seed_gives_other_heads():
    one, other = (first_values(config(f"seed={seed}")) for seed in (0, 1))
    for name in HEADS:
        assert not np.array_equal(one[name].array(), other[name].array())


@pytest.mark.parametrize(
    "words", [["training.initial.positions=normal"], ["model.family=codegen"], ["model.family=codegeex2"]]
)
def test_heads_need_sinusoids(words):
    message = r"^training\.initial\.attention: previous needs a CodeGeeX with training\.initial\.positions=sinusoid"
    with pytest.raises(UserError, match=message):
        config(*words)


def test_without_the_settings_there_are_none():
    assert first_values(config(outputs="normal")) == {}
