"""1F1B and interleaved 1F1B: order, open micro-batches, bubble and messages (arXiv:2104.04473, section 2.2)."""

from dataclasses import replace
from fractions import Fraction

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import change, improvements, make_plan
from ms_codegeex.extras.cluster.plans.roofline import StageTime, StepTime, Work
from ms_codegeex.extras.cluster.rehearsal.plan_checks import planned_calls
from ms_codegeex.planning.memory import open_passes, passes, warm_up

PIPELINE = ROOT / "configs" / "codegeex_13b_pipeline.yaml"  # four stages of ten layers, eight micro-batches
MESHES = [(2, 2, 4), (2, 3, 2), (4, 2, 8), (4, 5, 16), (8, 2, 64)]  # stages, virtual stages, micro-batches


def plan(*overrides):
    return make_plan(load_config(PIPELINE, overrides))


def finished(stages, virtual, micro_batches):
    """When the last pass of a step ends if each stage runs its passes in their order, as soon as it can: a forward pass
    of one part takes 1, a backward pass 2, a message nothing."""
    orders, ended = {}, {}
    for stage in range(stages):
        forward = [(n, k, False) for n, k in passes(stages, virtual, micro_batches)]
        backward = [(n, k, True) for n, k in passes(stages, virtual, micro_batches, backward=True)]
        ahead = min(warm_up(stages, virtual, stage), len(forward))
        order = forward[:ahead]
        for i, each in enumerate(forward[ahead:]):
            order += [each, backward[i]]
        orders[stage] = order + backward[len(forward) - ahead :]
        assert sorted(orders[stage]) == sorted(forward + backward)
    times, parts = dict.fromkeys(orders, 0), stages * virtual
    while any(orders.values()):
        before = sum(map(len, orders.values()))
        for stage, order in orders.items():
            while order:
                micro, number, back = order[0]
                part = number * stages + stage
                ends = back and part == parts - 1
                needed = (micro, part, False) if ends else (micro, part + (1 if back else -1), back)
                if needed not in ended and not (part == 0 and not back):
                    break
                start = max(times[stage], ended.get(needed, 0))
                times[stage] = ended[micro, part, back] = start + (2 if back else 1)
                order.pop(0)
        assert sum(map(len, orders.values())) < before, "the stages wait for each other"
    return max(times.values())


@pytest.mark.parametrize(("stages", "virtual", "micro_batches"), [*MESHES, (4, 1, 8), (3, 1, 3)])
def test_the_bubble_is_that_of_the_formula(stages, virtual, micro_batches):
    """The schedule, played pass by pass, takes as long as the roofline says. Several calls follow one another."""
    parts = StageTime(Work(matmul_forward=3.0 * virtual), 0.0, 0.0, 0.0)
    step = StepTime((parts,) * stages, micro_batches, virtual_stages=virtual)
    assert step.pipeline == pytest.approx(finished(stages, virtual, micro_batches))
    calls = replace(step, micro_batches=5 * micro_batches, calls=5)
    assert calls.pipeline == pytest.approx(5 * step.pipeline) and calls.bubble == pytest.approx(step.bubble)
    ideal = 3.0 * virtual * micro_batches
    assert step.pipeline / ideal - 1 == pytest.approx((stages - 1) / (virtual * micro_batches))
    assert step.bubble == pytest.approx(1 - ideal / step.pipeline)


@pytest.mark.parametrize(("stages", "virtual", "micro_batches"), MESHES)
def test_open_parts_of_micro_batches(stages, virtual, micro_batches):
    for stage in range(stages):
        maximum = max(map(sum, open_passes(stages, virtual, micro_batches, stage)))
        assert maximum == min(warm_up(stages, virtual, stage) + 1, virtual * micro_batches)
    first = max(map(sum, open_passes(stages, virtual, micro_batches, 0)))
    if micro_batches >= 2 * stages:
        assert Fraction(first, virtual) == stages * (1 + Fraction(stages - 1, stages * virtual))
    assert max(peak[-1] for peak in open_passes(stages, virtual, micro_batches, stages - 1)) == 1


