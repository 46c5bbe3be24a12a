"""CodeGen's tokenizers against transformers' own, which reads the directories we write; and which of them it is."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizer_files import changed, in_transformers

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.fast import CorpusEncoder
from ms_codegeex.data.tokenizer.files import CONFIG

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "golden.jsonl").read_text("utf-8").splitlines()]
NAMES = ("codegen-nl", "codegen-multi", "codegen-mono")


@pytest.fixture(scope="module")
def tokenizers():
    return {name: load_tokenizer(name) for name in NAMES}


@pytest.fixture(scope="module")
def theirs(tokenizers, tmp_path_factory):
    """The tokenizer that transformers makes of each directory we write."""
    with in_transformers(tmp_path_factory.mktemp("saved"), **tokenizers) as found:
        yield found


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


# -- directories -------------------------------------------------------------------------------------------------------


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


def entry(token, special=True, **flags):
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": token, **plain, "special": special, **flags}


NUMBERS = {"[PAD]": 50295, "myToken": 50296, "<|im_end|>": 50297}
ROLES = {"pad_token": "[PAD]", "eos_token": "<|endoftext|>"}


def without(*names):
    return lambda directory: [(directory / name).unlink(missing_ok=True) for name in names]


SAVED_BY_5 = {  # what `save_pretrained` of transformers 5.24.0 writes for `grown`
    **{"add_prefix_space": False, "backend": "tokenizers", "clean_up_tokenization_spaces": False},
    **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    **{"extra_special_tokens": ["<|im_end|>"], "is_local": True, "local_files_only": False, "model_max_length": 2048},
    **{"pad_token": "[PAD]", "return_token_type_ids": False, "tokenizer_class": "CodeGenTokenizer"},
}


def json_only(directory, tokenizer_class="CodeGenTokenizer"):  # as transformers 5 saves
    without("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")(directory)
    written = {**SAVED_BY_5, "tokenizer_class": tokenizer_class}
    (directory / "tokenizer_config.json").write_text(json.dumps(written))


def all_lists(directory):
    """The files that transformers 4 saves besides those of 5."""
    content = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    added = {entry["content"]: entry["id"] for entry in content["added_tokens"] if entry["id"] > 50256}
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), "utf-8")
    roles = {key: SAVED_BY_5[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    lists = {"additional_special_tokens": ["<|im_end|>"]}
    for name, values in (
        ("vocab.json", content["model"]["vocab"]),
        ("added_tokens.json", added),
        ("special_tokens_map.json", {**roles, **lists}),
    ):
        (directory / name).write_text(json.dumps(values, ensure_ascii=False), "utf-8")
    decoder = {str(entry.pop("id")): entry for entry in content["added_tokens"]}
    changed(CONFIG, lambda c: c.update(added_tokens_decoder=decoder))(directory)


def lists_only(directory):  # as in 2022: the ids in one file, what is special in another
    without("tokenizer.json")(directory)
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')


LAYOUTS = {
    "all files": lambda directory: None,
    "tokenizer.json": json_only,
    "tokenizer.json, no class": lambda d: (json_only(d), (d / "tokenizer_config.json").unlink()),
    "TokenizersBackend": lambda d: json_only(d, "TokenizersBackend"),
    "lists": lists_only,
    "roles as objects": lambda d: (
        lists_only(d),
        changed("special_tokens_map.json", lambda c: c.update(pad_token=entry("[PAD]")))(d),
    ),
    "texts as pairs or lines": lambda d: changed(
        "tokenizer.json", lambda c: c["model"].update(merges=[" ".join(pair) for pair in c["model"]["merges"]])
    )(d),
    "a chat template": lambda d: (
        (d / "chat_template.jinja").write_text("{{ messages }}"),
        changed(CONFIG, lambda c: c.update(chat_template=[{"name": "default", "template": "x"}]))(d),
    ),
}


@pytest.fixture(scope="module")
def grown(theirs, tmp_path_factory):
    """transformers' tokenizer of multi with added tokens of its owner, and the directory that it saves."""
    transformers, directory = pytest.importorskip("transformers"), tmp_path_factory.mktemp("grown")
    theirs["codegen-multi"].save_pretrained(directory)
    owned = transformers.AutoTokenizer.from_pretrained(directory)
    owned.add_special_tokens({"pad_token": "[PAD]"})
    owned.add_tokens(["myToken"])
    owned.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    owned.save_pretrained(directory)
    if transformers.__version__ >= "5":
        assert json.loads((directory / "tokenizer_config.json").read_text()).items() <= SAVED_BY_5.items()
        all_lists(directory)
    return owned, directory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_directories_of_every_version_have_the_ids_of_transformers(grown, tmp_path, layout):
    owned, directory = grown
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    LAYOUTS[layout](tmp_path)
    ours = load_tokenizer(tmp_path)
    assert (ours.name, ours.vocab_size, ours.eos_id) == ("own-codegen", 50298, 50256)
    texts = [row["text"] for row in GOLDEN[::4]]
    for text in (*texts, "x [PAD]myToken   <|im_end|>\n\t\tmyTokenmyToken", "<|endoftext|>[PAD]"):
        assert ours.encode_prompt(text) == owned(text).input_ids, text
        assert ours.decode(ours.encode(text)) == text
    assert max(ours.encode("[PAD]<|im_end|>")) < 50256 and ours.encode("myToken") == [50296]
    assert [ours.is_unused(number) for number in (50256, 50295, 50296, 50298)] == [False, True, False, True]
    assert CorpusEncoder(ours).encode(b"a  myToken").tolist() == ours.encode("a  myToken")


