"""The search for a plan: blocks that recompute by a budget, and the YAML it ends with."""

from dataclasses import replace
from itertools import pairwise

import pytest
from conftest import ROOT

from ms_codegeex import cli
from ms_codegeex.base.errors import UserError
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.sections import OverlapConfig
from ms_codegeex.extras.cluster.plans.planner import change, make_plan
from ms_codegeex.extras.cluster.plans.search import keys_of, other_schedules, recomputing, search, without_mesh, yaml_of
from ms_codegeex.parallel.sharding import recompute_of_blocks
from ms_codegeex.planning.memory import memory_without_buffers, state_memory

BASE = ROOT / "configs" / "codegeex_13b.yaml"
SEARCH = "ms_codegeex.extras.cluster.plans.search.search"
# Few meshes, on which neither recomputing nothing nor recomputing everything is best.
KEYS = ["devices=8", "training.global_batch=8", "training.micro_batch=2", "parallel.tensor=2", "parallel.pipeline=4"]
KEYS += ["parallel.hardware=ascend910b", "parallel.optimizer_shard=1"]


def test_each_stage_recomputes_in_its_first_blocks():
    config = load_config(BASE, [*KEYS, "model.num_layers=7", "training.recompute_blocks=[2,1,0,2]"])
    full, cheap = "full", "selective"
    assert recompute_of_blocks(config) == (full, full, full, cheap, cheap, cheap, full, full)  # top query layer: last
    none = change(config, training__recompute="selective")
    assert recompute_of_blocks(none)[2:4] == ("selective", "none")
    assert recompute_of_blocks(change(config, training__recompute_blocks=None)) == (full,) * 8


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["training.recompute=none"], r"^training\.recompute_blocks: nothing is recomputed"),
        (["parallel.pipeline=2"], r"^training\.recompute_blocks: 4 for parallel\.pipeline 2"),
        (["training.recompute_blocks=[2,1,0,99]"], r"99\], but the stages have \[10, 10, 10, 10\] blocks"),
    ],
)
def test_blocks_that_cannot_recompute_are_refused(keys, message):
    with pytest.raises(UserError, match=message):
        load_config(BASE, [*KEYS, "training.recompute_blocks=[2,1,0,2]", *keys])


def test_more_blocks_that_recompute_take_more_time_and_less_memory():
    plans = [make_plan(load_config(BASE, [*KEYS, f"training.recompute_blocks=[{n},0,0,0]"])) for n in (0, 4, 10)]
    for less, more in pairwise(plans):
        assert less.time.stages[0].micro_batch < more.time.stages[0].micro_batch
        assert less.executed_flops < more.executed_flops
        assert less.memory[0].activations > more.memory[0].activations
        assert less.memory[1] == more.memory[1]
    ends = make_plan(load_config(BASE, KEYS)), make_plan(load_config(BASE, [*KEYS, "training.recompute=selective"]))
    every = make_plan(load_config(BASE, [*KEYS, "training.recompute_blocks=[10,10,10,10]"]))
    assert every.time == ends[0].time and every.memory == ends[0].memory
    nothing = make_plan(load_config(BASE, [*KEYS, "training.recompute_blocks=[0,0,0,0]"]))
    assert nothing.time == ends[1].time and nothing.memory == ends[1].memory


@pytest.fixture(scope="module")
def found():
    return search(load_config(BASE, [*KEYS, "training.dropout=0"]))


def test_plans_recompute_in_as_few_blocks_as_memory_allows(found):
    best = next(plan for plan in found.ranked if plan.config.training.recompute_blocks)
    blocks = best.config.training.recompute_blocks
    assert best.roomy and any(blocks)
    for stage in [i for i, count in enumerate(blocks) if count]:
        fewer = [n - (i == stage) for i, n in enumerate(blocks)]
        less = make_plan(change(best.config, training__recompute_blocks=fewer))
        assert less.time.stages[stage].micro_batch < best.time.stages[stage].micro_batch
        assert not less.roomy, stage
    assert {plan.config.parallel.sequence for plan in found.ranked} == {False, True}
    assert all(plan.fits for plan in found.ranked)


