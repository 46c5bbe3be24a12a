"""`gigatoken` against our own tokenizers, id for id."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_files import write_chatglm

from ms_codegeex.data.tokenizer import _named, load_tokenizer
from ms_codegeex.data.tokenizer import fast as module
from ms_codegeex.data.tokenizer.fast import CorpusEncoder

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("codegeex", "codegen-multi", "codegen-nl")
SPECIAL = ["<|endoftext|>", "<|extratoken_12|>", "<|extratoken_1|>", "<|extratoken_", "<|", "|>"]
# Unicode adds characters each year, and the tables of the libraries are of different years: they disagree on characters
# that are not assigned here.
ASSIGNED = {"exclude_categories": ("Cs", "Cn")}
PIECES = (
    st.text(st.characters(**ASSIGNED), max_size=6)
    | st.integers(0, 200).map(" ".__mul__)
    | st.integers(0, 40).map("\t".__mul__)
    | st.sampled_from([*SPECIAL, "\r\n", "\n", "\n\n", "it's", "'ll", "'S", "\u0120", "\u0109", "\ufeff", "\u2028"])
    | st.characters(min_codepoint=0x10000, **ASSIGNED)
    | st.characters(min_codepoint=1, max_codepoint=31)
    | st.sampled_from(["\x85", "def name(argument):", "x = 10_000", "é", "ﬁ", "你好", "👩‍💻", "İ", "ß", "٣", "a\u0301"])
)


# codegen-nl is codegen-multi without tokens for white space; by default `test_the_same_ids` and
# `test_the_library_does_the_work` have it.
FEWER = [*NAMES[:2], pytest.param(NAMES[2], marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    tokenizer = load_tokenizer(request.param)
    return tokenizer, CorpusEncoder(tokenizer)


@pytest.mark.parametrize("pair", FEWER, indirect=True)
@settings(max_examples=300)
@given(st.lists(st.lists(PIECES, max_size=3).map("".join), max_size=8).map("\n".join))
@example("a\n<|endoftext|>\nb")
@example("a \n<|extratoken_1|>\u3000\n\n b")
@example("a\n  <|endoftext|> \n\n<|endoftext|>x\ny")
def test_the_same_ids_of_lines(pair, text):
    tokenizer, encoder = pair
    assert encoder.encode(text.encode()).tolist() == tokenizer.encode(text)


@settings(max_examples=400)
@given(st.lists(PIECES, max_size=12).map("".join))
@example("")
@example(" ")
@example("a" * 5000)
@example(" " * 5000 + "a" + "\t" * 500)
@example("<|endoftext|>")
@example("x<|endoftext|>  <|extratoken_12|>y")
@example("".join(chr(code) for code in range(1, 0x300)))
@example("".join(chr(0x1000 * code + 1) for code in range(0x110) if not 0xD <= code <= 0xF))
def test_the_same_ids(pair, text):
    tokenizer, encoder = pair
    assert encoder.encode(text.encode()).tolist() == tokenizer.encode(text)


def test_the_library_does_the_work(pair, monkeypatch):
    tokenizer, encoder = pair
    assert encoder.is_fast
    monkeypatch.setattr(type(tokenizer), "encode", None)
    for text in (b"def f(x):\n        return x\n", b"x = '<|endoftext|>'\n", b"<|extratoken_12|>"):
        assert encoder.encode(text).size > 5 and tokenizer.eos_id not in encoder.encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_named_tokenizer_is_compared_without_being_built(name):
    tokenizer = _named.__wrapped__(name)
    assert CorpusEncoder(tokenizer).is_fast and not {"_model", "pieces"} & vars(tokenizer).keys()
    assert module._SAMPLE_DIGESTS[tokenizer.fingerprint] == module.sample_digest(tokenizer.encode)


def test_a_full_disk_does_not_matter(monkeypatch):
    def full(**_):
        raise OSError

    monkeypatch.setattr(module.tempfile, "NamedTemporaryFile", full)
    tokenizer = _named.__wrapped__("codegen-nl")
    monkeypatch.setattr(module, "_gigatoken", module._gigatoken.__wrapped__)
    encoder = CorpusEncoder(tokenizer)
    assert encoder.is_fast and encoder.encode(b"a    b").tolist() == tokenizer.encode("a    b")


def test_sentencepiece_is_left_to_our_tokenizer(tmp_path):
    tokenizer = load_tokenizer(write_chatglm(tmp_path / "model"))
    encoder = CorpusEncoder(tokenizer)
    assert not encoder.is_fast
    assert encoder.encode("def f():\n  ü".encode()).tolist() == tokenizer.encode("def f():\n  ü")


def test_a_library_that_disagrees_is_not_used(monkeypatch):
    tokenizer = load_tokenizer("codegeex")

    class Other:
        def encode(self, text):
            return module.np.array(load_tokenizer("codegen-nl").encode(text))

    monkeypatch.setattr(module, "_gigatoken", lambda _: Other())
    encoder = CorpusEncoder(tokenizer)
    assert not encoder.is_fast and encoder.encode(b"a    b").tolist() == tokenizer.encode("a    b")
    monkeypatch.setattr(module, "_gigatoken", lambda _: None)
    assert not CorpusEncoder(tokenizer).is_fast


def test_it_starts_no_thread_and_says_nothing():
    """Workers are as many as cores; a thread pool in each would fight for them. Standard output is for results."""
    code = (
        "import os; from ms_codegeex.data.tokenizer import load_tokenizer; "
        "from ms_codegeex.data.tokenizer.fast import CorpusEncoder; t = load_tokenizer('codegeex'); "
        "before = len(os.listdir('/proc/self/task')); e = CorpusEncoder(t); e.encode(b'x = 1  # words' * 100000); "
        "assert len(os.listdir('/proc/self/task')) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