def test_what_is_saved_again_is_the_same(grown, tmp_path):
    """As in a dataset, a run and an exported model."""
    transformers, ours = pytest.importorskip("transformers"), load_tokenizer(grown[1])
    ours.save(tmp_path)
    again, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.fingerprint == ours.fingerprint and theirs.pad_token == "[PAD]"
    text = "myToken [PAD]  <|im_end|>"
    assert theirs(text).input_ids == again.encode_prompt(text) == grown[0](text).input_ids


def test_other_forms_of_the_same_steps(grown, tmp_path):
    """In a sequence, by older versions without a type, with a padding token far beyond."""
    shutil.copytree(grown[1], tmp_path, dirs_exist_ok=True)

    def rewritten(c):
        c.update(normalizer={"type": "Sequence", "normalizers": []})
        c["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [c["pre_tokenizer"]]}
        c["model"].pop("type")
        c.update(post_processor=TEMPLATE, decoder={"type": "Sequence", "decoders": [{"type": "ByteLevel"}]})
        c["added_tokens"].append({"id": 51000, "content": "<far>", "special": True})

    changed("tokenizer.json", rewritten)(tmp_path)
    changed(CONFIG, lambda c: c.update(pad_token="<far>"))(tmp_path)
    ours, text = load_tokenizer(tmp_path), "x [PAD]myToken   <|im_end|>\n"
    assert ours.vocab_size == 50298 and ours.encode_prompt(text) == grown[0](text).input_ids


def test_a_padding_token_changes_no_text(tokenizers, tmp_path):
    """So a dataset of the plain tokenizer is one of the padded model's."""
    for pad, number in (("[PAD]", 50295), ("!", 0)):
        tokenizers["codegen-multi"].save(tmp_path)
        changed(CONFIG, lambda c, pad=pad: c.update(pad_token=pad))(tmp_path)
        padded = load_tokenizer(tmp_path)
        assert padded.fingerprint == tokenizers["codegen-multi"].fingerprint
        assert padded.encode_prompt(f"a{pad}b") == [64, number, 65]


def test_the_tokenizer_names_its_end_token(tokenizers, tmp_path):
    tokenizers["codegen-multi"].save(tmp_path)
    changed(CONFIG, lambda c: c.update(eos_token=entry("<|im_end|>")))(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert ours.eos_id == 50295 == ours.encode_prompt("<|im_end|>")[0] and not ours.is_unused(50295)
    assert ours.fingerprint != tokenizers["codegen-multi"].fingerprint


DECODER = "added_tokens_decoder"
ONE = [{"Sequence": {"id": "A", "type_id": 0}}]
TEMPLATE = {"type": "TemplateProcessing", "single": ONE, "pair": 2 * ONE, "special_tokens": {"x": {}}}
UNCLEAR = [
    (changed("added_tokens.json", lambda c: c.update({"  ": 50285})), "'  ' has id 50285, which is id 50286 in tok"),
    (changed("added_tokens.json", lambda c: c.update({"x": 50260})), "'x' has id 50260, which is that of"),
    (changed("added_tokens.json", lambda c: c.update({"x": 50300})), "id 50298 has no token, but 50300 has"),
    (changed("added_tokens.json", lambda c: c.update({"<mask_1>": 50298})), "is CodeGen2 by its token <mask_1>"),
    (changed("added_tokens.json", lambda c: c.update({"<|extratoken_1|>": 50298})), "is GPT-J by its token"),
    (lambda d: (d / "added_tokens.json").write_text("3"), "added_tokens.json: holds a int, expected a JSON object"),
    (changed(CONFIG, lambda c: c.update({DECODER: [1]})), "its added tokens are malformed"),
    (changed(CONFIG, lambda c: c.update(add_prefix_space=True)), "add_prefix_space is True"),
    (changed(CONFIG, lambda c: c.update(add_bos_token=True)), "add_bos_token is True"),
    (changed(CONFIG, lambda c: c.update(tokenizer_class="CodeGen25Tokenizer")), "is CodeGen2.5 by its"),
    (changed(CONFIG, lambda c: c.update(split_special_tokens=True)), "split_special_tokens is True"),
    (changed(CONFIG, lambda c: c.update(tokenizer_class=3)), "tokenizer_config.json: tokenizer_class"),
    (changed("tokenizer.json", lambda c: c.update(normalizer={"type": "NFC"})), "normalizer is {'type': 'NFC'}"),
    (changed("tokenizer.json", lambda c: c["pre_tokenizer"].update(use_regex=False)), "pre_tokenizer is {"),
    (changed("tokenizer.json", lambda c: c["model"].update(type="Unigram", vocab=[])), "model.type is 'Unigram'"),
    (changed("tokenizer.json", lambda c: c["model"].update(ignore_merges=True)), "model.ignore_merges is True"),
    (changed("tokenizer.json", lambda c: c.update(post_processor={"type": "BertProcessing"})), "post_processor is {"),
    (
        changed("tokenizer.json", lambda c: c.update(post_processor=TEMPLATE | {"single": [*ONE, *ONE]})),
        "post_processor",
    ),
    (changed("tokenizer.json", lambda c: c.update(decoder={"type": "WordPiece"})), "decoder is {'type': 'WordPiece'}"),
    (changed("tokenizer.json", lambda c: c.update(decoder=None)), "decoder is None"),
    (changed("tokenizer.json", lambda c: c["model"].update(merges=[["a", "b"]])), "tokenizer.json: not GPT-2's merges"),
    (changed("tokenizer.json", lambda c: c["model"].update(vocab={"a": 0})), "tokenizer.json: not GPT-2's vocabulary"),
    (changed("tokenizer.json", lambda c: c["added_tokens"][5].update(lstrip=True)), "lstrip of '"),
    (changed("tokenizer.json", lambda c: c.update(added_tokens=3)), "tokenizer.json: its added tokens are malformed"),
    (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json: holds no model"),
    (
        changed("tokenizer.json", lambda c: c["model"]["vocab"].update(zqzq=60000)),
        "has 1 tokens after <|endoftext|>, such",
    ),
    (without("merges.txt"), "merges.txt missing"),
    (lambda d: (d / "vocab.json").write_text('{"a": 0}'), "vocab.json: not GPT-2's vocabulary"),
    (changed("vocab.json", lambda c: c.update({"<|extra|>": 50300})), "vocab.json: not GPT-2's vocabulary"),
    (without("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"), "has no tokenizer, found added_"),
]


@pytest.mark.parametrize("damage, message", UNCLEAR)
def test_directories_that_are_unclear(grown, tmp_path, damage, message):
    shutil.copytree(grown[1], tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)
