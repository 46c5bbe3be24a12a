import itertools
import shutil

import numpy as np
import pytest
from conftest import EOS, write_dataset

from ms_codegeex.data.batches import PackedSequences, shuffle_context, unigram_entropy
from ms_codegeex.data.indexed import IndexedDataset
from ms_codegeex.errors import UserError

SEQ = 16


@pytest.fixture
def train(dataset):
    return PackedSequences(dataset, "train", SEQ, seed=3)


def test_sequences_are_consecutive_pieces_of_the_file_without_padding(dataset, train):
    tokens = np.array(IndexedDataset(dataset / "train").tokens)
    batch = train.training_batch(0, train.size)
    rows = sorted(map(tuple, np.concatenate([batch.inputs, batch.labels[:, -1:]], 1)))
    expected = sorted(tuple(tokens[i * SEQ : (i + 1) * SEQ + 1]) for i in range(train.size))
    assert rows == expected
    assert train.size == (len(tokens) - 1) // SEQ


def test_labels_are_the_next_tokens_and_eos_inputs_do_not_count(train):
    batch = train.training_batch(5, 40)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.labels[:, :-1])
    np.testing.assert_array_equal(batch.loss_mask, batch.inputs != EOS)
    assert (batch.inputs == EOS).any() and (batch.labels[batch.loss_mask == 1] == EOS).any()  # predicting an eos counts


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_one_global_order(train, ranks):
    whole = train.training_batch(24, 8)
    parts = [train.training_batch(24 + rank * 8 // ranks, 8 // ranks) for rank in range(ranks)]
    for name in ("inputs", "labels", "samples"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in parts]), getattr(whole, name))


@pytest.mark.parametrize("ranks,samples", [(1, 10), (2, 10), (4, 10), (3, 7)])
def test_evaluation_counts_every_sample_once_on_any_number_of_ranks(dataset, ranks, samples):
    validation = PackedSequences(dataset, "validation", SEQ, seed=3)
    whole = validation.evaluation_batch(0, 1, samples)
    parts = [validation.evaluation_batch(rank, ranks, samples) for rank in range(ranks)]
    assert len({len(p.samples) for p in parts}) == 1
    counted = [row for p in parts for row, mask in zip(p.inputs, p.loss_mask, strict=True) if mask.any()]
    np.testing.assert_array_equal(np.stack(counted), whole.inputs)


def test_shuffled_context_keeps_labels_documents_and_eos(dataset):
    batch = PackedSequences(dataset, "validation", SEQ, seed=3).evaluation_batch(0, 1, 30)
    shuffled = shuffle_context(batch, EOS, seed=1)
    np.testing.assert_array_equal(shuffled.labels, batch.labels)
    np.testing.assert_array_equal(shuffled.inputs == EOS, batch.inputs == EOS)
    assert (shuffled.inputs != batch.inputs).mean() > 0.5
    for row, original in zip(shuffled.inputs, batch.inputs, strict=True):
        borders = np.flatnonzero(original == EOS)
        for a, b in zip(np.split(row, borders), np.split(original, borders), strict=True):
            assert sorted(a) == sorted(b)
    np.testing.assert_array_equal(shuffle_context(batch, EOS, seed=1).inputs, shuffled.inputs)


def test_unigram_entropy_is_that_of_the_counted_tokens(dataset):
    validation = PackedSequences(dataset, "validation", SEQ, seed=3)
    tokens = np.array(validation.tokens).tolist()
    counted = [b for a, b in itertools.pairwise(tokens) if a != EOS]
    p = np.array([counted.count(t) / len(counted) for t in set(counted)])
    assert unigram_entropy(validation) == pytest.approx(-(p * np.log(p)).sum())


def test_too_little_text_names_file_and_key(tmp_path):
    with pytest.raises(UserError, match=r"train\.bin.*data\.seq_length"):
        PackedSequences(write_dataset(tmp_path / "d", documents=4), "train", 4096, seed=0)


def test_a_table_smaller_than_the_corpus_ids_names_the_key(train):
    with pytest.raises(UserError, match=r"model\.vocab_size: 50"):
        train.check_model(50, EOS)
    with pytest.raises(UserError, match=r"model\.eos_token_id: 7"):
        train.check_model(96, 7)


@pytest.mark.parametrize("content", ["{}", "[]", '{"vocab_size": "many", "eos_id": 0}'])
def test_a_description_without_its_sizes_is_named(dataset, tmp_path, content):
    shutil.copytree(dataset, tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json"):
        PackedSequences(tmp_path / "d", "train", SEQ, seed=0)