def test_the_yaml_of_a_plan_is_that_plan(found, tmp_path):
    for number, plan in enumerate([found.ranked[0], found.ranked[len(found.ranked) // 2]]):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml_of(plan, "codegeex_13b", {"training": {"global_batch": 8, "dropout": 0}}))
        loaded = make_plan(load_config(path))
        assert (loaded.time, loaded.memory, loaded.mfu) == (plan.time, plan.memory, plan.mfu)
        words = keys_of(plan, load_config(BASE, [*KEYS, "training.dropout=0"])).split()
        given = make_plan(load_config(BASE, [*KEYS, "training.dropout=0", *words]))
        assert given.time == plan.time and given.memory == plan.memory


def test_overlap_is_written_as_the_search_has_changed_it(tmp_path):
    """With tensor 1 there is nothing to overlap."""
    base = load_config(BASE, [*KEYS, "parallel.overlap.parts=2", "training.dropout=0"])
    mesh = {"parallel__tensor": 1, "parallel__pipeline": 1, "parallel__overlap": OverlapConfig()}
    plan = make_plan(change(base, **mesh, training__micro_batch=1, training__recompute="full"))
    path = tmp_path / "plan.yaml"
    path.write_text(yaml_of(plan, str(BASE), {"parallel": {"overlap": {"parts": 2}}, "training": {"dropout": 0}}))
    assert load_config(path).parallel.overlap == OverlapConfig()
    assert "parallel.overlap.parts=1" in keys_of(plan, base)


def test_the_command_writes_the_best_plan_with_its_overrides(found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SEARCH, lambda *arguments, **settings: found)
    written = tmp_path / "best.yaml"
    keys = ["training.global_batch=8", "training.dropout=0"]
    assert cli.main(["plan", "--config", str(BASE), "--search", "--write", str(written), *KEYS, *keys]) == 0
    config, expected = load_config(written), found.ranked[0]
    plan = make_plan(replace(config, output=expected.config.output))
    assert (plan.time, plan.memory) == (expected.time, expected.memory)
    assert config.training.dropout == 0 and config.model.to_dict() == expected.config.model.to_dict()
    capsys.readouterr()
    monkeypatch.setattr(SEARCH, lambda *arguments, **settings: 1 / 0)  # not reached
    for words, message in (
        (["--write", str(written)], "--write: writes what --search finds"),
        (["--search", "--write", str(tmp_path / "no" / "best.yaml")], "is not a folder"),
        (["--search", "--write", str(written)], "best.yaml exists already; choose another name, or delete it"),
        (["--search", "--write", ""], "--write: . is not the name of a file; choose another"),
    ):
        assert cli.main(["plan", "--config", str(BASE), *words, *KEYS, *keys]) == 2
        assert message in capsys.readouterr().err


def test_a_written_plan_finds_its_base_through_links(found, tmp_path, monkeypatch):
    def late(*arguments, **settings):
        (tmp_path / "late.yaml").write_text("mine")
        return found

    monkeypatch.setattr(SEARCH, late)
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    (tmp_path / "real" / "other.yaml").write_text(f"base: {BASE}")
    (tmp_path / "my.yaml").symlink_to("link/my.yaml")
    (tmp_path / "link" / "my.yaml").write_text("base: real/other.yaml")  # beside the link
    words = ["plan", "--config", str(tmp_path / "my.yaml"), *KEYS, "--search", "--write"]
    assert cli.main([*words, str(tmp_path / "link" / "out.yaml")]) == 0
    assert load_config(tmp_path / "link" / "out.yaml").mesh == found.ranked[0].config.mesh
    assert cli.main([*words, str(tmp_path / "late.yaml")]) == 2  # the file was made during the search
    assert (tmp_path / "late.yaml").read_text() == "mine"


def test_other_schedules_have_virtual_stages_or_layers_by_cost():
    keys = [*KEYS, "training.dropout=0", "training.recompute=none", "training.global_batch=64"]
    plan = make_plan(load_config(BASE, [*keys, "model.num_layers=13"]))  # and the top query layer: 4, 4, 3, 3
    found, reasons = other_schedules(plan)
    assert found and not reasons  # 14 layers are not equal parts of four stages
    assert all(x.config.parallel.stage_layers and x.config.mesh.virtual_stages == 1 for x in found)
    assert found[0].time.total <= plan.time.total
    plan = make_plan(load_config(BASE, [*keys, "model.num_layers=15"]))
    found = {x.config.mesh.virtual_stages: x for x in other_schedules(plan)[0] if not x.config.parallel.stage_layers}
    assert set(found) == {2, 4} and all(x.roomy for x in found.values())
    assert found[4].time.bubble < found[2].time.bubble < plan.time.bubble
    alone = make_plan(load_config(BASE, [*keys, "parallel.pipeline=1", "training.global_batch=8"]))
    assert other_schedules(alone) == ([], [])


def test_the_shipped_fine_tuning_of_the_13b_is_the_fastest_plan():
    server = load_config(ROOT / "configs" / "finetune_13b_8.yaml")
    plan = make_plan(server)
    assert plan.fits and plan.step_seconds == search(server).ranked[0].step_seconds


def test_a_search_finds_pipelines_with_other_schedules():
    found = search(load_config(BASE, [*KEYS, "training.dropout=0", "model.num_layers=7"])).ranked
    seconds = [plan.step_seconds for plan in found]
    assert seconds == sorted(seconds)
    assert any(plan.config.mesh.virtual_stages > 1 for plan in found)


def test_what_is_counted_first_is_part_of_the_memory():
    """So that a plan which fails by it would fail by all."""
    plan = make_plan(load_config(BASE, [*KEYS, "training.dropout=0"]))
    states, others = state_memory(plan.config), memory_without_buffers(plan.config, plan.chip)
    for state, without, memory in zip(states, others, plan.memory, strict=True):
        assert 0 < state.total < without.total < memory.total
        assert without == replace(memory, communication=0) and memory.communication > 0
        assert (state.weights, state.gradients) == (memory.weights, memory.gradients)


def test_a_plan_with_less_than_5_percent_to_spare_is_not_chosen():
    words = "training.micro_batch=4 parallel.hardware=ascend910 parallel.optimizer_shard=4 model.num_layers=10"
    config = load_config(ROOT / "configs" / "codegeex_base_8.yaml", words.split())
    assert make_plan(config).fits and not make_plan(config).roomy
    fitting, reasons = recomputing(config, {}, hardware_of(config))
    assert reasons == ["memory"] and fitting and all(plan.roomy for plan in fitting)
    assert {plan.config.training.recompute for plan in fitting} == {"selective"}


def test_a_pipeline_whose_equal_stages_do_not_fit_has_layers_by_cost():
    """The head's stage is the fullest in Qwen2.5-Coder-7B's fastest plan for eight devices."""
    start = without_mesh(ROOT / "configs" / "qwen2_7b.yaml", ["devices=8", "parallel.hardware=ascend910b"])
    best = search(start).ranked[0].config
    keys = {f"parallel__{key}": getattr(best.parallel, key) for key in ("tensor", "pipeline", "optimizer_shard")}
    keys |= {"parallel__sequence": best.parallel.sequence, "training__micro_batch": best.micro_batch}
    assert best.parallel.stage_layers and "memory" in recomputing(start, keys, hardware_of(start))[1]
    assert recomputing(start, keys, hardware_of(start))[0] == []
