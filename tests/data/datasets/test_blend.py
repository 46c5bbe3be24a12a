"""Blends: exact shares, no drift, any position directly, each corpus in its own order."""

import itertools
import json
import shutil
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import EOS, VOCABULARY, small_run, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config.blend import corpora_of, parse_blend
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.batches import PackedSequences, stream_seed
from ms_codegeex.data.datasets.blend import Blend, quota_order
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.datasets.opening import (
    absolute,
    lacks_validation,
    rounded_weights,
    training_data,
    validation_data,
)

DECIMALS = st.one_of(
    st.integers(1, 50),
    st.integers(1, 9999).map(lambda n: n / 1000),  # as binary fractions most of them are not what they say
    st.sampled_from(["1/3", "2/7", "0.1", "5e-3", 1e-3, 0.7, 0.1 + 0.2]),
)


def placeless(blend, global_batch=1):
    """A blend whose corpora are never read."""
    stages = parse_blend(blend)
    corpus = SimpleNamespace(directory="d", info={"vocab_size": 9}, eos=0, infilling=None)
    return Blend(stages, dict.fromkeys(corpora_of(stages), corpus), global_batch)


def within_one_of_its_share(owners, shares):
    """Of every prefix, in exact arithmetic."""
    n = np.arange(1, len(owners) + 1)
    for number, share in enumerate(shares):
        off = np.cumsum(owners == number) * share.denominator - n * share.numerator
        if np.abs(off).max() > share.denominator:
            return False
    return True


@settings(max_examples=12)
@given(st.lists(DECIMALS, min_size=1, max_size=40))
def test_counts_are_within_one_of_the_share_after_any_number_of_samples(weights):
    exact = [Fraction(str(w)) for w in weights]
    shares = [w / sum(exact) for w in exact]
    blend = placeless({str(i): w for i, w in enumerate(weights)})
    stage = parse_blend({str(i): w for i, w in enumerate(weights)})[0]
    if stage.rounded:
        shares = [Fraction(w, sum(stage.weights)) for w in stage.weights]
    owners, _ = blend.locate(np.arange(min(3 * sum(stage.weights), 50_000)))
    assert within_one_of_its_share(owners, shares)


@pytest.mark.parametrize(
    "weights",
    [
        *([1, 99_999], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024], [1000] * 99 + [1], [49_999, 50_001], [1] * 1000),
        *([7, 7, 7, 7, 1, 1, 1, 9973], [333, 333, 334]),
    ],
)
def test_awkward_weights_keep_less_than_one_away(weights):
    """Going round by largest remainder, by Webster's or by Jefferson's rule fails for some of these."""
    order, total = quota_order(weights), sum(weights)
    assert np.bincount(order, minlength=len(weights)).tolist() == weights
    n = np.arange(1, total + 1)
    for number, weight in enumerate(weights):
        assert np.abs(np.cumsum(order == number) * total - n * weight).max() < total


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 7), min_size=1), min_size=1, max_size=4),
    st.lists(st.integers(1, 40), min_size=3, max_size=3),
    st.integers(1, 6),
    st.data(),
)
def test_a_corpus_goes_on_where_it_stopped_and_any_position_is_reached_directly(mixtures, lengths, batch, data):
    steps = [0, *itertools.accumulate(lengths)][: len(mixtures)]
    stages = [{"from_step": step, "weights": weights} for step, weights in zip(steps, mixtures, strict=True)]
    blend, samples = placeless(stages, batch), (steps[-1] + 30) * batch
    names = list(dict.fromkeys(name for weights in mixtures for name in weights))
    owners, times = blend.locate(np.arange(samples))
    given_so_far = dict.fromkeys(range(len(names)), 0)
    for number, (owner, time) in enumerate(zip(owners.tolist(), times.tolist(), strict=True)):
        stage = max(s for s, step in enumerate(steps) if step * batch <= number)
        assert names[owner] in mixtures[stage]
        assert time == given_so_far[owner]
        given_so_far[owner] += 1
    for stage, (low, high) in enumerate(itertools.pairwise([*(step * batch for step in steps), samples])):
        shares = [Fraction(mixtures[stage].get(name, 0), sum(mixtures[stage].values())) for name in names]
        assert within_one_of_its_share(owners[low:high], shares)
    somewhere = np.array(data.draw(st.lists(st.integers(0, samples - 1), min_size=1, max_size=20)))
    assert [a.tolist() for a in blend.locate(somewhere)] == [owners[somewhere].tolist(), times[somewhere].tolist()]


