"""CodeGeeX2's tokenizer: on a small SentencePiece model, against the sentencepiece package itself; on the real one if
MS_CODEGEEX2_TOKENIZER names a directory that holds its tokenizer.model."""

import copy
import json
import os
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import chatglm_model, in_transformers, many_texts, write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.copying import AUTO_MAPS, copy_data, unread_elsewhere

REAL = os.environ.get("MS_CODEGEEX2_TOKENIZER")
needs_real = pytest.mark.skipif(
    not REAL, reason="CodeGeeX2's tokenizer.model may not be passed on; name its directory in MS_CODEGEEX2_TOKENIZER"
)

TEXTS = ["def f(x):\n    return x\n", "    indented from the start\n        twice\n", "\t\ttabs\n\n\n\nnewlines\r\n"]
TEXTS += ["a  b   c    d", " one space in front", "你好 世界\n  こんにちは", "😀 bytes \x00\x7f é\n", "trailing   "]
TEXTS += ["   ", "\n", "x", "sop eop [gMASK] [MASK] </s> <unk> <s> <0x0A>"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_chatglm(tmp_path_factory.mktemp("codegeex2"))


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def theirs(directory):
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))


def their_decoding(theirs, ids):
    """As the release decodes: special and command tokens become empty pieces, the library joins the pieces."""
    pieces = ["" if i < 3 or i >= theirs.get_piece_size() else theirs.id_to_piece(i) for i in ids]
    return theirs.decode_pieces(pieces)


def test_ids(tokenizer, theirs):
    """Command tokens follow the pieces: with 64789 pieces [gMASK] is 64790 and sop 64792."""
    pieces = theirs.get_piece_size()
    assert tokenizer.vocab_size == pieces + 5 and tokenizer.eos_id == 2
    assert tokenizer.prefix == (pieces + 1, pieces + 3)
    assert tokenizer.encode_prompt("x = 1") == [pieces + 1, pieces + 3, *theirs.encode("x = 1")]
    assert theirs.id_to_piece(13) == "<0x0A>" and 13 in tokenizer.encode("a\nb")


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive(tokenizer, theirs, text):
    ids = tokenizer.encode(text)
    assert ids == theirs.encode(text)
    assert (
        tokenizer.decode(ids) == text == their_decoding(theirs, ids) == tokenizer.decode(tokenizer.encode_prompt(text))
    )
    assert min(ids) > 2 and max(ids) < theirs.get_piece_size()  # no special id, whatever the text says


@pytest.mark.parametrize("text", TEXTS)
def test_a_continuation_keeps_its_leading_spaces(tokenizer, theirs, text):
    """Trap 6: decoding only the new ids would eat a space at every place where a word begins."""
    ids = tokenizer.encode_prompt(text)
    for cut in range(len(ids) + 1):
        before, new = ids[:cut], ids[cut:]
        data = b"".join(tokenizer._pieces(before, new))
        assert b"".join(tokenizer._pieces((), before)) + data == text.encode()
        begun = text.encode()[: len(text.encode()) - len(data)].decode("utf-8", "ignore")  # its whole characters
        assert begun + "".join(tokenizer.continuation(before, new)) == text
        head = their_decoding(theirs, before)
        if text.startswith(head):  # not inside a character
            assert head + "".join(tokenizer.continuation(before, new)) == their_decoding(theirs, ids) == text


def test_pieces_that_are_streamed_are_whole_characters(tokenizer):
    prompt, new = tokenizer.encode_prompt("# "), tokenizer.encode("😀你好é")[1:]
    pieces = list(tokenizer.continuation(prompt, iter(new)))
    assert "".join(pieces) == "😀你好é" and "\ufffd" not in "".join(pieces) and len(new) > len(pieces) > 1
    assert not list(tokenizer.continuation(prompt, new[:2]))  # half a character
    assert list(tokenizer.continuation([*prompt, *new[:2]], new[2:4])) == ["😀"]