def test_without_virtual_stages_the_first_holds_as_many_as_there_are_stages():
    assert [open_passes(4, 1, 8, stage) for stage in range(4)] == [((4,),), ((3,),), ((2,),), ((1,),)]
    assert open_passes(4, 1, 2, 0) == ((2,),)


def test_interleaving_shortens_the_bubble_and_costs_messages_and_memory():
    plain, parts = plan(), plan("parallel.virtual_stages=2")
    assert parts.time.bubble < 0.6 * plain.time.bubble and parts.time.total < plain.time.total
    activations = [(p.memory[0].activations, p.memory[-1].activations) for p in (plain, parts)]
    # 11 parts where there were 8; what one block computes again exists once, each part forms a mask, and each keeps the
    # whole input of its first block
    assert 1.2 < activations[1][0] / activations[0][0] < 1.6
    assert activations[1][1] > activations[0][1]
    assert plain.executed_flops == parts.executed_flops and plain.parameters == parts.parameters
    sent = [sum(c.count for c in p.collectives if c.op == "Send") for p in (plain, parts)]
    assert [n / (2 * plain.time.micro_batches) for n in sent] == [3, 7]


def test_the_last_virtual_stage_of_the_last_stage_has_the_head():
    """It has one micro-batch open; its logits are not kept for all of the stage's."""
    memory = [plan(*x, "training.recompute=none").memory[-1] for x in ([], ["parallel.virtual_stages=2"])]
    assert memory[1].activations < 4 * memory[0].activations


def test_messages_go_round():
    config = load_config(PIPELINE, ["parallel.virtual_stages=2"])
    size, sends = config.mesh.stage_size, {}
    for stage in range(4):
        rank = config.mesh.rank(stage, 0, 0)
        calls = planned_calls(config, rank)
        sends[stage] = {tuple(x // size for x in key[1]): n // 8 for key, n in calls.items() if key[0] == "Send"}
    assert sends == {
        0: {(0, 1): 2, (0, 3): 1},
        1: {(1, 2): 2, (0, 1): 2},
        2: {(2, 3): 2, (1, 2): 2},
        3: {(0, 3): 1, (2, 3): 2},
    }


def test_two_stages_send_both_ways_to_each_other():
    config = load_config(PIPELINE, ["parallel.pipeline=2", "parallel.data=96", "parallel.virtual_stages=2"])
    for stage in (0, 1):
        calls = planned_calls(config, config.mesh.rank(stage, 0, 0))
        assert {n // config.accumulation for key, n in calls.items() if key[0] == "Send"} == {3}


def test_an_interleaved_schedule_is_an_improvement_or_in_force():
    found = {item.name: item for item in improvements(plan())}
    item = found["interleaved 1F1B (parallel.virtual_stages=2)"]
    parts = plan("parallel.virtual_stages=2")
    assert not item.active and item.step_seconds == parts.step_seconds and item.fits == parts.fits
    inside = {item.name: item for item in improvements(parts)}["interleaved 1F1B (parallel.virtual_stages=2)"]
    assert inside.active and inside.step_seconds == plan().step_seconds
    assert not any(x.name.startswith("layers by cost") for x in improvements(parts))
    config = load_config(PIPELINE)
    uneven = make_plan(change(config, parallel__stage_layers=[11, 10, 10, 9]))
    assert any(x.name.startswith("interleaved 1F1B") for x in improvements(uneven))
    prime = make_plan(change(config, model=replace(config.model, sizes=replace(config.model.sizes, num_layers=4))))
    assert not any(x.name.startswith("interleaved 1F1B") for x in improvements(prime))  # five layers


def test_the_page_prints_what_virtual_stages_give():
    config = load_config(ROOT / "configs" / "recipes" / "codegeex_13b_910b_512.yaml")
    plain, four = make_plan(change(config, parallel__virtual_stages=1)), make_plan(config)
    page = " ".join((ROOT / "docs" / "plan.md").read_text().split())
    figures = f"takes {four.time.total:.2f} s before the factor, without them {plain.time.total:.2f} s"
    assert config.mesh.virtual_stages == 4 and four.roomy and figures in page