def test_far_away_positions_are_exact():
    blend = placeless({"a": 0.7, "b": 0.2, "c": "0.1"})
    owners, times = blend.locate(np.arange(10**15, 10**15 + 1000))
    assert np.bincount(owners).tolist() == [700, 200, 100]
    assert times[owners == 0].tolist() == list(range(7 * 10**14, 7 * 10**14 + 700))


# -- weights and stages ------------------------------------------------------------------------------------------------


def test_weights_are_what_is_written():
    (stage,) = parse_blend({"a": 0.7, "b": 0.3})
    assert (stage.weights, stage.rounded, stage.from_step) == ((7, 3), False, 0)
    assert parse_blend({"a": "1/3", "b": "2/3"})[0].weights == (1, 2)
    assert parse_blend({"a": 20, "b": 1e1, "c": "5e0"})[0].weights == (4, 2, 1)


def test_finer_weights_are_rounded_to_a_millionth_and_this_is_said():
    given_weights = {"a": "1/3", "b": 0.31415926535, "c": 0.123456789, "d": 0.1}
    (stage,) = parse_blend(given_weights)
    total, period = sum(Fraction(str(w)) for w in given_weights.values()), sum(stage.weights)
    assert stage.rounded and 1_000_000 % period == 0
    for text, weight in zip(given_weights.values(), stage.weights, strict=True):
        assert abs(Fraction(weight, period) - Fraction(str(text)) / total) < Fraction(1, 1_000_000)
    data = SimpleNamespace(blend=[{"from_step": 0, "weights": {"a": 1}}, {"from_step": 9, "weights": given_weights}])
    assert "from step 9 on are rounded to multiples of one in 1,000,000" in rounded_weights(data)
    assert rounded_weights(SimpleNamespace(blend={"a": 0.7, "b": 0.3})) is None
    assert rounded_weights(SimpleNamespace(blend=None)) is None


STAGE = {"from_step": 0, "weights": {"a": 1}}
BAD = [
    (3, "data.blend: found 3, expected {directory: weight}"),
    ("a", "data.blend: found 'a'"),
    ([], "data.blend: found []"),
    ({}, "data.blend: found {}"),
    (STAGE, "data.blend: found one stage, expected a list of them"),
    ({"a": -1}, "data.blend.a: found -1, expected a weight above 0"),
    ({"a": 0}, "data.blend.a: found 0"),
    ({"a": True}, "data.blend.a: found True"),
    ({"a": "much"}, "data.blend.a: found 'much'"),
    ({"a": "1/0"}, "data.blend.a: found '1/0'"),
    ({"a": float("nan")}, "data.blend.a: found nan"),
    ({"a": "1e999999999999"}, "data.blend.a: found '1e999999999999'"),
    ({"a": None}, "data.blend.a: found None"),
    ({2023: 1}, "data.blend: found 2023, expected the name of a dataset directory"),
    ({"a": 1, "b": 1e-9}, "data.blend.b: 1e-09 is less than one in 2,000,000 samples"),
    ([{"weights": {"a": 1}}], "data.blend[0]: found"),
    ([{**STAGE, "to_step": 4}], "data.blend[0]: found"),
    ([{**STAGE, "from_step": 5}], "data.blend[0].from_step: found 5, expected 0"),
    ([STAGE, STAGE], "data.blend[1].from_step: found 0, expected a step after the one before, 1 or later"),
    ([STAGE, {"from_step": 1.5, "weights": {"a": 1}}], "data.blend[1].from_step: found 1.5"),
    ([STAGE, {"from_step": 4, "weights": {"b": 0}}], "data.blend[1].weights.b: found 0"),
    ([STAGE, {"from_step": 4, "weights": ["b"]}], "data.blend[1].weights: found ['b']"),
]


