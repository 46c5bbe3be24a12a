"""CodeGen's tokenizers against transformers' own, which reads the directories we write; and which of them it is."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden.jsonl").read_text("utf-8").splitlines()]
NAMES = ("codegen-nl", "codegen-multi", "codegen-mono")
SIZES = {"codegen-nl": 50257, "codegen-multi": 50295, "codegen-mono": 50295}

FRAGMENTS = st.one_of(
    st.integers(1, 70).map(lambda n: " " * n),
    st.integers(1, 20).map(lambda n: "\t" * n),
    st.sampled_from(
        ["\n", "\r\n", "\u00a0", "\u3000", "x", "return", "def f(x):", "Ġ", "😀", "你好", "\0", " ?", " ,", "<|", "'s"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


@pytest.fixture(scope="module")
def tokenizers():
    return {name: load_tokenizer(name) for name in NAMES}


@pytest.fixture(scope="module")
def theirs(tokenizers, tmp_path_factory):
    """The tokenizer that transformers makes of each directory we write."""
    transformers = pytest.importorskip("transformers")
    found = {}
    for name, tokenizer in tokenizers.items():
        directory = tmp_path_factory.mktemp(name)
        tokenizer.save(directory)
        found[name] = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_golden_texts_and_their_decoding(tokenizers, theirs, name):
    ours = tokenizers[name]
    assert type(theirs[name]).__name__ == "CodeGenTokenizerFast" and len(theirs[name]) == SIZES[name]
    for row in GOLDEN:
        ids = theirs[name].encode(row["text"])
        assert ours.encode_prompt(row["text"]) == ids, row
        assert ours.decode(ids) == theirs[name].decode(ids), row  # ours never cleans up spaces
        assert ours.decode(ours.encode(row["text"])) == row["text"]


@pytest.mark.parametrize("name", NAMES)
def test_every_length_of_a_run_of_spaces_or_tabs(tokenizers, theirs, name):
    for length in range(1, 100):
        for run in (" " * length, "\t" * length):
            for text in (run, f"x{run}y", f"\n{run}x", f"{run}\n", f"\t{run} x"):
                assert tokenizers[name].encode(text) == theirs[name].encode(text), (length, text)


@pytest.mark.parametrize("name", ("codegen-nl", "codegen-multi"))
@settings(max_examples=150, deadline=None)
@given(text=st.lists(FRAGMENTS, max_size=12).map("".join))
def test_any_text(tokenizers, theirs, name, text):
    ours = tokenizers[name]
    ids = ours.encode(text)
    assert ids == theirs[name].encode(text)
    assert ours.decode(ids) == text == "".join(ours.continuation([], ids))
    assert b"".join(map(ours.token_bytes, ids)) == text.encode() and ours.eos_id not in ids


def test_the_ids_of_white_space_are_those_of_the_release(tokenizers):
    """CodeGen release: 31 spaces are 50257 and 2 are 50286; 9 tabs are 50287 and 2 are 50294."""
    multi = tokenizers["codegen-multi"]
    for length in range(2, 32):
        assert multi.encode(" " * length) == [50257 + 31 - length]
    for length in range(2, 10):
        assert multi.encode("\t" * length) == [50287 + 9 - length]
    assert multi.encode("    return x") == [50284, 7783, 2124]
    assert multi.encode(" " * 33) == [50257, 50286] and multi.encode(" " * 32) == [50257, 220]


def test_the_nl_models_have_no_white_space_tokens(tokenizers):
    """Trap 4: 50257 ids against 50295; a white space id would be a row that an nl model never saw."""
    nl, multi = tokenizers["codegen-nl"], tokenizers["codegen-multi"]
    assert (nl.vocab_size, multi.vocab_size, tokenizers["codegen-mono"].vocab_size) == (50257, 50295, 50295)
    assert max(nl.encode("    return x\n\t\ty")) < 50256 < max(multi.encode("    return x"))
    assert nl.encode("    return x") == [220, 220, 220, 1441, 2124]
    assert nl.fingerprint != multi.fingerprint == tokenizers["codegen-mono"].fingerprint
    with pytest.raises(UserError, match=r"token id 50257: the codegen-nl tokenizer has ids 0\.\.50256"):
        nl.decode([50257])


@pytest.mark.parametrize("name", NAMES)
def test_special_names_in_corpora_and_in_prompts(tokenizers, theirs, name):
    ours = tokenizers[name]
    assert max(ours.encode("<|endoftext|>")) < 50256
    assert ours.encode_prompt("a <|endoftext|>  b") == theirs[name].encode("a <|endoftext|>  b")
    assert ours.encode_prompt("a<|endoftext|>b") == [64, 50256, 65]
    assert ours.encode_prompt("<|extratoken_10|>") == ours.encode("<|extratoken_10|>")  # 13B's, unknown here


def test_prompts_are_cut_on_the_left(tokenizers):
    ids = tokenizers["codegen-nl"].encode_prompt("a b c d")
    assert tokenizers["codegen-nl"].truncate_prompt(ids, 2) == ids[-2:]
    assert tokenizers["codegen-nl"].truncate_prompt(ids, 4) == ids
    with pytest.raises(UserError, match="room for 0 tokens, expected 1 or more"):
        tokenizers["codegen-nl"].truncate_prompt(ids, 0)


# -- directories -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_saved_directories_load(tokenizers, tmp_path, name):
    tokenizers[name].save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizers[name].fingerprint and again.vocab_size == SIZES[name]


@pytest.mark.parametrize("name", ("codegen-nl", "codegen-multi"))
def test_directories_that_transformers_writes_load(tokenizers, theirs, tmp_path, name):
    theirs[name].save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    assert load_tokenizer(tmp_path).fingerprint == tokenizers[name].fingerprint


@pytest.mark.parametrize("tokenizer_class", ("CodeGenTokenizer", "GPT2Tokenizer", "GPT2TokenizerFast"))
@pytest.mark.parametrize("name", ("codegen-nl", "codegen-multi"))
def test_older_directories_load(tokenizers, tmp_path, name, tokenizer_class):
    """Released in 2022: added_tokens.json is the only list, and the class may be GPT-2's."""
    tokenizers[name].save(tmp_path)
    config = {"tokenizer_class": tokenizer_class, "add_prefix_space": False, "model_max_length": 2048}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).fingerprint == tokenizers[name].fingerprint


