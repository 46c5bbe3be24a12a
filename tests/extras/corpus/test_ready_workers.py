"""How many processes are started before anything is known about the input."""

import contextlib

import pytest

from ms_codegeex.extras.corpus import building
from ms_codegeex.extras.corpus.sources import Root
from ms_codegeex.extras.shared.records import PART_BYTES


@pytest.mark.parametrize("sizes, started", [((100,), 1), ((100, 0, 100), 3), ((PART_BYTES + 1, 7), 3), ((1,) * 9, 4)])
def test_files_that_make_few_units_start_few_workers(tmp_path, monkeypatch, sizes, started):
    asked = []
    monkeypatch.setattr(
        building, "open_mapper", lambda workers, prepare: asked.append(workers) or contextlib.nullcontext()
    )
    roots = []
    for number, size in enumerate(sizes):
        path = tmp_path / f"{number}.jsonl"
        with open(path, "wb") as stream:
            stream.truncate(size)
        roots.append(Root(path, str(number)))
    building.ready_workers(4, roots, "codegeex", None)
    building.ready_workers(4, [*roots, Root(tmp_path, "folder")], "codegeex", None)
    assert asked == [started, 4]
