"""Code without names, literals, comments and layout; the copies that are found by it."""

import importlib.metadata
import re

import pytest

from ms_codegeex.data.languages import languages
from ms_codegeex.extras.corpus import shards
from ms_codegeex.extras.corpus.minhash import are_similar, code_tokens, signature
from ms_codegeex.extras.corpus.prepare import RunOptions, dataset_key, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings

PYTHON = '''
def total(values, start=0):
    """Sums."""
    for value in values:  # all of them
        start += value * 17
    return print(f"{start} is the sum", 'of', len(values)) or start
'''


def body(count, seed=1):
    """A file of functions with different structure."""
    lines = []
    for number in range(count):
        kind = (number * 7 + seed) % 5
        steps = ["a = b + 1", "if a: b = [a, c]", "while b: a -= c.d(b)", "for c in a: b[c] = -a", "assert a(b, c) < c"]
        chosen = [steps[(number * step + kind) % 5] for step in range(2, 6)]
        lines += [f"def item_{number}(a, b, c):", *(f"    {line}" for line in chosen), f"    return {number}", ""]
    return "\n".join(lines)


def test_what_copies_change_is_left_out():
    tokens = b" ".join(code_tokens(PYTHON.encode(), "Python")).decode()
    assert tokens == (
        "def i ( i , i = 0 ) : s Sums for i in i : i + = i * 0 "
        "return print ( s f i s is the sum , s of , len ( i ) ) or i"
    )
    other = re.sub(r"\b(values|value|start|total)\b", lambda name: "x" + name[0], PYTHON).replace("17", "0x3F")
    changed = other.replace("  # all of them", "").replace("    ", "\t").replace("\n", "\r\n")
    assert code_tokens(changed.encode(), "Python") == code_tokens(PYTHON.encode(), "Python")
    assert code_tokens(PYTHON.replace("+=", "-=").encode(), "Python") != code_tokens(PYTHON.encode(), "Python")


@pytest.mark.parametrize("language", [language.name for language in languages("codegeex")])
def test_any_text_has_tokens_or_none(language):
    tokens = code_tokens("int x = 1; /* caf\u00e9 */ 'a\n#if \"\u4f60".encode() + b"\xff\x00", language)
    assert tokens is None or all(isinstance(token, bytes) for token in tokens)


def test_prose_and_unknown_languages_are_compared_by_words():
    for language in ("", "CSS", "Markdown", "Tcsh of the future"):
        assert code_tokens(b"some words", language) is None
        both = [signature(b"these are some words of a text", language, by=by) for by in ("words", "tokens")]
        assert (both[0] == both[1]).all()


PAGES = (
    ("HTML", "<p class='a'>%s</p>\n<!-- a page -->\n"),
    ("TeX", "\\section{%s}\n"),
    ("Shell", "mkdir -p %s | sort\n"),
)


@pytest.mark.parametrize("language, line", PAGES)
@pytest.mark.parametrize("words", ["red green blue", "\u7ea2 \u7eff \u84dd"])
def test_words_between_markup_tell_documents_apart(language, line, words):
    rows = [line % f"{words} %s{chr(97 + row % 23)}" for row in range(60)]
    texts = ["".join([line % words, *(row % name for row in rows)]) for name in ("pink", "grey")]
    assert words.split()[0].encode() in code_tokens(texts[0].encode(), language)
    assert not are_similar(*(signature(text.encode(), language, "tokens")[None] for text in texts), 0.85)


@pytest.mark.parametrize("text", ["a " * 600, "int a" + " " * 1001 + ";", "\n \n" * 400, "a." * 501, "a\n" * 501])
def test_a_text_that_takes_a_lexer_very_long_is_compared_by_words(text):
    assert code_tokens(f"x = 1;\n{text};".encode(), "Java") is None
    assert code_tokens(f"x = 1;\n{text[: len(text) // 2]};".encode(), "Java")