def change(name, edit):
    def damage(directory):
        path = directory / name
        content = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(edit(content) or content), "utf-8")

    return damage


def both(*damages):
    return lambda directory: [damage(directory) for damage in damages]


DECODER = "added_tokens_decoder"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d / "added_tokens.json").write_text("{}"), "tokenizer_config.json: adds 38 tokens to vocab.json, "),
        (
            change("tokenizer_config.json", lambda c: c[DECODER].pop("50290") and None),
            "tokenizer_config.json: adds 37 tokens",
        ),
        (change("tokenizer_config.json", lambda c: {**c, DECODER: {}}), "tokenizer_config.json: adds 0 tokens"),
        (
            lambda d: (d / "tokenizer.json").write_text('{"added_tokens": []}'),
            "tokenizer.json: adds 0 tokens to vocab.json, added_tokens.json next to it adds 38",
        ),
        (
            both(
                change("added_tokens.json", lambda c: c.update({"  ": 50285, "   ": 50286})),
                change("tokenizer_config.json", lambda c: c.pop(DECODER) and None),
            ),
            "added_tokens.json: adds 38 tokens to vocab.json; expected none",
        ),
        (
            both(
                change("added_tokens.json", lambda c: {f"<|extratoken_{n}|>": 50256 + n for n in range(1, 144)}),
                change("tokenizer_config.json", lambda c: {"tokenizer_class": "GPT2Tokenizer"}),
            ),
            "added_tokens.json: adds 143 tokens to vocab.json; expected none",
        ),
        (lambda d: (d / "added_tokens.json").write_text("3"), "added_tokens.json: its added tokens are malformed"),
        (
            change("tokenizer_config.json", lambda c: {**c, DECODER: []}),
            "tokenizer_config.json: its added tokens are malformed",
        ),
        (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json: its added tokens are malformed"),
        (lambda d: (d / "merges.txt").unlink(), "merges.txt missing"),
        (lambda d: (d / "vocab.json").write_text('{"a": 0}'), "vocab.json: not GPT-2's vocabulary"),
        (lambda d: (d / "tokenizer_config.json").unlink(), "tokenizer_config.json missing, found vocab.json, merges"),
        (change("tokenizer_config.json", lambda c: c.pop("tokenizer_class") and None), "tokenizer_class is None"),
    ],
)
def test_directories_that_are_unclear(tokenizers, tmp_path, damage, message):
    tokenizers["codegen-multi"].save(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