@settings(max_examples=200)
@given(data=st.data())
def test_any_ids_decode_as_the_library_does(tokenizer, theirs, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    expected = their_decoding(theirs, ids)
    if "\ufffd" not in expected:  # for broken UTF-8 the library writes one U+FFFD per byte
        assert tokenizer.decode(ids) == expected


# -- the class for transformers, in every directory --------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(tokenizer, tmp_path_factory):
    with in_transformers(tmp_path_factory.mktemp("saved"), codegeex2=tokenizer) as found:
        yield found["codegeex2"]


@settings(max_examples=200)
@given(data=st.data())
def test_transformers_decodes_any_ids_as_we_do(tokenizer, elsewhere, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    assert elsewhere.decode(ids) == tokenizer.decode(ids)
    assert elsewhere.convert_tokens_to_string(elsewhere.convert_ids_to_tokens(ids)) == tokenizer.decode(ids)
    assert elsewhere.decode([*ids, tokenizer.vocab_size + 3]) == tokenizer.decode(ids)  # a row that no text uses


def test_transformers_pads_and_truncates_as_the_release(tokenizer, elsewhere):
    long, short = TEXTS[0], "x"
    batch = elsewhere([short, long], padding=True)
    assert batch.input_ids[1] == tokenizer.encode_prompt(long)
    assert batch.input_ids[0][-3:] == tokenizer.encode_prompt(short)[-3:] and batch.input_ids[0][0] == 0
    assert batch.attention_mask[0] == [int(number > 0) for number in batch.input_ids[0]]
    left = copy.deepcopy(elsewhere)
    left.truncation_side = "left"
    cut = left(long, truncation=True, max_length=5).input_ids
    assert cut == tokenizer.truncate_prompt(tokenizer.encode_prompt(long), 5)
    assert elsewhere(long, return_special_tokens_mask=True).special_tokens_mask[:3] == [1, 1, 0]
    assert elsewhere(short, "y").input_ids == [*tokenizer.encode_prompt(short), *tokenizer.encode("y"), 2]
    vocabulary = elsewhere.get_vocab()
    assert len(vocabulary) == len(elsewhere) == tokenizer.vocab_size
    assert [*vocabulary.values()] == [*range(tokenizer.vocab_size)]
    assert elsewhere.convert_tokens_to_ids(["[gMASK]", "sop"]) == [*tokenizer.prefix]


def test_what_transformers_saves_is_read(tokenizer, elsewhere, tmp_path):
    elsewhere.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint and unread_elsewhere(tmp_path) is None


def test_tokens_that_a_user_adds_are_found_there(elsewhere):
    grown = copy.deepcopy(elsewhere)
    grown.add_tokens(["<twice>"])
    assert len(elsewhere) in grown("x<twice>y").input_ids
    assert elsewhere.decode(elsewhere("x<twice>y").input_ids) == "x<twice>y"


@pytest.mark.parametrize(
    "model", [{"model_type": "unigram", "vocab_size": 380}, {"user_defined_symbols": ["sop", "    "]}]
)
def test_other_kinds_of_models_have_our_ids_too(tmp_path, elsewhere, model):
    own = load_tokenizer(write_chatglm(tmp_path / "own", chatglm_model(**model)))
    theirs = type(elsewhere)(tmp_path / "own" / "tokenizer.model")
    for text in many_texts():
        assert theirs(text).input_ids == own.encode_prompt(text), text
        assert theirs.decode(theirs(text).input_ids) == own.decode(own.encode(text))


def test_every_copy_names_our_class(directory, tmp_path):
    """Of a release, of an older directory without the class, and of tokenizer.model alone."""
    of_release = {"tokenizer_class": "ChatGLMTokenizer", "auto_map": {"AutoTokenizer": ["evil--x.Y", None]}, "a": 1}
    configs = (of_release, {"tokenizer_class": "ChatGLMTokenizer"}, {"padding_side": "left"}, None)
    for number, config in enumerate(configs):
        source, target = tmp_path / f"{number}", tmp_path / f"copy-{number}"
        write_chatglm(source, (directory / "tokenizer.model").read_bytes())
        target.mkdir()
        (source / "tokenization_chatglm.py").write_text("# another")
        settings = source / "tokenizer_config.json"
        settings.unlink() if config is None else settings.write_text(json.dumps(config))
        copy_data(source, target)
        written = json.loads((target / "tokenizer_config.json").read_text())
        ours = {"tokenizer_class": "ChatGLMTokenizer", "auto_map": AUTO_MAPS["ChatGLMTokenizer"]}
        assert written == {**(config or {}), **ours}
        assert (target / "tokenization_chatglm.py").read_text().startswith('"""CodeGeeX2\'s tokenizer for transformers')
        assert unread_elsewhere(target) is None


def test_a_directory_that_others_read_otherwise_is_named(directory, tokenizer, tmp_path):
    assert unread_elsewhere(directory) == "tokenizer_config.json names no class for it (auto_map)"
    tokenizer.save(tmp_path)
    (tmp_path / "tokenization_chatglm.py").unlink()
    assert unread_elsewhere(tmp_path) == "tokenization_chatglm.py is missing"
    load_tokenizer("codegeex").save(tmp_path / "other")
    assert unread_elsewhere(tmp_path / "other") is None


def test_a_tokenizer_json_beside_the_model_is_refused(directory, tokenizer, tmp_path):
    """transformers would read it, not tokenizer.model."""
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}))
    with pytest.raises(UserError, match=r"tokenizer\.json: other programs read it in place of tokenizer\.model"):
        load_tokenizer(tmp_path)


