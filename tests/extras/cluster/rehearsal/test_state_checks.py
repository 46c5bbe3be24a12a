"""What ranks hold, name by name, in reports that are wrong in one thing each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from right_report import held, right_report

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.extras.cluster.rehearsal.plan_checks import state_checks
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk, small_mesh

QUERY, LORA_A = "blocks.1.attention.query.weight", "blocks.1.attention.query.lora_a"


def configured(precision="fp32", lora=0, micro_batches=2, family="codegen", **parallel):
    hardware = {"hardware": "ascend910b"} if precision == "bf16" else {}
    parallel = {"tensor": 2, "optimizer_shard": 2, "micro_batches": micro_batches, **hardware, **parallel}
    values = {"device": "ascend", "devices": 4, "model": {"family": family}, "lora": {"rank": lora}}
    values["training"] = {"steps": 1, "global_batch": 64, "precision": precision}
    return build_run_config({**values, "parallel": parallel})


def small(**options):
    config = configured(**options)
    return shrunk(config, small_mesh(config.mesh))


def failed(config, parameters):
    return [x for x in state_checks(config, 0, parameters) if not x.ok]


@pytest.mark.parametrize("lora", [0, 8])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_what_is_planned_passes(lora, micro_batches):
    config = small(lora=lora, micro_batches=micro_batches)
    assert failed(config, held(config, 3)) == []


def test_what_muon_updates_has_one_moment():
    values = {"device": "ascend", "devices": 1, "model": {"family": "codegen", "preset": "tiny"}}
    config = build_run_config(values | {"training": {"steps": 1, "optimizer": {"name": "muon"}}})
    parameters = held(config, 0)
    assert f"optimizer.v.{QUERY}" not in parameters and failed(config, parameters) == []
    parameters[f"optimizer.v.{QUERY}"] = parameters[f"optimizer.m.{QUERY}"]
    assert [x.name for x in failed(config, parameters)] == ["shapes of moments"]


def swapped(parameters):
    """The number of all moments stays."""
    names = (M, M.replace("query", "output"))
    parameters |= dict(zip(names, [parameters[name] for name in reversed(names)], strict=True))
    parameters[M][0].reverse()


M, V = f"optimizer.m.{QUERY}", f"optimizer.v.{QUERY}"
MOMENTS = {
    "transposed": lambda parameters: parameters[V][0].reverse(),
    "whole": lambda parameters: parameters[M][0].__setitem__(0, 2 * parameters[M][0][0]),
    "narrow": lambda parameters: parameters[V].__setitem__(1, "float16"),
    "swapped": swapped,
    "missing": lambda parameters: parameters.pop(M),
}


@pytest.mark.parametrize("forge", MOMENTS.values(), ids=MOMENTS)
def test_wrong_moments_are_named(forge):
    config = small()
    parameters = held(config, 3)
    forge(parameters)
    (check,) = failed(config, parameters)
    assert check.name == "shapes of moments" and "blocks.1.attention" in check.expected
    report = replace(right_report(config, 3), parameters=parameters)
    named = [x.name for x in compile_module._graph_checks(config, report, "rank 3, ") if not x.ok]
    assert "rank 3, shapes of moments" in named


@pytest.mark.parametrize(
    ("prefix", "kind"), [("optimizer.m.", "moments"), ("optimizer.v.", "moments"), ("accu_grads.", "summed gradients")]
)
def test_a_frozen_weight_has_neither_moments_nor_a_gradient(prefix, kind):
    config = small(lora=8)
    parameters = held(config, 0)
    parameters[prefix + QUERY] = parameters[QUERY]
    (check,) = failed(config, parameters)
    assert check.name == f"shapes of {kind}" and check.expected == f"{prefix}{QUERY} none"


def test_adapters_are_whole_beside_shards_of_frozen_weights():
    config = small(lora=8)
    parameters = held(config, 0)
    assert parameters[QUERY][0][0] * 4 == config.model.sizes.hidden_size  # tensor 2, optimizer shards 2
    assert parameters[LORA_A][0] == [config.lora.rank, config.model.sizes.hidden_size]
    parameters[LORA_A] = [[config.lora.rank // 2, config.model.sizes.hidden_size], "float32"]
    (check,) = failed(config, parameters)
    assert check.name == "shapes of parameters" and check.expected.startswith(LORA_A)


def test_weights_are_fp32():
    config = small()
    parameters = held(config, 0)
    parameters[QUERY][1] = "bfloat16"
    (check,) = failed(config, parameters)
    assert check.name == "shapes of parameters" and check.found.endswith("bfloat16 (1 differ)")


# --- what else a report of a compiled graph says ---


def checked(config, **changes):
    report = replace(right_report(config, 0), **changes)
    return [x for x in compile_module._graph_checks(config, report, "") if not x.ok]


def test_bf16_has_no_loss_scale():
    config = configured("bf16")
    assert checked(config) == []
    counted = {**held(config, 0), "loss_scale.good_steps": [[], "int32"]}
    for changes, found in (({"loss_scale": 65536.0}, "65536, constant"), ({"parameters": counted}, "1, dynamic")):
        (check,) = checked(config, **changes)
        assert (check.name, check.expected, check.found) == ("loss scale", "1, constant", found)


def test_fp16_has_one():
    config = configured("fp16")
    assert checked(config) == []
    parameters = held(config, 0)
    del parameters["loss_scale.good_steps"]
    (check,) = checked(config, parameters=parameters)
    assert check.name == "loss scale" and check.found.endswith("constant")


def test_a_norm_in_16_bits_fails():
    config = configured("bf16", family="codegeex2")
    (check,) = checked(config, narrow=["ReduceMean", "Softmax"])
    assert (check.expected, check.found) == ("FP32", "16 bits in ReduceMean, Softmax")
    sizes = replace(config.model.sizes, softmax_fp32=False)
    allowed = replace(config, model=replace(config.model, sizes=sizes))
    assert checked(allowed, narrow=["Softmax"]) == []
    (check,) = checked(allowed, narrow=["ReduceMean", "Softmax"])
    assert check.found == "16 bits in ReduceMean"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_in_another_precision_fail(precision):
    config = configured(precision)
    right = right_report(config, 0).products
    flops = sum(right.values())
    for products in ({"float32": flops}, {"float16" if precision == "bf16" else "bfloat16": flops}):
        (check,) = checked(config, products=products)
        assert check.name == "FLOPs of matrix products" and str(precision[-2:]) in check.expected
    moved = {**right, "float32": right.get("float32", 0) + 1000}
    moved[max(right, key=right.get)] -= 1000  # the same number of FLOPs
    (check,) = checked(config, products=moved)
    assert check.name == "FLOPs of matrix products"
