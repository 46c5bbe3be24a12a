"""What MindSpore Profiler writes about an Ascend: read as its own code writes it, and refused where it is damaged."""

import csv
import json

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.calibrating.profile_files import (
    KernelRun,
    MessageRun,
    StepTrace,
    profiles_below,
    read_profile,
)

KERNELS = """Step ID,Name,Type,Accelerator Core,Start Time(us),Duration(us),\
Input Shapes,Input Data Types,Input Formats,Output Shapes,Output Data Types,Output Formats
5,a,MatMulV2,AI_CORE,1.0\t,100.5,"""
PRODUCT = '"""8,16;16,32""",DT_BF16;DT_BF16,ND;ND,"""8,32""",DT_BF16,ND\n'
LINKS = {"HCCS": {"Transit Size(MB)": 2.0, "Transit Time(ms)": 0.5}}
LINKS["RDMA"] = {"Transit Size(MB)": 1.0, "Transit Time(ms)": 1.5}
CALL = {"Communication Time Info": {"Start Timestamp(us)": 5.0}, "Communication Bandwidth Info": LINKS}
STEPS = "Step,Computing,Communication(Not Overlapped),Overlapped,Communication,Free,Stage,Bubble\n"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "rank_0" / "x_ascend_ms" / "ASCEND_PROFILER_OUTPUT"
    path.mkdir(parents=True)
    (path / "kernel_details.csv").write_text(KERNELS + PRODUCT)
    calls = {"hcom_allReduce__1_0_1@77": CALL, "Total Op Info": CALL}
    content = {"step5": {"collective": calls, "p2p": {}}}
    (path / "communication.json").write_text(json.dumps(content))
    (path / "step_trace_time.csv").write_text(STEPS + "5,700,60,40,100,9.5,1,0\n")
    return path


def test_a_profile_is_read(folder):
    (found,) = profiles_below(folder.parents[2])
    assert found == read_profile(folder)
    moved = 2 * (8 * 16 + 16 * 32 + 8 * 32)
    assert found.kernels == (KernelRun("MatMulV2", "AI_CORE", pytest.approx(100.5e-6), moved, (8, 16, 32, 1), 2),)
    assert found.messages == (
        MessageRun("allReduce", "77", "board", 2e6, pytest.approx(5e-4)),
        MessageRun("allReduce", "77", "cluster", 1e6, pytest.approx(1.5e-3)),
    )
    assert found.steps == (StepTrace(*map(pytest.approx, (7e-4, 1e-4, 4e-5, 9.5e-6))),)


@pytest.mark.parametrize(
    ("inputs", "output", "product"),
    [
        ("8,16;16,32", "8,32", (8, 16, 32, 1)),
        ("16,8;32,16", "8,32", (8, 16, 32, 1)),  # both transposed
        ("4,8,16;16,32", "4,8,32", (32, 16, 32, 1)),
        ("2,3,8,16;2,3,16,32", "2,3,8,32", (8, 16, 32, 6)),
        ("8,16;16,32;32", "8,32", (8, 16, 32, 1)),  # with a bias
        ("8;16,32", "8,32", None),
        ("0,16;16,32", "0,32", None),
        ("8,17;16,32", "8,32", None),  # no product of these
        ("N/A", "8,32", None),
    ],
)
def test_a_product_follows_from_the_shapes(folder, inputs, output, product):
    line = f'"""{inputs}""",FLOAT;FLOAT,ND;ND,"""{output}""",FLOAT,ND\n'
    (folder / "kernel_details.csv").write_text(KERNELS + line)
    (kernel,) = read_profile(folder).kernels
    assert kernel.product == product and kernel.width == 4


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("ND;ND", "FRACTAL_NZ;ND", False),
        ("DT_BF16;DT_BF16", "FLOAT8_E4M3FN;FLOAT8_E4M3FN", False),  # not of the run's precision
        ("MatMulV2", "MatmulAllReduce", False),
        ("MatMulV2", "BatchMatMulReduceScatterAlltoAll", False),
        ('16,32""",DT_BF16;DT_BF16,ND;ND', '16,32;""",DT_BF16;DT_BF16;DT_UNDEFINED,ND;ND;NULL', True),  # no bias
    ],
)
def test_which_products_count(folder, old, new, counts):
    assert old in KERNELS + PRODUCT
    (folder / "kernel_details.csv").write_text((KERNELS + PRODUCT).replace(old, new))
    (kernel,) = read_profile(folder).kernels
    assert (kernel.product is not None) == counts and (not counts or kernel.moved == 1792)


def test_a_profile_without_shapes_has_times_only(folder):
    """Level 0 writes no shapes."""
    (folder / "kernel_details.csv").write_text("Name,Type,Duration(us)\na,MatMulV2,100.5\n")
    assert read_profile(folder).kernels == (KernelRun("MatMulV2", "", pytest.approx(100.5e-6)),)


