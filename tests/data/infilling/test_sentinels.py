"""A checkpoint that declares its sentinels, and what becomes of them when it is exported and asked."""

import json

import numpy as np
import pytest
import small_models
from tokenizer_files import write_chatglm, write_qwen2

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
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
    assert not (tmp_path / "plain-hf/serving.json").exists()
    assert described_model(load_model(plain), plain).infill == "prefix-only"


def test_sentinels_that_do_not_fit_the_model_are_refused(tokenizer, tmp_path):
    """Others: `test_sentinels_that_mean_something_else_are_refused`."""
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    run = save_run(tmp_path / "run", tokenizer, Sentinels(425, 426, 448).to_json())
    with pytest.raises(UserError) as caught:
        described_model(load_model(run), run)
    assert "step-00000004: infill: middle is 448, but the model's table has 448 rows" in str(caught.value)
    assert load_model(run).config.vocab_size == 448  # it can be opened for other purposes


def test_what_is_written_is_what_is_read():
    for order in (*ORDERS.values(), JOINED):
        found = Sentinels(7, "<S>", 9, order, ("<E>",), ("", "<A>"), ("<R>", "<F>{name}{text}", "<F>"))
        assert sentinels(json.loads(json.dumps(found.to_json()))) == found


def test_a_suffix_follows_without_a_space_of_its_own(tokenizer):
    ids, _ = Sentinels(*tokenizer.sentinels).prompt(tokenizer, "a", "b", 99)
    parts = ids[len(tokenizer.prefix) :]
    after = tokenizer.continuation(parts[: parts.index(tokenizer.sentinels[1])], parts[3:-1])
    assert "".join(after) == "b"
    assert "".join(tokenizer.continuation(ids, tokenizer.encode_inside("b c"))) == "b c"


def test_other_files_come_before_the_prefix():
    assert joined_files(["int a;\n", " \n"], "int main") == "int a;\n\nint main"


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory):
    return load_tokenizer(write_qwen2(tmp_path_factory.mktemp("qwen2")))


def test_a_released_directory_is_asked_with_its_tokenizers_marks(qwen2, tmp_path, capsys):
    """One of ours says itself whether the model has learnt them."""
    (tmp_path / "run/tokenizer").mkdir(parents=True)
    run = save_run(tmp_path / "run", qwen2, None, vocab_size=736, eos_token_id=qwen2.eos_id)
    convert(open_source(run), "hf", tmp_path / "hf", progress=False)
    for place in (run, tmp_path / "hf"):
        assert described_model(load_model(place), place).infill == "prefix-only"
    (tmp_path / "hf/provenance.json").unlink()
    source = open_source(tmp_path / "hf")
    marks = source.description.infill
    assert (marks.prefix, marks.files[2], marks.order) == ("<|fim_prefix|>", "<|file_sep|>filename\n", ORDERS["psm"])
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "hf"), "--json"]) == 0
    assert sentinels(json.loads(capsys.readouterr().out)["description"]["infill"]) == marks
    convert(source, "hf", tmp_path / "again", progress=False)
    assert sentinels(json.loads((tmp_path / "again/serving.json").read_text())["infill"]) == marks
    model = described_model(load_model(tmp_path / "again"), tmp_path / "again")
    ids, cut, end = infill_prompt(model, "x = ", "\n", 32)
    assert qwen2.decode(ids) == "<|fim_prefix|>x = <|fim_suffix|>\n<|fim_middle|>" and not cut
    assert "<|endoftext|>" in end and "<|file_sep|>" in end and len(ids) == 3 + len(qwen2.encode("x = ")) + 1


FILES = [("a.py", "A = 1\n\n"), ("", "  \n"), ("dir/b.py", "<|file_sep|>"), ("", "C")]


def test_other_files_are_shown_as_the_models_authors_do(qwen2):
    asked = sentinels(qwen2.infilling)
    whole = (
        "<|repo_name|>myproject\n<|file_sep|>a.py\nA = 1\n<|file_sep|>dir/b.py\n<|file_sep|>\n<|file_sep|>tmp\nC\n"
        "<|file_sep|>filename\n<|fim_prefix|>x = <|fim_suffix|>;<|fim_middle|>"
    )
    ids, cut = asked.prompt(qwen2, "x = ", ";", 999, files=FILES)
    assert (qwen2.decode(ids), cut) == (whole, False)
    assert ids.count(qwen2.encode_prompt("<|file_sep|>")[0]) == 4  # the text of a file is literal
    alone, _ = asked.prompt(qwen2, "x = ", ";", 999)
    for room in range(len(alone), len(ids) + 1):
        some, cut = asked.prompt(qwen2, "x = ", ";", room, files=FILES)
        text = qwen2.decode(some)
        assert len(some) <= room and some[-len(alone) :] == alone and cut == (some != ids)
        assert some == alone or (text.startswith("<|repo_name|>myproject\n<|file_sep|>") and "tmp\nC\n" in text)