# -- directories -------------------------------------------------------------------------------------------------------


def test_the_name_alone_is_not_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"codegeex2: its files do not come with .* give a directory"):
        load_tokenizer("codegeex2")
    write_chatglm(tmp_path / "codegeex2")
    assert load_tokenizer("codegeex2").name == "codegeex2"  # a directory of that name is one all the same


@pytest.mark.parametrize(
    "options, message",
    [
        ({"byte_fallback": False}, "no piece for each of the 256 bytes"),
        ({"remove_extra_whitespaces": True}, "changes characters or white space"),
        ({"normalization_rule_name": "nfkc"}, "changes characters or white space"),
        ({"unk_id": 2, "eos_id": 0}, r"are ids \(2, 1, 0\), expected \(0, 1, 2\)"),
    ],
)
def test_models_of_another_kind_are_refused(tmp_path, options, message):
    write_chatglm(tmp_path, chatglm_model(**options))
    with pytest.raises(UserError, match=rf"tokenizer\.model: .*{message}.*; this is not CodeGeeX2's") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


CHATGLM3 = b'{"tokenizer_class": "ChatGLMTokenizer", "added_tokens_decoder": {"9": {"content": "<|user|>"}}}'


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\n", "not a SentencePiece model.*git lfs pull"),
        ("tokenizer.model", b"", "not a SentencePiece model"),
        ("tokenizer.model", None, r"tokenizer\.model missing"),
        ("tokenizer_config.json", CHATGLM3, "is ChatGLM3 by its token <.user.>, not codegeex2"),
        ("added_tokens.json", b'{"twice": NEXT}', "adds the token 'twice' to tokenizer.model"),
        ("special_tokens_map.json", b'{"additional_special_tokens": ["<start>"]}', "adds the token '<start>' to"),
        ("tokenizer_config.json", b'{"name_or_path": "THUDM/chatglm3-6b"}', "is ChatGLM3 by its name"),
        ("tokenizer_config.json", b'{"tokenizer_class": "LlamaTokenizer"}', "tokenizer_class is 'LlamaTokenizer'"),
        ("tokenizer_config.json", b'{"tokenizer_class": "CodeGenTokenizer"}', "vocab.json, merges.txt missing"),
    ],
)
def test_damaged_directories(directory, tmp_path, name, content, message):
    write_chatglm(tmp_path, (directory / "tokenizer.model").read_bytes())
    size = b"%d" % load_tokenizer(directory).vocab_size
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content.replace(b"NEXT", size))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_a_piece_that_is_not_text(directory, tmp_path):
    data = bytearray((directory / "tokenizer.model").read_bytes())
    data[data.index(b"return") + 1] = 0xFF
    write_chatglm(tmp_path, bytes(data))
    with pytest.raises(UserError, match=r"tokenizer\.model: not a SentencePiece model; take tokenizer\.model of"):
        load_tokenizer(tmp_path)


def test_the_ids_of_the_commands_are_those_of_the_code(directory, tmp_path):
    write_chatglm(tmp_path, (directory / "tokenizer.model").read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"[gMASK]": 9999, "sop": 3}')
    listed, plain = load_tokenizer(tmp_path), load_tokenizer(directory)
    assert (listed.vocab_size, listed.prefix) == (plain.vocab_size, plain.prefix)


def test_an_empty_directory(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer, found no file of a tokenizer"):
        load_tokenizer(tmp_path)


# -- the released model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return load_tokenizer(write_chatglm(tmp_path_factory.mktemp("real"), Path(REAL, "tokenizer.model").read_bytes()))


@needs_real
@pytest.mark.parametrize(
    "text, ids",
    [
        ("Using a Transformer network is simple", "64790 64792 6316 260 3107 17639 2804 323 2718"),
        ("你好", "64790 64792 36474 54591"),
        (
            "[Round 1]\n\n问：你好\n\n答：",  # noqa: RUF001
            "64790 64792 790 30951 517 30910 30939 30996 13 13 54761 31211 39701 13 13 55437 31211",
        ),
    ],
)
def test_published_vectors(real, text, ids):
    assert real.encode_prompt(text) == [int(number) for number in ids.split()]
    assert real.decode(real.encode_prompt(text)) == text


@needs_real
def test_released_ids(real):
    assert (real.vocab_size, real.prefix, real.eos_id) == (64794, (64790, 64792), 2)
    assert real.encode("a\n")[-1] == 13 and real._model.id_to_piece(30910) == "\u2581"
    golden = Path(__file__).parent / "golden.jsonl"
    for row in map(json.loads, golden.read_text("utf-8").splitlines()):
        assert real.decode(real.encode(row["text"])) == row["text"].replace("\u2581", " ")
