"""Memory of small programs, worked out by hand."""

from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType
from ms_codegeex.extras.cluster.rehearsal.timeline.costs import Machine, tasks_of
from ms_codegeex.extras.cluster.rehearsal.timeline.lifetimes import label, memory
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Operator, StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE, TimelineTask, simulate

X = TensorType((256,), "float32")  # 1 KiB


def operator(op, *reads, scope="Default/network-Loss/model-Net/blocks-CellList/1-Block/norm-Norm/Add-op3", output=X):
    waits = tuple(sorted({x for x in reads if isinstance(x, int)}))
    return Operator(op, waits, reads, (X,) * len(reads), (output,) if output else (), scope)


def measured(*operators, parameters=None):
    program = StepProgram(0, 0, operators, parameters or {})
    tasks = [TimelineTask(x.waits, COMPUTE if x.op in ("Add", "Mul", "Assign") else "", 1.0) for x in operators]
    return memory(program, tasks, simulate([tasks])[0])


def test_a_tensor_lives_until_its_last_reader_ends():
    # 0: [0, 1] read by 2 until 3; 1: [1, 2] read by 2; 2: [2, 3] never read
    found = measured(operator("Add", "x"), operator("Mul", "x"), operator("Add", 0, 1))
    assert found.curve == ((0.0, 1024), (1.0, 2048), (2.0, 3072), (3.0, 0))
    assert (found.peak, found.peak_at) == (3072, 2.0)


def test_another_name_prolongs_a_life_and_takes_no_memory():
    found = measured(operator("Add", "x"), operator("Reshape", 0), operator("Mul", "y"), operator("Add", 1))
    assert found.curve == ((0.0, 1024), (1.0, 2048), (2.0, 2048), (3.0, 0))


def test_what_is_changed_in_place_is_not_made_again():
    found = measured(operator("Add", "x"), operator("Assign", "w", 0), operator("Add", 1), parameters={"w": 1024})
    assert found.curve == ((0.0, 2048), (2.0, 2048), (3.0, 1024)) and found.parameters == 1024


def test_what_a_fused_kernel_reads_lives_until_its_end():
    # 0: [0, 1], read by 2, whose work 3 does after 1: [1, 2]; 3: [2, 3]
    program = StepProgram(
        0, 0, (operator("Add", "x"), operator("Mul", "y"), operator("Cast", 0), operator("Add", 1, 2)), {}
    )
    tasks = [TimelineTask(x.waits, COMPUTE, 1.0) for x in program.operators]
    tasks[2] = TimelineTask((0,), "", 0.0, kernel=3)
    assert memory(program, tasks, simulate([tasks])[0]).curve == ((0.0, 1024), (1.0, 2048), (2.0, 3072), (3.0, 0))
    fused = tasks_of(program, Machine(next(iter(CHIPS.values())), Mesh(), 8, True))
    assert [task.kernel for task in fused] == [3, 3, 3, None]


def test_the_order_alone_keeps_nothing_alive():
    # 0: [0, 1], never read; the state waits for it and for 1: [1, 2]
    found = measured(operator("Add", "x"), operator("Mul", "y"), operator("UpdateState", 0, 1, output=None))
    assert found.curve == ((0.0, 1024), (1.0, 1024), (2.0, 0))


def test_the_peak_names_what_holds_it():
    sizes = {"w": 5, "optimizer.m.w": 6, "accu_grads.w": 7}
    found = measured(operator("Add", "w"), operator("Mul", 0), parameters=sizes)
    assert found.holders == (
        ("Add norm", 1, 1024),
        ("Mul norm", 1, 1024),
        ("accumulated gradients", 1, 7),
        ("moments", 1, 6),
        ("weights", 1, 5),
    )


def test_names_are_equal_for_all_blocks():
    place = "Default/network-Loss/model-Net/blocks-CellList/{}-Block/attention-Attention/query-Linear/{}-op0"
    assert label(operator("MatMul", scope=place.format(1, "MatMul"))) == "MatMul attention/query"
    assert (
        label(operator("MatMul", scope="recompute_" + place.format(7, "MatMul"))) == "recomputed MatMul attention/query"
    )
    assert label(operator("Add", scope="Gradients/" + place.format(2, "Add"))) == "backward Add attention/query"
