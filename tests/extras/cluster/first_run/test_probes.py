"""`doctor --device`: each kernel of a run's graph against NumPy, on the kernels of this CPU."""

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from conftest import command

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.first_run import operators
from ms_codegeex.extras.cluster.first_run.probes import DROPOUT_KEY, probes, tried

# What Ascend's back end chose for two layers of each family, by `rehearse --target ascend --streams`
CHOSEN = (
    "Add AddN AdamApplyOneWithDecayAssign Assign BatchMatMul BitwiseOr BitwiseXor Cast Concat Cos CumSum Div Divs "
    "Equal Exp ExpandDims FlashAttentionScore FlashAttentionScoreGrad Gather GeLU GeLUGrad Greater GreaterEqual "
    "IsFinite LayerNorm LayerNormGrad Less LessScalar Log MatMul Maximum Minimum Mul Muls Neg OneHot Pow Reciprocal "
    "ReduceMax ReduceSum Reshape ReverseV2 RightShift RmsNorm RmsNormGrad Select Sigmoid SigmoidGrad "
    "Softmax SoftmaxBackward SplitWithSize Sqrt Stack StridedSlice Sub SumExt Tile Transpose UnsortedSegmentSum"
)


def probe(name, dtype=ms.float16):
    return next(x for x in probes(dtype, False, ["optimizer"]) if x.name == name)


def test_every_kernel_of_this_cpu_computes_what_numpy_does():
    """A user's command on a machine without an Ascend, in FP16, with the fused kernels that a CPU has."""
    result = command("doctor", "--device", "ascend", "--json", "training.dropout=0.1")
    assert result.returncode == 0, result.stdout + result.stderr
    checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
    assert checks["device"]["found"].startswith("no Ascend here, so these are the kernels of this CPU")
    assert checks["FlashAttentionScore with dropout"]["found"].endswith("only an Ascend has it")
    assert checks["a mask of dropout"]["state"] == checks["a step that overflows"]["state"] == "ok"
    assert len(checks) > 50 and all(check["state"] == "ok" for check in checks.values())


def test_every_kind_that_the_back_end_chooses_has_a_probe():
    every = [x for dtype in (ms.float16, ms.bfloat16) for x in probes(dtype, False, ["optimizer"])]
    known = {kind for x in every for kind in x.kinds.split()}
    assert not set(CHOSEN.split()) - known - operators.VIEWS - operators.COLLECTIVES


@pytest.mark.parametrize("name", ["Sigmoid", "Gather", "a mask of dropout"])
def test_a_kernel_that_computes_something_else_is_found(name):
    right = probe(name)
    assert tried(right) == ""
    wrong = replace(right, expected=lambda *x: right.expected(*x) + np.float64(0.01))
    assert tried(wrong).startswith("forward: off by ")


def test_a_gradient_of_something_else_is_found():
    right = probe("Square")
    shifted = replace(right, expected=lambda x: np.square(x) + 3e-4 * np.sin(1e3 * x))  # hardly another value
    assert tried(shifted).startswith("backward: off by ")


PROGRAM = """
import json, sys
settings = json.loads(sys.argv[1])
print(json.dumps({"device": "Ascend910B1", "mindspore": "2.9.0"}))
for name, problem in (("one", ""), ("two", "DIE"), ("three", None), ("four", "RuntimeError: no kernel")):
    if name not in settings["without"]:
        said = {"probe": name, "kinds": [name.title()], "key": "training.dropout=0"}
        print(json.dumps({**said, "begins": True}), flush=True)
        if problem == "DIE":
            sys.exit("segmentation fault")
        print(json.dumps({**said, "problem": problem}))
"""


def test_a_kernel_that_ends_the_process_is_named_and_the_others_are_tried(tmp_path, monkeypatch):
    (tmp_path / "stand_in_of_probes.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(operators, "PROGRAM", "stand_in_of_probes")
    found = operators.try_operators(load_config("codegeex_base_8"), "cpu", rehearse=False)
    tried = {"one": "", "two": "segmentation fault", "three": None, "four": "RuntimeError: no kernel"}
    assert [(x.probe, x.problem) for x in found.trials] == [*tried.items()]
    assert [x.probe for x in found.failed] == ["two", "four"]
    row = list(operators.rows("ascend", None, []))[-1]
    assert row == ("four", "Four", "Four RuntimeError: no kernel", DROPOUT_KEY, True)


def test_a_device_that_mindspore_cannot_use_is_a_failure(monkeypatch):
    monkeypatch.setattr(operators, "PROGRAM", "a_module_that_is_not_there")
    with pytest.raises(RunFailure, match=r"cpu: MindSpore cannot use it .*a_module_that_is_not_there"):
        operators.try_operators(load_config("codegeex_base_8"), "cpu", rehearse=False)


@pytest.mark.slow  # a compilation with Ascend's back end
def test_the_kinds_of_a_graph_come_from_a_rehearsal(monkeypatch):
    monkeypatch.setattr(operators, "_trials", lambda settings: ({"device": "CPU", "mindspore": "2.9.0"}, []))
    words = (
        "device=ascend parallel.hardware=ascend910b training.precision=bf16 training.loss_chunk=0 training.dropout=0.1"
    )
    config = load_config("codegeex_tiny", words.split())
    found = operators.try_operators(config, "cpu")
    assert not found.unknown and found.libraries["MatMul"] == "aclnn" and "RightShift" in found.libraries
