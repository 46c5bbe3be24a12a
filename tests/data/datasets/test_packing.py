"""Rows of whole examples: nothing is cut or lost, and the loss counts answers only."""

import itertools
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.data.datasets.batches import PackedSequences, unigram_entropy
from ms_codegeex.data.datasets.indexed import IndexedWriter
from ms_codegeex.data.datasets.opening import open_sequences
from ms_codegeex.data.datasets.packing import FineTuningRows, pack

EOS, LENGTH = 0, 16
PROMPTS = st.lists(st.integers(1, 90), max_size=9)
ANSWERS = st.lists(st.integers(1, 90), min_size=1, max_size=6)


def write_examples(directory, examples, split="train", length=LENGTH):
    """`examples`: (prompt ids, answer ids); eos is added and counts."""
    directory.mkdir(parents=True, exist_ok=True)
    flags = []
    with IndexedWriter(directory / split, np.uint16) as writer:
        for prompt, answer in examples:
            writer.add([*prompt, *answer, EOS])
            flags += [0] * len(prompt) + [1] * (len(answer) + 1)
    (directory / f"{split}.mask").write_bytes(bytes(flags))
    write_json(directory / "dataset.json", {"vocab_size": 96, "eos_id": EOS, "kind": "finetune", "seq_length": length})
    return directory


def random_examples(count, seed=0):
    generator = np.random.default_rng(seed)

    def ids(low, high):
        return generator.integers(1, 90, generator.integers(low, high)).tolist()

    return [(ids(0, 10), ids(1, 6)) for _ in range(count)]


@settings(max_examples=200)
@given(st.integers(1, 70).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), min_size=1))))
def test_every_item_lies_in_one_row_that_holds_it(case):
    capacity, sizes = case
    rows = pack(np.array(sizes), capacity)
    assert sorted(itertools.chain(*rows)) == list(range(len(sizes)))
    fills = sorted(sum(sizes[item] for item in row) for row in rows)
    assert fills[-1] <= capacity
    assert all(a + b > capacity for a, b in itertools.pairwise(fills))  # no two rows would fit into one
    assert rows == pack(np.array(sizes), capacity)


def test_best_fit_by_hand():
    # 7, 6 and 5 open rows; a 3 goes beside the 7, where it leaves least, the other beside the 6, and the 1 there too
    assert pack(np.array([3, 7, 1, 6, 3, 5]), 10) == [[1, 0], [3, 4, 2], [5]]


@settings(max_examples=60)
@given(st.lists(st.tuples(PROMPTS, ANSWERS), min_size=1, max_size=25), st.integers(0, 3))
def test_rows_hold_whole_examples_and_count_their_answers(tmp_path_factory, examples, seed):
    data = FineTuningRows(write_examples(tmp_path_factory.mktemp("d"), examples), "train", LENGTH, seed)
    batch = data.training_batch(0, data.size)
    seen, tokens = [], 0
    for number in range(data.size):
        spans = data.documents_of(int(data.indices(np.array([number]))[0]))
        row = [*batch.inputs[number], batch.labels[number][-1]]
        expected_row, expected_mask = [], []
        for document, start, stop in spans:
            prompt, answer = examples[document]
            assert (start, stop) == (0, len(prompt) + len(answer) + 1)
            expected_row += [*prompt, *answer, EOS]
            flags = [0.0] * len(prompt) + [1.0] * (len(answer) + 1)
            flags[0] = 0.0  # nothing of its own example precedes it
            expected_mask += flags
            seen.append(document)
        tokens += len(expected_row)
        padding = LENGTH + 1 - len(expected_row)
        assert row == expected_row + [EOS] * padding
        assert batch.loss_mask[number].tolist() == (expected_mask + [0.0] * padding)[1:]
    assert sorted(seen) == list(range(len(examples)))
    assert tokens == len(data.tokens)
    labels = batch.labels[batch.loss_mask == 1]
    np.testing.assert_array_equal(np.bincount(labels), data.label_counts())


def test_an_example_without_prompt_does_not_count_across_the_border(tmp_path):
    data = FineTuningRows(write_examples(tmp_path / "d", [([], [5, 6, 7]), ([], [8, 9])]), "train", LENGTH, 0)
    batch = data.training_batch(0, 1)
    assert batch.inputs[0, :8].tolist() == [5, 6, 7, EOS, 8, 9, EOS, EOS]
    assert batch.loss_mask[0, :8].tolist() == [1, 1, 1, 0, 1, 1, 0, 0]


def test_turns_that_end_with_the_end_token_are_seen_from_the_next_ones(tmp_path):
    """As in Zephyr's template, and in ChatML where the tokenizer's end token is <|im_end|>."""
    directory = write_examples(tmp_path / "d", [([5, EOS, 6, EOS], [7, 8]), ([9, EOS], [4])])
    write_json(directory / "dataset.json", json.loads((directory / "dataset.json").read_text()) | {"ends_inside": True})
    batch = open_sequences(directory, "train", LENGTH, 0, reset_at_eos=False).training_batch(0, 2)
    first, second = sorted(zip(batch.inputs.tolist(), batch.loss_mask.tolist(), strict=True))
    assert first[0][:8] == [5, EOS, 6, EOS, 7, 8, EOS, EOS] and first[1] == [0, 0, 0, 1, 1, 1] + [0] * 10
    assert second[0][:5] == [9, EOS, 4, EOS, EOS] and second[1] == [0, 1, 1] + [0] * 13
    with pytest.raises(UserError, match=r"reset_at_eos: true, but .* set it to false"):
        open_sequences(directory, "train", LENGTH, 0)


