"""What every tokenizer keeps to: any text survives, transformers has the same ids, mistakes are named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import in_transformers, many_texts, write_chatglm, write_qwen2
from tokenizers.normalizers import NFC

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.gpt2 import LONG

SIZES = {"codegeex": 50400, "codegen-nl": 50257, "codegen-multi": 50295, "codegen-mono": 50295, "codegeex2": None}
SIZES |= {"qwen2": None}
DIFFERENT = [name for name in SIZES if name != "codegen-mono"]  # which is codegen-multi
WHITE = [*"\t\n\0", "\r\n", *map(" ".__mul__, (1, 2, 3, 9, 10, 11, 136)), "\u00a0", "\u3000", "\ufeff"]
MARKS = [f"<|extratoken_{number}|>" for number in (1, 10, 12, 143)] + ["<|endoftext|>", "<|", "|>", "endoftext"]
WORDS = ["def f(x):", "return", "'s", " ?", " ,", "é", "e\u0301", "😀", "你好", "\u0120"]
TEXTS = st.lists(
    st.integers(1, 70).map(" ".__mul__)
    | st.integers(1, 20).map("\t".__mul__)
    | st.sampled_from([*WHITE, *MARKS, *WORDS])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=8),
    max_size=12,
).map("".join)


WRITTEN = {"codegeex2": write_chatglm, "qwen2": write_qwen2}


def kept(name, text):
    """What survives of a text."""
    return {"codegeex2": text.replace("\u2581", " "), "qwen2": NFC().normalize_str(text)}.get(name, text)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    written = {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITTEN.items()}
    return {name: load_tokenizer(name if size else written[name]) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def theirs(tokenizers, tmp_path_factory):
    with in_transformers(tmp_path_factory.mktemp("saved"), **tokenizers) as found:
        yield found


@pytest.mark.parametrize("name", DIFFERENT)
@settings(max_examples=200)
@given(text=TEXTS)
def test_any_text_survives(tokenizers, name, text):
    ours = tokenizers[name]
    ids = ours.encode(text)
    text = kept(name, text)
    assert ours.decode(ids) == text == "".join(ours.continuation(ours.prefix, ids)) and ours.eos_id not in ids
    assert b"".join(ours._pieces((), ids)) == text.encode()


@pytest.mark.parametrize("name", DIFFERENT)
@settings(max_examples=200)
@given(text=TEXTS)
def test_any_prompt_has_the_same_ids_in_transformers(tokenizers, theirs, name, text):
    prompt = tokenizers[name].encode_prompt(text)
    assert theirs[name](text).input_ids == prompt
    assert theirs[name].decode(prompt) == tokenizers[name].decode(prompt)  # ours never cleans up spaces


@pytest.mark.parametrize("name", SIZES)
def test_many_texts_are_the_same_in_transformers(tokenizers, theirs, name):
    ours, other = tokenizers[name], theirs[name]
    assert len(other) == ours.vocab_size == (SIZES[name] or ours.vocab_size)
    for text in many_texts():
        ids = ours.encode_prompt(text)
        assert other(text).input_ids == ids and other.decode(ids) == ours.decode(ids), text
        assert ours.decode(ours.encode(text)) == kept(name, text)


@pytest.mark.parametrize("name", SIZES)
def test_saved_directories_load(tokenizers, tmp_path, name):
    tokenizers[name].save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == tokenizers[name].fingerprint and again.vocab_size == tokenizers[name].vocab_size


NOT_TEXT = [
    ("ab\ud800", "lone surrogate at character 2"),
    ("ab" * LONG + "\ud800", f"lone surrogate at character {2 * LONG}"),
    (b"x", "bytes, expected str"),
    ([b"x"] * LONG, "list, expected str"),
]


@pytest.mark.parametrize("name", ["codegeex", "codegeex2"])
def test_what_is_not_text_and_what_is_no_id(tokenizers, name):
    for text, message in NOT_TEXT:
        with pytest.raises(UserError, match=message):
            tokenizers[name].encode(text)
    size = tokenizers[name].vocab_size
    for number in (-1, size, size + 1823):
        with pytest.raises(UserError, match=rf"token id {number}: the {name} tokenizer has ids 0\.\.{size - 1}"):
            tokenizers[name].decode([1, number])


@pytest.mark.parametrize("name", ["codegen-nl", "codegeex2"])
def test_prompts_are_cut_behind_their_prefix(tokenizers, name):
    ours = tokenizers[name]
    ids, head = ours.encode_prompt("def minimum(first, second):\n    return first"), len(ours.prefix)
    for room in range(head + 1, len(ids) + 3):
        cut = ours.truncate_prompt(ids, room)
        assert len(cut) == min(room, len(ids)) and tuple(cut[:head]) == ours.prefix
        assert cut[head:] == ids[len(ids) - len(cut) + head :]
    with pytest.raises(UserError, match=f"room for {head} tokens, expected {head + 1} or more"):
        ours.truncate_prompt(ids, head)
