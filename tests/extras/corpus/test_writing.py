import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prepare_inputs import shard

from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.datasets.layout import SPLITS, mask_path
from ms_codegeex.extras.corpus.phases import Documents
from ms_codegeex.extras.corpus.writing import _runs, write_splits


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=30))
def test_runs(values):
    pieces = list(_runs(np.array(values)))
    assert [values[start] for start, end in pieces for _ in range(start, end)] == values
    assert all(len(set(values[start:end])) == 1 for start, end in pieces)
    assert all(values[end - 1] != values[end] for _, end in pieces[:-1])


@hypothesis_settings(max_examples=30)  # every example waits for the disk
@given(st.data())
def test_runs_against_single_documents(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("splits")
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    masked = data.draw(st.booleans())
    shards, texts, masks = [], [], []
    for number in range(data.draw(st.integers(1, 3))):
        rows = []
        with open(directory / f"{number}.bin", "wb") as stream, open(directory / f"{number}.mask", "wb") as mask:
            for row in range(data.draw(st.integers(0, 6))):
                ids = generator.integers(0, 60000, generator.integers(1, 9)).astype("<u2")
                stream.write(ids.tobytes())
                texts.append(ids.tolist())
                masks.append(generator.integers(0, 2, ids.size).astype(np.uint8).tobytes())
                mask.write(masks[-1])
                rows.append((f"{number}/{row}", "C", None, row, 5, ids.size))
        shards.append(shard(rows, directory / str(number), mask_path=directory / f"{number}.mask" if masked else None))
    (block,) = Documents(shards).blocks()
    placed = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=len(texts), max_size=len(texts))), np.int8)
    write_splits(directory, block.by_shard(placed), np.dtype("<u2"), masked)
    for side, name in enumerate(SPLITS):
        written = IndexedDataset(directory / name)
        expected = [ids for ids, place in zip(texts, placed.tolist(), strict=True) if place == side]
        assert [written.document(n).tolist() for n in range(len(written))] == expected
        flags = [flags for flags, place in zip(masks, placed.tolist(), strict=True) if place == side]
        assert not masked or mask_path(directory / name).read_bytes() == b"".join(flags)
        assert masked or not mask_path(directory / name).exists()
