"""Byte-level tokenizers trained for CodeGeeX, CodeGen and Qwen2: merges against a plain BPE, ids against those of
transformers, every byte and text decoded back, and equal bytes for equal text."""

import hashlib
import json
import random
from collections import Counter
from itertools import pairwise

import pytest
from conftest import ROOT, command
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import changed, in_transformers
from tokenizers.normalizers import NFC

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder, text_decoder
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings, cached_tokenizer, train_tokenizer

SOURCES = ROOT / "ms_codegeex" / "config"
SIZE = 700
ADDED = {"codegeex": 18, "codegen": 38, "qwen2": 8}  # tokens after the end token
FAMILIES = tuple(ADDED)
TEXTS = st.lists(
    st.one_of(
        st.integers(1, 40).map(lambda count: " " * count),
        st.integers(1, 12).map(lambda count: "\t" * count),
        st.sampled_from(["\n", "\r\n", "return x", "def f(x):", "self.", "'ll", "\u00a0", "\u3000", "\u4f60", "Ġ"]),
        st.sampled_from(["\0", "<|endoftext|>", "<|extratoken_1|>", "<|extratoken_18|>", "<|extratoken_19|>", "<|"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    max_size=12,
).map("".join)


def train(output, family, *words, **environment):
    """What the command prints with `--json`."""
    options = ("--input", SOURCES, "--family", family, "--vocab-size", SIZE, *words, "--output", output, "--json")
    result = command("tokenizer", "train", *options, environment=environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """What the command writes for each family."""
    root, found = tmp_path_factory.mktemp("own"), {}
    for family in FAMILIES:
        described = train(root / family, family)
        name = "qwen2" if family == "qwen2" else f"own-{family}"
        assert (described["name"], described["vocab_size"]) == (name, SIZE)
        assert described["eos_id"] == SIZE - 1 - ADDED[family]
        found[family] = root / family
    return found


@pytest.fixture(scope="module")
def own(directories):
    """The tokenizers, as every command loads them."""
    return {family: load_tokenizer(directory) for family, directory in directories.items()}


@pytest.fixture(scope="module")
def theirs(own, tmp_path_factory):
    """What transformers makes of the directories."""
    with in_transformers(tmp_path_factory.mktemp("saved"), **own) as found:
        yield found


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150)
@given(text=TEXTS)
def test_any_text_survives_and_has_the_same_ids_in_transformers(own, theirs, family, text):
    ours, ids = own[family], own[family].encode(text)
    text = NFC().normalize_str(text) if family == "qwen2" else text
    assert ours.decode(ids) == text == "".join(ours.continuation([], ids)) and ours.eos_id not in ids
    assert b"".join(map(ours.token_bytes, ids)) == text.encode()
    prompt = ours.encode_prompt(text)
    assert theirs[family](text).input_ids == prompt and theirs[family].decode(prompt) == ours.decode(prompt)
    assert CorpusEncoder(ours).encode(text.encode()).tolist() == ids


@pytest.mark.parametrize("family", FAMILIES)
def test_every_byte_has_a_token(own, theirs, family):
    ours = own[family]
    assert sorted(ours.pieces[:256]) == [bytes([byte]) for byte in range(256)]
    data = bytes(random.Random(0).choices(range(256), k=2000))
    number = {piece: i for i, piece in enumerate(ours.pieces[:256])}
    assert text_decoder(ours)([number[data[i : i + 1]] for i in range(len(data))]) == data
    assert len(ours.pieces) == len(theirs[family]) == SIZE and all(ours.pieces)
    assert theirs[family].eos_token_id == ours.eos_id
    assert {*theirs[family]("x")} == {"input_ids", "attention_mask"}  # what the model's `generate` takes


def test_white_space_has_the_familys_tokens(own):
    codegeex, codegen = own["codegeex"], own["codegen"]
    end, other = codegeex.eos_id, codegen.eos_id
    assert [codegeex.encode(" " * n) for n in range(2, 11)] == [[end + 8 + n] for n in range(2, 11)]
    assert codegeex.encode("x" + " " * 12 + "y")[1:3] == [end + 18, end + 10]
    assert codegeex.encode_prompt("<|extratoken_3|>") == [end + 3] and codegeex.sentinels[0] == end + 1
    assert codegeex.encode_prompt("<|extratoken_19|>") == codegeex.encode("<|extratoken_19|>")
    assert [codegen.encode(" " * n) for n in (31, 2)] == [[other + 1], [other + 30]]
    assert [codegen.encode("\t" * n) for n in (9, 2)] == [[other + 31], [other + 38]]
    for tokenizer in (codegeex, codegen):  # no merged token spends its row on them
        assert not any(b"  " in piece for piece in tokenizer.pieces[: tokenizer.eos_id])
    assert [codegeex.is_unused(end + 9), codegeex.is_unused(end + 10)] == [True, False]


def test_qwen2_has_the_marks_of_its_releases(own, theirs):
    ours, end = own["qwen2"], own["qwen2"].eos_id
    marks = ["im_start", "im_end", "fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"]
    for tokenizer in (ours.encode_prompt, lambda text: theirs["qwen2"](text).input_ids):
        assert tokenizer("".join(f"<|{name}|>" for name in ["endoftext", *marks])) == [*range(end, end + 9)]
    assert ours.sentinels == (end + 3, end + 5, end + 4) and end == SIZE - 9
    assert len(ours.encode("12345")) == 5 and max(ours.encode("<|im_end|><|fim_pad|>")) < end


def plain_merges(words, count):
    """Byte pairs by frequency, then by their ids; `words` are texts without the white space that is a token."""
    ids = {bytes([byte]): n for n, byte in enumerate([*range(33, 127), *range(161, 173), *range(174, 256)])}
    ids |= {bytes([byte]): len(ids) + n for n, byte in enumerate(b for b in range(256) if bytes([b]) not in ids)}
    splits, merges = {word: [bytes([b]) for b in word.encode()] for word in words}, []
    while len(merges) < count:
        pairs = Counter()
        for word, times in words.items():
            for pair in pairwise(splits[word]):
                pairs[pair] += times
        first, second = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(first + second)
        ids.setdefault(first + second, len(ids))
        for split in splits.values():
            position = 0
            while position < len(split) - 1:
                if (split[position], split[position + 1]) == (first, second):
                    split[position : position + 2] = [first + second]
                position += 1
    return merges


def test_merges_are_those_of_a_plain_bpe(tmp_path):
    """The words as GPT-2's expression divides them, in the text between runs of spaces."""
    regex = pytest.importorskip("regex")
    text = (SOURCES / "run.py").read_text()[:6000] + "caf\u00e9 \u4f60\u597d\n" * 3
    (tmp_path / "source.py").write_text(text)
    words = Counter()
    for part in regex.split(" {2,10}", text):
        words.update(regex.findall(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", part))
    tokenizer = train_tokenizer([tmp_path / "source.py"], tmp_path / "own", TokenizerSettings(375, family="codegeex"))
    assert list(tokenizer.pieces[256 : tokenizer.eos_id]) == plain_merges(words, 100)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_text_gives_equal_bytes_whatever_the_threads(directories, tmp_path, family):
    for threads in ("1", "3"):
        train(tmp_path / threads, family, RAYON_NUM_THREADS=threads)
        names = sorted(path.name for path in (tmp_path / threads).iterdir())
        assert names == sorted(path.name for path in directories[family].iterdir())
        for name in names:
            assert (tmp_path / threads / name).read_bytes() == (directories[family] / name).read_bytes(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_size_is_bytes_and_special_tokens(tmp_path, family):
    least = 257 + ADDED[family]
    with pytest.raises(UserError, match=f"--vocab-size: {least - 1} is out of range; give {least} to 1000000"):
        TokenizerSettings(least - 1, family=family)
    tokenizer = train_tokenizer([SOURCES], tmp_path / "own", TokenizerSettings(least, family=family))
    assert tokenizer.vocab_size == least and tokenizer.decode(tokenizer.encode("\u4f60  x\t\t")) == "\u4f60  x\t\t"
    assert load_tokenizer(tmp_path / "own").fingerprint == tokenizer.fingerprint


def test_a_pair_that_occurs_once_is_no_token(tmp_path):
    """Its row of the model's table would hardly be trained."""
    (tmp_path / "text.py").write_text("abcdefg = 0\n")
    said = "280 tokens cannot be made from 12 bytes of text, but 275; give --vocab-size 275, or more"
    with pytest.raises(UserError, match=said):
        train_tokenizer([tmp_path / "text.py"], tmp_path / "own", TokenizerSettings(280, family="codegeex"))


def test_longer_runs_of_spaces(tmp_path):
    settings = TokenizerSettings(600, whitespace_run=24, family="codegeex")
    tokenizer = train_tokenizer([SOURCES], tmp_path / "own", settings)
    assert tokenizer.encode(" " * 24) == [599] and tokenizer.eos_id == 599 - 32


def test_a_cached_one_is_trained_once(tmp_path):
    settings = TokenizerSettings(300, max_bytes=50_000, family="codegeex")
    directory = cached_tokenizer([SOURCES], tmp_path, settings)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert cached_tokenizer([SOURCES], tmp_path, settings) == directory
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    other = cached_tokenizer([SOURCES], tmp_path, TokenizerSettings(301, max_bytes=50_000, family="codegeex"))
    assert other != directory and load_tokenizer(other).vocab_size == 301


def swap(vocab):
    vocab["!"], vocab["#"] = vocab["#"], vocab["!"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (changed("vocab.json", swap), "vocab.json: not a tokenizer's vocabulary with the hash in tables_sha256"),
        (lambda d: (d / "merges.txt").write_text("#version: 0.2\ni n\n"), "merges.txt: not a tokenizer's merges with"),
        (changed("tokenizer_config.json", lambda c: c.pop("tables_sha256")), "vocab.json: not GPT-2's vocabulary"),
        (changed("tokenizer_config.json", lambda c: c.update(tables_sha256="x")), "tables_sha256 is not two SHA-256"),
        (changed("tokenizer_config.json", lambda c: c.update(ws_encoding_length=9)), "normalizer is {"),
    ],
)
def test_damaged_directories(own, tmp_path, damage, message):
    own["codegeex"].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("change", ["none", "a byte is missing", "no end token", "a merge of nothing"])
def test_tables_that_record_themselves_must_still_be_tables(own, tmp_path, change):
    """An untrusted directory has the digests of its own files."""
    own["codegeex"].save(tmp_path)
    tokens, merges = [*json.loads((tmp_path / "vocab.json").read_text())], (tmp_path / "merges.txt").read_text()
    if change == "a byte is missing":
        tokens[tokens.index("\u00ff")] = "\u00ff\u00ff"  # in no merge, which would be refused too
    elif change == "no end token":
        tokens[-1] = "!!!"
    elif change == "a merge of nothing":
        merges += "! x\n"
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text(merges)
    lines = "\n".join(tokens), "\n".join(merges.splitlines()[1:])
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in lines]
    changed("tokenizer_config.json", lambda config: config.update(tables_sha256=digests))(tmp_path)
    if change == "none":  # so it is not the digests that are wrong
        assert load_tokenizer(tmp_path).fingerprint == own["codegeex"].fingerprint
        return
    with pytest.raises(UserError, match=r"(vocab\.json|merges\.txt): not a tokenizer's "):
        load_tokenizer(tmp_path)
