"""Tokenizers trained on the user's text: every character survives, equal requests give equal bytes."""

import json

import pytest
from conftest import ROOT, command, command_here
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus import tokenizer_training
from ms_codegeex.extras.corpus.reading import Document
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings, train_tokenizer

SOURCES = ROOT / "ms_codegeex" / "config"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory that the command writes."""
    output = tmp_path_factory.mktemp("trained") / "tokenizer"
    words = ("--input", SOURCES, "--vocab-size", 900, "--whitespace-run", 8, "--language-tags", "--json")
    result = command("tokenizer", "train", *words, "--output", output)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["vocab_size"] == 905
    return output


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
def test_every_text_survives(trained, text):
    tokenizer = load_tokenizer(trained)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_runs_of_spaces_and_tag_lines_are_one_token(trained):
    tokenizer = load_tokenizer(trained)
    pieces = [tokenizer.token_bytes(i) for i in tokenizer.encode("# language: Python\n        return x\n")]
    assert b"# language: Python" in pieces and b"        " in pieces
    assert not any(piece.strip() and b"\n" in piece for piece in pieces)  # lines end with a token of their own


def test_code_is_shorter_than_its_bytes(trained):
    text = (SOURCES / "run.py").read_text()
    assert len(load_tokenizer(trained).encode(text)) < 0.5 * len(text.encode())


def test_equal_text_gives_equal_bytes(trained, tmp_path):
    settings = TokenizerSettings(900, 8, True)
    train_tokenizer([SOURCES], tmp_path / "again", settings, threads=2)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def test_a_corpus_is_prepared_with_it(trained, tmp_path):
    words = ("--input", SOURCES, "--tokenizer", trained, "--output", tmp_path / "corpus", "--workers", 1)
    result = command("prepare", *words)
    assert result.returncode == 0, result.stderr
    described = json.loads((tmp_path / "corpus" / "dataset.json").read_text())
    assert described["tokenizer"]["fingerprint"] == load_tokenizer(trained).fingerprint


MISTAKES = [
    ("codegeex2 --vocab-size 100", "--vocab-size: 100 is out of range; give 512 to 1000000"),
    ("codegeex2 --whitespace-run 0", "--whitespace-run: 0 is out of range; give 1 (none) to 64"),
    ("codegeex2 --max-bytes 0", "--max-bytes: 0 is out of range"),
    ("codegeex2 --vocab-size 90000", "--vocab-size: 90000 tokens cannot be made from"),
    ("codegeex2 --input nowhere", "nowhere"),
    ("codegeex --vocab-size 274", "--vocab-size: 274 is out of range; give 275 to 1000000"),
    ("codegen --vocab-size 10000000", "--vocab-size: 10000000 is out of range"),
    ("codegeex --vocab-size 90000", "--vocab-size: 90000 tokens cannot be made from"),
    ("codegeex --whitespace-run 136", "--whitespace-run: 136 is out of range; give 2 to 135"),
    ("codegen --whitespace-run 4", "--whitespace-run: codegen decides itself which white space"),
    ("codegeex --language-tags", "--language-tags: tag lines are plain text to codegeex"),
]


@pytest.mark.parametrize("words, message", MISTAKES)
def test_mistakes_are_one_line(tmp_path, words, message):
    places = ("--input", SOURCES, "--output", tmp_path / "tokenizer", "--family")
    result = command_here("tokenizer", "train", *places, *words.split())
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "tokenizer").exists()


def test_nothing_is_replaced(trained):
    with pytest.raises(UserError, match="exists; choose another directory"):
        train_tokenizer([SOURCES], trained, TokenizerSettings(900))


@pytest.mark.parametrize("family", ["codegeex2", "codegen"])
def test_no_text_is_named(tmp_path, family):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--input: no text was found"):
        train_tokenizer([tmp_path / "empty"], tmp_path / "tokenizer", TokenizerSettings(900, family=family))


def test_too_few_tokens_for_the_characters_of_a_text(tmp_path):
    """SentencePiece wants one for each; the message has the number, with which it works."""
    (tmp_path / "in").mkdir()
    for n in range(3):
        lines = (f"letter{number} = '{chr(0x4E00 + number)}'\n" * 9 for number in range(n, 600))
        (tmp_path / "in" / f"a{n}.py").write_text("".join(lines))
    said = r"are too few for the characters of this text; give --vocab-size (\d+)"
    with pytest.raises(UserError, match=said) as found:
        train_tokenizer([tmp_path / "in"], tmp_path / "out", TokenizerSettings(512))
    enough = int(str(found.value).split("--vocab-size ")[1].split()[0])
    train_tokenizer([tmp_path / "in"], tmp_path / "out", TokenizerSettings(enough))


def test_ctrl_c_while_the_text_is_read(tmp_path, monkeypatch):
    """SentencePiece makes an error of its own of it."""

    def read(*_):
        yield from [Document("a.py", b"x = 1\n", "Python", "a.py")] * 3
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer_training, "read_documents", read)
    (tmp_path / "a.py").write_text("x = 1\n")
    for name in ("codegeex2", "codegeex"):
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer([tmp_path / "a.py"], tmp_path / "out", TokenizerSettings(512, family=name))
    assert not (tmp_path / "out").exists()
