"""Sequences that begin at functions, against a search line by line."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.sections import InfillConfig
from ms_codegeex.data.datasets import opening
from ms_codegeex.data.datasets.indexed import IndexedWriter, open_tokens
from ms_codegeex.data.datasets.opening import (
    MIN_DISTANCE,
    function_starts,
    note_on_functions,
    open_sequences,
    repeated_shares,
    training_data,
    validation_data,
)
from ms_codegeex.data.tokenizer import load_tokenizer

SEQ = 32
INDENTS, KEYWORDS = ("", "    ", "\t"), ("def", "async def", "fn", "pub fn", "export default function", "func", "fun")
OTHERS = ("definitely = 1", "func = x", "fn(a)", "function that uses", "# def x", "        def deep(self):", "")
OTHERS += ("return function", "'''", "@@ -1 +1 @@")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("codegeex")


def documents(count, seed):
    """Texts of functions and other lines, of 1 to 60 lines; some end without a line break."""
    draw, texts = np.random.default_rng(seed), []
    for _ in range(count):
        lines = []
        for number in range(draw.integers(1, 60)):
            if draw.random() < 0.2:
                indent = draw.choice(INDENTS)
                lines += [f"{indent}@cache(1)"] * int(draw.integers(0, 3))
                lines.append(f"{indent}{draw.choice(KEYWORDS)} f{number}(x):")
            else:
                lines.append(f"    {draw.choice(OTHERS)}" if draw.random() < 0.5 else draw.choice(OTHERS))
        texts.append("\n".join(lines) + "\n" * int(draw.integers(0, 2)))
    return texts


def expected(texts, tokenizer, length):
    """Line by line: those that begin a function, or its first decorator, at which a token begins."""
    found, first = [], 0
    total = sum(len(tokenizer.encode(text)) + 1 for text in texts)
    for text in texts:
        ids = tokenizer.encode(text)
        bounds = np.concatenate(([0], np.cumsum([len(tokenizer.pieces[number]) for number in ids])))
        lines, offset = text.split("\n"), 0
        for number, line in enumerate(lines):
            words, indent = line.lstrip(), line[: len(line) - len(line.lstrip())]
            decorator = f"{indent}@"
            decorators = list(itertools.takewhile(lambda each, d=decorator: each.startswith(d), lines[:number][::-1]))
            if indent in INDENTS and any(words.startswith(f"{each} f") for each in KEYWORDS):
                start = offset - sum(len(each) + 1 for each in decorators)
                token = int(np.searchsorted(bounds, start))
                fits = bounds[token] <= start + len(indent) and first + token <= total - length - 1
                if fits and (not found or first + token - found[-1] >= max(1, int(MIN_DISTANCE * length))):
                    found.append(first + token)
            offset += len(line.encode()) + 1
        first += len(ids) + 1
    return found


def share_seen(row):
    """The share of a sequence's n-grams of four tokens that occur in it before."""
    grams = [tuple(row[place : place + 4]) for place in range(len(row) - 3)]
    return sum(gram in grams[:place] for place, gram in enumerate(grams)) / len(grams)


def written(directory, texts, tokenizer, changes=()):
    """A dataset directory with these documents in both splits."""
    directory.mkdir()
    for split in ("train", "validation"):
        with IndexedWriter(directory / split, np.uint16) as writer:
            for text in texts:
                writer.add([*tokenizer.encode(text), tokenizer.eos_id])
    record = {"name": "codegeex", "fingerprint": tokenizer.fingerprint}
    info = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, "tokenizer": record}
    write_json(directory / "dataset.json", info | dict(changes))
    return directory


@pytest.mark.parametrize("piece", [opening._PIECE, 100])
def test_sequences_begin_where_functions_do(tmp_path, tokenizer, piece, monkeypatch):
    texts = documents(40, 1)
    directory = written(tmp_path / "a", texts, tokenizer)
    monkeypatch.setattr(opening, "_PIECE", piece)
    tokens = open_tokens(directory / "train")
    found = function_starts(tokens, list(tokenizer.pieces), tokenizer.eos_id, SEQ).tolist()
    every = expected(texts, tokenizer, SEQ)
    shares = [share_seen(tokens[start : start + SEQ + 1].tolist()) for start in every]
    limit = np.quantile(shares, 0.75)
    assert len(every) > 60 and max(shares) > limit
    assert found == [start for start, share in zip(every, shares, strict=True) if share <= limit]
    for start in found:
        text = tokenizer.decode(np.asarray(tokens[start : start + 12]).tolist()).lstrip(" \t")
        assert text.startswith(("@", *KEYWORDS))


def test_a_sequence_shorter_than_an_n_gram_repeats_nothing():
    starts = np.arange(3)
    assert repeated_shares(np.zeros(9, np.uint16), starts, 3).tolist() == [0] * 3
    assert repeated_shares(np.zeros(9, np.uint16), starts, 4).tolist() == [0] * 3
    assert repeated_shares(np.zeros(9, np.uint16), starts, 5).tolist() == [0.5] * 3


