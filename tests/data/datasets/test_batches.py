import hashlib
import itertools
import shutil
import struct
import tracemalloc

import numpy as np
import pytest
from conftest import EOS, write_dataset

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.data.datasets.batches import PackedSequences, read_info, shuffle_context, unigram_entropy
from ms_codegeex.data.datasets.indexed import IndexedDataset, IndexedWriter

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


def test_every_label_counts_with_the_loss_after_eos(dataset, train):
    everything = PackedSequences(dataset, "train", SEQ, seed=3, loss_after_eos=True)
    batch = everything.training_batch(5, 40)
    np.testing.assert_array_equal(batch.labels, train.training_batch(5, 40).labels)
    assert batch.loss_mask.all() and (batch.inputs == EOS).any()
    assert everything.label_counts().sum() == len(everything.tokens) - 1 > train.label_counts().sum()


def test_an_id_outside_the_vocabulary_is_refused_where_it_is_read(tmp_path):
    directory = write_dataset(tmp_path / "corpus")
    rows = read_info(directory)["vocab_size"]
    tokens = np.memmap(directory / "train.bin", np.uint16, "r+")
    tokens[SEQ * 3 + 2] = rows
    tokens.flush()
    damaged = PackedSequences(directory, "train", SEQ, seed=3)
    damaged.read(np.array([2]), np.array([0]))
    with pytest.raises(UserError, match=rf"train\.bin: id {rows}, but the vocabulary has {rows}"):
        damaged.read(np.array([3]), np.array([0]))
    with pytest.raises(UserError, match=rf"train\.bin: id {rows}"):
        damaged.label_counts()


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


def test_samples_are_what_they_always_were(tmp_path):
    """A checkpoint's data position, and a published run, mean something only while this stays."""
    with IndexedWriter(tmp_path / "train") as writer:
        for i in range(40):
            writer.add([*range(i * 25 + 1, i * 25 + 25), 0])
    write_json(tmp_path / "dataset.json", {"vocab_size": 1001, "eos_id": 0})
    batch = PackedSequences(tmp_path, "train", 16, 1234).training_batch(50, 24)
    assert batch.inputs[:8, 0].tolist() == [241, 753, 193, 369, 433, 513, 689, 177]
    digest = hashlib.sha256(b"".join(array.tobytes() for array in batch.arrays())).hexdigest()
    assert digest == "fa12470159f85b4e3b1b7095b4c750a17f41208cd16b2c49d26de35c6c70d95d"


def test_a_sample_says_which_documents_it_is_made_of(dataset, train):
    documents = IndexedDataset(dataset / "train")
    for number in range(60):
        batch = train.training_batch(number, 1)
        spans = train.documents_of(int(train.indices(np.array([number]))[0]))
        parts = [documents.document(d)[start:stop] for d, start, stop in spans]
        assert all(len(part) for part in parts)
        assert np.concatenate(parts).tolist() == [*batch.inputs[0], batch.labels[0, -1]]
        assert [d for d, _, _ in spans] == list(range(spans[0].document, spans[-1].document + 1))
    for index in (-1, train.size):
        with pytest.raises(IndexError):
            train.documents_of(index)


def test_a_billion_sequences_open_at_once(tmp_path):
    """32 GB of a sparse file: nothing is read or built per sequence."""
    documents, length = 1000, 16 * 10**6
    sizes = np.full(documents, length)
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, documents, documents + 1)
    pointers, starts = np.cumsum(sizes) - sizes, np.arange(documents + 1)
    parts = (sizes.astype("<i4"), (2 * pointers).astype("<i8"), starts.astype("<i8"))
    (tmp_path / "train.idx").write_bytes(header + b"".join(part.tobytes() for part in parts))
    with open(tmp_path / "train.bin", "wb") as stream:
        stream.truncate(2 * documents * length)
        stream.seek(2 * (999_999_998 * SEQ + 3))
        stream.write(b"\7\0")
    write_json(tmp_path / "dataset.json", {"vocab_size": 96, "eos_id": 5})
    tracemalloc.start()
    data = PackedSequences(tmp_path, "train", SEQ, seed=1)
    batch = data.training_batch(10**12, 8)  # in the thousandth epoch
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.size == 10**9 - 1 and batch.inputs.shape == (8, SEQ)
    assert peak < 2_000_000
    assert data.read(np.array([data.size - 1]), np.array([0])).inputs[0].tolist() == [0, 0, 0, 7] + [0] * 12


@pytest.mark.parametrize("content", ["{}", "[]", '{"vocab_size": "many", "eos_id": 0}'])
def test_a_description_without_its_sizes_is_named(dataset, tmp_path, content):
    shutil.copytree(dataset, tmp_path / "d")
    (tmp_path / "d" / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=r"dataset\.json"):
        PackedSequences(tmp_path / "d", "train", SEQ, seed=0)