@pytest.mark.parametrize("blend,message", BAD, ids=str)
def test_mistakes_name_the_key(blend, message):
    with pytest.raises(UserError) as caught:
        build_run_config({"training": {"steps": 1}, "data": {"blend": blend}})
    assert str(caught.value).startswith(message)


def test_blend_and_train_exclude_each_other():
    with pytest.raises(UserError, match=r"^data\.blend: data\.train is given too"):
        build_run_config({"training": {"steps": 1}, "data": {"blend": {"a": 1}, "train": "b"}})


def test_a_blend_replaces_that_of_the_base(tmp_path):
    (tmp_path / "base.yaml").write_text("training: {steps: 1}\ndata: {blend: {a: 1, b: 2}, workers: 2}\n")
    (tmp_path / "run.yaml").write_text("base: base.yaml\ndata: {blend: {c: 1}}\n")
    config = load_config(tmp_path / "run.yaml")
    assert (config.data.blend, config.data.workers) == ({"c": 1}, 2)
    assert load_config(tmp_path / "run.yaml", ["data.blend={d: 0.5, e: 0.5}"]).data.blend == {"d": 0.5, "e": 0.5}
    with pytest.raises(UserError, match=r"^data\.blend\.d: weights are given together"):
        load_config(tmp_path / "run.yaml", ["data.blend.d=1", "data.blend.e=1"])


# -- real corpora ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    return {
        name: str(write_dataset(root / name, 60 + 40 * i, seed=i)) for i, name in enumerate(("nl", "multi", "mono"))
    }


def staged(corpora, tmp_path, global_batch=8):
    """NL, then Multi with some NL, then Mono with some Multi."""
    values = small_run("", tmp_path / "run")
    values["data"] = {
        "seq_length": 32,
        "blend": [
            {"from_step": 0, "weights": {corpora["nl"]: 1}},
            {"from_step": 4, "weights": {corpora["multi"]: 0.7, corpora["nl"]: 0.3}},
            {"from_step": 9, "weights": {corpora["mono"]: "2/3", corpora["multi"]: "1/3"}},
        ],
    }
    values["training"]["global_batch"] = global_batch
    return build_run_config(values)


def test_each_sample_is_its_corpus_own_next_one(corpora, tmp_path):
    config = staged(corpora, tmp_path)
    blend = training_data(config)
    own = [
        PackedSequences(directory, "train", 32, stream_seed(config.seed, number))
        for number, directory in enumerate(corpora.values())
    ]
    batch, (owners, times) = blend.training_batch(0, 15 * 8), blend.locate(np.arange(15 * 8))
    assert set(owners[:32]) == {0} and set(owners[32:72]) == {0, 1} and set(owners[72:]) == {1, 2}
    for number, (owner, time) in enumerate(zip(owners.tolist(), times.tolist(), strict=True)):
        alone = own[owner].training_batch(time, 1)
        np.testing.assert_array_equal(batch.inputs[number], alone.inputs[0])
        np.testing.assert_array_equal(batch.labels[number], alone.labels[0])
        np.testing.assert_array_equal(batch.loss_mask[number], alone.loss_mask[0])
        assert str(blend.corpora[owner].directory) == list(corpora.values())[owner]
    assert batch.samples.tolist() == list(range(15 * 8))  # dropout goes by the place in the run


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_share_one_order_and_each_reads_only_its_part(corpora, tmp_path, ranks, monkeypatch):
    blend, read = training_data(staged(corpora, tmp_path)), []
    whole = [blend.training_batch(8 * step, 8) for step in range(12)]
    original = PackedSequences.read

    def watched(self, indices, numbers):
        read.extend(numbers.tolist())
        return original(self, indices, numbers)

    monkeypatch.setattr(PackedSequences, "read", watched)
    for step, expected in enumerate(whole):
        parts = []
        for rank in range(ranks):
            read.clear()
            first, count = 8 * step + rank * 8 // ranks, 8 // ranks
            parts.append(training_data(staged(corpora, tmp_path)).training_batch(first, count))
            assert sorted(read) == list(range(first, first + count))
        for name in ("inputs", "labels", "loss_mask", "samples"):
            np.testing.assert_array_equal(
                np.concatenate([getattr(part, name) for part in parts]), getattr(expected, name)
            )