def test_rows_begin_at_these_tokens_from_a_sample_on(tmp_path, tokenizer):
    """Both kinds in their own order, each sequence once in an epoch of its kind."""
    directory, first = written(tmp_path / "a", documents(40, 2), tokenizer), 50
    data = open_sequences(directory, "train", SEQ, 3, functions_from=first)
    plain = open_sequences(directory, "train", SEQ, 3)
    starts = function_starts(data.tokens, list(tokenizer.pieces), tokenizer.eos_id, SEQ).tolist()
    assert data.size == plain.size + len(starts) and first < len(starts) < plain.size
    numbers = np.arange(first + 2 * len(starts))
    batch = data.training_batch(0, len(numbers))
    np.testing.assert_array_equal(batch.inputs[:first], plain.training_batch(0, first).inputs)
    for epoch in range(2):
        rows = batch.inputs[first + epoch * len(starts) :][: len(starts)]
        expected_rows = [data.tokens[start : start + SEQ].tolist() for start in starts]
        assert sorted(rows.tolist()) == sorted(expected_rows) and rows.tolist() != expected_rows
    assert data.first_time(numbers).tolist() == [True] * (first + len(starts)) + [False] * len(starts)
    np.testing.assert_array_equal(data.label_counts(), plain.label_counts())
    whole = open_sequences(directory, "train", SEQ, 3, functions_from=0)
    assert sorted(whole.training_batch(0, len(starts)).inputs.tolist()) == sorted(expected_rows)
    ends = np.flatnonzero(np.asarray(data.tokens) == data.eos)
    places = {plain.size - 1: (plain.size - 1) * SEQ, plain.size: starts[0], data.size - 1: starts[-1]}
    for index, start in places.items():
        spans = data.documents_of(index)
        before = [0, *(ends + 1).tolist()][spans[0].document]
        assert before + spans[0].start == start
        assert sum(span.stop - span.start for span in spans) == SEQ + 1


def test_only_training_data_begins_at_functions(tmp_path, tokenizer):
    directory = written(tmp_path / "a", documents(40, 3), tokenizer)
    sizes = [f"model.vocab_size={tokenizer.vocab_size}", f"data.seq_length={SEQ}", "training.global_batch=4"]
    plain, begun = (
        load_config(Path("codegeex_tiny_release"), [*sizes, *more, f"data.train={directory}"])
        for more in ([], ["data.functions_from=7"])
    )
    assert training_data(begun).starts_from == 28 and training_data(begun).size > training_data(plain).size
    assert validation_data(begun).size == validation_data(plain).size == training_data(plain).size
    with pytest.raises(UserError, match=r"data\.functions_from: works with data\.train only"):
        load_config(Path("codegeex_tiny_release"), [*sizes, "data.functions_from=7", f"data.blend={{{directory}: 1}}"])


def test_what_is_read_of_a_corpus_is_said(tmp_path, tokenizer):
    few = written(tmp_path / "few", [*documents(9, 4), "x = 1\n" * 4000], tokenizer)
    unknown = written(tmp_path / "unknown", documents(9, 4), tokenizer, {"tokenizer": None})
    enough = written(tmp_path / "enough", [*documents(9, 4), "x = 1\n" * 100], tokenizer)
    for directory, found in ((few, False), (unknown, False), (enough, True)):
        sizes = [f"model.vocab_size={tokenizer.vocab_size}", f"data.seq_length={SEQ}", f"data.train={directory}"]
        config, short = (
            load_config(Path("codegeex_tiny_release"), [*sizes, "data.functions_from=1200", f"training.steps={steps}"])
            for steps in (1201, 1200)
        )
        data = training_data(config)
        assert (data.starts is not None) is found
        read = "is read continuously: half of it has no functions, or it does not say which tokenizer made it"
        if found:
            covered = set().union(*(range(start, start + SEQ) for start in data.starts.tolist()))
            share = f"{len(covered) / len(data.tokens):.0%}"
            read = f"is read in sequences that begin at functions after 1,200 steps; these hold {share} of its tokens"
        assert note_on_functions(config, data) == f"data.functions_from: {directory} {read}"
        assert note_on_functions(short, data) is None and training_data(short).starts is None


def test_a_run_measured_in_tokens_may_take_more_steps_than_they_fill(tmp_path, tokenizer):
    directory = written(tmp_path / "data", documents(9, 4), tokenizer)
    sizes = [f"model.vocab_size={tokenizer.vocab_size}", f"data.seq_length={SEQ}", f"data.train={directory}"]
    length = ["training.steps=null", f"training.tokens={SEQ * 16 * 4}", "data.functions_from=4"]
    config = load_config(Path("codegeex_tiny_release"), [*sizes, *length])
    assert config.steps == 4 and training_data(config).starts is not None
    assert "after 4 steps" in note_on_functions(config, training_data(config))


def test_functions_of_rearranged_documents_are_refused(tmp_path, tokenizer):
    directory = written(tmp_path / "a", documents(9, 4), tokenizer)
    infill = InfillConfig(rate=0.5, level="document")
    with pytest.raises(UserError, match=r"data\.functions_from: texts of .*a are rearranged as whole"):
        open_sequences(directory, "train", SEQ, 0, infill=infill, functions_from=0)
    open_sequences(directory, "train", SEQ, 0, infill=infill)


def test_other_and_damaged_ids_are_no_text(tokenizer):
    """Reading refuses them, as test_batches.py shows."""
    size, pieces = len(tokenizer.pieces), list(tokenizer.pieces)
    ids = np.array([5, size + 9, *tokenizer.encode("def f(x):\n")] * 2 + [5] * 40, np.int32)
    assert function_starts(ids, pieces, size + 1, 4).tolist() == []  # `def` begins no line, for 5 and that id are none
    ids[1] = -70_000
    assert function_starts(ids, pieces, size + 1, 4).tolist() == []
