"""The benchmark of GPUs: its sides and its limits without a GPU, traces of kernels, its section of the results."""

import argparse
import importlib
import re
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from gpu_tests import missing

from ms_codegeex.extras.cluster.rehearsal.stubs import compilers

BENCHMARKS = ROOT / "benchmarks"
PROGRAM = BENCHMARKS / "gpu.py"
# Records as CUPTI 12 and 13 lay them out: kind, 4 bytes; begin and end at 16; a kernel's name at 104.
CUPTI = r"""
#include <stddef.h>
#include <stdint.h>
#include <string.h>
typedef void request(uint8_t **, size_t *, size_t *);
typedef void complete(void *, uint32_t, uint8_t *, size_t, size_t);
static request *ask;
static complete *give;
static int enabled;
enum { SIZE = 208, COUNT = 4 };
static const struct { int kind; uint64_t begin, end; const char *name; } DONE[COUNT] = {
    {10, 1000000, 3000000, "ampere_fp16_s16816gemm"}, {10, 3000000, 3500000, "L2LossKernel"},
    {10, 4000000, 4500000, "L2LossKernel"}, {1, 5000000, 5250000, 0}};
int cuptiActivityRegisterCallbacks(request *r, complete *c) { ask = r; give = c; return 0; }
int cuptiActivityEnable(int kind) { enabled |= 1 << kind; return 0; }
int cuptiActivityDisable(int kind) { return 0; }
int cuptiActivityGetNextRecord(uint8_t *buffer, size_t valid, uint8_t **record) {
    *record = *record ? *record + SIZE : buffer;
    return *record >= buffer + valid;
}
int cuptiActivityFlushAll(uint32_t flag) {
    uint8_t *buffer;
    size_t size, most;
    ask(&buffer, &size, &most);
    size_t valid = 0;
    for (int i = 0; i < COUNT; i++) {
        if (!(enabled >> DONE[i].kind & 1)) continue;
        uint8_t *record = buffer + valid;
        memset(record, 0, SIZE);
        memcpy(record, &DONE[i].kind, 4);
        memcpy(record + 16, &DONE[i].begin, 8);
        memcpy(record + 24, &DONE[i].end, 8);
        if (DONE[i].name) memcpy(record + 104, &DONE[i].name, 8);
        valid += SIZE;
    }
    give(0, 0, buffer, size, valid);
    return 0;
}
"""
SIDE = """
import json, sys, time
side = sys.argv[1]
if side == "compile":
    sys.exit("no compiler")
print("{}", flush=True)
for line in sys.stdin:
    if side == "eager fused":
        open(sys.argv[0] + ".asked", "w").close()
        time.sleep(600)
    seconds, skipped = {"ours": (0.5, 1), "eager": (1.0, 4)}.get(side, (2.0, 0))
    print(json.dumps({"seconds": [seconds] * 3, "steps": 4, "skipped": skipped, "memory": 2e9}), flush=True)
"""


