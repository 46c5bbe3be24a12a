"""The tuning bank shipped with the CodeGeeX release (2022-05-09): products and their seconds on an Ascend 910, with
batch 8 and tensor parallelism 8. Its unit is taken to be microseconds."""

from ms_codegeex.base.hardware import ASCEND_910
from ms_codegeex.planning.cost_model import MatMul
from ms_codegeex.planning.operators import matmul_seconds

FITTED_PRODUCTS: tuple[tuple[MatMul, float], ...] = (
    (MatMul("query, key or value", 16384, 5120, 640), 387e-6),
    (MatMul("attention output", 16384, 640, 5120), 399e-6),
    (MatMul("FFN up", 16384, 5120, 2560), 1541e-6),
    (MatMul("FFN down", 16384, 2560, 5120), 1529e-6),
    (MatMul("logits", 16384, 5120, 6528), 4007e-6),
)
OTHER_PRODUCTS: tuple[tuple[MatMul, float], ...] = (  # bound by memory, whose bandwidth is the published one
    (MatMul("scores", 2048, 128, 2048, batch=40), 336e-6),
    (MatMul("context", 2048, 2048, 128, batch=40), 307e-6),
)
TUNED_PRODUCTS = FITTED_PRODUCTS + OTHER_PRODUCTS


def product_errors() -> dict[str, float]:
    """Relative error of the roofline for each tuned product, on the device they were tuned for."""
    return {p.name: matmul_seconds(p, ASCEND_910, "fp16") / measured - 1 for p, measured in TUNED_PRODUCTS}