def test_every_epoch_visits_every_row_once_in_another_order(tmp_path):
    data = FineTuningRows(write_examples(tmp_path / "d", random_examples(200)), "train", LENGTH, 4)
    epochs = [data.training_batch(e * data.size, data.size).inputs.tolist() for e in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    other = FineTuningRows(data.directory, "train", LENGTH, 5).training_batch(0, data.size).inputs.tolist()
    assert sorted(other) == sorted(epochs[0]) and other != epochs[0]


def test_padding_is_rare(tmp_path):
    data = FineTuningRows(write_examples(tmp_path / "d", random_examples(3000)), "train", 64, 0)
    assert 1 - (len(data.tokens) - data.size) / (data.size * 64) < 0.02


def test_evaluation_and_entropy_work_on_rows(tmp_path):
    data = FineTuningRows(write_examples(tmp_path / "d", random_examples(60)), "train", LENGTH, 0)
    parts = [data.evaluation_batch(rank, 3, data.size) for rank in range(3)]
    labels = np.concatenate([p.labels[p.loss_mask == 1] for p in parts])
    share = np.bincount(labels) / len(labels)
    assert unigram_entropy(data) == pytest.approx(-(share[share > 0] * np.log(share[share > 0])).sum())


def test_an_id_outside_the_vocabulary_is_refused(tmp_path):
    directory = write_examples(tmp_path / "rows", [([5, 6], [7]), ([8], [95]), ([9], [96])])
    rows = FineTuningRows(directory, "train", LENGTH, seed=0)
    with pytest.raises(UserError, match=r"train\.bin: id 96, but the vocabulary has 96"):
        rows.training_batch(0, rows.size)
    with pytest.raises(UserError, match="id 96"):
        rows.label_counts()


def test_the_kind_decides_how_a_directory_is_read(tmp_path, dataset):
    rows = write_examples(tmp_path / "d", random_examples(20))
    assert type(open_sequences(rows, "train", LENGTH, 0)) is FineTuningRows
    assert type(open_sequences(dataset, "train", LENGTH, 0, reset_at_eos=False)) is PackedSequences
    with pytest.raises(UserError, match=r"data\.reset_at_eos: false, but .*d holds examples"):
        open_sequences(rows, "train", LENGTH, 0, reset_at_eos=False)
    assert open_sequences(dataset, "train", LENGTH, 0, loss_after_eos=True).loss_after_eos
    with pytest.raises(UserError, match=r"data\.loss_after_eos: true, but .*d holds examples"):
        open_sequences(rows, "train", LENGTH, 0, loss_after_eos=True)


def test_a_shorter_run_than_the_examples_names_both_lengths(tmp_path):
    rows = write_examples(tmp_path / "d", random_examples(20))
    with pytest.raises(UserError, match=r"data\.seq_length: 15, .*up to 16 tokens"):
        open_sequences(rows, "train", 15, 0)


def change_info(directory, **values):
    info = json.loads((directory / "dataset.json").read_text())
    (directory / "dataset.json").write_text(json.dumps({**info, **values}))


@pytest.mark.parametrize(
    "damage,message",
    [
        (lambda d: (d / "train.mask").unlink(), r"train\.mask: no such file"),
        (lambda d: (d / "train.mask").write_bytes(b"\1"), r"train\.mask: 1 bytes, expected one byte for each of the"),
        (lambda d: (d / "train.mask").write_bytes(bytes((d / "train.mask").stat().st_size)), "no token counts"),
        (lambda d: change_info(d, seq_length=3), r"example \d+ has \d+ tokens, dataset\.json says at most 3"),
        (lambda d: change_info(d, seq_length=None), "'seq_length' is missing"),
        (lambda d: change_info(d, eos_id=95), "example 0 does not end with token 95"),
        (lambda d: change_info(d, kind="rows"), "kind 'rows', known is 'finetune'"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    rows = write_examples(tmp_path / "d", random_examples(20))
    damage(rows)
    with pytest.raises(UserError, match=message):
        open_sequences(rows, "train", LENGTH, 0)


@pytest.mark.parametrize("name", ["train.bin", "train.mask"])
def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path, dataset, name):
    """A map of a file ends a process that reads past the end of the file."""
    rows = write_examples(tmp_path / "d", random_examples(200))
    documents = shutil.copytree(dataset, tmp_path / "documents")
    for directory in (rows, documents) if name == "train.bin" else (rows,):
        data = open_sequences(directory, "train", LENGTH, 0)
        data.training_batch(0, 2)
        os.truncate(directory / name, 2)
        with pytest.raises(UserError, match=rf"{name}: 2 bytes, but it had"):
            data.training_batch(0, 2)