@pytest.fixture
def load(monkeypatch):
    """A function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_without_a_gpu_it_says_what_is_missing_in_one_line():
    if not missing():
        pytest.skip("this machine has a GPU")
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu.py: cannot measure: ") and "ms-codegeex doctor" in line


def test_its_section_is_written_and_replaced_and_no_other(load, tmp_path):
    gpu = load("gpu")
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## A\n\na\n\n## Z\n\nz\n")
    gpu.write_section(path, ["first 1"])
    assert path.read_text().startswith("# Results\n\n## A\n\na\n\n## Z\n\nz\n\n## NVIDIA GPU\n\n```text\nfirst 1\n```")
    path.write_text(path.read_text() + "\n## After\n\nb\n")
    gpu.write_section(path, ["second 2"])
    text = path.read_text()
    assert "first" not in text and text.count("## NVIDIA GPU") == 1
    assert "second 2\n```" in text and text.endswith("\n\n## After\n\nb\n")


def test_sides_that_fail_skip_every_step_or_take_too_long_are_listed(load, tmp_path, monkeypatch):
    gpu, program = load("gpu"), tmp_path / "side.py"
    program.write_text(SIDE)
    monkeypatch.setattr(gpu, "SIDE", program)
    names = ("ours", "compile", "compile fused", "eager", "eager fused")
    given = {"device": "cpu", "sides": names, "minutes": 0.05, "show": False, "torch_python": sys.executable}
    arguments = argparse.Namespace(**given, deadline=time.monotonic() + 900)
    with gpu.Sides(arguments, {}, gpu.TRAINING) as sides:

        def kill_when_one_computes():
            """As the timer does at the deadline."""
            while not (tmp_path / "side.py.asked").exists():
                time.sleep(0.01)
            sides.kill()

        late = threading.Thread(target=kill_when_one_computes)
        late.start()
        found = sides.rounds(2, "steps", 3)
        late.join()
        words = gpu.without_skipped(sides, found)
        lines = gpu.rates(found, 100, "tokens", words)
    assert sides.missing == {
        "compile": "it ended: no compiler",
        "eager fused": "0.05 minutes were over",
        "eager": "all 4 steps were skipped, so no update was measured",
        **{side: "0.05 minutes were over" for side in ("ours", "compile fused")},
    }
    assert set(found) == {"ours", "compile fused"}
    assert "200 tokens/s" in lines[0] and "peak 2.0 GB   1 of 4 steps skipped" in lines[0]
    assert lines[-1].split() == ["ours", "/", "compile", "fused", "4", "(4", "to", "4", "of", "1)"]


def test_kernels_are_traced_and_summed_by_part(load, tmp_path):
    profile = load("gpu_profile")
    if not compilers():
        pytest.skip("no C compiler")
    source, cupti = tmp_path / "cupti.c", tmp_path / "libcupti.so.13"
    source.write_text(CUPTI)
    subprocess.run([*compilers()[0], "-w", "-shared", "-fPIC", "-o", str(cupti), str(source)], check=True)
    libraries = {"cupti": str(cupti), "tracer": str(profile.compiled_tracer(tmp_path, compilers()))}
    done = []
    found = profile.traced(libraries, tmp_path, lambda: done.append("work"), lambda: done.append("wait"))
    assert done == ["wait", "work", "wait"]
    assert found["parts"] == [
        ("matrix products", 1, 2.0),
        ("gradient norm", 2, 1.0),
        ("copies and transposes", 1, 0.25),
    ]
    assert (found["count"], found["milliseconds"], found["span"]) == (4, 3.25, 4.25)
    lines = profile.table("ours", found)
    assert lines[0] == "  kernels of a step of ours: 4, 3.2 ms within 4.2 ms"
    assert lines[1].split() == ["2.00", "ms", "61.5%", "1", "x", "matrix", "products"]
    assert lines[-1].split()[-1] == "memcpy"


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "matrix products",
            ["ampere_h16816gemm_256x128_ldg8_stages_64x1_nn", "sm90_xmma_gemm_f16f16_f16f32", "nvjet_hsh"],
        ),
        ("fused attention", ["pytorch_flash::flash_fwd_kernel", "fmha_cutlassF_f16_aligned_64x64_rf_sm80"]),
        ("gradient norm", ["_Z12L2LossKernelIfEvmPKT_PS0_", "LpNormFunctor multi_tensor_apply_kernel"]),
        ("optimizer", ["AdamWeightDecayKernel<float>", "multi_tensor_apply_kernel<FusedAdamMathFunctor>"]),
        ("elementwise with broadcasting", ["BinaryWithBroadcastKernel<1>", "BinaryWithoutBroadcastIn1Scalar<2>"]),
        ("elementwise", ["BinaryWithoutBroadcastNoScalar<1>", "triton_poi_fused_add_0", "UnaryNoVecKernel"]),
        ("casts", ["CastAll", "at::native::float16_copy_kernel_cuda"]),
        ("softmax", ["SoftMaxWarpForward<float>", "softmax_warp_backward"]),
        ("tables", ["UnsortedSegmentSumCal", "GatherKernel", "compute_grad_weight embedding"]),
        ("copies and transposes", ["memcpy", "Swap3DTensorLast2DimKernel", "Concat"]),
        ("other", ["what is this"]),
    ],
)
def test_a_kernel_is_of_one_part(load, part, names):
    assert {load("gpu_profile").part_of(name) for name in names} == {part}


def test_the_peers_run_on_a_cpu_and_fused_attention_computes_the_same(load):
    """Random tokens end no document, so causal attention is what the twin's mask leaves."""
    pytest.importorskip("torch")
    sides = load("gpu_sides")
    job = {"preset": "tiny", "sizes": (50_000, 32, 1, 4, 64, 128), "precision": "fp32", "trace": {"problem": "no GPU"}}
    losses = []
    for side in ("eager", "eager fused"):
        requests = sides.torch_training(side, "cpu", job)
        answer = requests["steps"](1)
        assert (answer["steps"], answer["skipped"], len(answer["seconds"])) == (2, 0, 1)
        assert requests["profile"]() == {"problem": "no GPU"}
        losses += answer["losses"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path):
    pytest.importorskip("transformers")
    sides = ("ours", "eager", "transformers fp32")
    words = ("--device", "cpu", "--tiny", "--precisions", "fp32", "--rounds", "1", "--new", "2", "--sides", *sides)
    places = ("--models", str(tmp_path / "models"), "--output", str(tmp_path / "section.md"))
    command = [sys.executable, str(PROGRAM), *words, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "section.md").read_text()
    assert "ours / eager" in text and "0 of 4 steps skipped" in text and text.count("ours / transformers fp32") == 2


