"""Who is in which group, and who holds which part of which parameter: properties on random meshes and sizes."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import ParallelConfig
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.parallel.sharding import ParameterLayout, Placement, layouts_of, parameter_layouts

HEAD_TABLE, WORD_TABLE = "head.weight", "embedding.word.weight"

SIZES = st.integers(1, 5)


@st.composite
def meshes(draw):
    data = draw(st.integers(1, 8))
    shard = draw(st.sampled_from([n for n in range(1, data + 1) if data % n == 0]))
    return Mesh(data, draw(SIZES), draw(SIZES), shard)


@st.composite
def models(draw, mesh):
    """Sizes that the rules of meshes allow."""
    heads = mesh.tensor * draw(SIZES)
    return CodeGeeXConfig(
        vocab_size=mesh.tensor * draw(st.integers(1, 50)),
        hidden_size=heads * mesh.optimizer_shard * draw(SIZES),
        num_layers=mesh.pipeline + draw(st.integers(0, 4)),
        num_heads=heads,
        intermediate_size=mesh.tensor * mesh.optimizer_shard * draw(SIZES),
        max_position_embeddings=draw(st.integers(1, 20)),
        eos_token_id=0,
    )


cases = meshes().flatmap(
    lambda mesh: st.tuples(st.just(mesh), models(mesh), st.builds(ParallelConfig, vocabulary=st.booleans()))
)


# --- ranks and groups ---


@given(meshes())
def test_coordinates_number_stage_by_stage_then_replica_by_replica(mesh):
    places = [mesh.coordinates(rank) for rank in range(mesh.world)]
    assert places == list(product(range(mesh.pipeline), range(mesh.data), range(mesh.tensor)))
    assert [mesh.rank(*place) for place in places] == list(range(mesh.world))
    assert mesh.world == mesh.pipeline * mesh.stage_size == mesh.data * mesh.tensor * mesh.pipeline


GROUPS = {  # size of each group, and the coordinates (stage, replica, shard) that its members have in common
    "stage": (lambda mesh: mesh.stage_size, (0,)),
    "tensor": (lambda mesh: mesh.tensor, (0, 1)),
    "data": (lambda mesh: mesh.data, (0, 2)),
    "optimizer": (lambda mesh: mesh.optimizer_shard, (0, 2)),
    "replica": (lambda mesh: mesh.data // mesh.optimizer_shard, (0, 2)),
}


@pytest.mark.parametrize("name", GROUPS)
@given(mesh=meshes())
def test_groups_of_a_kind_partition_every_stage(name, mesh):
    size, common = GROUPS[name]
    groups = {rank: getattr(mesh, f"{name}_group")(rank) for rank in range(mesh.world)}
    for rank, group in groups.items():
        assert rank in group and group == sorted(set(group)) and len(group) == size(mesh)
        assert all(groups[other] == group for other in group)  # its members agree, so no two groups overlap
        assert len({tuple(mesh.coordinates(other)[i] for i in common) for other in group}) == 1


@given(meshes())
def test_optimizer_groups_are_consecutive_replicas_and_replica_groups_cross_them(mesh):
    for rank in range(mesh.world):
        replicas = [mesh.coordinates(other)[1] for other in mesh.optimizer_group(rank)]
        assert replicas == list(range(replicas[0], replicas[0] + mesh.optimizer_shard))
        assert replicas[0] % mesh.optimizer_shard == 0
        assert set(mesh.optimizer_group(rank)) & set(mesh.replica_group(rank)) == {rank}
        joined = sorted(r for other in mesh.replica_group(rank) for r in mesh.optimizer_group(other))
        assert joined == mesh.data_group(rank)


@given(meshes())
def test_the_tied_table_lies_on_first_and_last_stage_at_one_place(mesh):
    for rank in range(mesh.world):
        first, last = mesh.tied_group(rank)
        stage, *place = mesh.coordinates(rank)
        assert mesh.coordinates(first) == (0, *place) and mesh.coordinates(last) == (mesh.pipeline - 1, *place)
        assert stage not in (0, mesh.pipeline - 1) or rank in (first, last)


def test_groups_of_the_papers_mesh():
    mesh = Mesh(data=192, tensor=8, optimizer_shard=16)
    assert mesh.coordinates(1535) == (0, 191, 7)
    assert mesh.tensor_group(13) == [8, 9, 10, 11, 12, 13, 14, 15]  # one server
    assert mesh.optimizer_group(13) == [5 + 8 * replica for replica in range(16)]
    assert mesh.replica_group(13) == [13 + 128 * group for group in range(12)]
    assert mesh.data_group(13)[:3] == [5, 13, 21]


def test_a_mesh_says_its_axes():
    assert str(Mesh(4, 2, 3)) == "data 4 x tensor 2 x pipeline 3"
    assert str(Mesh(4, 2, 1, 2)) == "data 4 x tensor 2 x pipeline 1, optimizer shards 2"


# --- layouts ---


@st.composite
def layouts(draw):
    mesh = draw(meshes())
    axis, sharded = draw(st.sampled_from([None, 0, 1])), draw(st.booleans())
    shape = [draw(SIZES), draw(SIZES)]
    if axis is not None:
        shape[axis] *= mesh.tensor
    if sharded:
        shape[0] *= mesh.optimizer_shard
    return mesh, ParameterLayout("weight", tuple(shape), draw(st.integers(0, mesh.pipeline - 1)), axis, sharded)


def stage_ranks(mesh, layout):
    return range(layout.stage * mesh.stage_size, (layout.stage + 1) * mesh.stage_size)


@given(layouts())
def test_windows_of_a_stage_tile_the_parameter_and_every_element_is_replicated_alike(case):
    mesh, layout = case
    held = Counter()
    for rank in stage_ranks(mesh, layout):
        window = layout.window(mesh, rank)
        assert tuple(part.stop - part.start for part in window) == layout.local_shape(mesh)
        held.update(product(*(range(part.start, part.stop) for part in window)))
    assert held.keys() == set(product(*map(range, layout.shape)))  # all of it, nothing outside
    assert set(held.values()) == {layout.replication(mesh)}
    assert mesh.stage_size * layout.local_size(mesh) == layout.replication(mesh) * layout.size


@given(layouts())
def test_who_holds_the_same_part(case):
    """Tensor-parallel neighbours hold other parts of what is cut, optimizer groups other parts of what is sharded."""
    mesh, layout = case

    def windows(group):
        return {tuple((part.start, part.stop) for part in layout.window(mesh, rank)) for rank in group}

    for rank in stage_ranks(mesh, layout):
        assert len(windows(mesh.tensor_group(rank))) == (1 if layout.tensor_axis is None else mesh.tensor)
        assert len(windows(mesh.optimizer_group(rank))) == (mesh.optimizer_shard if layout.optimizer_sharded else 1)
        assert len(windows(mesh.replica_group(rank))) == 1


def test_optimizer_shards_lie_inside_the_rows_that_tensor_parallelism_leaves():
    mesh, layout = Mesh(data=2, tensor=2, optimizer_shard=2), ParameterLayout("w", (8, 3), 0, 0, True)
    starts = {rank: layout.window(mesh, rank)[0].start for rank in range(4)}  # ranks 0, 1: replica 0; 2, 3: replica 1
    assert starts == {0: 0, 1: 4, 2: 2, 3: 6}


# --- CodeGeeX ---


@given(cases)
def test_layouts_of_a_model_sum_to_its_parameters(case):
    mesh, model, parallel = case
    plan = parameter_layouts(model, mesh, parallel.vocabulary)
    assert len({layout.name for layout in plan}) == len(plan)
    assert sum(layout.size for layout in plan if not layout.copy_of) == model.parameter_count()
    stored = sum(mesh.stage_size * x.local_size(mesh) / x.replication(mesh) for x in plan if not x.copy_of)
    assert stored == model.parameter_count()
    for layout in plan:
        assert 0 <= layout.stage < mesh.pipeline
        assert layout.replication(mesh) * layout.size == mesh.stage_size * layout.local_size(mesh)  # nothing is cut off


@given(cases)
def test_only_a_pipeline_copies_and_only_the_word_table(case):
    mesh, model, parallel = case
    plan = {layout.name: layout for layout in parameter_layouts(model, mesh, parallel.vocabulary)}
    copies = {name: layout.copy_of for name, layout in plan.items() if layout.copy_of}
    assert copies == ({HEAD_TABLE: WORD_TABLE} if mesh.pipeline > 1 else {})
    for name, owner in copies.items():
        assert (plan[owner].stage, plan[name].stage) == (0, mesh.pipeline - 1)
        assert plan[name].local_shape(mesh) == plan[owner].local_shape(mesh)  # so that the two can be added


@given(cases)
def test_what_is_cut_and_what_is_sharded(case):
    mesh, model, parallel = case
    for layout in parameter_layouts(model, mesh, parallel.vocabulary):
        part, kind = layout.name.split(".")[-2:]
        matrix = kind == "weight" and part in ("query", "key", "value", "up", "output", "down")
        assert layout.optimizer_sharded == (matrix and mesh.optimizer_shard > 1)
        if mesh.tensor == 1:
            assert layout.tensor_axis is None
        elif part in ("query", "key", "value", "up"):
            assert layout.tensor_axis == 0  # weights and biases
        elif part in ("output", "down"):
            assert layout.tensor_axis == (1 if kind == "weight" else None)
        else:
            cut = parallel.vocabulary and layout.name in (WORD_TABLE, HEAD_TABLE)
            assert layout.tensor_axis == (0 if cut else None)


@given(st.integers(1, 100), st.data())
def test_stages_hold_neighbouring_layers_in_equal_numbers(layers, data):
    """The top query layer counts as one more; no stage is empty."""
    stages = data.draw(st.integers(1, layers))
    held = [Mesh(pipeline=stages).stage_of(layer, layers + 1) for layer in range(layers + 1)]
    assert held == sorted(held) and set(held) == set(range(stages))
    sizes = Counter(held).values()
    assert max(sizes) - min(sizes) <= 1


def test_virtual_stages_follow_one_another_in_turn():
    mesh = Mesh(pipeline=2, virtual_stages=3)
    assert mesh.stages_of(12) == [0, 0, 1, 1] * 3 and mesh.layers_per_stage(12) == [6, 6]
    assert [mesh.part_of(layer, 12) for layer in (0, 1, 2, 11)] == [0, 0, 1, 5]
    model = CodeGeeXConfig(num_layers=5)
    stages = {layout.name: layout.stage for layout in parameter_layouts(model, mesh)}
    assert [stages[f"blocks.{i}.attention.query.weight"] for i in range(5)] == [0, 1, 0, 1, 0]
    assert stages["top_query_layer.attention.query.weight"] == 1
    assert str(mesh).endswith("pipeline 2, virtual stages 3")


def test_stages_hold_as_many_layers_as_they_are_given():
    mesh = Mesh(pipeline=3, stage_layers=(3, 1, 2))
    assert mesh.stages_of(6) == [0, 0, 0, 1, 2, 2] and mesh.layers_per_stage(6) == [3, 1, 2]
    model = CodeGeeXConfig(num_layers=5)
    stages = {layout.name: layout.stage for layout in parameter_layouts(model, mesh)}
    assert [stages[f"blocks.{i}.attention.query.weight"] for i in range(5)] == [0, 0, 0, 1, 2]
    assert stages["top_query_layer.attention.query.weight"] == 2


def test_what_a_step_keeps_for_weights_of_other_stages_is_elsewhere():
    """The engine shards only what its stage has; filling the rest would need the memory of the whole model."""
    values = {"device": "ascend", "devices": 4, "model": {"preset": "tiny"}, "parallel": {"pipeline": 2, "tensor": 2}}
    config = build_run_config({**values, "training": {"steps": 1, "global_batch": 4, "micro_batch": 2}})
    first, last = Placement(config, 0), Placement(config, 3)
    weights = [x.name for x in layouts_of(config) if x.stage == 0]
    kept = [f"{prefix}{name}" for name in weights for prefix in ("", "optimizer.m.", "optimizer.v.", "accu_grads.")]
    assert not any(map(first.elsewhere, kept)) and all(map(last.elsewhere, kept))
    assert not any(map(last.elsewhere, ("loss_scale.scale", "optimizer.step", "accumulated.sums")))
    alone = Placement(build_run_config({"training": {"steps": 1}}), 0)
    assert not alone.elsewhere("optimizer.m.head.weight")
