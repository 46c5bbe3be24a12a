"""The operators of the graphs that a rehearsal compiles."""

import tempfile
from pathlib import Path

import pytest
from flattened import flatten

from ms_codegeex.extras.cluster.rehearsal import job as job_module
from ms_codegeex.extras.cluster.rehearsal import mindir
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks

PROGRAM = Path(__file__).with_name("graph_program.py")


def compiled_graphs(config, ranks, *words):
    """The report, in which all must be as planned, and the operators of each rank; without micro-batches those of the
    one graph whose blocks are inlined. `words`: of graph_program.py."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "COMPILE_PROGRAM", (str(PROGRAM), *words, folder))
        report = compile_ranks(config, ranks)
        inlined = sorted(Path(folder).glob("few_*"))
        files = inlined or [Path(folder) / f"full_{rank}" for rank in ranks]
        graphs = [mindir.parse(file.read_bytes()) for file in files]
    assert report.ok, report.problems
    return report, [flatten(graph, rank) for graph, rank in zip(graphs, ranks, strict=False)]
