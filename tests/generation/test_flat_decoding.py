"""Decoding with the operators of GPUs, on a CPU: the ids and probabilities of the composed ones, in fewer and larger
operators (`tests/base/cuda/test_gpu_kernels.py` compiles the graphs for a GPU)."""

from collections import Counter

import mindspore as ms
import numpy as np
import pytest
from flat_graphs import decoding_graphs, operators_of, slow_in_decoding

pytest.importorskip("torch")

from test_slots import check_streams, streams
from twins.tiny_models import POSITIONS, Twin, prompt

pytestmark = pytest.mark.usefixtures("graph_mode")
# of a layer: norms, products (with those of rotary positions), biases, activation, scores + mask, softmax, residuals
MOST = {"codegen": 20, "codegeex": 26, "codegeex2": 34}


@pytest.mark.parametrize(
    "name",
    ["codegeex2", pytest.param("codegen", marks=pytest.mark.slow), pytest.param("codegeex", marks=pytest.mark.slow)],
)
def test_streams_are_those_of_a_full_pass_with_no_operator_that_is_slow_on_a_gpu(name):
    """Of three streams in five slots, which share one pass, and of one stream."""
    twin = Twin(name)
    engine = twin.engine(slots=5, threads=0, flat=True)
    shapes, passage = Counter(), engine.network._passage
    engine.network._passage = lambda rows: shapes.update([rows.shape]) or passage(rows)
    prompts, together = check_streams(twin, engine)
    new, scores = streams(engine, {4: prompts[2]}, 24)[4]
    assert new == together[2][0] and np.allclose(scores, together[2][1], atol=2e-5)
    assert {shape for shape in shapes if shape[2] == 1} == {(3, 5, 1)}  # one graph for any number of streams
    assert not slow_in_decoding(operators_of(passage), 5 * twin.config.num_kv_groups * POSITIONS * twin.config.head_dim)


@pytest.mark.slow
def test_few_of_many_slots_gather_their_part():
    """As many as are computed in one pass in the end: a ninth slot and the first."""
    twin = Twin("codegeex2")
    engine = twin.engine(slots=17, threads=0, flat=True)
    found = streams(engine, {16: prompt(9, 3), 0: prompt(5, 4)}, 6)
    for slot, ids in ((16, prompt(9, 3)), (0, prompt(5, 4))):
        new, scores = found[slot]
        expected = twin.scores(ids + new)[len(ids) - 1 : -1]
        assert new == expected.argmax(-1).tolist() and np.abs(scores - expected.max(-1)).max() <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", MOST)
def test_graphs_have_few_operators_and_none_that_is_slow_on_a_gpu(name):
    twin = Twin(name)
    network = twin.engine(slots=8, threads=0, flat=True).network
    step, prompts, *readings = decoding_graphs(network)
    cached = 8 * twin.config.num_kv_groups * POSITIONS * twin.config.head_dim
    assert not slow_in_decoding(step, cached)
    assert slow_in_decoding(prompts, cached) <= {"Transpose"}
    assert all(not slow_in_decoding(reading, cached) for reading in readings)
    assert len(step) <= MOST[name] * twin.config.attention_layers + 30 and len(readings[0]) <= 24
    if name == "codegen":  # benchmarks/RESULTS.md counts them for 20 layers
        assert len(step) == 20 * twin.config.attention_layers + 20 and len(readings[0]) == 23


def test_the_first_of_the_likeliest_is_chosen_and_a_row_without_one_names_no_foreign_id():
    """As `Argmax` does; ids from `allowed` on are never chosen."""
    from ms_codegeex.generation.choice import TokenChoice, pack
    from ms_codegeex.generation.composite import CompositeChoice

    logits = np.zeros((3, 9), np.float32)
    logits[0, [2, 5, 8]], logits[1, 7:], logits[2] = (3, 3, 4), 9, np.nan
    settings, edits, places = pack([TokenChoice()] * 3, 3, 7)
    given = (ms.Tensor(each, ms.float32) for each in (logits, settings, edits))
    found = CompositeChoice(draws=False, edits=False)(*given, ms.Tensor(places)).asnumpy()
    assert found[:2, 0, 0].tolist() == [2, 0] and np.isnan(found[2, 0, 1]) and 0 <= found[2, 0, 0] < 7
