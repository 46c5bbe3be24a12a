"""What `training.initial` describes: which weights, their numbers, and what the first heads attend to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mindspore import Tensor
from networks import assign
from small_models import FIELDS, save_run
from test_trainer import make
from test_trainer import state as state_of

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.models.causal import Build
from ms_codegeex.models.codegeex.config import build_config
from ms_codegeex.models.codegeex.model import Logits
from ms_codegeex.runs.rank.weights import weights_of
from ms_codegeex.training.first_values import KEY, QUERY, first_values, initial_weight, sinusoids
from ms_codegeex.training.rank_state import starting_weight

INITIAL = {"outputs": "zero", "positions": "sinusoid", "attention": "previous"}
POSITIONS = {"embedding.position.weight", "top_query_embedding.weight"}
HEADS = {QUERY, KEY}
VOCABULARY = ("model.vocab_size=1024", "model.eos_token_id=1005")


def config(*words: str, **initial: str):
    given = [f"training.initial.{name}={value}" for name, value in (initial or INITIAL).items()]
    return load_config(None, ["model.preset=tiny", "training.steps=1", *given, *words])


def test_a_run_begins_with_them_and_its_other_weights_are_as_without(run_values):
    run_values["model"] |= {"hidden_size": 32, "num_heads": 1}

    def state(**initial):
        run_values["training"]["initial"] = initial
        run = build_run_config(run_values)
        return run, state_of(make(run_values, weights=weights_of(run), library=None))

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
def test_the_first_heads_attend_most_to_the_tokens_before(heads):
    """With random words, in float64, on average over the positions: more than to any other distance."""
    run = config(f"model.num_heads={heads}", *VOCABULARY)
    tensors, sizes = first_values(run), run.model.sizes
    words = initial_weight("embedding.word.weight", (1024, 128), sizes.init_std, 0)
    shares = np.zeros((heads, 256, 256))
    for sample in range(8):
        ids = np.random.default_rng(sample).integers(0, 1024, 256)
        rows = words[ids].astype(np.float64) + tensors["embedding.position.weight"].array()
        rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
        query, key = ((rows @ tensors[name].array().T).reshape(256, heads, -1) for name in (QUERY, KEY))
        scores = np.einsum("qhd,khd->hqk", query, key) / math.sqrt(128 / heads)
        scores[:, ~np.tri(256, dtype=bool)] = -np.inf
        shares += np.exp(scores - scores.max(-1, keepdims=True)) / 8
    shares /= shares.sum(-1, keepdims=True)
    for head in range(heads):
        by_distance = [np.diagonal(shares[head], -distance).mean() for distance in range(224)]
        assert np.argmax(by_distance) == head + 1 and by_distance[head + 1] > 1.5 * sorted(by_distance)[-2]


@pytest.mark.usefixtures("graph_mode")
@pytest.mark.parametrize("heads", [1, 2])
def test_the_network_looks_at_the_tokens_before(heads):
    """The real network, whose only active part besides the tables is the attention of block 0: of the tokens before
    the last, those that a head looks for change the logits most."""
    words = [f"model.num_heads={heads}", *VOCABULARY, "data.seq_length=64", "model.max_position_embeddings=64"]
    run = config(*words, positions="sinusoid", attention="previous")
    sizes, first = run.model.sizes, first_values(run)
    network = Logits(sizes, Build(seq_length=64))
    network.set_train(False)
    silent = ("attention.output.weight", "feed_forward.down.weight")
    weights = {}
    for name, shape in sizes.parameter_shapes().items():
        values = first[name].array() if name in first else initial_weight(name, shape, sizes.init_std, 0)
        quiet = name.endswith(silent) and name != "blocks.0.attention.output.weight"
        weights[name] = np.zeros_like(values) if quiet else values
    weights["top_query_layer.attention.output.weight"] = initial_weight("x.weight", (128, 128), sizes.init_std, 0)
    assign(network, weights)
    generator, at = np.random.default_rng(0), 40
    changes = np.zeros(at)
    for _ in range(6):
        ids = np.tile(generator.integers(4, 1000, 64), (at + 1, 1))
        for place in range(at):
            ids[place + 1, place] += 3
        places = Tensor(np.full(at + 1, at, np.int32))
        logits = network(Tensor(ids.astype(np.int32)), places).asnumpy()
        changes += np.abs(logits[1:] - logits[:1]).mean(1)
    assert set(np.argsort(-changes)[:heads]) == {at - 1 - head for head in range(heads)}


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
    "words,message",
    {
        "training.initial.positions=normal": "previous needs training.initial.positions=sinusoid; set that, or",
        "model.family=codegen": "previous is for models with learned positions, of family codegeex; set it to normal",
        "model.num_heads=8": "previous needs heads of 32 channels or more, .* model.num_heads gives them 16; lower it",
    }.items(),
)
def test_what_the_heads_need(words, message):
    with pytest.raises(UserError, match=rf"^training\.initial\.attention: {message}"):
        config(words)


def test_a_model_that_a_run_starts_from_keeps_its_values(tmp_path):
    """Heads begin in a new model only; what is fresh begins as `training.initial` says."""
    model = {**FIELDS["codegeex"], "hidden_size": 32, "num_heads": 1}
    shapes = build_config(None, model).parameter_shapes()
    values = {name: initial_weight(f"{name}.x", shape, 1.0, 5) for name, shape in shapes.items() if len(shape) == 2}
    values |= {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items() if len(shape) == 1}
    path = save_run(tmp_path / "run", "codegeex", values, **model)
    section = {"family": "codegeex", **model, "weights": str(path), "fresh": ["embedding.position", "attention.query"]}
    run = build_run_config({"model": section, "training": {"steps": 1, "initial": INITIAL}})
    tensors = weights_of(run)
    queries = {name for name in values if ".attention.query." in name}
    assert queries and not queries & tensors.keys()  # they are drawn
    for name in values.keys() - queries:
        value, std = values[name], run.model.sizes.init_std
        expected = sinusoids(value.shape, std) if name == "embedding.position.weight" else value
        np.testing.assert_array_equal(tensors[name].float32(), expected, err_msg=name)


def test_without_the_settings_there_are_none():
    assert first_values(config(outputs="normal")) == {}
