"""Runs that start from another model's weights: fitting models and tokenizers, and the numbers that are read."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import small_models
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.runs.rank.__main__ import first_weights
from ms_codegeex.runs.rank.from_model import weights_of_model
from ms_codegeex.runs.rank.weights import check_weights, weights_of
from ms_codegeex.training.rank_state import initial_weight, starting_weight

MARKS = Sentinels(7, 8, 9)


def config(family, weights, **model):
    values = {"family": family, **small_models.FIELDS[family], **model, "weights": str(weights)}
    return build_run_config({"model": values, "training": {"steps": 1, "global_batch": 1}, "devices": 1})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A run of each family, and its arrays by our names."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for family in small_models.FAMILIES:
        arrays = small_models.parameters(family)
        made[family] = small_models.save_run(root / family, family, arrays), arrays
    return made


def test_a_rank_gets_the_model_where_the_run_begins_and_whenever_it_trains_adapters(models):
    (run, arrays), checkpoint = models["codegen"], SimpleNamespace(state={"infill": MARKS.to_json()}, path="step-4")
    whole = config("codegen", run)
    adapters = replace(whole, lora=replace(whole.lora, rank=2, targets=["attention"]))
    for run, started in ((whole, None), (adapters, checkpoint)):
        assert weights_of_model(run, started)[0].keys() == arrays.keys()
    assert weights_of_model(whole, checkpoint) == ({}, ModelDescription(infill=MARKS))
    assert weights_of_model(whole, None)[1] == ModelDescription(base="codegen")


def test_the_program_without_a_model_does_not_train_random_numbers_instead(models):
    begins = config("codegen", models["codegen"][0])
    for run in (begins, replace(begins, lora=replace(begins.lora, rank=2))):
        with pytest.raises(UserError, match=r"^model\.weights: .*start ms_codegeex\.runs\.rank\.from_model"):
            first_weights(run, None)
    plain = replace(begins, model=replace(begins.model, weights=None))
    checkpoint = SimpleNamespace(state={"description": {"infill": MARKS.to_json()}}, path="step-4")
    assert first_weights(plain, None) == ({}, ModelDescription())
    assert first_weights(plain, checkpoint) == ({}, ModelDescription(infill=MARKS))


@pytest.mark.parametrize("family", small_models.FAMILIES)
def test_a_run_and_its_model_directory_give_the_same_tensors(models, family, tmp_path):
    run, arrays = models[family]
    convert(run, "hf", tmp_path / "hf", progress=False)
    for place in (run, tmp_path / "hf"):
        found = weights_of(config(family, place))
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name].float32(), array, err_msg=name)


def test_without_weights_there_are_none():
    assert weights_of(build_run_config({"training": {"steps": 1}})) == {}
    assert check_weights(build_run_config({"training": {"steps": 1}}), None) is None


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("codegen", {"hidden_size": 128}, "has hidden_size 64, the run's model 128; set model.hidden_size=64"),
        ("codegen", {"num_layers": 3}, "set model.num_layers=2"),
        ("codegen", {"layer_norm_eps": 1e-5}, "has layer_norm_eps 1e-06, the run's model 1e-05; set"),
        ("codegen", {"vocab_size": 32}, "set model.vocab_size=24, or model.grow=[vocabulary]"),
        ("qwen2", {"vocab_size": 32, "eos_token_id": 30}, "model.vocab_size=24 model.eos_token_id=3, or model.grow"),
        ("codegen", {"vocab_size": 20, "grow": ["vocabulary"]}, "set model.vocab_size=24"),
        ("codegen", {"max_position_embeddings": 32}, "or model.grow=[context]"),
        ("codegeex", {"max_position_embeddings": 16}, "the run's model 16; set model.max_position"),
    ],
)
def test_another_size_is_named(models, family, changes, message):
    with pytest.raises(UserError, match=r"^model\.weights: ") as error:
        weights_of(config(family, models[family][0], **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_another_family_is_named(models):
    with pytest.raises(UserError, match=r"is a codegeex model, the run's is codegen; use a configuration"):
        weights_of(config("codegen", models["codegeex"][0]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"weights": 3}, "model.weights: found 3; expected a model directory"),
        ({"weights": ""}, "model.weights: found ''; expected"),
        ({"grow": ["layers"]}, "model.grow: found .'layers'.; expected a list of vocabulary and context"),
        ({"grow": "context"}, "model.grow: found 'context'"),
        ({"grow": [["context"]]}, "model.grow: found ..'context'..; expected a list"),
        ({"fresh": "head"}, "model.fresh: found .head.; expected parts of"),
        ({"fresh": ["hed"]}, "model.fresh: no parameter.s name contains .hed.; one of them is embedding"),
    ],
)
def test_mistakes_in_the_section_are_named(section, message):
    with pytest.raises(UserError, match=message):
        build_run_config({"model": section, "training": {"steps": 1}})


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        weights_of(config("codegen", tmp_path))


def test_a_growing_model_keeps_its_rows(models):
    run, arrays = models["codegeex"]
    growing = config("codegeex", run, vocab_size=15, max_position_embeddings=11, grow=["context", "vocabulary"])
    sizes, found = growing.model.sizes, weights_of(growing)
    grown = {name for name, shape in sizes.parameter_shapes().items() if shape != arrays[name].shape}
    assert len(grown) >= 3  # words, positions, positions of the top query layer
    for name in grown:
        shape, rows = sizes.parameter_shapes()[name], len(arrays[name])
        value = starting_weight(name, shape, 0.02, 7, None, found)
        np.testing.assert_array_equal(value[:rows], arrays[name])
        np.testing.assert_array_equal(value[rows:], initial_weight(name, shape, 0.02, 7)[rows:])


SHAPE = (6, 4)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4), st.integers(0, 4), st.integers(1, 6))
def test_a_window_is_that_part_of_the_whole(top, bottom, left, right, rows):
    window = (slice(min(top, bottom), max(top, bottom)), slice(min(left, right), max(left, right)))
    if top == bottom:
        return  # no rank holds an empty window
    weights = {"x.weight": from_array(np.arange(rows * 4, dtype=np.float32).reshape(rows, 4))}
    whole = starting_weight("x.weight", SHAPE, 0.02, 1, None, weights)
    np.testing.assert_array_equal(starting_weight("x.weight", SHAPE, 0.02, 1, window, weights), whole[window])


def test_numbers_that_are_not_finite_are_named():
    weights = {"x.weight": from_array(np.array([[1, np.nan]], np.float32))}
    with pytest.raises(UserError, match=r"tensor x\.weight holds numbers that are not finite"):
        starting_weight("x.weight", (1, 2), 0.02, 1, None, weights)


def run_from(weights, sizes, **changes):
    model = {"family": "codegen", **sizes, "weights": weights and str(weights), **changes}
    return build_run_config({"model": model, "training": {"steps": 1}})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of CodeGen's sizes with NL's tokenizer, and datasets with the tokenizers of both stages and of CodeGeeX."""
    root = tmp_path_factory.mktemp("trained")
    changes = {"vocab_size": 50400, "hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 4}
    sizes = {**small_models.FIELDS["codegen"], **changes, "eos_token_id": 50256, "rotary_dim": 4}
    shapes = run_from(None, sizes).model.sizes.parameter_shapes()
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    run = small_models.save_run(root / "run", "codegen", arrays, **sizes)
    convert(run, "hf", root / "model", progress=False)
    load_tokenizer("codegen-nl").save(root / "model")
    tokenizers = {name: load_tokenizer(name).description() for name in ("codegen-nl", "codegen-multi", "codegeex")}
    for name, tokenizer in {**tokenizers, "unknown": None}.items():
        (root / name).mkdir()
        info = {"vocab_size": 50400, "eos_id": 50256}
        write_json(root / name / "dataset.json", info | ({"tokenizer": tokenizer} if tokenizer else {}))
    return root, sizes


@pytest.mark.parametrize(
    ("dataset", "grow", "message"),
    [
        ("codegen-nl", [], None),
        ("codegen-multi", [], "has another tokenizer than .*model.grow="),
        ("codegen-multi", ["vocabulary"], None),  # NL's with more tokens
        ("codegeex", ["vocabulary"], None),  # NL's with other ones
    ],
)
def test_the_dataset_needs_the_models_tokenizer_or_one_that_adds_to_it(trained, dataset, grow, message):
    root, sizes = trained
    run = run_from(root / "model", sizes, grow=grow)
    if message is None:
        assert check_weights(run, root / dataset) is None
    else:
        with pytest.raises(UserError, match=message):
            check_weights(run, root / dataset)


def test_a_tokenizer_that_reads_an_id_differently_is_refused(trained, tmp_path):
    root, sizes = trained
    shutil.copytree(root / "model", tmp_path / "model")
    load_tokenizer("codegen-multi").save(tmp_path / "model")
    with pytest.raises(UserError, match=r"token 50257 of .* is another one in the tokenizer of"):
        check_weights(run_from(tmp_path / "model", sizes, grow=["vocabulary"]), root / "codegeex")


def test_tokenizers_that_nothing_names_are_not_compared(trained):
    root, sizes = trained
    note = check_weights(run_from(root / "model", sizes), root / "unknown")
    assert "does not say which tokenizer it has" in note


def test_what_is_computed_in_another_way_than_before_is_said(trained):
    root, sizes = trained
    recorded = open_source(root / "model").config.scores_fp32
    for value in (True, False):
        run = run_from(root / "model", sizes, init_std=0.5, scores_fp32=value)
        said = f"model.scores_fp32 is {value}, {root / 'model'} has {recorded}"
        assert check_weights(run, root / "codegen-nl") == (None if value == recorded else said)


def test_what_is_fresh_is_not_taken_from_the_model(models):
    run, arrays = models["codegen"]
    found = weights_of(config("codegen", run, fresh=["head", "attention.key"]))
    left = {name for name in arrays if "head" not in name and "attention.key" not in name}
    assert found.keys() == left < arrays.keys()


def test_a_fresh_vocabulary_may_be_another_one(models, trained):
    run, arrays = models["codegen"]
    other = config("codegen", run, vocab_size=20, eos_token_id=1, fresh=["embedding.word", "head"])
    assert set(arrays) - weights_of(other).keys() == {"embedding.word.weight", "head.weight", "head.bias"}
    with pytest.raises(UserError, match="has vocab_size 24"):
        weights_of(config("codegen", run, vocab_size=20, fresh=["head"]))
    root, sizes = trained
    run = run_from(root / "model", sizes, fresh=["embedding.word", "head"])
    assert check_weights(run, root / "codegen-multi") is None