AGAIN = [("C++", "/"), ("HTML", "&"), ("HTML", "<?"), ("Java", "<a"), ("Pascal", "{ "), ("C", "(){}")]


@pytest.mark.parametrize("language, text", AGAIN)
def test_symbols_again_and_again_are_compared_by_words(language, text):
    assert code_tokens(f"one\n{text * 1100}".encode(), language) is None
    assert code_tokens(f"one\n{text * (900 // len(text))}\n".encode(), language)


def test_a_last_comment_ends_at_the_end_of_the_text():
    """Without the line's end, a lexer looks for one from each of its places."""
    assert code_tokens(b"int a;" + b"//a" * 900, "C++") == code_tokens(b"int a;\n", "C++") == [b"int", b"i", b";"]


def test_a_renamed_copy_is_similar_by_tokens_alone():
    first, other = body(30).encode(), body(30, seed=3).encode()
    renamed = re.sub(rb"\b([abc])\b", rb"\1_value", first)
    for by, found in (("words", False), ("tokens", True)):
        pair = [signature(text, "Python", by)[None] for text in (first, renamed)]
        assert are_similar(*pair, 0.85)[0] == found
    assert not are_similar(*(signature(text, "Python", "tokens")[None] for text in (first, other)), 0.85)


def test_content_of_strings_and_numbers_tells_documents_apart():
    """Tables have few different tokens: strings count with their words, and below the floor the text decides."""
    names = [f"item{number}" for number in range(200)]
    strings = [f"names = {[*names[start:], *names[:start]]}\n" for start in (0, 100)]
    numbers = [f"table = {[(number * factor) % 997 for number in range(400)]}\n" for factor in (7, 11)]
    texts = [f'text = """{" ".join(part)}"""\n' for part in (names[:100], names[100:])]
    for first, other in (numbers, texts):
        rows = [signature(text.encode(), "Python", "tokens")[None] for text in (first, other, f"{first}# more\n")]
        assert not are_similar(rows[0], rows[1], 0.85) and are_similar(rows[0], rows[2], 0.85)
    assert are_similar(*(signature(text.encode(), "Python", "tokens")[None] for text in strings), 0.85)  # the same ones


def test_a_corpus_without_renamed_copies(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    (source / "a.py").write_text(body(30))
    (source / "b.py").write_text(re.sub(r"\b([abc])\b", r"\1_value", body(30)))
    (source / "c.py").write_text(body(30, seed=3))
    kept = {}
    for by in ("words", "tokens"):
        settings = PrepareSettings(max_bytes=None, validation_share=0, near_duplicates_by=by)
        made = prepare_dataset([source], tmp_path / by, settings, RunOptions(1, False))
        kept[by] = made["splits"]["train"]["documents"]
        assert made["settings"].get("near_duplicates_by", "words") == by
        assert ("pygments" in made) == (by == "tokens")
    assert kept == {"words": 3, "tokens": 2}


def test_another_pygments_makes_another_dataset_where_its_tokens_are_compared(tmp_path, monkeypatch):
    given = [PrepareSettings(near_duplicates_by=by) for by in ("words", "tokens")]
    given.append(PrepareSettings(near_duplicates_by="tokens", near_duplicates=0))
    before = [dataset_key([tmp_path], settings) for settings in given]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"another {name}")
    after = [dataset_key([tmp_path], settings) for settings in given]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_another_pygments_makes_shards_again(tmp_path, monkeypatch):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(body(30))
    names = []
    real = shards.shard_name
    monkeypatch.setattr(shards, "shard_name", lambda *words: names.append(real(*words)) or names[-1])
    settings = PrepareSettings(max_bytes=None, validation_share=0, near_duplicates_by="tokens")
    for version in ("1", "1", "2"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, version=version: version)
        prepare_dataset([tmp_path / "src"], tmp_path / "out", settings, RunOptions(1, False, replace=True))
    assert names[0] == names[1] != names[2]