def test_a_prediction_is_the_bytes_over_what_was_measured(load):
    """Rows of RESULTS.md again: an operator at the size at which it was measured takes the time that it took."""
    from flattened import Operator

    from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType

    def operator(op, *types):
        inputs = tuple(TensorType(shape, dtype) for dtype, *shape in types[:-1])
        return Operator(op, (), inputs=inputs, outputs=tuple(TensorType(shape, dtype) for dtype, *shape in types[-1:]))

    wide, scores, column = ("float16", 16384, 3072), ("float32", 16, 12, 1024, 1024), ("float32", 16384, 1)
    logits, number = ("float32", 16384, 52224), ("float16",)
    for given, kind, ms in [
        (operator("BiasAdd", wide, ("float16", 3072), wide), "BiasAdd", 0.170),
        (operator("Add", wide, ("float16", 3072), wide), "with broadcasting", 1.022),
        (operator("Mul", wide, number, wide), "with a number", 0.610),
        (operator("Add", scores, ("float32", 16, 1, 1024, 1024), scores), "with broadcasting", 4.988),
        (operator("Sub", logits, column, logits), "with broadcasting", 18.0),
        (operator("Add", logits, logits, logits), "large elementwise", 4.9),
        (operator("LogSoftmax", logits, logits), "LogSoftmax FP32", 4.522),
        (operator("Softmax", scores, scores), "Softmax FP32", 0.539),
        (operator("GatherD", logits, ("int32", 16384, 1), column), "small", 0.006),
        (operator("Transpose", ("float16", 16, 1024, 12, 64), ("float16", 16, 12, 1024, 64)), "Transpose", 0.09),
    ]:
        profile = load("gpu_profile")
        found = profile.kind_of(given)
        assert found == kind
        assert profile.milliseconds(given, found) == pytest.approx(ms, rel=0.2, abs=5e-3), given.op
        assert (kind, 1, profile.milliseconds(given, found)) in profile.predicted([given])


@pytest.mark.slow
def test_the_prediction_of_a_step_is_that_of_the_page_and_near_what_was_measured():
    """Composed cells took 441.7 ms on the card with sums of squares by `ReduceSum`."""
    done = subprocess.run([sys.executable, str(PROGRAM), "--predict"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    text = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    ours, composed = (float(total) for total in re.findall(r"^base, .*: ([0-9.]+) ms$", done.stdout, re.MULTILINE))
    assert f"| **predicted** | **{ours:.1f}** | **{composed:.1f}** |" in text
    assert ours < 125 and composed == pytest.approx(441.7, rel=0.05)
