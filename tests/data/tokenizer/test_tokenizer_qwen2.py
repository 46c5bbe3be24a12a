"""Qwen2's tokenizer in directories of the released layout and size, made here, against transformers' own."""

import json
import unicodedata

import pytest
from tokenizer_files import QWEN2_NAMES, changed, drawn_texts, write_qwen2

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder

RELEASED = 151_643  # ordinary tokens
TEXTS = drawn_texts(2000)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_qwen2(tmp_path_factory.mktemp("released"), instruct=True, size=RELEASED)


@pytest.fixture(scope="module")
def ours(directory):
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def theirs(directory):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(directory)


def test_two_thousand_texts_have_the_ids_of_transformers(ours, theirs):
    assert type(theirs).__name__.startswith("Qwen2Tokenizer") and len(theirs) == ours.vocab_size == 151_665
    for text in TEXTS:
        ids = ours.encode_prompt(text)
        assert theirs(text).input_ids == ids and theirs.decode(ids) == ours.decode(ids), text


def test_two_thousand_texts_of_a_corpus_are_literal(ours):
    encoder = CorpusEncoder(ours)
    assert encoder.is_fast
    for text in TEXTS:
        ids = ours.encode(text)
        assert max(ids) < RELEASED and encoder.encode(text.encode()).tolist() == ids
        assert ours.decode(ids) == unicodedata.normalize("NFC", text)


def test_the_ids_of_marks_are_those_of_the_releases(ours, theirs):
    assert (ours.eos_id, ours.sentinels) == (151_645, (151_659, 151_661, 151_660))
    numbers = {"endoftext": 151_643, "im_start": 151_644, "fim_pad": 151_662, "repo_name": 151_663, "file_sep": 151_664}
    for name, number in numbers.items():
        assert ours.encode_prompt(f"<|{name}|>") == [number]
    assert ours.encode_prompt("<tool_call></tool_call>") == [151_657, 151_658]
    assert ours.special_texts() == {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    asked = [ours.encode_prompt(f"<|{name}|>") for name in QWEN2_NAMES]
    assert theirs.decode([each[0] for each in asked], skip_special_tokens=True) == "".join(
        f"<|{name}|>" for name in QWEN2_NAMES[14:]
    )


def test_a_text_is_divided_where_no_word_crosses(ours):
    text = "x = 1\ny(2);\n  return;\n\n" * 3
    data, places = text.encode(), []
    encoder, end = CorpusEncoder(ours), len(text)
    while place := encoder.last_break(data, 0, end):
        places.append(end := place)
        parts = [*ours.encode(text[:place]), *ours.encode(text[place:])]
        assert parts == ours.encode(text) and text[place - 1] == "1"
    assert len(places) == 3


SMALL = {"tokenizer.json": None, "vocab.json": ("tokenizer.json",), "no class": None}


@pytest.mark.parametrize("layout", SMALL)
def test_what_is_saved_again_is_the_same(tmp_path, layout):
    transformers = pytest.importorskip("transformers")
    first = load_tokenizer(write_qwen2(tmp_path / "first"))
    (tmp_path / "again").mkdir()
    first.save(tmp_path / "again")
    for name in SMALL[layout] or ():
        (tmp_path / "again" / name).unlink()
    if layout == "no class":
        config = json.loads((tmp_path / "again/tokenizer_config.json").read_text())
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (tmp_path / "again/tokenizer_config.json").write_text(json.dumps(config))
    again = load_tokenizer(tmp_path / "again")
    assert (again.fingerprint, again.infilling, again.special_texts()) == (
        (first.fingerprint, first.infilling, first.special_texts())
    )
    released, saved = map(transformers.AutoTokenizer.from_pretrained, (tmp_path / "first", tmp_path / "again"))
    assert released.added_tokens_decoder == saved.added_tokens_decoder
    for text in TEXTS[:200]:
        assert released(text).input_ids == saved(text).input_ids


DAMAGE = {
    "another split": (
        changed("tokenizer.json", lambda c: c["pre_tokenizer"]["pretokenizers"].pop(0)),
        r"tokenizer.json: pre_tokenizer is .*; set it so",
    ),
    "no NFC": (changed("tokenizer.json", lambda c: c.update(normalizer=None)), "normalizer is None, expected"),
    "a gap": (changed("tokenizer.json", lambda c: c["added_tokens"].pop(2)), "restore the files|has no token"),
    "a merge of nothing": (
        changed("tokenizer.json", lambda c: c["model"]["merges"].append(["zq", "x"])),
        "not a byte-level merges; restore the file",
    ),
    "a vocabulary with a gap": (
        changed("tokenizer.json", lambda c: c["model"]["vocab"].update({"\u0120new": 9000})),
        "not a byte-level vocabulary; restore the file",
    ),
    "a space": (
        changed("tokenizer_config.json", lambda c: c.update(add_prefix_space=True)),
        "add_prefix_space is True",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_would_give_other_ids_is_refused(tmp_path, case):
    damage, message = DAMAGE[case]
    damage(write_qwen2(tmp_path / "model"))
    if case == "a gap":
        changed("tokenizer_config.json", lambda c: c["added_tokens_decoder"].pop("702"))(tmp_path / "model")
        changed("tokenizer_config.json", lambda c: c.update(additional_special_tokens=[]))(tmp_path / "model")
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_the_name_alone_is_not_enough():
    with pytest.raises(UserError, match=r"tokenizer qwen2: .* a directory that holds tokenizer.json, or vocab.json"):
        load_tokenizer("qwen2")