def damage(name, old, new):
    def change(folder):
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return pytest.param(change, name, id=f"{name}: {new[:20]}")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        damage("kernel_details.csv", "Duration(us)", "Duration"),
        damage("kernel_details.csv", "100.5", "fast"),
        damage("kernel_details.csv", "100.5", "-1"),
        damage("kernel_details.csv", "100.5", "1e999"),
        damage("kernel_details.csv", ",1.0\t,100.5," + PRODUCT, ",1.0"),
        damage("step_trace_time.csv", "Free", "Idle"),
        damage("step_trace_time.csv", "700,60,40,100", "700,60"),
        damage("communication.json", '"collective": {', '"collective": ['),
        damage("communication.json", '"Transit Time(ms)": 0.5', '"Transit Time(ms)": "x"'),
        damage("communication.json", '"collective": {', '"collective": {"y": 3, '),
        damage("communication.json", '"RDMA": {', '"RDMA": 3, "Z": {'),
    ],
)
def test_damage_is_one_line_that_names_the_file(folder, change, name):
    change(folder)
    with pytest.raises(UserError) as error:
        profiles_below(folder.parents[2])
    assert str(error.value).startswith(f"{folder / name}: ") and "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / "step_trace_time.csv").write_bytes(b"Step,\xff\n")
    with pytest.raises(UserError, match=r"step_trace_time\.csv: not readable \(not UTF-8\)"):
        read_profile(folder)


def test_missing_files_a_copied_folder_and_the_profile_of_a_cpu(folder, tmp_path):
    (folder / "communication.json").unlink()
    assert read_profile(folder).messages == ()
    copied = folder.rename(tmp_path / "copied")
    assert profiles_below(copied) == [read_profile(copied)]
    copied.rename(folder)
    (folder / "kernel_details.csv").unlink()
    (folder / "trace_view.json").write_text("[]")
    with pytest.raises(UserError, match=r"has anything to fit, as of a run on a CPU or with profile\.level 0; "):
        profiles_below(folder)
    with pytest.raises(UserError, match=r"no ASCEND_PROFILER_OUTPUT below it; train with profile\.steps"):
        profiles_below(tmp_path / "nothing")


class Container:
    """Of MindSpore's profiler: a step from 0 to 10 s, and no launches."""

    def __init__(self):
        self.hardware_op_event = {}

    def get_step_id_time_dict(self):
        return {"5": (0, 10)}


def viewer(kind, folder, **more):
    level, activities = "Level1", ["CPU", "NPU"]
    return kind(
        ascend_profiler_output_path=str(folder),
        ascend_ms_dir=str(folder.parent),
        msprof_analyze_output_path=str(folder.parent / "analysed"),
        is_set_schedule=True,
        jit_level="O1",
        profiler_level=level,
        activities=activities,
        **more,
    )


def test_files_that_mindspores_own_viewers_write_are_read(folder):
    """Its code, without a device: from what CANN's analysis gives it to the files."""
    from mindspore.profiler.analysis.viewer.ascend_communication_viewer import AscendCommunicationViewer
    from mindspore.profiler.analysis.viewer.ascend_kernel_details_viewer import AscendKernelDetailsViewer
    from mindspore.profiler.analysis.viewer.ascend_step_trace_time_viewer import AscendStepTraceTimeViewer
    from mindspore.profiler.common.constant import OpSummaryHeaders

    for path in folder.iterdir():
        path.unlink()
    (folder.parent / "analysed").mkdir()
    calls = {"hcom_allReduce__1_0_1@77": CALL, "hcom_send__2_0_1@78": CALL, "Total Op Info": CALL}
    (folder.parent / "analysed" / "communication.json").write_text(json.dumps(calls))
    viewer(AscendCommunicationViewer, folder).save({"trace_view_container": Container()})

    steps = viewer(AscendStepTraceTimeViewer, folder)
    values = {"Step": "5", "Computing": "700.5", "Communication": "100", "Overlapped": "40", "Free": "9.5"}
    steps.step_trace_time_data_list = [values]
    steps._write_data()

    kernels = viewer(AscendKernelDetailsViewer, folder)
    kernels.trace_container = Container()
    names = [x.value for x in OpSummaryHeaders]
    given = {"Op Name": "a", "OP Type": "MatMulV3", "Task Type": "AI_CORE", "Task Duration(us)": "100.5"}
    given |= {"Input Shapes": '"8,16;16,32"', "Input Data Types": "FLOAT16;FLOAT16", "Input Formats": "ND;ND"}
    given |= {"Output Shapes": '"8,32"', "Output Data Types": "FLOAT16", "Output Formats": "ND", "Step ID": "5"}
    table = np.array([tuple(given.get(x, "0") for x in names)], dtype=[(x, object) for x in names])
    kernels.op_summary, kernels.op_summary_headers = table, names
    kernels._update_headers()
    kernels._write_data()

    found = read_profile(folder)
    assert found.kernels[0].product == (8, 16, 32, 1)
    assert found.kernels[0].core == "AI_CORE" and found.kernels[0].seconds == pytest.approx(100.5e-6)
    assert [(x.op, x.link) for x in found.messages] == [
        ("allReduce", "board"),
        ("allReduce", "cluster"),
        ("send", "board"),
        ("send", "cluster"),
    ]
    assert found.steps == (StepTrace(*map(pytest.approx, (7.005e-4, 1e-4, 4e-5, 9.5e-6))),)
    with (folder / "kernel_details.csv").open() as stream:
        assert {"Type", "Accelerator Core", "Duration(us)", "Input Shapes"} <= set(next(csv.reader(stream)))
