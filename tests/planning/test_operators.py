"""The table of operators: what each is and costs, against figures worked out here."""

import pytest

from ms_codegeex.base.hardware import ASCEND_910B
from ms_codegeex.planning.cost_model import MatMul, causal_share
from ms_codegeex.planning.operators import attention_products, kernel_seconds, matmul_seconds, moved_bytes, products_of


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "moved"),
    [
        pytest.param("Add", [8, 8], [8], 24, id="sum"),
        pytest.param("Gather", [1000, 4], [8], 16, id="lookup"),
        pytest.param("Assign", [8, 8], [8], 16, id="copy"),
        pytest.param("AssignAdd", [8, 8], [8], 24, id="sum in place"),
        pytest.param("AdamWeightDecay", [8, 8, 8, 1, 1, 8], [8], 56, id="three read and written, one read"),
        pytest.param("Reshape", [8], [8], 0, id="another name"),
        pytest.param("SomethingNew", [8], [4], 12, id="not in the table"),
    ],
)
def test_bytes_of_an_operator(op, inputs, outputs, moved):
    assert moved_bytes(op, inputs, outputs) == moved


def test_products_of_graphs_are_those_of_the_plan():
    (found,) = products_of("BatchMatMul", [(8, 5, 64, 16), (8, 5, 64, 16)], (8, 5, 64, 64))
    assert (found.batch, found.m, found.k, found.n) == (40, 64, 16, 64)
    shapes, planned = [(2, 4, 256, 16)] * 2, attention_products(256, 256, 16, 8, causal=True)
    assert tuple(products_of("FlashAttentionScore", shapes, (2, 4, 256, 16), causal=True)) == planned
    again = products_of("FlashAttentionScoreGrad", shapes, (2, 4, 256, 16), causal=True)
    backward = sum(x.flops for product in planned for x in product.transposed()) + planned[0].flops
    assert len(again) == 5 and sum(x.flops for x in again) == backward
    assert planned[0].flops == round(2 * 8 * 256 * 16 * 256 * causal_share(256)) and causal_share(256) == 0.75
    assert products_of("Add", shapes, shapes[0]) == []


def test_a_kernel_takes_its_products_and_what_moves_beside_them():
    product = MatMul("x", 4096, 4096, 4096)
    alone = matmul_seconds(product, ASCEND_910B, "bf16")
    assert alone > 2 * 4096**3 / ASCEND_910B.peak("bf16")
    moved = kernel_seconds((), 1e9, ASCEND_910B, "bf16")
    assert moved == pytest.approx(1e9 / ASCEND_910B.memory_bandwidth)
    assert kernel_seconds([product, product], 1e9, ASCEND_910B, "bf16") == pytest.approx(2 * alone + moved)
