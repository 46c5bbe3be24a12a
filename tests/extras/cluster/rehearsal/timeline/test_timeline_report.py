"""What a timeline says about the run's step: paces, where the time goes, further micro-batches."""

import json

import pytest
from conftest import ROOT
from profile_writer import TRUTH

from ms_codegeex.base.hardware import ASCEND_910B
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal.compile import compiled_config
from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Message, Operator, StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.report import estimate, text, to_json
from ms_codegeex.extras.cluster.rehearsal.timeline.timeline import Timeline, make_timeline
from ms_codegeex.planning.hardware_files import write_hardware_file

KEYS = ["training.dropout=0", "parallel.hardware=ascend910b", "devices=64", "parallel.optimizer_shard=8"]
KEYS += ["training.micro_batch=8", "parallel.fusion.graph_kernel=false"]  # 48 micro-batches a replica
SIZE = 1_600_000_000  # moved in 1 ms: read and written, 16 bits
TENSOR = tuple(range(8))


def work(*reads, micro):
    x = TensorType((SIZE // 4,), "float16")
    waits = tuple(read for read in reads if isinstance(read, int))
    return Operator("Mul", waits, tuple(reads), (x,), (x,), "Default/network-Loss/x", micro)


def message(read, micro, ranks=TENSOR, op="AllReduce"):
    x = TensorType((1_000_000,), "float16")
    sent = Message(ranks, 2_000_000, f"{op}-{read}-{micro}")
    return Operator(op, (read,), (read,), (x,), (x,), "Default/network-Loss/x", micro, sent)


def program():
    """Two micro-batches: each computes, waits for a message of the tensor group, and computes again. Then a gradient
    travels, which the engine attributes to the last micro-batch."""
    listed = []
    for micro in (0, 1):
        first = len(listed)
        listed += [
            work(*([first - 1] if micro else ["x"]), micro=micro),
            message(first, micro),
            work(first + 1, micro=micro),
        ]
    listed.append(message(5, 1, tuple(range(0, 64, 8)), "ReduceScatter"))
    return StepProgram(0, 0, tuple(listed), {})


@pytest.fixture(scope="module")
def line():
    run = load_config(ROOT / "configs" / "codegeex_13b.yaml", KEYS)
    return make_timeline(compiled_config(run), run, [program()])


def test_a_further_micro_batch_computes_and_waits_for_its_tensor_group(line):
    assert (line.config.accumulation, line.run.accumulation) == (2, 48)
    travel = line.ranks[0].work["collectives, tensor"] / 2
    gradient = line.ranks[0].work["collectives, data"]
    each = 2 * SIZE / ASCEND_910B.memory_bandwidth + travel
    assert line.period == pytest.approx(each)
    assert line.run_seconds == pytest.approx(48 * each + gradient)  # gradients travel once


def test_shares_of_the_run_add_up_to_its_step(line):
    shares = line.shares(line.ranks[0])
    assert shares.computing == pytest.approx(48 * 2 * SIZE / ASCEND_910B.memory_bandwidth)
    assert set(shares.exposed) == {"tensor", "data"} and shares.bubble == pytest.approx(0, abs=1e-12)
    assert shares.computing + sum(shares.exposed.values()) == pytest.approx(line.run_seconds)
    assert shares.exposed["tensor"] == pytest.approx(24 * line.ranks[0].work["collectives, tensor"])


def test_a_message_of_the_tensor_group_outside_micro_batches_travels_once():
    run = load_config(ROOT / "configs" / "codegeex_13b.yaml", KEYS)
    operators = (*program().operators, message(6, None))
    line = make_timeline(compiled_config(run), run, [StepProgram(0, 0, operators, {})])
    (rank,) = line.ranks
    travel = rank.work["collectives, tensor"] / 3
    assert line.shares(rank).exposed["tensor"] == pytest.approx((48 + 1) * travel)
    assert line.period == pytest.approx(2 * SIZE / ASCEND_910B.memory_bandwidth + travel)


def test_parts_that_exceed_the_step_are_an_error(line, monkeypatch):
    monkeypatch.setattr(Timeline, "period", 0.0)
    with pytest.raises(AssertionError, match="exceed it"):
        line.shares(line.ranks[0])


def test_paces_are_those_of_timeline_and_plan_with_and_without_the_factor(line):
    plan, paces = line.run_plan, line.paces
    assert [(x.overlap, x.factor) for x in paces] == [(o, f) for o in (True, False) for f in (1, plan.factor.value)]
    assert [x.seconds for x in paces[:2]] == [line.run_seconds, line.run_seconds * plan.factor.value]
    assert [x.seconds for x in paces[2:]] == [plan.time.total, plan.step_seconds]
    assert paces[0].mfu == line.mfu and paces[3].mfu == plan.mfu
    for pace in paces:
        assert pace.tokens_per_day * pace.seconds == pytest.approx(3072 * 2048 * 86400)


def test_text_and_json_have_them(line):
    shown = text(line, explain=True)
    for pace in line.paces:
        assert f"{pace.seconds:.3f}" in shown and f"{pace.mfu:.1%}" in shown
    values = json.loads(json.dumps(to_json(line)))
    assert [x["seconds"] for x in values["steps"]] == [x.seconds for x in line.paces]
    (rank,) = values["ranks"]
    assert rank["run"]["computing"] == line.shares(line.ranks[0]).computing
    assert {"seconds", "run_seconds", "mfu", "outside_roofline"} <= values.keys()  # as before


def test_the_step_is_one_figure_with_a_range(line):
    found, plan = estimate(line), line.run_plan
    assert found == plan.estimate_between(line.run_seconds, plan.time.total)
    assert found.low == pytest.approx(line.run_seconds * plan.factor.low)
    assert found.low < found.seconds < found.high
    assert to_json(line)["estimate"] == found.to_dict()
    short = text(line)
    assert short.startswith(found.text()) and "token slots" not in short and "against the plan" not in short


def test_a_calibrated_step_has_the_gaps_that_were_measured(tmp_path):
    file = tmp_path / "mine.yaml"
    write_hardware_file(file, TRUTH)
    run = load_config(ROOT / "configs" / "codegeex_13b.yaml", [*KEYS, f"parallel.hardware={file}"])
    line = make_timeline(compiled_config(run), run, [program()])
    each = 2 * SIZE / TRUTH.rates.memory_bandwidth
    assert line.shares(line.ranks[0]).computing == pytest.approx(48 * each)
    found, plan = estimate(line), line.run_plan
    assert found.low == pytest.approx(line.run_seconds * 1.05 + 0.08 * 1.05 * plan.time.computing)
    assert found.seconds < found.high and found.source == "the residuals of the truth"
