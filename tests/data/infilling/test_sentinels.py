"""A checkpoint that declares its sentinels, and what becomes of them when it is exported and asked."""

import json

import numpy as np
import pytest
import small_models
from tokenizer_files import write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.infilling.sentinels import JOINED, ORDERS, Sentinels, joined_files, sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.infilling import infill_prompt
from ms_codegeex.extras.serving.model import described_model
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.loading import load_model

SIZES = {**small_models.FIELDS["codegeex"], "vocab_size": 448, "max_position_embeddings": 64, "eos_token_id": 2}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_chatglm(tmp_path_factory.mktemp("chatglm"))


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_tokenizer(directory)


def save_run(root, tokenizer, infill, family="codegeex", **sizes):
    sizes = {**SIZES, **sizes}
    shapes = open_family(family).config.build_config(None, sizes).parameter_shapes()
    arrays = {name: np.full(shape, 0.1, np.float32) for name, shape in shapes.items()}
    tensors = {name: Slice(array.shape, (0,) * array.ndim, array, None) for name, array in arrays.items()}
    tokenizer.save(root / "tokenizer")
    state = {"config": {"model": {"family": family, "preset": None, **sizes}}, "infill": infill}
    write_checkpoint(root / "checkpoints", 4, tensors, {**state, "tokenizer": tokenizer.description()})
    return root


def open_family(name):
    from ms_codegeex.models.registry import family

    return family(name)


def test_the_declaration_of_a_checkpoint_is_exported_and_used(tokenizer, tmp_path):
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    declared = Sentinels(*tokenizer.sentinels).to_json()
    run = save_run(tmp_path / "run", tokenizer, declared)
    convert(open_source(run), "hf", tmp_path / "hf", progress=False)
    assert json.loads((tmp_path / "hf/serving.json").read_text()) == {"infill": declared}
    prefix, suffix, middle = tokenizer.sentinels
    for place in (run, tmp_path / "hf"):
        model = described_model(load_model(place), place)
        assert model.infill == "trained"
        ids, cut, _ = infill_prompt(model, "x = ", "\n", 32)
        head, inside = tokenizer.prefix, tokenizer.encode_inside("\n")
        assert ids == [*head, prefix, *tokenizer.encode("x = "), suffix, *inside, middle] and not cut
    plain = save_run(tmp_path / "plain", tokenizer, None)
    convert(open_source(plain), "hf", tmp_path / "plain-hf", progress=False)
    assert (
        not (tmp_path / "plain-hf/serving.json").exists()
        and described_model(load_model(plain), plain).infill == "prefix-only"
    )


@pytest.mark.parametrize(
    "marks,message",
    [
        ((425, 426, 448), "middle is 448, but the model's table has 448 rows"),
        ((425, 300, 427), "suffix is 300, which the codegeex2 tokenizer uses for the text "),
        ((2, 426, 427), "prefix is 2, which the codegeex2 tokenizer uses for its end token"),
    ],
)
def test_sentinels_that_do_not_fit_the_model_are_refused(tokenizer, tmp_path, marks, message):
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    run = save_run(tmp_path / "run", tokenizer, Sentinels(*marks).to_json())
    with pytest.raises(UserError) as caught:
        described_model(load_model(run), run)
    assert message in str(caught.value) and "step-00000004: infill: " in str(caught.value)
    assert load_model(run).config.vocab_size == 448  # it can be opened for other purposes


def test_what_is_written_is_what_is_read():
    for order in (*ORDERS.values(), JOINED):
        found = Sentinels(7, "<S>", 9, order, ("<E>",))
        assert sentinels(json.loads(json.dumps(found.to_json()))) == found


def test_a_suffix_follows_without_a_space_of_its_own(tokenizer):
    ids, _ = Sentinels(*tokenizer.sentinels).prompt(tokenizer, "a", "b", 99)
    parts = ids[len(tokenizer.prefix) :]
    after = tokenizer.continuation(parts[: parts.index(tokenizer.sentinels[1])], parts[3:-1])
    assert "".join(after) == "b"
    assert "".join(tokenizer.continuation(ids, tokenizer.encode_inside("b c"))) == "b c"


def test_other_files_come_before_the_prefix():
    assert joined_files(["int a;\n", " \n"], "int main") == "int a;\n\nint main"
