"""CodeGeeX4's tokenizer in directories of the released layout, made here, against tiktoken with the same file."""

import base64
import random
import shutil

import pytest
from tokenizer_files import CODEGEEX4_NAMES, CODEGEEX4_TEMPLATE, changed, drawn_texts, write_chatglm, write_codegeex4

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.description import bound, own_templates, read_description
from ms_codegeex.data.infilling.sentinels import sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.copying import copy_data, unread_elsewhere
from ms_codegeex.data.tokenizer.fast import CorpusEncoder
from ms_codegeex.data.tokenizer.files import CONFIG

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# of the last 200, a word in which equal tokens overlap
TEXTS = [*drawn_texts(2000), *("".join(random.Random(n).choices("zx", k=12)) for n in range(200))]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_codegeex4(tmp_path_factory.mktemp("codegeex4"))


@pytest.fixture(scope="module")
def ours(directory):
    return load_tokenizer(directory)


@pytest.fixture(scope="module")
def theirs(directory):
    tiktoken = pytest.importorskip("tiktoken")
    lines = (directory / "tokenizer.model").read_bytes().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    special = {name: len(ranks) + number for number, name in enumerate(CODEGEEX4_NAMES)}
    return tiktoken.Encoding("glm4", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=special)


def test_two_thousand_texts_have_the_ids_of_tiktoken(ours, theirs):
    encoder = CorpusEncoder(ours)
    assert ours.vocab_size == theirs.n_vocab == 719
    for text in TEXTS:
        ids = theirs.encode_ordinary(text)
        assert ours.encode(text) == ids == encoder.encode(text.encode()).tolist()
        assert ours.decode(ids) == text and ours.encode_inside(text) == ids
        assert ours.encode_prompt(text) == [708, 710, *theirs.encode(text, allowed_special="all")]


def test_special_tokens_and_the_beginning_of_a_prompt(ours):
    assert (ours.eos_id, ours.prefix, ours.sentinels) == (706, (708, 710), (716, 718, 717))
    assert ours.encode_prompt("[gMASK]<sop><|user|>") == [708, 710, 713] == ours.encode_prompt("<|user|>")
    assert ours.encode_prompt("<|user|>", special=False) == [708, 710, *ours.encode("<|user|>")]
    assert ours.encode_marks("<|endoftext|>") == [706] and ours.encode_prompt("") == [708, 710]
    assert all(map(ours.is_unused, range(716, 719))) and not ours.is_unused(706)
    with pytest.raises(UserError, match="lone surrogate at character 1"):
        ours.encode("a\ud800")
    assert sum(map(len, map(ours.token_bytes, ours.encode(" " * 1_000_000)))) == 1_000_000  # where tiktoken panics


def test_conversations_have_the_ids_of_apply_chat_template(ours, theirs, directory):
    """The published class tokenises each message alone, after a role's token and a line end."""
    chat = bound(read_description(directory).chat, ours)
    said = [("system", "Be brief."), ("user", "\n\n x"), ("assistant", "  y;\n"), ("user", "z")]
    expected = [708, 710]
    for role, text in said:
        (number,) = theirs.encode(f"<|{role}|>", allowed_special="all")
        expected += [number, *theirs.encode_ordinary("\n"), *theirs.encode_ordinary(text)]
    text = chat.prompt([(role, ours.said(text)) for role, text in said])
    assert ours.encode_prompt(text) == [*expected, 714] and chat.stop == ("<|user|>", "<|observation|>")
    assert own_templates(directory) == {"default": CODEGEEX4_TEMPLATE} and ours.said("") == ""
    asked = ours.encode_prompt(chat.prompt([("user", ours.said("a <|user|>"))]))
    assert asked.count(713) == 1 and ours.decode(asked) == "[gMASK]<sop><|user|>\na <|user|><|assistant|>"
    chat.close()


def test_the_prompt_for_infilling_is_that_of_the_guide(ours, theirs):
    """CodeGeeX4's guide names the file and the language, which may be left out, on lines before the marks."""
    asked = sentinels(ours.infilling)
    head = "###PATH:filename\n###LANGUAGE:\n###MODE:BLOCK\n"
    parts = "<|code_suffix|>\n}<|code_prefix|>int a = <|code_middle|><|assistant|>\n"
    others = "###REFERENCE:\n###PATH:src/b.h\nint b;\n###REFERENCE:\n###PATH:tmp\nc\n"
    for files, shown in (((), ""), ([("src/b.h", "int b;\n\n"), ("", "c")], others)):
        text = f"[gMASK]<sop><|user|>\n{shown}{head}{parts}"
        ids, cut = asked.prompt(ours, "int a = ", "\n}", 999, files=files)
        assert ids == theirs.encode(text, allowed_special="all") and not cut
        for room in (60, 80, 90, 110):
            some, cut = asked.prompt(ours, "int a = ", "\n}", room, files=files)
            assert len(some) <= room and cut == (some != ids) and some[-4:] == ids[-4:]
    assert {"<|endoftext|>", "<|user|>"} <= {*asked.end}


def test_what_is_saved_and_copied_is_the_same(ours, directory, tmp_path):
    for name in ("saved", "copied", "file"):
        (tmp_path / name).mkdir()
    ours.save(tmp_path / "saved")
    copy_data(directory, tmp_path / "copied")
    shutil.copy(directory / "tokenizer.model", tmp_path / "file")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.fingerprint, again.infilling, again.added) == (ours.fingerprint, ours.infilling, ours.added)
    assert load_tokenizer(tmp_path / "copied").infilling == ours.infilling
    assert not (tmp_path / "copied/tokenization_chatglm.py").exists()
    assert unread_elsewhere(directory) is None and "copy its class" in unread_elsewhere(tmp_path / "copied", "x")
    alone = load_tokenizer(tmp_path / "file")  # a file of ranks is told from CodeGeeX2's SentencePiece model
    assert (alone.name, alone.prefix, alone.infilling) == ("codegeex4", ours.prefix, None)
    assert load_tokenizer(write_chatglm(tmp_path / "other")).name == "codegeex2"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "tokenizer.model").write_bytes(b"IQ== 0\n"), "not a file of ranks with the 256 bytes in it"),
        (lambda d: (d / "tokenizer.model").write_bytes(b"version https://git-lfs"), "not a file of ranks"),
        (lambda d: shutil.copy(write_chatglm(d / "x") / "tokenizer.model", d), "not a file of ranks"),
        (
            changed(CONFIG, lambda c: (c["added_tokens_decoder"].pop("708"), c.update(additional_special_tokens=[]))),
            "lists no token|has no token",
        ),
        (changed(CONFIG, lambda c: c.update(split_special_tokens=True)), "split_special_tokens is True"),
    ],
)
def test_damaged_directories(tmp_path, damage, message):
    damage(write_codegeex4(tmp_path / "model"))
    with pytest.raises(UserError, match=message) as caught:
        load_tokenizer(tmp_path / "model")
    assert "\n" not in str(caught.value)
