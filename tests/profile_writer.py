"""The files of MindSpore Profiler for steps of a device whose figures are known, in the profiler's form."""

import csv
import json
import math

from ms_codegeex.base.hardware import ASCEND_910B
from ms_codegeex.extras.cluster.plans.planner import Plan
from ms_codegeex.planning.communication import group_ranks, spread
from ms_codegeex.planning.cost_model import MatMul, executed_products
from ms_codegeex.planning.hardware_files import ChipRates, HardwareFile, Products, StepFactor
from ms_codegeex.planning.model_parts import parts_of
from ms_codegeex.planning.operators import matmul_seconds

COLUMNS = ("Step ID", "Name", "Type", "OP State", "Accelerator Core", "Start Time(us)", "Duration(us)")
COLUMNS += ("Wait Time(us)", "Block Num", "Input Shapes", "Input Data Types", "Input Formats")
COLUMNS += ("Output Shapes", "Output Data Types", "Output Formats")
TRUTH = HardwareFile(
    base="ascend910b",
    source="the truth",
    rates=ChipRates(1.21e12, 140e9, 140e9, 19e9, 3.1e-5, 5.3e-5),
    products=Products(0.77, 41.0),
    overlap=0.37,
    gaps=0.08,
    factor=StepFactor(1.05, 1.05, 1.05),
)
START = 4e-6  # seconds of a vector kernel before it moves anything
GROUPS = ("tensor", "optimizer", "replica")  # inside one server, or one device of each


def truth():
    """The device that the files are of."""
    return TRUTH.chip(ASCEND_910B, "truth")


def write_profile(folder, config, noise=lambda: 1.0):
    """One step of rank 0 of a run, of which parts with as many operators are one. `noise`: a factor of each time."""
    output = folder / "rank_0" / "vm_1_20261125_ascend_ms" / "ASCEND_PROFILER_OUTPUT"
    output.mkdir(parents=True)
    chip = truth()
    rows = list(kernel_rows(config, chip, noise))
    with (output / "kernel_details.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    (output / "communication.json").write_text(json.dumps({"step5": messages(config, chip, noise)}))
    computing = sum(float(row[6]) for row in rows)
    starting = 1e6 * START * sum(row[2] == "Mul" for row in rows)
    free = TRUTH.gaps * (computing - starting) - starting
    step = {"Step": 5, "Computing": computing, "Communication(Not Overlapped)": 63.0, "Overlapped": 37.0}
    step |= {"Communication": 100.0, "Free": free, "Stage": 1.0, "Bubble": 0.0, "Preparing": 1.0}
    (output / "step_trace_time.csv").write_text("\n".join(",".join(map(str, x)) for x in (step, step.values())) + "\n")
    return output


def kernel_rows(config, chip, noise):
    """The products and the vector work of each part of stage 0, once."""
    for part in parts_of(config, chip):
        for x in executed_products(part) if part.stage == 0 else ():
            if x.fp32 or not x.stored_output:
                continue
            heads = (x.batch,) if x.batch > 1 else ()
            shapes = [(*heads, x.m, x.k), (*heads, x.k, x.n)], [(*heads, x.m, x.n)]
            yield row("MatMulV3" if x.batch == 1 else "BatchMatMulV2", *shapes, matmul_seconds(x, chip, "fp16"), noise)
        for x in part.operators if part.stage == 0 else ():
            if not isinstance(x, MatMul) and (size := int(x.forward) // 4):
                yield row("Mul", [(size,)], [(size,)], START + 4 * size / chip.memory_bandwidth, noise)


def row(kind, inputs, outputs, seconds, noise):
    """As CANN writes shapes: each tensor's numbers with commas, tensors with semicolons, all in quotes."""
    cells = []
    for shapes in (inputs, outputs):
        cells.append('"' + ";".join(",".join(map(str, shape)) for shape in shapes) + '"')
        cells += [";".join(["FLOAT16"] * len(shapes)), ";".join(["ND"] * len(shapes))]
    core = "AI_VECTOR_CORE" if kind == "Mul" else "AI_CORE"
    return [
        5,
        f"Default/{kind}-op1/{kind}",
        kind,
        "N/A",
        core,
        "1760000000.1\t",
        1e6 * seconds * noise(),
        0.5,
        24,
        *cells,
    ]


def messages(config, chip, noise):
    """What rank 0 sends to the groups whose links are of one kind."""
    found, server = {}, config.parallel.server_devices
    for number, x in enumerate(Plan(config, chip).collectives):
        ranks = group_ranks(config.mesh, x.group, 0, x.phase)
        board, _, servers = spread(tuple(ranks), chip.board_devices, server)
        if x.stage or x.group not in GROUPS or min(board, servers) > 1:
            continue
        between, members = servers > 1, len(ranks)
        passes = 2 if x.op == "AllReduce" else 1
        sent = passes * (members - 1) / members * x.bytes_each
        latency = TRUTH.rates.cluster_latency if between else TRUTH.rates.latency
        rate = chip.cluster_bandwidth if between else chip.board_bandwidth
        seconds = latency * passes * math.ceil(math.log2(members)) + sent / rate
        link = {"Transit Size(MB)": sent / 1e6, "Transit Time(ms)": 1e3 * seconds * noise(), "Bandwidth(GB/s)": 1.0}
        none = {"Transit Size(MB)": 0, "Transit Time(ms)": 0, "Bandwidth(GB/s)": 0}
        links = {"HCCS": none, "RDMA": link} if between else {"HCCS": link, "RDMA": none}
        name = f"hcom_{x.op[0].lower()}{x.op[1:]}__{number}_0_1@{len(x.group)}"
        time = {"Start Timestamp(us)": 1.0, "Elapse Time(ms)": 9.0, "Transit Time(ms)": 1e3 * seconds}
        found[name] = {"Communication Time Info": time, "Communication Bandwidth Info": links}
    total = {"Communication Time Info": {}, "Communication Bandwidth Info": {}}
    return {"p2p": {}, "collective": {**found, "Total Op Info": total}}