def test_validation_is_the_first_of_the_last_stage_unless_given(corpora, tmp_path):
    config = staged(corpora, tmp_path)
    assert str(validation_data(config).directory) == corpora["mono"]
    values = config.to_dict()
    values["data"]["validation"] = corpora["nl"]
    assert str(validation_data(build_run_config(values)).directory) == corpora["nl"]


def test_without_a_validation_split_the_training_data_are_evaluated(corpora, tmp_path):
    """As `prepare --validation-share 0` writes it. A split that dataset.json does not call empty is damaged."""
    config, directory = staged(corpora, tmp_path), tmp_path / "mono"
    shutil.copytree(corpora["mono"], directory)
    with IndexedWriter(directory / "validation", np.uint16):
        pass
    values = config.to_dict()
    values["data"]["blend"] = {str(directory): 1}
    config = build_run_config(values)
    assert lacks_validation(config) == ""
    with pytest.raises(UserError, match="less than one sequence"):
        validation_data(config)
    info = json.loads((directory / "dataset.json").read_text())
    write_json(directory / "dataset.json", {**info, "splits": {"validation": {"documents": 0}}})
    assert (validation_data(config).split, lacks_validation(config)) == ("train", str(directory))
    values["data"]["validation"] = corpora["nl"]
    assert validation_data(build_run_config(values)).split == "validation"


@pytest.mark.parametrize(
    "change,key",
    [
        ({"tokenizer": {"fingerprint": "other"}}, "tokenizer None, .* has other"),
        ({"vocab_size": 300}, "vocab_size 96, .* has 300"),
        ({"eos_id": 5}, "eos_id 0, .* has 5"),
    ],
)
def test_corpora_of_different_tokenizers_are_refused(corpora, tmp_path, change, key):
    other = shutil.copytree(corpora["multi"], tmp_path / "other")
    (other / "dataset.json").write_text(json.dumps({"vocab_size": VOCABULARY, "eos_id": EOS, **change}))
    values = small_run("", tmp_path / "run")
    values["data"] = {"blend": {corpora["nl"]: 1, str(other): 1}, "seq_length": 32}
    with pytest.raises(UserError, match=rf"data\.blend: {corpora['nl']} has {key}.*same tokenizer"):
        training_data(build_run_config(values))


def test_paths_become_absolute_and_have_to_be_datasets(corpora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpora["nl"], tmp_path / "nl")
    values = {"training": {"steps": 1}, "data": {"blend": [{"from_step": 0, "weights": {"nl": 1}}]}}
    data = absolute(build_run_config(values).data)
    assert data.blend == [{"from_step": 0, "weights": {str(tmp_path / "nl"): 1}}]
    values["data"] = {"blend": {"nl": 1, "gone": 1}}
    with pytest.raises(UserError, match=r"data\.blend: .*gone is not a dataset directory"):
        absolute(build_run_config(values).data)
    (tmp_path / "link").symlink_to("nl")
    for other in (str(tmp_path / "nl"), "nl/../nl", "link"):
        values["data"] = {"blend": {"nl": 1, other: 1}}
        with pytest.raises(UserError, match="the same directory"):
            absolute(build_run_config(values).data)
    values["data"] = {"blend": [STAGE | {"weights": {"nl": 1}}, {"from_step": 4, "weights": {"link": 1}}]}
    first, second = absolute(build_run_config(values).data).blend  # one corpus, which goes on
    assert first["weights"] == second["weights"] == {str(tmp_path / "nl"): 1}
